"""One run from its acceptance to its end.

What is said to have happened is stored before: the run and the user's message before the run is
accepted, a turn before the next one, the answer before `chat_complete`. Where storage does not
take the end of a run, the run ends in an `error` that says so, and the end is stored later.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from conversations import title_of, window
from errors import Conflict, ParleyError, RunTimeout, Unavailable
from events import ChatComplete, RunError, TerminalEvent, stamped
from hub import Hub, Log
from intake import text_of
from models import (
    AssistantMessage,
    ChatRequest,
    Completion,
    Message,
    RunRequest,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from recovery import MAX_EPOCHS, told_again
from runs import Limits, Run, Work
from storage import StoredRun
from storage.store import Store
from turns import INTERRUPTED, Journal, Turns, to_its_end

_MISTAKE = "The service made a mistake; it has been logged."

logger = logging.getLogger("parley.registry")


class Driver:
    """Takes runs from their acceptance to their end.

    Args:
        refuse: is told of a run that was not accepted, and why; None: it is a repeated request.
        leave: is told of a run that has ended.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        limits: Limits,
        *,
        refuse: Callable[[Run, Work, ParleyError | None], None],
        leave: Callable[[Run, Work], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._limits = limits
        self._refuse = refuse
        self._leave = leave
        self._unsaved: deque[tuple[Run, list[Message], TerminalEvent]] = deque()

    @property
    def has_unsaved(self) -> bool:
        """Whether the end of a run is still to be stored."""
        return bool(self._unsaved)

    async def drive(self, run: Run, work: Work) -> None:
        """Take a run from its acceptance to its end. Never raises."""
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

    async def _outcome(self, run: Run, work: Work, log: Log) -> TerminalEvent:
        """Let the agent answer, and return how that ended."""
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
        if work.begun and stored.epoch > MAX_EPOCHS:
            text = "The service was interrupted again and again while it worked on this."
            raise ParleyError(text, code="interrupted")
        if not work.begun:
            begun = await to_its_end(asyncio.ensure_future(self._store.begin(stored, work.begin)))
            if not begun:
                raise _taken_over()
            work.begun = True
        turns = Turns(
            run_id=run.id,
            conversation_id=stored.conversation_id,
            context=await self._context(stored, work.request),
            sink=log,
            message_id=run.start.message_id,
            parallel_tools=work.request.parallel_tools,
            **_wishes(work.request),
            journal=self._journal(stored),
            pending=stored.pending,
        )
        if not turns.context:
            raise Conflict("There is no message to answer.", code="nothing_to_answer")
        if work.resumed:
            await self._tell_again(stored, turns)
        work.turns = turns
        return await work.agent.run(turns)

    async def _context(self, stored: StoredRun, request: RunRequest) -> tuple[Message, ...]:
        """Return what the model gets to see: from a user's message on, however far back it is."""
        limits, many = self._limits, self._limits.history_messages
        if isinstance(request, Completion):
            said = await self._store.context(stored.owner, stored.conversation_id, None)
            rules = [SystemMessage(request.instructions)] if request.instructions else []
            return (*rules, *(() if request.is_kept else request.messages), *said)
        history = request.history if isinstance(request, ChatRequest) else []
        brought = [prior.message() for prior in history]
        rules = [message for message in brought if isinstance(message, SystemMessage)]
        said = [message for message in brought if not isinstance(message, SystemMessage)]
        while True:
            newest = await self._store.context(stored.owner, stored.conversation_id, many)
            seen = window([*said, *newest], limits.history_messages, limits.history_tokens)
            if len(newest) < many or any(isinstance(each, UserMessage) for each in newest):
                return (*rules, *seen)
            many *= 4

    def _journal(self, stored: StoredRun) -> Journal:
        async def journal(messages: Sequence[Message], pending: AssistantMessage | None) -> None:
            if not await self._store.save_turn(stored, messages, pending):
                raise _taken_over()

        return journal

    async def _finish(self, run: Run, work: Work, log: Log, terminal: TerminalEvent) -> None:
        """Store how a run ended, then say so; what cannot be stored now is tried again."""
        is_taken_up = work.turns is not None and work.turns.kept
        messages = work.unsaved() if is_taken_up else left_open(run.stored)
        terminal = stamped(terminal, run.id, log.last_seq + 1)
        try:
            await to_its_end(asyncio.ensure_future(self._store_end(run, messages, terminal)))
        except ParleyError as error:
            terminal = stamped(failure(error), run.id, log.last_seq + 1)
            self._unsaved.append((run, messages, terminal))
        except Exception:  # a mistake of ours must end this run, and only it
            logger.exception("The end of run %s could not be stored", run.id)
            terminal = stamped(failure(ParleyError(_MISTAKE)), run.id, log.last_seq + 1)
        log.append(terminal)
        run.terminal = terminal
        run.finished_at = datetime.now(UTC)
        self._leave(run, work)

    async def _store_end(self, run: Run, messages: list[Message], terminal: TerminalEvent) -> None:
        work = run.work
        said = text_of(work.request) if work else ""
        title = title_of(said) if said and isinstance(terminal, ChatComplete) else None
        if not await self._store.finish(run.stored, messages, terminal, title):
            raise _taken_over()

    async def _tell_again(self, stored: StoredRun, turns: Turns) -> None:
        """Put what is stored of a run into its new log."""
        messages = await self._store.run_messages(stored)
        for event in told_again(messages):
            turns.sink.append(event)
        await turns.sink.drain()
        turns.count(each for each in messages if isinstance(each, AssistantMessage))

    async def store_unsaved(self) -> None:
        """Try again to store the ends of runs.

        Raises:
            storage.StorageUnavailable: it is still not possible.
        """
        while self._unsaved:
            run, messages, terminal = self._unsaved[0]
            await self._store.finish(run.stored, messages, terminal, None)
            self._unsaved.popleft()


def _wishes(request: RunRequest) -> dict[str, Any]:
    """Return what a request says about how it is answered."""
    if not isinstance(request, Completion):
        return {}
    return {"model": request.model, "options": request.options, "client_tools": request.tools}


def failure(error: ParleyError) -> RunError:
    """Return an error as the end of a run."""
    return RunError(code=error.code, message=error.message, retryable=error.retryable)


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


def _ended_early(work: Work) -> TerminalEvent:
    if work.ending == "cancelled":
        text, usage = (work.turns.text, work.turns.usage) if work.turns else ("", None)
        return ChatComplete(final_response=text, finish_reason="cancelled", usage=usage)
    return failure(
        Unavailable("The service stopped before the answer was done.", code="shutting_down")
    )


def _taken_over() -> ParleyError:
    text = "Another process has taken this run over."
    return Unavailable(text, code="run_taken_over")
