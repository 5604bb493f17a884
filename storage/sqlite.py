"""SQLite for SQLAlchemy's asyncio engine: aiosqlite, with one hop to its thread for a statement.

SQLAlchemy's own adapter makes three or four: to open a cursor, to execute, to fetch and to close
it. Here a cursor executes and fetches in one, and is neither opened nor closed; what begins and
divides a transaction goes along with the statement that follows; a commit or a rollback of nothing
is none. A hop and what it takes to wait for it cost twice as much as a small statement.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import aiosqlite
from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_dbapi,
)
from sqlalchemy.util import await_

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""FULL, because WAL with NORMAL can lose commits at a power cut."""


class Driver(aiosqlite.Connection):
    """A connection and its thread.

    Args:
        path: the file.
        timeout: seconds that a statement waits for the file's lock.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(partial(_open, path, timeout), iter_chunk_size=64)
        self._thread.daemon = True  # as SQLAlchemy does with those that it makes
        self._ahead: list[str] = []
        self._stopped: asyncio.Future[Any] | None = None

    def begin(self, *statements: str) -> None:
        """Have a transaction begun right before the next statement; what waited is forgotten."""
        self._ahead = [*statements]

    def ahead(self, statement: str) -> None:
        """Have a statement executed right before the next one."""
        self._ahead.append(statement)

    def submit(self, function: Callable[..., None], *args: Any) -> "asyncio.Future[None]":
        """Call a function of the sqlite3 connection in the thread, after what is ahead of it.

        Raises:
            sqlite3.ProgrammingError: the connection is closed.
        """
        if not self._running:
            raise sqlite3.ProgrammingError("The connection is closed.")
        ahead, self._ahead = self._ahead, []
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, partial(self._do, ahead, function, args)))
        return future

    def stop(self) -> "asyncio.Future[Any] | None":
        """Have the thread end."""
        self._stopped = super().stop()
        return self._stopped

    async def _connect(self) -> "Driver":
        try:
            await super()._connect()
        except BaseException:
            if self._stopped is not None:  # the thread must not outlive the event loop
                await self._stopped
            raise
        return self

    def _do(self, ahead: Iterable[str], function: Callable[..., None], args: Iterable[Any]) -> None:
        for statement in ahead:
            self._conn.execute(statement).close()
        function(self._conn, *args)


def _open(path: str, timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            db.execute(f"PRAGMA {pragma}").close()
    except sqlite3.Error:
        db.close()
        raise
    return db


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
        """Execute a statement and fetch all its rows."""
        await_(self._driver.submit(self._run, sql, () if parameters is None else parameters))

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        """Execute a statement that has no rows, once with each of the parameters."""
        await_(self._driver.submit(self._run_many, sql, parameters))

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Return so many rows, or those that are left."""
        return [*islice(self._rows, self.arraysize if size is None else size)]

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        return [*self._rows]

    def close(self) -> None:
        """Forget the rows."""
        self._rows = iter(())

    def _run(self, db: sqlite3.Connection, sql: str, parameters: Any) -> None:
        cursor = db.execute(sql, parameters)
        self.description = cursor.description
        self._rows = iter(cursor.fetchall() if cursor.description else ())
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid

    def _run_many(self, db: sqlite3.Connection, sql: str, parameters: Iterable[Any]) -> None:
        self.rowcount = db.executemany(sql, parameters).rowcount


class _Adapted(AsyncAdapt_aiosqlite_connection):
    """A `Driver` as SQLAlchemy sees it."""

    __slots__ = ()

    def cursor(self, server_side: bool = False) -> Cursor:  # type: ignore[override]
        return Cursor(cast("Driver", self._connection))

    def commit(self) -> None:
        if cast("Driver", self._connection).in_transaction:
            super().commit()

    def rollback(self) -> None:
        if cast("Driver", self._connection).in_transaction:
            super().rollback()


class Dbapi(AsyncAdapt_aiosqlite_dbapi):
    """The `module` of an engine; its arguments are those of `Driver`."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(aiosqlite, sqlite3)
        self._driver = partial(Driver, path, timeout)

    def connect(self, *args: Any, **kwargs: Any) -> AsyncAdapt_aiosqlite_connection:
        """Open a connection; what the engine's address says is known already."""
        return _Adapted(self, cast(Any, await_(self._driver())))


def driver_of(db: Connection) -> Driver:
    """Return what a SQLAlchemy connection to SQLite works with."""
    return cast("Driver", db.connection.driver_connection)
