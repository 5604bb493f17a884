"""SQLite for SQLAlchemy's asyncio engine: a connection and its thread, one hop for a statement.

SQLAlchemy's own adapter of aiosqlite makes three or four: to open a cursor, to execute, to fetch
and to close it. Here a cursor executes and fetches in one, and is neither opened nor closed; what
begins and divides a transaction goes along with the statement that follows; a commit or a rollback
of nothing is none. A hop and what it takes to wait for it cost twice as much as a small statement.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, cast

from sqlalchemy import AdaptedConnection, Connection
from sqlalchemy.util import await_

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""FULL, because WAL with NORMAL can lose commits at a power cut."""

_Job: TypeAlias = "tuple[asyncio.Future[None], Callable[[], None] | None]"
"""What the thread is to call, and who waits for it; None: nothing more comes."""


class Driver:
    """A connection to a file, and the thread that works on it.

    `timeout`: seconds that a statement waits for the file's lock.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._open = partial(_open, path, timeout)
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread = Thread(target=_work, args=(self._jobs,), name="sqlite", daemon=True)
        self._ahead: list[str] = []
        self._db: sqlite3.Connection | None = None
        self._stopped: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open the file; where that fails (`sqlite3.Error`) the thread has ended."""
        self._thread.start()
        try:
            await self._do(self._connect)
        except BaseException:
            await self.stop()  # the thread must not outlive the event loop
            raise

    @property
    def in_transaction(self) -> bool:
        return self._db is not None and self._db.in_transaction

    def begin(self, *statements: str) -> None:
        """Have a transaction begun right before the next statement; what waited is forgotten."""
        self._ahead = [*statements]

    def ahead(self, statement: str) -> None:
        """Have a statement executed right before the next one."""
        self._ahead.append(statement)

    def submit(self, function: Callable[..., Any], *args: Any) -> "asyncio.Future[None]":
        """Call a function of the sqlite3 connection in the thread, after what is ahead of it."""
        ahead, self._ahead = self._ahead, []
        return self._do(partial(self._call, ahead, function, args))

    def stop(self) -> "asyncio.Future[None]":
        """Close the connection after what is under way, and end the thread."""
        if self._stopped is None:
            self._do(self._close)
            self._stopped = asyncio.get_running_loop().create_future()
            self._jobs.put((self._stopped, None))
        return self._stopped

    def _do(self, job: Callable[[], None]) -> "asyncio.Future[None]":
        if self._stopped is not None:
            raise sqlite3.ProgrammingError("The connection is closed.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, job))
        return future

    def _connect(self) -> None:
        self._db = self._open()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _call(
        self, ahead: Iterable[str], function: Callable[..., Any], args: Iterable[Any]
    ) -> None:
        if self._db is None:
            raise sqlite3.ProgrammingError("The connection is not open.")
        for statement in ahead:
            self._db.execute(statement).close()
        function(self._db, *args)


def _work(jobs: "SimpleQueue[_Job]") -> None:
    while True:
        future, job = jobs.get()
        error: BaseException | None = None
        try:
            if job is not None:
                job()
        except BaseException as caught:  # noqa: BLE001 - whoever waits gets it
            error = caught
        with suppress(RuntimeError):  # the event loop is closed, and nobody waits
            future.get_loop().call_soon_threadsafe(_settle, future, error)
        if job is None:
            return


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _open(path: str, timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            _set(db, pragma, time.monotonic() + timeout)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _set(db: sqlite3.Connection, pragma: str, deadline: float) -> None:
    """Set a pragma; SQLite's own wait for a lock is none where the journal's mode changes."""
    while True:
        try:
            db.execute(f"PRAGMA {pragma}").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


class Cursor:
    """What has come of a statement (PEP 249); used in SQLAlchemy's greenlets."""

    arraysize = 1

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._rows: Iterator[Any] = iter(())
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def execute(self, sql: str, parameters: Any = ()) -> None:
        await_(self._driver.submit(self._run, sql, () if parameters is None else parameters))

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        await_(self._driver.submit(self._run_many, sql, parameters))

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        return [*islice(self._rows, self.arraysize if size is None else size)]

    def fetchall(self) -> Sequence[Any]:
        return [*self._rows]

    def close(self) -> None:
        self._rows = iter(())

    def _run(self, db: sqlite3.Connection, sql: str, parameters: Any) -> None:
        cursor = db.execute(sql, parameters)
        self.description = cursor.description
        self._rows = iter(cursor.fetchall() if cursor.description else ())
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid

    def _run_many(self, db: sqlite3.Connection, sql: str, parameters: Iterable[Any]) -> None:
        self.rowcount = db.executemany(sql, parameters).rowcount


class Adapted(AdaptedConnection):
    """A `Driver` as SQLAlchemy's greenlets see it: a synchronous connection (PEP 249)."""

    __slots__ = ()

    def __init__(self, driver: Driver) -> None:
        self._connection = cast(Any, driver)

    def cursor(self, server_side: bool = False) -> Cursor:
        return Cursor(_driver(self))

    def create_function(self, name: str, parameters: int, function: Any, **options: Any) -> None:
        create = partial(sqlite3.Connection.create_function, **options)
        await_(_driver(self).submit(create, name, parameters, function))

    def commit(self) -> None:
        if _driver(self).in_transaction:
            await_(_driver(self).submit(sqlite3.Connection.commit))

    def rollback(self) -> None:
        if _driver(self).in_transaction:
            await_(_driver(self).submit(sqlite3.Connection.rollback))

    def close(self) -> None:
        await_(_driver(self).stop())

    def terminate(self) -> None:
        """Close without waiting: a connection that is given up, or was forgotten."""
        with suppress(RuntimeError):  # its event loop is closed, and the process ends
            _driver(self).stop()


class Dbapi:
    """The `module` of an engine: `sqlite3`, but for how a connection is made."""

    paramstyle = "qmark"
    has_stop = True

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)

    def connect(self, *args: Any, **kwargs: Any) -> Adapted:
        """Open a connection; what the engine's address says is known already."""
        driver = Driver(self._path, self._timeout)
        await_(driver.open())
        return Adapted(driver)


def driver_of(db: Connection) -> Driver:
    """Return what a SQLAlchemy connection to SQLite works with."""
    return cast("Driver", db.connection.driver_connection)


def _driver(connection: AdaptedConnection) -> Driver:
    return cast("Driver", connection.driver_connection)
