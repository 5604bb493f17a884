"""The store: every question that is asked of the database, as one method each.

A method is one transaction (`expire`: several). What is done in it stands in `runs`,
`conversations`, `search`, `agents` and `expiry`; how it gets to the database, in `engine`.

All methods raise `StorageUnavailable` while the database cannot do its work.
"""

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, select

from caller import Caller
from events import TerminalEvent
from messages import AssistantMessage, Message, new_id
from offload import offload
from storage import (
    ANY_ENTRY,
    Begin,
    ConversationRecord,
    Entry,
    ExtractionJob,
    Hit,
    StorageDamaged,
    StoredMessage,
    StoredRun,
    agents,
    expiry,
    extraction_jobs,
    runs,
    search,
)
from storage import conversations as rows
from storage.engine import connect
from storage.migrations import upgrade
from storage.watched import Watched


class Store:
    """Runs, conversations and agents in a database; made by `open`.

    Args:
        database: where they are.
        instance: the name of this store, which no other one has or had, nor is it empty.
        lease: seconds for which the store holds its runs without a `renew`.
        jobs: how many extraction jobs there may be; the oldest go.
    """

    def __init__(self, database: Watched, instance: str, lease: float, jobs: int) -> None:
        self.instance = instance
        self._db = database
        self._lease = lease
        self._jobs = jobs

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        instance: str,
        timeout: float = 5.0,
        lease: float = 30.0,
        jobs: int = 10_000,
    ) -> AsyncIterator[Self]:
        """Open a database, brought to the newest schema.

        Args:
            url: `sqlite:///<path>`, for one process; `postgresql://…`, for any number.
            instance: what this process is called; made unique here.
            timeout: seconds that a method waits for a lock, a connection or an answer.
            lease: seconds after which runs of a store that does not `renew` may be claimed.
            jobs: how many extraction jobs there may be.

        Raises:
            ValueError: no such kind of database.
            StorageUnavailable: it cannot be opened.
            StorageUnusable: it is no database of this service.
        """
        database = Watched(connect(url, timeout))
        try:
            await database.migrate(upgrade)
            yield cls(database, new_id(instance), lease, jobs)
        finally:
            await database.aclose()

    @property
    def kind(self) -> str:
        """The kind of database: `sqlite` or `postgresql`."""
        return "postgresql" if self._db.shared else "sqlite"

    @property
    def damage(self) -> StorageDamaged | None:
        """What the database was seen to suffer from since it was opened."""
        return self._db.damage

    async def ping(self) -> None:
        await self._db.read(Connection.scalar, select(1))

    # Runs

    async def accept(
        self, run: StoredRun, *, begin: Begin | None, entry: Entry = ANY_ENTRY
    ) -> StoredRun | None:
        """Keep a new run, with its conversation where that is new.

        Args:
            begin: what the run does at once, because it has the conversation lock; None: it waits.
            entry: how it comes into its conversation.

        Returns:
            The run that has the same key of the same owner, if there is one; then nothing has
            been changed.

        Raises:
            NoSuchMessage: there is nothing to branch off from.
            NoSuchConversation: it must exist, and does not.
        """
        try:
            await self._db.write(runs.accept, run, begin, entry, self.instance, self._lease)
        except runs.Undone as undone:
            return undone.run
        return None

    async def begin(self, run: StoredRun, begin: Begin) -> bool:
        """Give a queued run the conversation lock; False: it is not this store's, or has ended."""
        return await self._held(runs.begin, run, begin)

    async def save_turn(
        self, run: StoredRun, messages: Sequence[Message], pending: AssistantMessage | None
    ) -> bool:
        """Append messages of a run and set its pending turn; False: as for `begin`."""
        return await self._held(runs.save_turn, run, messages, pending)

    async def finish(
        self,
        run: StoredRun,
        messages: Sequence[Message],
        terminal: TerminalEvent,
        title: str | None = None,
        begin: Begin | None = None,
        learn_from: Sequence[Message] = (),
    ) -> bool:
        """Append messages of a run and end it; False: as for `begin`, its end stays.

        Args:
            run: what its `request` is now stays of it.
            title: for the conversation, where it has none.
            begin: what a run that never had the lock does first.
            learn_from: the exchange from which something is to be learned about the user.
        """
        said = (messages, terminal, title, begin, learn_from)
        return await self._held(runs.finish, run, *said, self._jobs)

    async def run(self, caller: Caller, run_id: str) -> StoredRun | None:
        """Return a run of the caller's tenant, whoever of its users it belongs to."""
        return await self._db.read(runs.find, caller.tenant, run_id)

    async def run_messages(self, run: StoredRun) -> list[Message]:
        """Return what a run has appended, in order, its user's message included."""
        return await self._db.read(runs.made, run)

    async def claim(self) -> list[StoredRun]:
        """Take over unfinished runs that nobody holds, oldest first; each has a new epoch.

        On SQLite that is every run of another store, as there is one process at a time; on
        PostgreSQL all runs of the stores whose last lease is over: of several stores that claim at
        once, one gets them.
        One that this version cannot read has ended in the error `interrupted` instead.
        """
        return await self._db.write(runs.claim, self._db.shared, self.instance, self._lease)

    async def renew(self) -> None:
        """Extend the lease of this store's unfinished runs."""
        await self._db.write(runs.renew, self.instance, self._lease)

    async def give_back(self) -> None:
        """Let others claim this store's unfinished runs at once.

        All of them go in one transaction, so that the runs of a conversation stay in their order.
        """
        await self._db.write(runs.give_back, self.instance)

    async def expire(
        self,
        *,
        runs_older_than: float,
        conversations_older_than: float | None = None,
        within: float = expiry.WITHIN,
    ) -> tuple[int, int]:
        """Delete what is old, or as much of it as there is time for. Ages in seconds.

        Args:
            runs_older_than: since a run's end. Ephemeral conversations go with their last run.
            conversations_older_than: since the last change; None keeps them. One with a run
                under way stays in any case.
            within: seconds after which no other batch is begun. Each kind gets one at least.

        Returns:
            How many runs and how many conversations are gone.
        """
        now, deadline = datetime.now(UTC), time.monotonic() + within
        ended = now - timedelta(seconds=runs_older_than)
        gone = await self._in_batches(deadline, expiry.old_runs, ended)
        conversations = await self._in_batches(deadline, expiry.forsaken, ended)
        if conversations_older_than is not None:
            before = now - timedelta(seconds=conversations_older_than)
            conversations += await self._in_batches(deadline, expiry.old_conversations, before)
        return gone, conversations

    async def _held(self, unit: Callable[..., None], *args: Any) -> bool:
        try:
            await self._db.write(unit, *args)
        except runs.Undone:
            return False
        return True

    async def _in_batches(self, deadline: float, unit: Callable[..., int], *args: Any) -> int:
        total = 0
        while count := await self._db.write(unit, *args):
            total += count
            if time.monotonic() >= deadline:
                break
        return total

    # Conversations

    async def context(
        self, caller: Caller, conversation_id: str, limit: int | None
    ) -> list[Message]:
        """Return the newest `limit` messages of a conversation, or all of them, oldest first."""
        return await self._db.read(rows.context, caller, conversation_id, limit)

    async def conversations(
        self, caller: Caller, *, limit: int, before: str | None = None
    ) -> tuple[list[ConversationRecord], str | None]:
        """Return an owner's conversations, newest first, and the cursor of the next page.

        Args:
            before: the cursor that came with the page before.

        Raises:
            InvalidPage: `before` is no cursor.
        """
        place = None if before is None else rows.parse_page(before)
        return await self._db.scan(rows.page, caller, limit, place)

    async def conversation(self, caller: Caller, conversation_id: str) -> ConversationRecord | None:
        return await self._db.read(rows.find, caller, conversation_id)

    async def messages(
        self,
        caller: Caller,
        conversation_id: str,
        *,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[StoredMessage]:
        """Return the newest `limit` messages, oldest first; with `before`, those before it.

        Args:
            before: a message's id; one that is not there has nothing before it.
        """
        return await self._db.scan(rows.said, caller, conversation_id, limit, before)

    async def update(
        self,
        caller: Caller,
        conversation_id: str,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ConversationRecord | None:
        """Set title and metadata of a conversation; None leaves as it is."""
        return await self._db.write(rows.change, caller, conversation_id, title, metadata)

    async def delete(self, caller: Caller, conversation_id: str) -> bool:
        """Delete a conversation, its messages and its finished runs; False: there is none."""
        return await self._db.write(rows.remove, caller, conversation_id)

    async def clear(self, caller: Caller, conversation_id: str) -> bool:
        """Delete a conversation's messages, title and finished runs; False: there is none."""
        return await self._db.write(rows.clear, caller, conversation_id)

    async def search(self, caller: Caller, text: str, *, limit: int) -> list[Hit]:
        """Find words in titles and in what user and assistant said, newest first.

        Args:
            text: words, all of which must occur, the last one also as the begin of a word.
        """
        wanted = search.wanted_in(text)
        rows = await self._db.scan(search.find, caller, wanted, limit)
        return await offload(search.hits, rows, wanted)

    # What is to be learned

    async def take_extraction_job(self) -> ExtractionJob | None:
        """Take the oldest job that nobody holds; it is this store's for some minutes."""
        return await self._db.write(extraction_jobs.take, self.instance, not self._db.shared)

    async def return_extraction_job(self, job: ExtractionJob) -> None:
        """Let a job that could not be done be taken again, after a pause."""
        await self._db.write(extraction_jobs.give_back, job, self.instance)

    async def drop_extraction_job(self, job: ExtractionJob) -> None:
        """Delete a job that is done, or never will be."""
        await self._db.write(extraction_jobs.drop, job, self.instance)

    async def forget_extraction_jobs(self, caller: Caller) -> None:
        """Delete all jobs of a user."""
        await self._db.write(extraction_jobs.forget, caller)

    async def count_extraction_jobs(self, caller: Caller | None = None) -> int:
        """Count the jobs, of a user or of all, that wait or are being done."""
        return await self._db.read(extraction_jobs.count, caller)

    # Agents

    async def agents(self) -> list[tuple[str, str, str]]:
        """Return tenant, name and configuration (JSON) of all agents."""
        return await self._db.read(agents.every)

    async def put_agent(
        self, caller: Caller, name: str, config: str, *, built_in: Collection[str], limit: int
    ) -> bool:
        """Create an agent of the caller's tenant, or replace the one of this name.

        Args:
            built_in: the names of those that are not stored.
            limit: how many there may be, these included.

        Returns:
            Whether it is new.

        Raises:
            errors.TooMany: there are as many as there may be.
        """
        return await self._db.write(agents.put, caller.tenant, name, config, built_in, limit)

    async def delete_agent(self, caller: Caller, name: str) -> bool:
        """Delete an agent of the caller's tenant; False: there is none of this name."""
        return await self._db.write(agents.remove, caller.tenant, name)
