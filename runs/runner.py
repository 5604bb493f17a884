"""The tasks of runs: each is taken through its life, and what was left is taken up.

This is the one place that does the book-keeping of a run: `enter` puts it into the index and into
the queue of its conversation, `Driver.drive` returns how it came out, and `_own` says so to whoever
waits, to the queue and to the index.
"""

import asyncio
import logging
import sys

import msgspec

from errors import ParleyError
from events import stamped
from hub import Hub
from memory.learning import LongTermMemory
from runs.agents import Roster
from runs.commands import Commands
from runs.driver import Driver
from runs.endings import MISTAKE, Ending, Endings, failure, left_open, told
from runs.index import RunIndex, size_of
from runs.observers import Observers
from runs.queue import ConversationLocks, Turn
from runs.request import decoded
from runs.run import Ended, Limits, Outcome, Refused, Repeated, Run, Suspended
from storage import StorageUnavailable, StoredRun
from storage.store import Store

HOUSEKEEPING = 10.0
"""Seconds between two rounds of what has to be done now and then."""

RETRY = 1.0
"""Seconds between two attempts to store what the database did not take."""

logger = logging.getLogger("parley.registry")


class Runner:
    """Owns the tasks of the runs of this process, which belong to `tasks`."""

    def __init__(
        self,
        *,
        tasks: asyncio.TaskGroup,
        store: Store,
        hub: Hub,
        agents: Roster,
        index: RunIndex,
        locks: ConversationLocks,
        commands: Commands,
        observers: Observers,
        limits: Limits,
        memory: LongTermMemory | None,
    ) -> None:
        self.draining = False
        self.endings = Endings(store, memory)
        self._tasks = tasks
        self._store = store
        self._agents = agents
        self._index = index
        self._locks = locks
        self._commands = commands
        self._limits = limits
        self._driver = Driver(store, hub, index, self.endings, observers, limits, memory)

    async def enter(self, run: Run) -> None:
        """Put a run into the queue of its conversation, and begin its life.

        Nothing suspends here as long as the locks are of this process: to check for room, to take
        it, and to have a place in the queue or be refused one, are one step.
        """
        self._index.add(run)
        try:
            turn = await self._join(run)
        except Exception as error:  # noqa: BLE001 - or it would be waited for, for ever
            self._refuse(run, Refused(told(error, run.id)))
        else:
            run.task = self._tasks.create_task(self._own(run, turn), name=run.id)

    async def _own(self, run: Run, turn: Turn) -> None:
        """Take a run through its life, and do the book-keeping. Whatever happens, it ends alone."""
        outcome: Outcome = Refused(ParleyError(MISTAKE))
        try:
            try:
                outcome = await self._driver.drive(run, turn)
            finally:  # also where all tasks are cancelled, or who waits behind would wait for ever
                await turn.leave()
        except Exception:  # a mistake of ours must not end the tasks of all other runs
            logger.exception("Run %s could not be left in order", run.id)
        match outcome:
            case Refused() | Repeated():
                self._refuse(run, outcome)
            case Suspended() | Ended():
                self._index.end(run)

    def _refuse(self, run: Run, refusal: Refused | Repeated) -> None:
        run.refusal = refusal
        self._index.forget(run.id)
        run.accepted.set()

    async def _join(self, run: Run) -> Turn:
        """Put a run into the queue of its conversation, or raise; see `ConversationLocks.join`."""
        owner, place = run.stored.owner, run.stored.conversation_id
        if_busy = "enqueue" if run.resumed else run.request.if_busy
        before = await self._locks.queue(owner, place) if if_busy == "interrupt" else []
        limit = sys.maxsize if run.resumed else self._limits.max_queued_messages
        turn = await self._locks.join(owner, place, run.id, if_busy=if_busy, limit=limit)
        for other in before:
            await self._commands.stop(other, "superseded")
        return turn

    async def recover(self) -> None:
        """Take up the runs that nobody works on any more."""
        for stored in await self._store.claim():
            if self.draining:  # meanwhile; what is not gone on with is given back with all the rest
                return
            try:
                await self._resume(stored)
            except ParleyError as error:
                terminal = stamped(failure(error), stored.id, 2)
                gone = msgspec.structs.replace(stored, request="")
                await self.endings.store_soon(Ending(gone, left_open(stored), terminal))

    async def _resume(self, stored: StoredRun) -> None:
        self._index.forget(stored.id)
        request = decoded(stored.request)
        agent = self._agents.find(stored.owner, stored.agent)
        size = size_of(stored.request)
        await self.enter(Run(stored, request, agent, size=size, resumed=True))

    async def keep_house(self) -> None:
        """Do what has to be done now and then, until the registry ends."""
        due = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.endings.store_waiting()
                if loop.time() >= due:
                    await self._tidy()
                    due = loop.time() + HOUSEKEEPING
            except StorageUnavailable as error:
                logger.warning("Storage cannot be tidied now: %s", error.message)
            except Exception:  # a mistake of ours must not end the runs of this process
                logger.exception("Storage could not be tidied; this is tried again")
            await asyncio.sleep(RETRY if self.endings.has_waiting else HOUSEKEEPING)

    async def _tidy(self) -> None:
        await self._store.renew()
        if not self.draining:
            await self.recover()
        await self._store.expire(
            runs_older_than=self._limits.run_ttl,
            conversations_older_than=self._limits.conversation_ttl,
        )

    async def give_back(self) -> None:
        """Let others go on with the runs that are suspended."""
        try:
            # First the ends that are still to be stored: a run that has ended is not gone on with.
            await self.endings.store_waiting()
            await self._store.give_back()
        except StorageUnavailable as error:  # their lease is over some time later
            logger.warning("What is suspended cannot be given back now: %s", error.message)
