"""A reader of given events: a replay of a run whose log has expired."""

from collections.abc import Sequence

from events import ReaderEvent
from hub import Offer


class ReplayReader:
    """Reads `events` and has ended."""

    def __init__(self, events: Sequence[ReaderEvent], epoch: int) -> None:
        self.epoch = epoch
        self._events = list(events)

    @property
    def seq(self) -> int:
        """0: there is no log to have a place in."""
        return 0

    @property
    def ended(self) -> bool:
        """Whether the events have been read."""
        return not self._events

    async def read(self, offer: Offer | None = None) -> list[ReaderEvent]:
        """Return the events, once."""
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Do nothing: `read` never waits."""
