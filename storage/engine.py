"""One database, reached over SQLAlchemy's asyncio engine; a unit of work is a plain function of a
`Connection`, in which each statement lets the event loop go on.

**SQLite**: the standard library, with a driver that makes as few hops to its thread as may be
(`sqlite`). One connection writes, and those that wait share a commit (`writer`); a few read, which
WAL allows at any time.

**PostgreSQL**: the driver is asyncpg: its wheel brings everything it needs (psycopg wants libpq on
the machine or a second wheel), and it prepares and keeps the few statements that there are.

A unit that has begun is never cancelled: the caller's cancellation reaches the caller at once,
and the unit ends in a task that is not the caller's, committed or rolled back. So a unit has no
half. One that has not begun when its caller's time is over never begins, and the caller is told at
once.

Trouble of the database becomes `StorageUnavailable`; a mistake of ours (a statement that is
wrong, a constraint that is violated) stays what it is (`trouble`). After trouble the connection is
closed and the next unit opens another. A PostgreSQL connection that was lost before the commit was
sent is replaced and the unit done again, once: a server that was restarted costs nobody an error.
One that was lost while the commit was under way leaves open whether it happened; that is
`StorageUnavailable`, too.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from storage.sqlite import Dbapi, driver_of
from storage.trouble import is_trouble, trouble_told
from storage.writer import GroupWriter

READERS: Final = 4
"""Connections that read from SQLite."""

CONNECTIONS: Final = 10
"""Connections to PostgreSQL that a process holds at most."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

Unit = Callable[Concatenate[Connection, _P], _T]


class Database(Protocol):
    """Does units of work, or raises `StorageUnavailable` where the database cannot do it now.

    `shared`: other processes may be at work on it at the same time.
    """

    shared: bool

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that changes nothing; others may write between two of its statements."""

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit in one transaction; a unit that raises is rolled back."""

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        """Do a unit that changes the schema; a statement may take as long as it needs."""

    async def aclose(self) -> None:
        """Let the units under way end, and close every connection."""


def connect(url: str, timeout: float) -> Database:
    """Return the database at `url`; nothing is opened yet.

    Args:
        url: `sqlite:///<path>` or `postgresql://<user>:<password>@<host>/<database>`.
        timeout: seconds that a unit waits for a lock, a connection or an answer.

    Raises:
        ValueError: neither of these.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ValueError("SQLite needs a file: sqlite:///<path>.")
            return SqliteDatabase(parsed.database, timeout)
        case "postgresql":
            return PostgresDatabase(parsed, timeout)
        case other:
            raise ValueError(f"There is no storage on {other!r}; use sqlite or postgresql.")


class Begun:
    """Units that have begun, each in a task that its caller's cancellation does not reach."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def do(self, unit: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.create_task(unit)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def end(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


class SqliteDatabase:
    """A file, a connection that writes and some that read.

    Args:
        path: the file; its folder has to be there.
        timeout: seconds that a unit waits at most for its turn, and for the file's lock.
    """

    shared = False

    def __init__(self, path: str, timeout: float) -> None:
        engine = partial(
            create_async_engine,
            URL.create("sqlite+aiosqlite", database=path),
            hide_parameters=True,  # what users say is in no message of an error, and in no log
            module=Dbapi(path, timeout),
        )
        self._reading = engine(pool_size=READERS, max_overflow=0, pool_timeout=timeout)
        self._writing = engine(poolclass=NullPool)
        self._writer = GroupWriter(self._writing, timeout)
        self._begun = Begun()

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._begun.do(self._read(lambda db: unit(db, *args, **kwargs)))

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._writer.do(lambda db: unit(db, *args, **kwargs))

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        # Foreign keys are off: SQLite's way to change a table is to copy and to drop it, and the
        # drop would take along the rows that refer to it.
        await self._begun.do(self._migrate(unit))

    async def aclose(self) -> None:
        await self._begun.end()
        await self._writer.aclose()
        await self._reading.dispose()

    async def _read(self, unit: Callable[[Connection], _T]) -> _T:
        with trouble_told():
            async with self._reading.connect() as connection:
                try:
                    return await connection.run_sync(unit)
                except DBAPIError as error:
                    if is_trouble(error):
                        await connection.invalidate()
                    raise

    async def _migrate(self, unit: Callable[[Connection], None]) -> None:
        with trouble_told():
            async with self._writing.connect() as connection:
                await connection.run_sync(_changing_schema, unit)
                await connection.commit()


def _changing_schema(db: Connection, unit: Callable[[Connection], None]) -> None:
    driver_of(db).begin("PRAGMA foreign_keys=OFF", "BEGIN IMMEDIATE")
    unit(db)


class PostgresDatabase:
    """A server, and a pool of connections to it.

    Args:
        url: `postgresql://…`.
        timeout: seconds that a unit waits for a connection, and each statement for its answer.
    """

    shared = True

    def __init__(self, url: URL, timeout: float) -> None:
        self._url = url.set(drivername="postgresql+asyncpg")
        self._timeout = timeout
        self._engine = create_async_engine(
            self._url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args={"timeout": timeout, "command_timeout": timeout},
        )
        self._begun = Begun()

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.write(unit, *args, **kwargs)

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._begun.do(_transact(self._engine, lambda db: unit(db, *args, **kwargs)))

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        connecting = {"timeout": self._timeout}
        engine = create_async_engine(
            self._url, poolclass=NullPool, hide_parameters=True, connect_args=connecting
        )
        await self._begun.do(_transact(engine, unit))

    async def aclose(self) -> None:
        await self._begun.end()
        await self._engine.dispose()


async def _transact(engine: AsyncEngine, unit: Callable[[Connection], _T]) -> _T:
    with trouble_told():
        try:
            return await _once(engine, unit)
        except _LostEarly:
            return await _once(engine, unit)


async def _once(engine: AsyncEngine, unit: Callable[[Connection], _T]) -> _T:
    async with engine.connect() as connection:
        try:
            result = await connection.run_sync(unit)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _LostEarly from error
            raise
        await connection.commit()
        return result


class _LostEarly(DisconnectionError):
    """The connection was lost before the commit was sent: nothing has happened."""
