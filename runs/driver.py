"""One run from its acceptance to its end.

What is said to have happened is stored before: the run and the user's message before the run is
accepted, a turn before the next one, the answer before `chat_complete`. Where storage does not
take the end of a run, the run ends in an `error` that says so, and the end is stored later.

A run that the service's stop ends, and of which something is to stay, is suspended: of its end
nothing is stored or said, its log ends without a terminal event, and whoever claims it goes on with
what is stored, as after a crash.
"""

import asyncio
import logging
from collections.abc import Sequence

from errors import Conflict, ParleyError, RunTimeout
from events import ChatComplete, TerminalEvent, stamped
from hub import Hub, Log
from loop.state import Journal, Prompt, Resumption, RunState, Transcript, to_its_end
from memory.learning import LongTermMemory
from messages import AssistantMessage, Message
from runs.context import Contexts
from runs.endings import (
    MISTAKE,
    Ending,
    Endings,
    ending_of,
    failure,
    stopped,
    taken_over,
    told,
)
from runs.index import RunIndex
from runs.observers import Observers
from runs.queue import Turn
from runs.replay import MAX_EPOCHS, replayed, successors
from runs.request import last_said
from runs.run import Ended, Limits, Outcome, Refused, Repeated, Run, Suspended
from storage import StoredRun
from storage.store import Store

logger = logging.getLogger("parley.registry")


class Driver:
    """Takes runs from their acceptance to their end, or to where they are suspended."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        index: RunIndex,
        endings: Endings,
        observers: Observers,
        limits: Limits,
        memory: LongTermMemory | None,
    ) -> None:
        self._store = store
        self._hub = hub
        self._index = index
        self._endings = endings
        self._observers = observers
        self._contexts = Contexts(store, limits)
        self._run_timeout = limits.run_timeout
        self._memory = memory

    async def drive(self, run: Run, turn: Turn) -> Outcome:
        """Take a run to its end, and return how that came. Never raises."""
        if self._memory is not None and run.request.text and run.remembers:
            run.recall = self._memory.recall(run.stored.owner, run.request.text)
        try:
            return await self._drive(run, turn)
        finally:
            if run.recall is not None:
                run.recall.drop()

    async def _drive(self, run: Run, turn: Turn) -> Outcome:
        try:
            accepted = await self._accept(run, turn)
        except Exception as error:  # noqa: BLE001 - a mistake of ours ends this run, and only it
            return Refused(told(error, run.id))
        if isinstance(accepted, StoredRun):
            return Repeated(accepted)
        log = accepted
        terminal = await self._outcome(run, turn, log)
        if terminal is None:
            log.suspend()
            return Suspended()
        await self._finish(run, turn, log, terminal)
        return Ended()

    async def _accept(self, run: Run, turn: Turn) -> Log | StoredRun:
        """Store the run and open its log; or return the one that the same request started."""
        if not run.resumed:
            begins = run.stopping is None and turn.is_held
            begin = run.request.begin if begins else None
            twin = await self._store.accept(run.stored, begin=begin, entry=run.request.entry)
            if twin is not None:
                return twin
            if begins:
                run.begins()
        run.update(request=run.request.after_its_end())  # all of it is in `run.request`, and stored
        try:
            log = await self._hub.create(run.id, run.stored.epoch)
            log.append(run.stored.start)
            await self._observers.start(run.stored)
        except Exception as error:  # its client is told so: nobody is to go on with it later
            fault = told(error, run.id)
            terminal = stamped(failure(fault), run.id, 2)
            await self._endings.store_soon(ending_of(run, terminal, None))
            await self._hub.forget(run.id)
            raise fault from error
        run.accepted.set()
        return log

    async def _outcome(self, run: Run, turn: Turn, log: Log) -> TerminalEvent | None:
        """Let the agent answer, and return how that ended; None: the run is suspended."""
        try:
            run.is_cancellable = True
            if run.stopping is not None:
                raise asyncio.CancelledError
            await turn.wait()
            async with asyncio.timeout(self._run_timeout):
                return await self._answer(run, log)
        except TimeoutError:
            limit = f"{self._run_timeout:g} s"
            return failure(RunTimeout(f"The run took longer than its limit of {limit}."))
        except asyncio.CancelledError:
            return stopped(run)
        except Exception as error:  # noqa: BLE001 - a mistake of ours ends this run, and only it
            return failure(told(error, run.id))
        finally:
            run.is_cancellable = False

    async def _answer(self, run: Run, log: Log) -> ChatComplete:
        stored = run.stored
        if run.begun and stored.epoch - stored.suspensions > MAX_EPOCHS:
            text = "The service was interrupted again and again while it worked on this."
            raise ParleyError(text, code="interrupted")
        await self._begin(run)
        state = await self._state(run, log)
        if run.resumed:
            await self._replay(run, state)
        run.state = state
        return await run.agent.run(state)

    async def _begin(self, run: Run) -> None:
        """Put the run's messages into its conversation, if they are not there."""
        begin, stored = run.request.begin, run.stored
        if not run.begun:
            if not await to_its_end(asyncio.ensure_future(self._store.begin(stored, begin))):
                raise taken_over()
            run.begins()
        if begin.reset:
            await self._index.forget_conversation(stored.owner, stored.conversation_id)

    async def _state(self, run: Run, log: Log) -> RunState:
        stored, request = run.stored, run.request
        messages = await self._contexts.of(run)
        if not messages:
            raise Conflict("There is no message to answer.", code="nothing_to_answer")
        return RunState(
            run_id=run.id,
            conversation_id=stored.conversation_id,
            message_id=stored.start.message_id,
            sink=log,
            prompt=Prompt(
                messages=messages,
                knowledge=await self._knowledge(run, messages),
                model=request.model,
                options=request.options,
                client_tools=request.tools,
                parallel_tools=request.parallel_tools,
            ),
            transcript=Transcript(self._journal(stored)),
            resumption=Resumption(stored.pending),
        )

    async def _knowledge(self, run: Run, messages: Sequence[Message]) -> str:
        """Return what is remembered of the user, as far as it came in time."""
        if self._memory is None or not run.remembers:
            return ""
        if run.recall is None:
            run.recall = self._memory.recall(run.stored.owner, last_said(messages))
        return await run.recall.block()

    def _journal(self, stored: StoredRun) -> Journal:
        async def journal(messages: Sequence[Message], pending: AssistantMessage | None) -> None:
            if not await self._store.save_turn(stored, messages, pending):
                raise taken_over()

        return journal

    async def _replay(self, run: Run, state: RunState) -> None:
        """Put what is stored of a run into its new log."""
        messages = await self._store.run_messages(run.stored)
        for event in replayed(messages, run.stored.agent):
            state.sink.append(event)
        await state.sink.drain()
        state.resumption.successors = successors(messages)
        for message in messages:
            if isinstance(message, AssistantMessage):
                state.counts.add(message)

    async def _finish(self, run: Run, turn: Turn, log: Log, terminal: TerminalEvent) -> None:
        """Store how a run ended, then say so; what cannot be stored now is tried again.

        The message of a run whose turn never came was acknowledged, so it is kept, in its place:
        after what the run before it says. One that was cancelled is taken back.
        """
        begin = None if run.begun or run.stopping == "cancelled" else run.request.begin
        if begin is not None:
            await to_its_end(asyncio.ensure_future(turn.wait()))
        terminal = stamped(terminal, run.id, log.last_seq + 1)
        ending = ending_of(run, terminal, begin)
        try:
            await self._endings.store(ending)
        except ParleyError as error:
            terminal = stamped(failure(error), run.id, log.last_seq + 1)
            self._endings.store_later(ending._replace(terminal=terminal, exchange=()))
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("What run %s said could not be stored", run.id)
            terminal = stamped(failure(ParleyError(MISTAKE)), run.id, log.last_seq + 1)
            await self._endings.store_soon(Ending(ending.run, (), terminal))
        log.append(terminal)
        run.ends(terminal)
