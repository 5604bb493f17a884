"""A reader of given events: a replay of a run whose log has expired."""

from collections.abc import Sequence

from events import ReaderEvent
from hub import Offer


class ReplayReader:
    """Reads `events` and has ended."""

    seq = 0  # there is no log to have a place in

    def __init__(self, events: Sequence[ReaderEvent], epoch: int) -> None:
        self.epoch = epoch
        self._events = list(events)

    @property
    def ended(self) -> bool:
        return not self._events

    async def read(self, offer: Offer | None = None) -> list[ReaderEvent]:
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Do nothing: `read` never waits."""
