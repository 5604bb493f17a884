"""One database, two ways to it. A unit of work is a plain function of a `Connection`.

**SQLite**: units run on threads of this module, whole: a transaction is one hop to a thread, where
an asyncio driver makes one for every statement and every fetch. One thread writes, so that writers
of this process queue in order instead of fighting for the file's lock, and those that wait share a
commit (`writer`); a few read, which WAL allows at any time. A write begins with `BEGIN IMMEDIATE`:
it has the lock before it looks at anything, so it cannot fail half-way because another process
wrote. `synchronous=FULL`, because WAL with NORMAL can lose commits at a power cut.

**PostgreSQL**: units run on SQLAlchemy's asyncio engine. The driver is asyncpg: its wheel brings
everything it needs (psycopg wants libpq on the machine or a second wheel), and it prepares and
keeps the few statements that there are.

A unit that has begun is never cancelled: the caller's cancellation reaches the caller at once,
and the unit ends in its own task or thread, committed or rolled back. So a unit has no half. One
of SQLite that has not begun when its caller's time is over never begins, and the caller is told
at once.

Trouble of the database becomes `StorageUnavailable`; a mistake of ours (a statement that is
wrong, a constraint that is violated) stays what it is. After trouble the connection is closed
and the next unit opens another. A PostgreSQL connection that was lost before the commit was sent
is replaced and the unit done again, once: a server that was restarted costs nobody an error.
One that was lost while the commit was under way leaves open whether it happened; that is
`StorageUnavailable`, too.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from storage import StorageUnavailable
from storage.writer import GroupWriter, Task

READERS: Final = 4
"""Threads that read from SQLite, and connections that they hold."""

LONG: Final = 0.1
"""Seconds after which a transaction of several units takes no more of those that wait."""

CONNECTIONS: Final = 10
"""Connections to PostgreSQL that a process holds at most."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

Unit = Callable[Concatenate[Connection, _P], _T]


class Database(Protocol):
    """Does units of work, each in one transaction.

    `shared`: other processes may be at work on it at the same time.
    """

    shared: bool

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that changes nothing.

        Raises:
            StorageUnavailable: the database cannot do it now.
        """
        ...

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit and commit it; a unit that raises is rolled back.

        Raises:
            StorageUnavailable: the database cannot do it now.
        """
        ...

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        """Do a unit that changes the schema; a statement may take as long as it needs.

        Raises:
            StorageUnavailable: the database cannot do it now.
        """
        ...

    async def aclose(self) -> None:
        """Let the units under way end, and close every connection."""
        ...


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
            return SqliteDatabase(parsed, timeout)
        case "postgresql":
            return PostgresDatabase(parsed, timeout)
        case other:
            raise ValueError(f"There is no storage on {other!r}; use sqlite or postgresql.")


class _Own(threading.local):
    """The connection of a thread."""

    connection: Connection | None = None


class SqliteDatabase:
    """A file, one thread that writes and some that read, each with a connection.

    Args:
        url: `sqlite:///<path>`; the folder has to be there.
        timeout: seconds that a unit waits for its turn at most; those who hold the file's lock
            are waited for as long.
    """

    shared = False

    def __init__(self, url: URL, timeout: float) -> None:
        self._timeout = timeout
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=NullPool,
            hide_parameters=True,  # what users say is in no message of an error, and in no log
            connect_args={"isolation_level": None, "timeout": timeout, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", _prepare)
        self._own = _Own()
        self._connections: set[Connection] = set()
        self._writer = GroupWriter(self._write_all)
        self._readers = ThreadPoolExecutor(READERS, "storage-reader")

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that changes nothing."""
        reading = partial(self._read, lambda db: unit(db, *args, **kwargs))
        return await self._awaited(self._readers.submit(reading))

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit and commit it."""
        waiting: Future[_T] = self._writer.submit(lambda db: unit(db, *args, **kwargs))
        return await self._awaited(waiting)

    async def _awaited(self, waiting: "Future[_T]") -> _T:
        """Return a unit's result, if it begins in time."""
        future = asyncio.wrap_future(waiting)
        try:
            await asyncio.wait([future], timeout=self._timeout)
        except asyncio.CancelledError:
            waiting.cancel()
            future.cancel()  # of a unit that has begun, nobody asks for the result
            raise
        if waiting.cancel():
            raise _busy()
        return await future

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        """Do a unit that changes the schema.

        Foreign keys are off: SQLite's way to change a table is to copy and to drop it, and the
        drop would take along the rows that refer to it.
        """
        await asyncio.to_thread(self._migrate, unit)

    async def aclose(self) -> None:
        """Let the units under way end, and close every connection."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.close()
        for connection in self._connections:
            connection.close()
        self._engine.dispose()

    def _read(self, unit: Callable[[Connection], _T]) -> _T:
        with self._trouble_drops_connection():
            return _in_transaction(self._connection(), "BEGIN", unit)

    def _write_all(self, tasks: Sequence[Task]) -> None:
        """Do units in as few transactions as may be, and resolve their futures at each commit."""
        waiting = deque(tasks)
        while waiting:
            self._write_some(waiting)

    def _write_some(self, waiting: deque[Task]) -> None:
        """Do the units that share a transaction; what breaks it ends them and all that wait."""
        begun: list[Task] = []
        outcomes: list[tuple[Task, Any, Exception | None]] = []
        try:
            with self._trouble_drops_connection():
                units = partial(_one_by_one, waiting, begun, outcomes)
                _in_transaction(self._connection(), "BEGIN IMMEDIATE", units)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must learn it
            begun += [task for task in waiting if task.future.set_running_or_notify_cancel()]
            waiting.clear()
            outcomes = [(task, None, error) for task in begun]
        for task, result, failed in outcomes:
            if failed is None:
                task.future.set_result(result)
            else:
                task.future.set_exception(failed)

    @contextmanager
    def _trouble_drops_connection(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if _is_sqlite_trouble(error):
                self._drop_connection()
                raise _unavailable(error) from error
            raise

    def _migrate(self, unit: Callable[[Connection], None]) -> None:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.commit()
                _in_transaction(connection, "BEGIN IMMEDIATE", unit)
        except DBAPIError as error:
            if _is_sqlite_trouble(error):
                raise _unavailable(error) from error
            raise

    def _connection(self) -> Connection:
        """Return this thread's connection, opened where there is none."""
        connection = self._own.connection
        if connection is None:
            connection = self._own.connection = self._engine.connect()
            self._connections.add(connection)
        return connection

    def _drop_connection(self) -> None:
        connection, self._own.connection = self._own.connection, None
        if connection is not None:
            self._connections.discard(connection)
            with suppress(DBAPIError):
                connection.close()


def _in_transaction(connection: Connection, begin: str, unit: Callable[[Connection], _T]) -> _T:
    with connection.begin():
        connection.exec_driver_sql(begin)
        return unit(connection)


def _one_by_one(
    waiting: deque[Task],
    begun: list[Task],
    outcomes: list[tuple[Task, Any, Exception | None]],
    connection: Connection,
) -> None:
    """Do each unit in a savepoint of its own; the database's own trouble ends them all.

    A unit that is alone needs none: what it raises ends the transaction.
    """
    is_alone = len(waiting) == 1
    end = time.monotonic() + LONG
    while waiting and time.monotonic() <= end:
        task = waiting.popleft()
        if not task.future.set_running_or_notify_cancel():
            continue
        begun.append(task)
        if is_alone:
            outcomes.append((task, task.unit(connection), None))
            return
        connection.exec_driver_sql("SAVEPOINT unit")
        try:
            outcomes.append((task, task.unit(connection), None))
        except DBAPIError as error:
            if _is_sqlite_trouble(error):
                raise
            _undo(connection, task, outcomes, error)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it
            _undo(connection, task, outcomes, error)
        connection.exec_driver_sql("RELEASE unit")


def _undo(
    connection: Connection,
    task: Task,
    outcomes: list[tuple[Task, Any, Exception | None]],
    error: Exception,
) -> None:
    connection.exec_driver_sql("ROLLBACK TO unit")
    outcomes.append((task, None, error))


def _busy() -> StorageUnavailable:
    return StorageUnavailable("The database is too busy.", retry_after=1)


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


_SQLITE_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def _is_sqlite_trouble(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_TROUBLE


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
        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit that changes nothing."""
        return await self.write(unit, *args, **kwargs)

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do a unit and commit it."""
        return await self._shielded(self._engine, lambda db: unit(db, *args, **kwargs))

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        """Do a unit that changes the schema, on a connection without a time-out."""
        connecting = {"timeout": self._timeout}
        engine = create_async_engine(
            self._url, poolclass=NullPool, hide_parameters=True, connect_args=connecting
        )
        await self._shielded(engine, unit)

    async def aclose(self) -> None:
        """Let the units under way end, and close every connection."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.dispose()

    async def _shielded(self, engine: AsyncEngine, unit: Callable[[Connection], _T]) -> _T:
        task = asyncio.create_task(_transact(engine, unit))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _transact(engine: AsyncEngine, unit: Callable[[Connection], _T]) -> _T:
    try:
        try:
            return await _once(engine, unit)
        except _LostEarly:
            return await _once(engine, unit)
    except (SQLAlchemyError, OSError) as error:
        if _is_postgres_trouble(error):
            raise _unavailable(error) from error
        raise


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


_POSTGRES_TROUBLE = ("08", "40", "53", "55P03", "57", "58")
"""Classes of SQLSTATE: connection, serialization, resources, a lock, operator, system."""


def _is_postgres_trouble(error: BaseException) -> bool:
    """Tell the database's trouble from a mistake of ours, which has another SQLSTATE."""
    cause = getattr(error, "orig", error)
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_POSTGRES_TROUBLE)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(cause, OSError | PoolTimeout | DisconnectionError)


def _unavailable(error: BaseException) -> StorageUnavailable:
    cause = getattr(error, "orig", error.__cause__) or error
    text = f"The database cannot do this now ({type(cause).__name__})."
    return StorageUnavailable(text, retry_after=1)
