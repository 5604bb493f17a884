"""Run logs in this process.

An append is one to a list; older events are kept in little memory (`hub.compact`). Readers that
wait get text at the writer's `drain` and everything else in the loop's next turn; each takes all
that is new, so a burst, of text or of calls that begin together, is one wake-up or, where its
reader brought an `offer`, none.

Finished logs are kept for `ttl` seconds, and fewer when all logs together exceed `max_bytes`: then
the one that finished first goes first. A log that is being written is never dropped; it is bounded
by `max_events`, and in bytes by a part of `max_bytes`. Where those that are being written alone
exceed `max_bytes`, no other one should begin (`has_room`), and none that is larger than most grows.

Sizes are counted as events come, never by looking at all of them: a text as UTF-8, an event that
holds what a tool took or returned as the JSON that it is kept as. A log that was dropped counts for
as long as a reader still holds it.
"""

import asyncio
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator

import msgspec

from errors import Unavailable
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
from hub.compact import CompactEvents, is_dense, unpacked

_encode = msgspec.json.Encoder().encode

_TEXT = (ChatChunk, ReasoningChunk)

_BATCH = 4096
_BATCH_BYTES = 262_144
"""How many events, and bytes of them, one read takes at most: to encode more at once would stall
the loop."""

_IN_A_TURN = 512
"""How many events are read in a turn of the loop where none are merged."""

_LARGEST = 1 << 30
"""Bytes that a log may have, whatever the bound on all: offsets in it have 32 bits."""

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
        self._dropped_bytes: int | None = None
        self._recent: list[Event | bytes] = []
        self._older = CompactEvents(run_id)
        self._ends = array("I")  # of each event: how many bytes it and those before it have
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._is_due = False

    def __del__(self) -> None:
        if self._dropped_bytes is not None:
            self._hub.is_gone(self.size, self._dropped_bytes)

    def append(self, event: Event) -> None:
        """Number an event and keep it; readers that wait get it soon, unless it is text.

        Only a terminal event still fits where there is no room.

        Raises:
            LogEnded: it has its terminal event.
            LogFull: it holds as many events, or bytes, as a log may.
            errors.Unavailable: all logs together hold as much as they may.
        """
        if isinstance(event, _TEXT):
            self.append_text(type(event), event.message_id, event.content)
            return
        if self.ended:
            raise LogEnded(f"{event.event_type} after the end of {self.run_id}")
        terminal = isinstance(event, TERMINAL)
        event = stamped(event, self.run_id, self.last_seq + 1)
        encoded = _encode(event)
        kept = encoded if is_dense(encoded) and not terminal else event
        self._keep(kept, _EVENT_BYTES + len(encoded), terminal)
        if terminal:
            self._notify()
            self._finish()
        elif self.waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._notify)

    def append_text(
        self, kind: type[ChatChunk | ReasoningChunk], message_id: str, content: str
    ) -> None:
        """Keep a piece of text; raises as `append` does."""
        if self.ended:
            raise LogEnded(f"{kind.__name__} after the end of {self.run_id}")
        event = kind(
            run_id=self.run_id, seq=self.last_seq + 1, message_id=message_id, content=content
        )
        self._keep(event, _PIECE_BYTES + _size(content))
        if len(self._recent) >= 2 * LAG:  # who does not lag reads recent events only
            self._compact(LAG)

    def _keep(self, event: Event | bytes, size: int, terminal: bool = False) -> None:
        hub, size_with_it = self._hub, self.size + size
        is_short = self.last_seq < hub.max_events and size_with_it <= hub.max_log_bytes
        if not (is_short and hub.used + size <= hub.max_bytes) and not terminal:
            hub.check_growth(self, size)
        self.last_seq += 1
        self.ended = terminal
        self._recent.append(event)
        self.size = size_with_it
        self._ends.append(size_with_it)
        hub.used += size

    def drop(self) -> None:
        self._dropped_bytes = self.size  # its writer may not be done yet

    def suspend(self) -> None:
        if self.ended:
            raise LogEnded(f"{self.run_id} is suspended after its end")
        self.ended = self.suspended = True
        self._notify()
        self._finish()

    async def drain(self) -> None:
        """Give readers that wait the text that was appended. This never waits."""
        self._notify()

    @property
    def newest(self) -> Event:
        """The newest of its events; it has one."""
        if self._recent and not isinstance(event := self._recent[-1], bytes):
            return event
        return self.between(self.last_seq - 1, self.last_seq)[0]

    def between(self, start: int, stop: int) -> list[Event]:
        """Return the events `start + 1` to `stop`."""
        older = len(self._older)
        if start >= older:
            return unpacked(self._recent[start - older : stop - older])
        recent = unpacked(self._recent[: max(stop - older, 0)])
        return self._older.between(start, stop) + recent

    def batch_after(self, start: int) -> int:
        """Return where a batch ends that begins behind event `start`; it has at least one event."""
        stop = min(start + _BATCH, self.last_seq)
        if stop <= start + 1:
            return stop
        limit = (self._ends[start - 1] if start else 0) + _BATCH_BYTES
        if self._ends[stop - 1] <= limit:
            return stop
        return max(start + 1, bisect_right(self._ends, limit, start, stop))

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
        elif log.batch_after(self.seq) != log.last_seq:
            await asyncio.sleep(0)  # who has this much to read may never have to wait for a send
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
        log = self._log
        if self.seq + 1 == log.last_seq:  # as ever with a reader that keeps up
            self.seq = log.last_seq
            return [log.newest]
        new = log.between(self.seq, log.batch_after(self.seq))
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
        max_bytes: the bound on all logs together, roughly; one log may have half of it.

    Attributes:
        used: how many bytes all logs have, roughly.
    """

    def __init__(self, *, ttl: float, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.max_log_bytes = min(max_bytes // 2, _LARGEST)
        self.used = 0
        self._ttl = ttl
        self._logs: dict[str, MemoryLog] = {}
        self._finished: OrderedDict[str, float] = OrderedDict()
        self._finished_bytes = 0
        self._dropped_bytes = 0

    @property
    def has_room(self) -> bool:
        return self.used - self._finished_bytes < self.max_bytes

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

    async def before(self, run_id: str, seq: int) -> AsyncIterator[Event]:
        return _up_to(self._log(run_id), seq)

    def _log(self, run_id: str) -> MemoryLog:
        self._expire()
        if run_id not in self._logs:
            raise LogNotFound("There is no run of this id, or its events have expired.")
        return self._logs[run_id]

    def check_growth(self, log: MemoryLog, size: int) -> None:
        """Refuse an event for which there is no room, after what has finished made room."""
        if log.last_seq >= self.max_events:
            raise LogFull(f"A run may have at most {self.max_events} events.")
        if log.size + size > self.max_log_bytes:
            raise LogFull(f"The events of a run may have at most {self.max_log_bytes} bytes.")
        self._expire(size)
        kept = self.used - self._dropped_bytes
        many = len(self._logs) - len(self._finished)
        is_large = (log.size + size) * many >= kept - self._finished_bytes
        if kept + size > self.max_bytes and is_large:
            text = "The service has no memory left for the events of this run; try again later."
            raise Unavailable(text, retry_after=10)

    def finished(self, log: MemoryLog) -> None:
        """Start the expiry of a log that has just ended, if it is still the one of its run."""
        if self._logs.get(log.run_id) is not log:
            return
        self._finished[log.run_id] = time.monotonic() + self._ttl
        self._finished_bytes += log.size
        self._expire()

    def is_gone(self, size: int, dropped_bytes: int) -> None:
        """Count a log no more that was dropped, and that nobody holds now."""
        self.used -= size
        self._dropped_bytes -= dropped_bytes

    def _expire(self, coming: int = 0) -> None:
        now = time.monotonic()
        while self._finished:
            run_id, deadline = next(iter(self._finished.items()))
            is_room = self.used - self._dropped_bytes + coming <= self.max_bytes
            # The newest stays where nothing else needs its place: its readers are at it now.
            is_newest = len(self._finished) == 1 and not coming
            if deadline > now and (is_room or is_newest):
                return
            self._drop(run_id)

    async def forget(self, run_id: str) -> None:
        self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        log = self._logs.pop(run_id, None)
        if log is None:
            return
        if self._finished.pop(run_id, None) is not None:
            self._finished_bytes -= log.size
        self._dropped_bytes += log.size
        log.drop()


async def _up_to(log: MemoryLog, seq: int) -> AsyncIterator[Event]:
    """Yield events from the first one on, and let other tasks run now and then."""
    at, seq = 0, min(seq, log.last_seq)
    while at < seq:
        stop = min(log.batch_after(at), at + _IN_A_TURN, seq)
        for event in log.between(at, stop):
            yield event
        at = stop
        await asyncio.sleep(0)


def _size(text: str) -> int:
    """Return how many bytes of UTF-8 a text has at most."""
    return len(text) if text.isascii() else 4 * len(text)
