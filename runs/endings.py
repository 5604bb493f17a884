"""How runs end, and that it is stored: now, or as soon as the database takes it again."""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from errors import ParleyError, Unavailable
from events import ChatComplete, RunError, TerminalEvent
from loop.state import INTERRUPTED, to_its_end
from memory.learning import LEARNED_CHARS, LongTermMemory
from messages import AssistantMessage, Message, ToolMessage, UserMessage
from runs.context import title_of
from runs.request import last_said
from runs.run import Run
from storage import Begin, StorageUnavailable, StoredRun
from storage.store import Store

MISTAKE = "The service made a mistake; it has been logged."

logger = logging.getLogger("parley.registry")


class Ending(NamedTuple):
    """How a run ended, as it is to be stored; see `Store.finish`."""

    run: StoredRun
    messages: Sequence[Message]
    terminal: TerminalEvent
    title: str | None = None
    begin: Begin | None = None
    exchange: Sequence[Message] = ()


class Endings:
    """Stores endings, each once. `memory` learns from exchanges; None: no user is remembered.

    `size`: how many bytes those take that wait, roughly.
    """

    def __init__(self, store: Store, memory: LongTermMemory | None) -> None:
        self._store = store
        self._memory = memory
        self._waiting: deque[tuple[Ending, int]] = deque()  # with their sizes
        self.size = 0

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    async def store(self, ending: Ending) -> None:
        """Store an ending; where this raises, it is not stored, and `store_later` may be called."""
        if self._memory is None:
            ending = ending._replace(exchange=())
        if not await self._finish(ending):
            raise taken_over()
        if ending.exchange and self._memory is not None:
            self._memory.wake()

    def store_later(self, ending: Ending) -> None:
        size = _size(ending)
        self._waiting.append((ending, size))
        self.size += size

    async def store_soon(self, ending: Ending) -> None:
        """Store an ending now, or as soon as that is possible. Never raises."""
        try:
            await self._finish(ending)
        except StorageUnavailable:
            self.store_later(ending)
        except Exception:  # it concerns this run only
            logger.exception("The end of run %s could not be stored", ending.run.id)

    async def store_waiting(self) -> None:
        """Try again to store what could not be, or raise `storage.StorageUnavailable`."""
        while self._waiting:
            ending, size = self._waiting[0]
            try:
                await self._store.finish(*ending)
            except StorageUnavailable:
                raise
            except Exception:  # it would fail again, and must not keep back the others
                logger.exception("The end of run %s could not be stored", ending.run.id)
            self._waiting.popleft()
            self.size -= size

    async def _finish(self, ending: Ending) -> bool:
        return await to_its_end(asyncio.ensure_future(self._store.finish(*ending)))


def _size(ending: Ending) -> int:
    messages = [*ending.messages, *(ending.begin.messages if ending.begin is not None else ())]
    texts = [ending.run.request, *(each.content for each in messages)]
    if isinstance(ending.terminal, ChatComplete):
        texts.append(ending.terminal.final_response)
    for each in messages:
        if isinstance(each, AssistantMessage):
            texts += [call.arguments for call in each.tool_calls]
    return sum(map(sys.getsizeof, texts))


def ending_of(run: Run, terminal: TerminalEvent, begin: Begin | None) -> Ending:
    """Return what is to be stored of a run that ends; `begin`: of one that has not begun."""
    exchange = _exchange(run, terminal)
    if not run.request.is_kept:  # its turns were stored for the case of a crash only
        reset = Begin(reset=True) if run.has_saved else None
        return Ending(run.stored, (), terminal, begin=reset, exchange=exchange)
    messages, title = _unsaved(run, terminal), _title(run, terminal)
    return Ending(run.stored, messages, terminal, title, begin, exchange)


def _unsaved(run: Run, terminal: TerminalEvent) -> Sequence[Message]:
    """Return what is to be kept of a run that has ended, and is not stored yet."""
    state = run.state
    has_spoken = state is not None and state.transcript.messages
    said = state.transcript.unsaved if state and has_spoken else left_open(run.stored)
    has_acted = run.resumed or any(isinstance(each, ToolMessage) for each in said)
    is_failed_attempt = run.stored.replaces and isinstance(terminal, RunError)
    if is_failed_attempt and not has_acted and not run.has_saved:
        return ()  # the answer that is there is better than a piece of another
    return said


def _title(run: Run, terminal: TerminalEvent) -> str | None:
    """Return what a conversation may be called after a run, which may have regenerated."""
    if not isinstance(terminal, ChatComplete) or run.state is None:
        return None
    return title_of(run.request.text or last_said(run.state.prompt.messages))


def _exchange(run: Run, terminal: TerminalEvent) -> tuple[Message, ...]:
    """Return what may be learned about the user from; a regenerated answer says no more."""
    said = run.request.text
    if not isinstance(terminal, ChatComplete) or not said or not run.remembers:
        return ()
    if terminal.finish_reason in ("cancelled", "tool_calls"):  # the rest of it comes with another
        return ()
    return UserMessage(said[:LEARNED_CHARS]), AssistantMessage(
        terminal.final_response[:LEARNED_CHARS]
    )


def left_open(stored: StoredRun) -> list[Message]:
    """Return the turn whose calls a crash interrupted, for a run that ends before it goes on."""
    if stored.pending is None:
        return []
    text = f"Error: {INTERRUPTED}"
    calls = stored.pending.tool_calls
    results = [ToolMessage(call.id, call.name, text, is_error=True) for call in calls]
    return [stored.pending, *results]


def told(error: Exception, run_id: str) -> ParleyError:
    """Return what is told of an error that ends one run; a mistake of ours is logged."""
    if isinstance(error, ParleyError):
        return error
    logger.error("Run %s failed", run_id, exc_info=error)
    return ParleyError(MISTAKE)


def failure(error: ParleyError) -> RunError:
    return RunError(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after=error.retry_after,
    )


def stopped(run: Run) -> TerminalEvent | None:
    """Return how a run ended whose task was cancelled; None: it can go on later."""
    if run.stopping in ("cancelled", "superseded"):
        said = run.state.transcript if run.state else None
        return ChatComplete(
            final_response=said.text if said else "",
            finish_reason="cancelled",
            usage=said.usage if said else None,
        )
    if run.request.is_kept:
        return None
    text = "The service stopped before the answer was done."
    return failure(Unavailable(text, code="shutting_down"))


def taken_over() -> ParleyError:
    return Unavailable("Another process has taken this run over.", code="run_taken_over")
