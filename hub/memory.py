"""Run logs in this process.

An append is one to a list; older events are kept in little memory (`hub.compact`). Readers that
wait get text at the writer's `drain` and everything else in the loop's next turn; each takes all
that is new, so a burst, of text or of calls that begin together, is one wake-up or, where its
reader brought an `offer`, none.

Finished logs are kept for `ttl` seconds, and fewer when all of them together exceed
`max_bytes`: then the one that finished first goes first. A log that is being written is
never dropped; it is bounded by `max_events`.
"""

import asyncio
import time
from collections import OrderedDict

import msgspec

from events import (
    TERMINAL,
    ChatChunk,
    Event,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    Suspended,
    merged,
    stamped,
)
from hub import LAG, InvalidCursor, LogEnded, LogFull, LogNotFound, Offer, parse_cursor
from hub.compact import CompactEvents

_encode = msgspec.json.Encoder().encode

_TEXT = (ChatChunk, ReasoningChunk)

_BATCH = 4096
"""How many events one read takes at most: to encode more at once would stall the loop."""

_EVENT_BYTES = 256
"""What an event occupies besides its JSON, roughly."""

_PIECE_BYTES = 10
"""What a piece occupies besides its text in `CompactEvents`, roughly."""


class MemoryLog:
    """One run's log and the readers that wait for it.

    `last_seq`: the number of the newest event, 0 before the first.
    """

    def __init__(self, run_id: str, epoch: int, hub: "MemoryHub") -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.last_seq = 0
        self.waiting: list[MemoryReader] = []
        self.size = 0
        self.ended = self.suspended = False
        self._recent: list[Event] = []
        self._older = CompactEvents(run_id)
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._is_due = False

    def append(self, event: Event) -> None:
        """Number an event and keep it; readers that wait get it soon, unless it is text.

        Raises `LogEnded`, or `LogFull`: it holds `max_events`; only a terminal event still fits.
        """
        if self.ended:
            raise LogEnded(f"{event.event_type} after the end of {self.run_id}")
        terminal = isinstance(event, TERMINAL)
        if self.last_seq >= self._hub.max_events and not terminal:
            raise LogFull(f"A run may have at most {self._hub.max_events} events.")
        self.last_seq += 1
        self._recent.append(stamped(event, self.run_id, self.last_seq))
        if isinstance(event, _TEXT):
            self.size += _PIECE_BYTES + len(event.content)
            if len(self._recent) >= 2 * LAG:  # who does not lag reads recent events only
                self._compact(LAG)
            return
        self.size += _EVENT_BYTES + len(_encode(event))
        if terminal:
            self.ended = True
            self._notify()
            self._finish()
        elif self.waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._notify)

    def suspend(self) -> None:
        if self.ended:
            raise LogEnded(f"{self.run_id} is suspended after its end")
        self.ended = self.suspended = True
        self._notify()
        self._finish()

    async def drain(self) -> None:
        """Give readers that wait the text that was appended. This never waits."""
        self._notify()

    def between(self, start: int, stop: int) -> list[Event]:
        """Return the events `start + 1` to `stop`."""
        older = len(self._older)
        if start >= older:
            return self._recent[start - older : stop - older]
        return self._older.between(start, stop) + self._recent[: max(stop - older, 0)]

    def _compact(self, count: int) -> None:
        self._older.extend(self._recent[:count])
        del self._recent[:count]

    def _finish(self) -> None:
        self._compact(len(self._recent))
        self._hub.finished(self)

    def _notify(self) -> None:
        self._is_due = False
        if self.waiting:
            self.waiting = [*filter(MemoryReader.goes_on_waiting, self.waiting)]


class MemoryReader:
    def __init__(self, log: MemoryLog, seq: int, reset: Reset | None) -> None:
        self.epoch = log.epoch
        self._log = log
        self.seq = seq
        self._reset = reset
        self._woken = False
        self._suspension_read = False
        self._future: asyncio.Future[None] | None = None
        self._offer: Offer | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def ended(self) -> bool:
        log = self._log
        if not log.ended or self.seq != log.last_seq:
            return False
        return self._suspension_read or not log.suspended

    async def read(self, offer: Offer | None = None) -> list[ReaderEvent]:
        if self._reset is not None:
            reset, self._reset = self._reset, None
            return [reset]
        log = self._log
        if self.seq == log.last_seq and not (self._woken or log.ended):
            self._future, self._offer = self._loop.create_future(), offer
            log.waiting.append(self)
            try:
                await self._future
            finally:
                self._future = None
                if self in log.waiting:
                    log.waiting.remove(self)
        self._woken = False
        events: list[ReaderEvent] = [*self._next()]
        if log.suspended and self.seq == log.last_seq and not self._suspension_read:
            self._suspension_read = True
            events.append(Suspended(run_id=log.run_id, seq=self.seq))
        return events

    def goes_on_waiting(self) -> bool:
        """Offer what is new, or else end the wait."""
        future = self._future
        if future is None or future.done():
            return False
        before = self.seq
        try:
            if self._offer is not None and self._offer(self._next()):
                if self.seq == self._log.last_seq and not self._log.ended:
                    return True
            else:
                self.seq = before
        except Exception as error:  # noqa: BLE001 - a reader's mistake is not the writer's
            future.set_exception(error)
        else:
            future.set_result(None)
        return False

    def _next(self) -> list[Event]:
        new = self._log.between(self.seq, self.seq + _BATCH)
        self.seq += len(new)
        return [*merged(new)] if len(new) > LAG else new

    def wake(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class MemoryHub:
    """All logs of this process.

    Args:
        ttl: seconds for which a finished log is kept.
        max_events: the bound on one log.
        max_bytes: the bound on all finished logs together, roughly.
    """

    def __init__(self, *, ttl: float, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._logs: dict[str, MemoryLog] = {}
        self._finished: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._finished_bytes = 0

    async def create(self, run_id: str, epoch: int = 1) -> MemoryLog:
        self._expire()
        self._drop(run_id)
        log = self._logs[run_id] = MemoryLog(run_id, epoch, self)
        return log

    async def read(self, run_id: str, after: str | None) -> MemoryReader:
        log = self._log(run_id)
        if after is None:
            return MemoryReader(log, 0, None)
        epoch, seq = parse_cursor(after, run_id)
        if epoch is not None and epoch < log.epoch:
            reset = Reset(run_id=run_id, epoch=log.epoch, reason="epoch_changed")
            return MemoryReader(log, 0, reset)
        if seq > log.last_seq or (epoch or log.epoch) > log.epoch:
            raise InvalidCursor("The cursor lies beyond the end of the run's log.")
        return MemoryReader(log, seq, None)

    async def before(self, run_id: str, seq: int) -> list[Event]:
        return self._log(run_id).between(0, seq)

    def _log(self, run_id: str) -> MemoryLog:
        self._expire()
        if run_id not in self._logs:
            raise LogNotFound("There is no run of this id, or its events have expired.")
        return self._logs[run_id]

    def finished(self, log: MemoryLog) -> None:
        """Start the expiry of a log that has just ended."""
        self._finished[log.run_id] = (time.monotonic() + self._ttl, log.size)
        self._finished_bytes += log.size
        self._expire()

    def _expire(self) -> None:
        now = time.monotonic()
        while self._finished:
            run_id, (deadline, _) = next(iter(self._finished.items()))
            # The newest stays, however large it is: its readers are at it now.
            is_room = self._finished_bytes <= self._max_bytes or len(self._finished) == 1
            if deadline > now and is_room:
                return
            self._drop(run_id)

    async def forget(self, run_id: str) -> None:
        self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        self._logs.pop(run_id, None)
        _, size = self._finished.pop(run_id, (0.0, 0))
        self._finished_bytes -= size
