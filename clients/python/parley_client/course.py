"""What this client has of one run: where it is, and what nobody has taken yet.

Whichever transport carries a run puts its events here, and whoever iterates takes them out.

* An event at or before `seq` was here already and is dropped; so however often a run is
  subscribed to, each event comes out once, in order. Only a `reset` begins again.
* The buffer is bounded, in events and in bytes. A transport does not put more into a full one:
  it stops reading the run, and goes on from the cursor when `has_room` tells it to. The service
  keeps the log, so nothing is lost but time.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from parley_client.errors import ParleyError
from parley_client.events import ChatComplete, ChatStart, Event, Reset, RunError

MAX_EVENTS = 1024
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Start:
    """What begins a run; sent again under the same `key`, it is the same run."""

    kind: str  # the type of the message on a WebSocket
    path: str  # the address over HTTP
    data: dict[str, Any]  # the body of either
    key: str


@dataclass(eq=False)
class Course:
    """One run, as far as it is known here.

    Attributes:
        start: how it begins; None for a run that is only followed.
        run_id: None until the service has accepted it.
        epoch: of the last event; None before the first one.
        seq: of the last event that came; after it the run is read on.
        has_room: is called when a buffer that was full has room again.
        refusals: how often the service has asked to come back later, in a row.
        is_lost: nothing comes at present, because the connection is gone.
        is_full: no more is to be put in for now.
    """

    start: Start | None
    has_room: Callable[["Course"], None]
    run_id: str | None = None
    conversation_id: str | None = None
    epoch: int | None = None
    seq: int = 0
    outcome: ChatComplete | RunError | None = None
    failure: ParleyError | None = None
    refusals: int = 0
    is_lost: bool = False
    is_full: bool = False
    _ended: bool = False
    _left: bool = False
    _size: int = 0
    _buffer: deque[tuple[Event, int]] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cursor(self) -> str | None:
        """Where to go on: a whole cursor where the epoch is known, else a plain `seq`."""
        if self.epoch is None:
            return str(self.seq) if self.seq else None
        return f"{self.run_id}:{self.epoch}:{self.seq}"

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be fetched."""
        return self._ended or self._left or self.failure is not None

    @property
    def has_events(self) -> bool:
        """Whether `take` returns one at once."""
        return bool(self._buffer)

    def put(self, cursor: str | None, event: Event, size: int) -> None:
        """Take an event of so many bytes; one that was here already is dropped.

        `cursor` is its id on the wire; a `Reset` has none.
        """
        self.run_id = self.run_id or event.run_id
        self.refusals = 0
        if isinstance(event, Reset):
            self.epoch, self.seq = event.epoch, 0
        elif event.seq <= self.seq:
            return
        else:
            self.seq = event.seq
            self.epoch = _epoch_of(cursor, self.epoch)
        if isinstance(event, ChatStart):
            self.conversation_id = event.conversation_id
        if isinstance(event, ChatComplete | RunError):
            self.outcome, self._ended = event, True
        if not self._left:
            self._buffer.append((event, size))
            self._size += size
            self.is_full = len(self._buffer) >= MAX_EVENTS or self._size >= MAX_BYTES
        self._wake()

    def adopt(self, run_id: str) -> None:
        """Take note of the id before the first event is here."""
        self.run_id = run_id
        self._wake()

    def fail(self, error: ParleyError) -> None:
        """End it: whoever waits gets the error, after what came before."""
        if not self.is_over:
            self.failure = error
            self._wake()

    def end(self) -> None:
        """End it: there is nothing after the cursor."""
        self._ended = True
        self._wake()

    def leave(self) -> None:
        """Forget what was not taken, and take no more."""
        self._left = True
        self._buffer.clear()
        self._wake()

    async def take(self) -> Event | None:
        """Return the next event, or None at the end; raises `ParleyError` if it failed."""
        while not self._buffer:
            if self.failure is not None and not self._left:
                raise self.failure
            if self.is_over:
                return None
            await self._changed.wait()
        event, size = self._buffer.popleft()
        self._size -= size
        if self.is_full and len(self._buffer) < MAX_EVENTS // 2 and self._size < MAX_BYTES // 2:
            self.is_full = False
            self._wake()
            self.has_room(self)
        return event

    async def accepted(self) -> str:
        """Wait for the run's id; raises the `ParleyError` of a run that was refused."""
        while self.run_id is None:
            if self.failure is not None:
                raise self.failure
            await self._changed.wait()
        return self.run_id

    async def room(self) -> None:
        """Return once more may be put in, or nobody wants more."""
        while self.is_full and not self.is_over:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _epoch_of(cursor: str | None, before: int | None) -> int | None:
    epoch = (cursor or "").rpartition(":")[0].rpartition(":")[2]
    return int(epoch) if epoch.isascii() and epoch.isdigit() else before


def followed(run_id: str, after: int | str, has_room: Callable[[Course], None]) -> Course:
    """Follow a run from after a `seq` or a cursor; `ValueError` if that is another run's."""
    if isinstance(after, int):
        return Course(None, has_room, run_id=run_id, seq=after)
    place, _, seq = after.rpartition(":")
    named, _, epoch = place.rpartition(":")
    if named != run_id or not (epoch.isdigit() and seq.isdigit()):
        raise ValueError(f"{after!r} is no cursor of {run_id}")
    return Course(None, has_room, run_id=run_id, epoch=int(epoch), seq=int(seq))
