"""Observers: who is shown the events of every run, and can change nothing about it.

An observer is fed from a run's log, like any reader, and never by the agent loop:

* It gets each event once, in order. Where it lags, adjacent pieces of text are merged for it, as
  for any reader. A run that is suspended ends in `Suspended`; when it goes on, the log of the new
  epoch is shown from its start.
* It is called on the event loop, mostly within the task that writes the log, so it must not block.
  What takes time belongs on a queue or a thread of its own.
* One that raises is logged, and is shown no more of that run. The run, its readers and the other
  observers go on.

All observers of a run share one reader and one task, which does not wake up for a piece of text.
Without observers there is neither.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from errors import ParleyError
from events import (
    AgentUpdated,
    ChatComplete,
    ChatStart,
    ReaderEvent,
    RunError,
    Suspended,
    ToolCallComplete,
    ToolCallError,
)
from hub import Hub, Reader
from storage import StoredRun

CLOSE_TIMEOUT = 1.0
"""Seconds that `Observers.aclose` waits for the last events of runs."""

logger = logging.getLogger("parley.runs")


class Observer(Protocol):
    """Is shown the events of every run."""

    def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
        """Take what is new in a run, at least one event; must return at once.

        Args:
            run: as it was accepted: whose it is, and who answers.
        """


class Observers:
    """Shows runs to observers. Belongs to who starts the runs, and is closed after the last one."""

    def __init__(self, hub: Hub, observers: Iterable[Observer] = ()) -> None:
        self._hub = hub
        self._observers = tuple(observers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, run: StoredRun) -> None:
        """Show a run from its first event on; its log has been created."""
        if not self._observers:
            return
        try:
            reader = await self._hub.read(run.id, None)
        except ParleyError as error:
            logger.warning("Run %s is not observed: %s", run.id, error.message)
            return
        task = asyncio.create_task(self._follow(run, reader), name=f"observe {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Show what is left of runs that have ended, and stop."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _follow(self, run: StoredRun, reader: Reader) -> None:
        active = [*self._observers]

        def show(events: Sequence[ReaderEvent]) -> bool:
            if events:
                active[:] = [each for each in active if _takes(each, run, events)]
            return bool(active)  # False ends the wait, and thereby the task

        try:
            while active and not reader.ended:
                show(await reader.read(show))
        except ParleyError as error:
            logger.warning("Run %s is not observed any more: %s", run.id, error.message)


def _takes(observer: Observer, run: StoredRun, events: Sequence[ReaderEvent]) -> bool:
    """Show events to an observer, and tell whether it took them."""
    try:
        observer.observe(run, events)
    # Whatever it is, it is the observer's mistake. A cancellation is caught, too: it would end the
    # task that writes the log, where it comes from a future that the observer looked at.
    except (Exception, asyncio.CancelledError):
        name = type(observer).__name__
        logger.exception("%s failed, and is shown no more of run %s", name, run.id)
        return False
    return True


class _Summary:
    """What the line about a run will say. `tool_calls`: those that have ended."""

    def __init__(self, start: ChatStart) -> None:
        self.agent = start.agent
        self.model = start.model
        self.tool_calls = 0
        self.began = time.monotonic()


class RunLogger:
    """Writes a line at level DEBUG for each run that has ended, or is suspended.

    The seconds count from when the run was accepted by this process. After a restart the calls of
    the run's turns before it are counted, too, and its time before is not.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Summary] = {}

    def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
        for event in events:
            match event:
                case ChatStart():
                    self._runs[run.id] = _Summary(event)
                case ToolCallComplete() | ToolCallError():
                    self._runs[run.id].tool_calls += 1
                case AgentUpdated():
                    self._runs[run.id].agent = event.agent
                case ChatComplete(usage=usage):
                    tokens = "?" if usage is None else str(usage.total_tokens)
                    self._write(run.id, event.finish_reason, tokens)
                case RunError():
                    self._write(run.id, f"error {event.code}", "?")
                case Suspended():
                    self._write(run.id, "suspended", "?")
                case _:
                    pass

    def _write(self, run_id: str, end: str, tokens: str) -> None:
        run = self._runs.pop(run_id)
        logger.debug(
            "Run %s of %s (%s): %s, %d tool calls, %s tokens, %.3f s",
            run_id,
            run.agent,
            run.model,
            end,
            run.tool_calls,
            tokens,
            time.monotonic() - run.began,
        )


def run_loggers() -> tuple[Observer, ...]:
    """Return a `RunLogger` where the log takes its lines, and otherwise none."""
    return (RunLogger(),) if logger.isEnabledFor(logging.DEBUG) else ()
