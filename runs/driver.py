"""One run from its acceptance to its end.

What is said to have happened is stored before: the run and the user's message before the run is
accepted, a turn before the next one, the answer before `chat_complete`. Where storage does not
take the end of a run, the run ends in an `error` that says so, and the end is stored later.

A run that the service's stop ends, and that something is to stay of, is suspended: of its end
nothing is stored or said, its log ends without a terminal event, and whoever claims it goes on with
what is stored, as after a crash.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from caller import Caller
from errors import Conflict, ParleyError, RunTimeout, Unavailable
from events import ChatComplete, RunError, TerminalEvent, stamped
from hub import Hub, Log
from loop.state import INTERRUPTED, Journal, Turns, to_its_end
from memory.learning import LEARNED_CHARS, LongTermMemory
from messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from models import ChatRequest, Completion, RunRequest
from runs.context import title_of, window
from runs.replay import MAX_EPOCHS, successors, told_again
from runs.request import is_passing, last_said, remains_of, text_of
from runs.run import Limits, Run, Work
from storage import Begin, StorageUnavailable, StoredRun
from storage.store import Store

_MISTAKE = "The service made a mistake; it has been logged."

logger = logging.getLogger("parley.registry")


class _End(NamedTuple):
    """How a run ended, as it is to be stored; see `Store.finish`."""

    run: StoredRun
    messages: list[Message]
    terminal: TerminalEvent
    title: str | None
    begin: Begin | None
    lesson: tuple[Message, ...] = ()


class Driver:
    """Takes runs from their acceptance to their end, or to where they are suspended.

    Args:
        memory: remembers users; None: nobody is remembered.
        refuse: is told of a run that was not accepted, and why; None: it is a repeated request.
        forget: is told whose conversation begins anew: its runs that have ended are over.
        leave: is told of a run that has ended or is suspended.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        limits: Limits,
        *,
        memory: LongTermMemory | None,
        refuse: Callable[[Run, Work, ParleyError | None], None],
        forget: Callable[[Caller, str], None],
        leave: Callable[[Run, Work], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._limits = limits
        self._memory = memory
        self._refuse = refuse
        self._forget = forget
        self._leave = leave
        self._unsaved: deque[_End] = deque()

    @property
    def has_unsaved(self) -> bool:
        """Whether the end of a run is still to be stored."""
        return bool(self._unsaved)

    async def drive(self, run: Run, work: Work) -> None:
        """Take a run from its acceptance to its end, or suspend it. Never raises."""
        text = text_of(work.request)
        if self._memory is not None and text and _remembers(work):
            work.recall = self._memory.recall(run.stored.owner, text)
        try:
            log = await self._accept(run, work)
        except ParleyError as error:
            self._refuse(run, work, error)
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("Run %s could not begin", run.id)
            self._refuse(run, work, ParleyError(_MISTAKE))
        else:
            if log is None:
                self._refuse(run, work, None)
            else:
                terminal = await self._outcome(run, work, log)
                if terminal is None:
                    log.suspend()
                    self._leave(run, work)
                else:
                    await self._finish(run, work, log, terminal)

    async def _accept(self, run: Run, work: Work) -> Log | None:
        """Store the run and open its log; None where the same request was stored before."""
        if not work.resumed:
            begin = work.begin if work.floor.is_set() and work.ending is None else None
            run.twin = await self._store.accept(run.stored, begin=begin, entry=work.entry)
            if run.twin is not None:
                return None
            work.begun = begin is not None
        work.log = log = await self._hub.create(run.id, run.stored.epoch)
        log.append(run.start)
        run.accepted.set()
        return log

    async def _outcome(self, run: Run, work: Work, log: Log) -> TerminalEvent | None:
        """Let the agent answer, and return how that ended; None: the run is suspended."""
        try:
            work.is_cancellable = True
            if work.ending is not None:
                raise asyncio.CancelledError
            await work.floor.wait()
            run.started_at = datetime.now(UTC)
            async with asyncio.timeout(self._limits.run_timeout):
                return await self._answer(run, work, log)
        except TimeoutError:
            limit = f"{self._limits.run_timeout:g} s"
            return failure(RunTimeout(f"The run took longer than its limit of {limit}."))
        except asyncio.CancelledError:
            return _ended_early(work)
        except ParleyError as error:
            return failure(error)
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("Run %s failed", run.id)
            return failure(ParleyError(_MISTAKE))
        finally:
            work.is_cancellable = False

    async def _answer(self, run: Run, work: Work, log: Log) -> ChatComplete:
        stored = run.stored
        if work.begun and stored.epoch - stored.suspensions > MAX_EPOCHS:
            text = "The service was interrupted again and again while it worked on this."
            raise ParleyError(text, code="interrupted")
        if not work.begun:
            begun = await to_its_end(asyncio.ensure_future(self._store.begin(stored, work.begin)))
            if not begun:
                raise _taken_over()
            work.begun = True
        if work.begin.reset:
            self._forget(stored.owner, stored.conversation_id)
        context = await self._context(stored, work)
        turns = Turns(
            run_id=run.id,
            conversation_id=stored.conversation_id,
            context=context,
            sink=log,
            message_id=run.start.message_id,
            parallel_tools=work.request.parallel_tools,
            **_wishes(work.request),
            knowledge=await self._knowledge(stored, work, context),
            journal=self._journal(stored),
            pending=stored.pending,
        )
        if not turns.context:
            raise Conflict("There is no message to answer.", code="nothing_to_answer")
        if work.resumed:
            await self._tell_again(stored, turns)
        work.turns = turns
        return await work.agent.run(turns)

    async def _context(self, stored: StoredRun, work: Work) -> tuple[Message, ...]:
        """Return what the model gets to see: from a user's message on, however far back it is."""
        limits, request = self._limits, work.request
        if isinstance(request, Completion):
            said = await self._said(stored, work, None)
            rules = [SystemMessage(request.instructions)] if request.instructions else []
            return (*rules, *(() if request.is_kept else request.messages), *said)
        history = request.history if isinstance(request, ChatRequest) else []
        brought = [prior.message() for prior in history]
        rules = [message for message in brought if isinstance(message, SystemMessage)]
        said = [message for message in brought if not isinstance(message, SystemMessage)]
        newest = await self._newest(stored, work)
        if stored.replaces and not (work.resumed and await self._store.run_messages(stored)):
            newest = up_to_user(newest)
        seen = window([*said, *newest], limits.history_messages, limits.history_tokens)
        return (*rules, *seen)

    async def _knowledge(self, stored: StoredRun, work: Work, context: tuple[Message, ...]) -> str:
        """Return what is remembered of the user, as far as it came in time."""
        if self._memory is None or not _remembers(work):
            return ""
        recall = work.recall or self._memory.recall(stored.owner, last_said(context))
        return await recall.block()

    async def _newest(self, stored: StoredRun, work: Work) -> list[Message]:
        """Return as many messages as a model may see, or more, with a user's one among them."""
        many = self._limits.history_messages
        while True:
            newest = await self._said(stored, work, many)
            if len(newest) < many or any(isinstance(each, UserMessage) for each in newest):
                return newest
            many *= 4

    async def _said(self, stored: StoredRun, work: Work, many: int | None) -> list[Message]:
        """Return the newest messages of the conversation; those of a new one are known."""
        if work.is_new:
            return [*work.begin.messages]
        return await self._store.context(stored.owner, stored.conversation_id, many)

    def _journal(self, stored: StoredRun) -> Journal:
        async def journal(messages: Sequence[Message], pending: AssistantMessage | None) -> None:
            if not await self._store.save_turn(stored, messages, pending):
                raise _taken_over()

        return journal

    async def _finish(self, run: Run, work: Work, log: Log, terminal: TerminalEvent) -> None:
        """Store how a run ended, then say so; what cannot be stored now is tried again.

        The message of a run that never had the floor was acknowledged, so it is kept, in its
        place: behind what is said by the run before. One that was cancelled is taken back.
        """
        begin = None if work.begun or work.ending == "cancelled" else work.begin
        if begin is not None:
            await to_its_end(asyncio.ensure_future(work.floor.wait()))
        messages = _unsaved(run.stored, work, terminal)
        if is_passing(work.request):  # its turns were stored for the case of a crash only
            begin, messages = Begin(reset=True) if _saved(work) else None, []
        terminal = stamped(terminal, run.id, log.last_seq + 1)
        run.stored = msgspec.structs.replace(run.stored, request=remains_of(work.request))
        lesson = _lesson(work, terminal) if self._memory is not None else ()
        end = _End(run.stored, messages, terminal, _title(work, terminal), begin, lesson)
        try:
            await to_its_end(asyncio.ensure_future(self._store_end(end)))
        except ParleyError as error:
            terminal = stamped(failure(error), run.id, log.last_seq + 1)
            self._unsaved.append(end._replace(terminal=terminal, lesson=()))
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("What run %s said could not be stored", run.id)
            terminal = stamped(failure(ParleyError(_MISTAKE)), run.id, log.last_seq + 1)
            await self.store_end(run.stored, [], terminal)
        log.append(terminal)
        run.terminal = terminal
        run.finished_at = datetime.now(UTC)
        self._leave(run, work)

    async def store_end(
        self, run: StoredRun, messages: list[Message], terminal: TerminalEvent
    ) -> None:
        """Store that a run has ended, now or as soon as that is possible. Never raises."""
        end = _End(run, messages, terminal, title=None, begin=None)
        try:
            await to_its_end(asyncio.ensure_future(self._store.finish(*end)))
        except StorageUnavailable:
            self._unsaved.append(end)
        except Exception:  # it concerns this run only
            logger.exception("The end of run %s could not be stored", run.id)

    async def _store_end(self, end: _End) -> None:
        if not await self._store.finish(*end):
            raise _taken_over()
        if end.lesson and self._memory is not None:
            self._memory.wake()

    async def _tell_again(self, stored: StoredRun, turns: Turns) -> None:
        """Put what is stored of a run into its new log."""
        messages = await self._store.run_messages(stored)
        for event in told_again(messages, stored.agent):
            turns.sink.append(event)
        await turns.sink.drain()
        turns.successors = successors(messages)
        turns.count(each for each in messages if isinstance(each, AssistantMessage))

    async def store_unsaved(self) -> None:
        """Try again to store the ends of runs.

        Raises:
            storage.StorageUnavailable: it is still not possible.
        """
        while self._unsaved:
            end = self._unsaved[0]
            try:
                await self._store.finish(*end)
            except StorageUnavailable:
                raise
            except Exception:  # it would fail again, and must not keep back the others
                logger.exception("The end of run %s could not be stored", end.run.id)
            self._unsaved.popleft()


def _wishes(request: RunRequest) -> dict[str, Any]:
    """Return what a request says about how it is answered."""
    if not isinstance(request, Completion):
        return {}
    return {"model": request.model, "options": request.options, "client_tools": request.tools}


def _remembers(work: Work) -> bool:
    """Tell whether the user of a run is remembered."""
    wanted = work.request.memory
    return work.agent.remembers if wanted is None else wanted


def _lesson(work: Work, terminal: TerminalEvent) -> tuple[Message, ...]:
    """Return what may be learned about the user from an answer; made anew, it says no more."""
    said = text_of(work.request)
    if not isinstance(terminal, ChatComplete) or not said or not _remembers(work):
        return ()
    if terminal.finish_reason in ("cancelled", "tool_calls"):  # the rest of it comes with another
        return ()
    answer = AssistantMessage(terminal.final_response[:LEARNED_CHARS])
    return UserMessage(said[:LEARNED_CHARS]), answer


def up_to_user(messages: list[Message]) -> list[Message]:
    """Return messages without those behind the last one of the user."""
    users = [at for at, each in enumerate(messages) if isinstance(each, UserMessage)]
    return messages[: users[-1] + 1] if users else []


def _unsaved(stored: StoredRun, work: Work, terminal: TerminalEvent) -> list[Message]:
    """Return what is to be kept of a run that has ended, and is not stored yet."""
    said = work.unsaved() if work.turns and work.turns.kept else left_open(stored)
    has_acted = work.resumed or any(isinstance(each, ToolMessage) for each in said)
    if stored.replaces and isinstance(terminal, RunError) and not has_acted and not _saved(work):
        return []  # the answer that is there is better than a piece of another
    return said


def _saved(work: Work) -> bool:
    return work.turns is not None and work.turns.saved > 0


def _title(work: Work, terminal: TerminalEvent) -> str | None:
    """Return what a conversation may be called after a run, which may have answered anew."""
    if not isinstance(terminal, ChatComplete) or work.turns is None or is_passing(work.request):
        return None
    return title_of(text_of(work.request) or last_said(work.turns.context))


def failure(error: ParleyError) -> RunError:
    """Return an error as the end of a run."""
    return RunError(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after=error.retry_after,
    )


def left_open(stored: StoredRun) -> list[Message]:
    """Return the turn whose calls a crash interrupted, for a run that ends before it goes on."""
    if stored.pending is None:
        return []
    calls = stored.pending.tool_calls
    return [
        stored.pending,
        *(
            ToolMessage(call.id, call.name, f"Error: {INTERRUPTED}", is_error=True)
            for call in calls
        ),
    ]


def _ended_early(work: Work) -> TerminalEvent | None:
    """Return how a run ended whose task was cancelled; None: it can go on later."""
    if work.ending in ("cancelled", "superseded"):
        text, usage = (work.turns.text, work.turns.usage) if work.turns else ("", None)
        return ChatComplete(final_response=text, finish_reason="cancelled", usage=usage)
    if not is_passing(work.request):
        return None
    return failure(
        Unavailable("The service stopped before the answer was done.", code="shutting_down")
    )


def _taken_over() -> ParleyError:
    text = "Another process has taken this run over."
    return Unavailable(text, code="run_taken_over")
