"""A reader of a few given events: what remains to be told of a log that has expired."""

from collections.abc import Sequence

from events import ReaderEvent, RunError
from hub import Offer


class FixedReader:
    """Reads `events` and has ended."""

    def __init__(self, events: Sequence[ReaderEvent], epoch: int) -> None:
        self.epoch = epoch
        self._events = list(events)

    @property
    def seq(self) -> int:
        """The number of the last event that was read: none is known before."""
        return 0

    @property
    def ended(self) -> bool:
        """Whether the events have been read."""
        return not self._events

    @property
    def suspension(self) -> RunError | None:
        """Nothing: the terminal event is among the events."""
        return None

    async def read(self, offer: Offer | None = None) -> list[ReaderEvent]:
        """Return the events, once."""
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Do nothing: `read` never waits."""
