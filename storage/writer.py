"""One connection that writes to SQLite, several units in one transaction.

One writes at a time, so that writers of this process queue in order instead of fighting for the
file's lock. A commit waits for the disk, which costs more than the unit. So all units that wait
share one: each in a savepoint, so that one that fails takes nothing of the others along, and every
caller learns of its outcome after the commit (group commit).

A transaction begins with `BEGIN IMMEDIATE`: it has the lock before it looks at anything, so it
cannot fail half-way because another process wrote.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from storage import StorageUnavailable
from storage.sqlite import driver_of
from storage.trouble import is_trouble, told

MOST: Final = 64
"""How many units share a transaction at most."""

LONG: Final = 0.1
"""Seconds after which a transaction of several units takes no more of those that wait."""

_T = TypeVar("_T")


class _Task(NamedTuple):
    """A unit, who waits for its result, and when he no longer does unless it has begun."""

    unit: Callable[[Connection], Any]
    future: "asyncio.Future[Any]"
    time_limit: asyncio.TimerHandle

    def begins(self) -> bool:
        """Tell whether anybody still waits; from now on he waits for as long as it takes."""
        self.time_limit.cancel()
        return not self.future.done()

    def ends(self, result: Any, failed: Exception | None) -> None:
        if self.future.done():  # its caller was cancelled
            return
        if failed is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(failed)


class _Group(NamedTuple):
    """The units of a transaction: those that wait, those that have begun, and their outcomes."""

    waiting: deque[_Task]
    begun: list[_Task]
    outcomes: list[tuple[Any, Exception | None]]


class GroupWriter:
    """The connection, opened at the first unit and again after trouble.

    Args:
        engine: connects to SQLite with `storage.sqlite.Driver`, without a pool.
        timeout: seconds that a unit waits for its turn at most.
    """

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._connection: AsyncConnection | None = None
        self._waiting: deque[_Task] = deque()
        self._working: asyncio.Task[None] | None = None

    async def do(self, unit: Callable[[Connection], _T]) -> _T:
        """Do a unit and commit it. One that has begun is done, though its caller is cancelled.

        Raises `StorageUnavailable` where the database cannot do it now, or has not begun in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        time_limit = loop.call_later(self._timeout, _give_up, future)
        self._waiting.append(_Task(unit, future, time_limit))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            return await future
        finally:
            time_limit.cancel()

    async def aclose(self) -> None:
        if self._working is not None:
            await asyncio.wait([self._working])
        await self._close()

    async def _work(self) -> None:
        while self._waiting:
            several = min(len(self._waiting), MOST)
            waiting = deque(self._waiting.popleft() for _ in range(several))
            while waiting:
                await self._transact(waiting)
        self._working = None

    async def _transact(self, waiting: deque[_Task]) -> None:
        """Do the units that share a transaction; what breaks it ends them and all that wait."""
        group = _Group(waiting, [], [])
        try:
            if self._connection is None:
                self._connection = await self._engine.connect()
            await self._connection.run_sync(_one_by_one, group)
            await self._connection.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must learn it
            await self._undo(error)
            for task in (*group.begun, *waiting):
                task.ends(None, told(error))
            waiting.clear()
            return
        for task, outcome in zip(group.begun, group.outcomes, strict=True):
            task.ends(*outcome)

    async def _undo(self, error: Exception) -> None:
        """Roll back; a connection that is in trouble, or cannot, is closed."""
        if self._connection is not None and not is_trouble(error):
            with suppress(DBAPIError):
                await self._connection.rollback()
                return
        await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                await connection.close()


def _give_up(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(StorageUnavailable("The database is too busy.", retry_after=1))


def _one_by_one(db: Connection, group: _Group) -> None:
    """Do each unit in a savepoint of its own; the database's own trouble ends them all.

    A unit that is alone needs none: what it raises ends the transaction.
    """
    driver = driver_of(db)
    driver.begin("BEGIN IMMEDIATE")
    is_alone = len(group.waiting) == 1
    end = time.monotonic() + LONG
    while group.waiting and time.monotonic() <= end:
        task = group.waiting.popleft()
        if not task.begins():
            continue
        group.begun.append(task)
        if is_alone:
            group.outcomes.append((task.unit(db), None))
            return
        driver.ahead("SAVEPOINT unit")
        try:
            group.outcomes.append((task.unit(db), None))
        except Exception as error:
            if is_trouble(error):
                raise
            db.exec_driver_sql("ROLLBACK TO unit")
            group.outcomes.append((None, error))
        driver.ahead("RELEASE unit")
