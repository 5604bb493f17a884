"""One database, reached over SQLAlchemy Core; a unit of work is a plain function of a `Connection`.

**SQLite**: the standard library. A unit is done by a thread, in one go (`sqlite`). One connection
writes, and those that wait share a commit (`writer`); a few read.

**PostgreSQL**: the driver is asyncpg: its wheel brings everything it needs (psycopg wants libpq on
the machine or a second wheel), and it prepares and keeps the few statements that there are. Each
statement of a unit lets the event loop go on.

**Time.** A read has so many seconds in all, waiting included; then, or when nobody waits for it any
more, or when the database is closed, its statement is interrupted. Reads that may look at much
(`scan`) have a few places of their own, so slow ones leave room for everything else.

A write that has begun is never cancelled: the caller's cancellation reaches the caller at once, and
the unit ends without him, committed or rolled back. So a unit has no half. But it has its time,
too, and is then rolled back. One that has not begun when its caller's time is over never begins,
and the caller is told at once.

Trouble of the database becomes `StorageUnavailable`; a mistake of ours (a statement that is
wrong, a constraint that is violated) stays what it is (`trouble`). After trouble the connection is
closed and the next unit opens another. A PostgreSQL connection that was lost before the commit was
sent is replaced and the unit done again, once: a server that was restarted costs nobody an error.
One that was lost while the commit was under way leaves open whether it happened; that is
`StorageUnavailable`, too.
"""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from storage.sqlite import SqliteDatabase
from storage.trouble import trouble_told
from storage.unit import Begun, Reads, Unit

CONNECTIONS: Final = 10
"""Connections to PostgreSQL that a process holds at most."""

SCANS: Final = 3
"""How many of these are used for scans at most."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Database(Protocol):
    """Does units of work, or raises `StorageUnavailable` where the database cannot do it now.

    `shared`: other processes may be at work on it at the same time.
    """

    shared: bool

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that changes nothing; others may write between two of its statements."""

    async def scan(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that reads, perhaps much: of these only a few are done at once."""

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit in one transaction; a unit that raises is rolled back. It may be repeated."""

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        """Do a unit that changes the schema; a statement may take as long as it needs."""

    async def aclose(self) -> None:
        """Interrupt reads, let the writes under way end, and close every connection."""


def connect(url: str, timeout: float) -> Database:
    """Return the database at `url`; nothing is opened yet.

    Args:
        url: `sqlite:///<path>` or `postgresql://<user>:<password>@<host>/<database>`.
        timeout: seconds that a read may take in all, that a write waits for a lock or a
            connection, and that it, or each of its statements, then may take.

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


class PostgresDatabase:
    """A server, and a pool of connections to it.

    Args:
        url: `postgresql://…`.
        timeout: seconds that a read may take in all; of a write, that it waits for a connection,
            and each statement for its answer. asyncpg cancels what is late, on the server too.
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
        self._reads = Reads(timeout)
        self._scans = asyncio.Semaphore(SCANS)

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with self._reads.limited():
            return await _transact(self._engine, lambda db: unit(db, *args, **kwargs))

    async def scan(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with self._reads.limited(), self._scans:
            return await _transact(self._engine, lambda db: unit(db, *args, **kwargs))

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._begun.do(_transact(self._engine, lambda db: unit(db, *args, **kwargs)))

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        connecting = {"timeout": self._timeout}
        engine = create_async_engine(
            self._url, poolclass=NullPool, hide_parameters=True, connect_args=connecting
        )
        await self._begun.do(_transact(engine, unit))

    async def aclose(self) -> None:
        await self._reads.end()
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
