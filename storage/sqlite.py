"""aiosqlite for SQLAlchemy, with one hop to the connection's thread for each statement.

SQLAlchemy's dialect makes three or four: to open a cursor, to execute, to fetch and to close it. A
hop costs as much as a small statement, so here a cursor executes and fetches in one, and is neither
opened nor closed. What begins and divides a transaction goes along with the statement that follows.
A commit or a rollback of nothing is none.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import aiosqlite
from sqlalchemy import Connection

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""FULL, because WAL with NORMAL can lose commits at a power cut."""


class Cursor:
    """What has come of a statement; see PEP 249.

    Args:
        driver: where it is executed.
    """

    arraysize = 1

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> "Cursor":
        return self

    async def execute(self, sql: str, parameters: Any = ()) -> None:
        """Execute a statement and fetch all its rows."""
        await self._driver.do(self._run, sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        """Execute a statement that has no rows, once with each of the parameters."""
        await self._driver.do(self._run_many, sql, parameters)

    async def fetchall(self) -> Sequence[Any]:
        """Return the rows, once."""
        rows, self._rows = self._rows, ()
        return rows

    async def close(self) -> None:
        """Forget the rows."""
        self._rows = ()

    def _run(self, db: sqlite3.Connection, sql: str, parameters: Any) -> None:
        cursor = db.execute(sql, parameters)
        self.description = cursor.description
        self._rows = cursor.fetchall() if cursor.description else ()
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid

    def _run_many(self, db: sqlite3.Connection, sql: str, parameters: Iterable[Any]) -> None:
        self.rowcount = db.executemany(sql, parameters).rowcount


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

    def begin(self, *statements: str) -> None:
        """Have a transaction begun right before the next statement; what waited is forgotten."""
        self._ahead = [*statements]

    def ahead(self, statement: str) -> None:
        """Have a statement executed right before the next one."""
        self._ahead.append(statement)

    def cursor(self) -> Cursor:  # type: ignore[override]  # awaited nowhere: there is no hop
        """Return a cursor."""
        return Cursor(self)

    async def do(self, function: Any, *args: Any) -> None:
        """Call a function of the sqlite3 connection in the thread, behind what is ahead of it."""
        ahead, self._ahead = self._ahead, []
        await self._execute(self._do, ahead, function, args)  # type: ignore[no-untyped-call]

    async def commit(self) -> None:
        """Commit, where a transaction has begun."""
        if self.in_transaction:
            await super().commit()

    async def rollback(self) -> None:
        """Roll back, where a transaction has begun."""
        if self.in_transaction:
            await super().rollback()

    def _do(self, ahead: Iterable[str], function: Any, args: tuple[Any, ...]) -> None:
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


def driver_of(db: Connection) -> Driver:
    """Return what a SQLAlchemy connection to SQLite works with."""
    return cast("Driver", db.connection.driver_connection)
