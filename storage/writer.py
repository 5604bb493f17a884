"""One thread that writes to SQLite, several units in one transaction.

One writes at a time, so that writers of this process queue in order instead of fighting for the
file's lock. A commit waits for the disk, which costs more than the unit. So all units that wait
share one, and every caller learns of its outcome after the commit (group commit).

A unit that fails or takes too long ends the transaction, and takes nothing of the others along: all
is rolled back, and the units before it are done again, without it. That is rare. A savepoint for
each unit would cost as much as the unit, as the full text index is written at each.

A transaction begins with `BEGIN IMMEDIATE`: it has the lock before it looks at anything, so it
cannot fail half-way because another process wrote.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from storage import StorageUnavailable
from storage.trouble import is_interruption, is_trouble, told

MOST: Final = 64
"""How many units share a transaction at most."""

LONG: Final = 0.1
"""Seconds after which a transaction of several units takes no more of those that wait."""

STEPS: Final = 5_000
"""After how many of its steps SQLite asks whether to go on: less than a millisecond in a scan, a
fifth of a second in the worst search. Each time it waits for the interpreter lock."""

_T = TypeVar("_T")


@contextmanager
def interrupt_when(is_over: Callable[[], bool], db: Connection) -> Iterator[None]:
    """Interrupt what the block executes once `is_over`; it raises `SQLITE_INTERRUPT`."""
    driver = driver_of(db)
    driver.set_progress_handler(is_over, STEPS)
    try:
        yield
    finally:
        with suppress(sqlite3.ProgrammingError):  # the connection was closed
            driver.set_progress_handler(None, 0)


def driver_of(db: Connection) -> sqlite3.Connection:
    """Return what a SQLAlchemy connection to SQLite works with."""
    return cast("sqlite3.Connection", db.connection.driver_connection)


class _Write:
    """A unit, who waits for its result, and that."""

    def __init__(self, unit: Callable[[Connection], Any], future: "asyncio.Future[Any]") -> None:
        self.unit = unit
        self.future = future
        self.result: Any = None
        self.failed: BaseException | None = None
        self.has_begun = False
        self._decision = Lock()

    def begins(self) -> bool:
        """Tell, in the thread, whether anybody still waits; from now on he waits for the end."""
        self.has_begun = self.has_begun or self._decision.acquire(blocking=False)
        return self.has_begun

    def withdraw(self) -> bool:
        """Have it never begin; False: it has begun, or been withdrawn."""
        return self._decision.acquire(blocking=False)

    def refuse(self) -> None:
        if self.withdraw() and not self.future.done():
            text = "The database is too busy."
            self.future.set_exception(StorageUnavailable(text, retry_after=1))

    def end(self) -> None:
        if self.future.done():  # its caller was cancelled
            return
        if self.failed is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.failed)


class GroupWriter:
    """The thread and its connection, opened at the first unit and again after trouble.

    Args:
        engine: connects to SQLite, without a pool.
        timeout: seconds that a unit waits for its turn at most, and then for its end.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._connection: Connection | None = None
        self._waiting: deque[_Write] = deque()
        self._working: asyncio.Future[None] | None = None

    async def do(self, unit: Callable[[Connection], _T]) -> _T:
        """Do a unit and commit it. One that has begun is done, though its caller is cancelled.

        Raises `StorageUnavailable` where the database cannot do it now, has not begun in time, or
        has not ended in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        write = _Write(unit, future)
        time_limit = loop.call_later(self._timeout, write.refuse)
        self._waiting.append(write)
        if self._working is None:
            self._working = loop.create_future()
            self._next_group(loop)
        try:
            return await future
        finally:
            time_limit.cancel()
            write.withdraw()

    async def alone(self, work: Callable[[], None]) -> None:
        """Let the thread do something else, with no bound to its time."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def aclose(self) -> None:
        """Do what is waiting, close the connection and end the thread."""
        if self._working is not None:
            await asyncio.wait([self._working])
        thread, self._thread = self._thread, ThreadPoolExecutor(1, "sqlite-writer")
        thread.submit(self._close)
        await asyncio.to_thread(thread.shutdown)

    def _next_group(self, loop: asyncio.AbstractEventLoop) -> None:
        many = min(len(self._waiting), MOST)
        group = deque(self._waiting.popleft() for _ in range(many))
        self._thread.submit(self._work, group, loop)

    def _settle(self, done: Sequence[_Write], is_last: bool) -> None:
        for write in done:
            write.end()
        if not is_last or self._working is None:
            return
        if self._waiting:
            self._next_group(asyncio.get_running_loop())
        else:
            self._working.set_result(None)
            self._working = None

    # In the thread

    def _work(self, waiting: deque[_Write], loop: asyncio.AbstractEventLoop) -> None:
        while waiting:
            done = self._transact(waiting)
            with suppress(RuntimeError):  # the event loop is closed, and nobody waits
                loop.call_soon_threadsafe(self._settle, done, not waiting)

    def _transact(self, waiting: deque[_Write]) -> Sequence[_Write]:
        """Do units that share a transaction, and return those that are done, or have failed."""
        begun: list[_Write] = []
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            self._connection.begin()
            driver_of(self._connection).execute("BEGIN IMMEDIATE")
            failed = self._one_by_one(self._connection, waiting, begun)
            if failed is None:
                self._connection.commit()
                return begun
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits must learn it
            self._undo(error)
            return _all_failed(begun, waiting, error)
        self._undo(failed)
        *others, culprit = begun
        waiting.extendleft(reversed(others))
        culprit.failed = told(failed)
        return [culprit]

    def _one_by_one(
        self, db: Connection, waiting: deque[_Write], begun: list[_Write]
    ) -> Exception | None:
        """Do units, and return what one of them raised; the database's own trouble is raised."""
        end = time.monotonic() + LONG
        while waiting and time.monotonic() <= end:
            write = waiting.popleft()
            if not write.begins():
                continue
            begun.append(write)
            try:
                self._do(db, write)
            except Exception as error:
                if is_trouble(error) and not is_interruption(error):
                    raise
                return error
        return None

    def _do(self, db: Connection, write: _Write) -> None:
        deadline = time.monotonic() + self._timeout
        with interrupt_when(lambda: time.monotonic() > deadline, db):
            write.result = write.unit(db)

    def _undo(self, error: BaseException) -> None:
        """Roll back; a connection that is in trouble, or cannot, is closed."""
        if self._connection is not None and not is_trouble(error):
            with suppress(DBAPIError):
                self._connection.rollback()
                return
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()


def _all_failed(
    begun: Sequence[_Write], waiting: deque[_Write], error: BaseException
) -> Sequence[_Write]:
    """Take all that wait, too; they learn what broke the transaction."""
    failed = [*begun, *waiting]
    waiting.clear()
    for write in failed:
        write.failed = told(error)
    return failed
