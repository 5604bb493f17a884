"""This service with a store that keeps nothing: what is left is what storage costs."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import server
from app import create_app
from bench.servers.service import wait
from caller import Caller
from events import TerminalEvent
from messages import AssistantMessage, Message
from settings import Settings, load_settings
from storage import ANY_ENTRY, Begin, Entry, StoredRun, expiry
from storage.store import Store


class NoStore(Store):
    """Remembers the question while its run is under way, and nothing else.

    It has no database, so whatever of a store it does not replace fails.
    """

    kind = "none"
    damage = None

    def __init__(self) -> None:
        self._asked: dict[str, list[Message]] = {}

    async def accept(
        self, run: StoredRun, *, begin: Begin | None, entry: Entry = ANY_ENTRY
    ) -> None:
        if begin is not None:
            self._asked[run.conversation_id] = [*begin.messages]

    async def context(
        self, caller: Caller, conversation_id: str, limit: int | None
    ) -> list[Message]:
        return self._asked[conversation_id]

    async def save_turn(
        self, run: StoredRun, messages: Sequence[Message], pending: AssistantMessage | None
    ) -> bool:
        return True

    async def finish(
        self,
        run: StoredRun,
        messages: Sequence[Message],
        terminal: TerminalEvent,
        title: str | None = None,
        begin: Begin | None = None,
        learn_from: Sequence[Message] = (),
    ) -> bool:
        self._asked.pop(run.conversation_id, None)
        return True

    async def take_extraction_job(self) -> None:
        """Return none."""

    async def agents(self) -> list[tuple[str, str, str]]:
        return []

    async def put_agent(
        self, caller: Caller, name: str, config: str, *, built_in: Collection[str], limit: int
    ) -> bool:
        return True

    async def claim(self) -> list[StoredRun]:
        return []

    async def renew(self) -> None:
        """Do nothing."""

    async def give_back(self) -> None:
        """Do nothing."""

    async def expire(
        self,
        *,
        runs_older_than: float,
        conversations_older_than: float | None = None,
        within: float = expiry.WITHIN,
    ) -> tuple[int, int]:
        return 0, 0


@asynccontextmanager
async def nothing(settings: Settings) -> AsyncIterator[Store]:
    yield NoStore()


if __name__ == "__main__":
    settings = load_settings()
    server.run(create_app(settings, tools=[wait], owns_process=True, storage=nothing), settings)
