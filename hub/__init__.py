"""Run logs: append, read from a cursor, wait.

A run has one log. One writer appends to it; any number of readers follow it, each with a
cursor of its own, and none of them can hold up the writer or another reader. What a reader
gets:

* from a cursor of the present epoch: the exact rest, each event once, in order;
* from a cursor of an epoch that is over: a `Reset`, then the present epoch from its start;
* text at each `drain` of the writer, everything else in the loop's next turn;
* from a log that was suspended, because the service stops and its run goes on in another epoch:
  the rest, and then a `Suspended`;
* while it lags by more than `LAG` events: adjacent text pieces of one message merged into
  one event. No other event is ever merged or dropped. So a slow reader costs the service
  the log, which is there anyway, and what its connection buffers.

Nothing outside this room knows where a log is. `hub.memory` keeps logs in the process.
"""

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeAlias

from errors import ClientError, NotFound, ParleyError
from events import Event, EventSink, ReaderEvent

LAG = 256
"""How many events a reader may lag by before text pieces are merged for it."""

_SHAPE = "A cursor is '<run_id>:<epoch>:<seq>', as in a frame's id, or a plain seq, 0 or more."


class InvalidCursor(ClientError):
    """The text is not a cursor of this run."""

    code = "invalid_cursor"


class LogNotFound(NotFound):
    """No log of this run is kept: it never was, or it has expired."""

    code = "run_not_found"


class LogFull(ParleyError):
    """The run produced more events, or bytes of them, than a log may hold."""

    code = "run_too_long"


class LogEnded(RuntimeError):
    """Something was appended to a log that has ended: a mistake of the service's own."""


Offer: TypeAlias = Callable[[list[Event]], bool]
"""Takes new events at once, without waiting, or returns False and has taken none."""


class Log(EventSink, Protocol):
    """The writer's side of one run's log."""

    run_id: str
    epoch: int

    @property
    def last_seq(self) -> int:
        """The number of the newest event, 0 before the first."""

    @property
    def ended(self) -> bool:
        """Whether the log has its terminal event or was suspended."""

    def suspend(self) -> None:
        """End the log, whose run goes on in another epoch; `LogEnded` if it has ended."""


class Reader(Protocol):
    """One reader of one run's log."""

    epoch: int

    @property
    def seq(self) -> int:
        """The number of the last event that was read, or that the cursor named."""

    @property
    def ended(self) -> bool:
        """Whether the terminal event, or a `Suspended`, has been read, or was before the cursor."""

    async def read(self, offer: Offer | None = None) -> list[ReaderEvent]:
        """Return all events that are new, at least one; wait while there is none.

        Returns an empty list when `wake` interrupted the wait or the log has ended.

        Args:
            offer: while this waits, is offered what is new in the log, and the wait goes on where
                it takes that. So an event reaches a connection that has room without a task's
                wake-up, which costs as much as all else that is done for a token.
        """

    def wake(self) -> None:
        """Make the present `read`, or else the next one, return without waiting."""


class Hub(Protocol):
    @property
    def has_room(self) -> bool:
        """Whether a log may begin: those that are being written do not exceed the bound on all."""

    async def create(self, run_id: str, epoch: int = 1) -> Log:
        """Begin the log of a run, or of a new epoch of it; the log before that is dropped."""

    async def forget(self, run_id: str) -> None:
        """Drop a log that has ended, or that nobody writes any more; there may be none."""

    async def before(self, run_id: str, seq: int) -> AsyncIterator[Event]:
        """Return the events of a run up to `seq`, none merged; `LogNotFound` if it has no log.

        Whoever reads them lets other tasks run now and then.
        """

    async def read(self, run_id: str, after: str | None) -> Reader:
        """Follow a run from a cursor, or from its start.

        Args:
            after: a whole cursor, `<run_id>:<epoch>:<seq>`, or a plain `seq` of the present
                epoch; the events after it are read.

        Raises:
            LogNotFound: no log of this run is kept.
            InvalidCursor: `after` is malformed, of another run, or beyond the log's end.
        """


def cursor(run_id: str, epoch: int, seq: int) -> str:
    """Return the text that names the place after event `seq`."""
    return f"{run_id}:{epoch}:{seq}"


def parse_cursor(text: str, run_id: str) -> tuple[int | None, int]:
    """Return the epoch (None for a plain `seq`) and the seq; `InvalidCursor` if it is none."""
    parts = text.split(":")
    if len(parts) == 1:
        return None, _number(text)
    if len(parts) != 3:
        raise InvalidCursor(_SHAPE)
    if parts[0] != run_id:
        raise InvalidCursor("The cursor belongs to another run.")
    return _number(parts[1]), _number(parts[2])


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidCursor(_SHAPE)
    return int(text)
