"""A file of SQLite: a unit is done in one go by a thread, with a connection of its own.

One thread writes (`writer`), and some read, which WAL allows at any time. Half of these are for
scans, so that slow ones leave the others free.

SQLite asks now and then (`set_progress_handler`) whether a unit is to go on: one whose time is
over, or for whose result nobody waits any more, is interrupted where it is. That is asked in the
unit's own thread; `sqlite3.Connection.interrupt` from another one might hit the next unit, or the
moment between two statements.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine
from sqlalchemy.exc import DBAPIError

from storage.trouble import is_trouble, trouble_told
from storage.unit import Reads, Unit
from storage.writer import GroupWriter, interrupt_when

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
"""FULL, because WAL with NORMAL can lose commits at a power cut."""

READERS: Final = 4
"""Threads that read: half of them for scans, and half for all else."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SqliteDatabase:
    """A file; see `engine.Database`.

    Args:
        path: the file; its folder has to be there.
        timeout: seconds that a read takes at most, that a write waits at most for its turn, for
            the file's lock, and then for its end.
    """

    shared = False

    def __init__(self, path: str, timeout: float) -> None:
        # What users say is in no message of an error, and in no log.
        engine = partial(
            create_engine,
            URL.create("sqlite", database=path),
            creator=partial(_open, path, timeout),
            hide_parameters=True,
        )
        self._reading = engine(poolclass=QueuePool, pool_size=READERS, max_overflow=0)
        self._writing = engine(poolclass=NullPool)
        self._writer = GroupWriter(self._writing, timeout)
        self._reads = Reads(timeout)
        self._start()

    def _start(self) -> None:
        half = READERS // 2
        self._readers = ThreadPoolExecutor(READERS - half, "sqlite-reader")
        self._scanners = ThreadPoolExecutor(half, "sqlite-scanner")

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._read(self._readers, lambda db: unit(db, *args, **kwargs))

    async def scan(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._read(self._scanners, lambda db: unit(db, *args, **kwargs))

    async def write(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._writer.do(lambda db: unit(db, *args, **kwargs))

    async def migrate(self, unit: Callable[[Connection], None]) -> None:
        await self._writer.alone(partial(_migrate, self._writing, unit))

    async def aclose(self) -> None:
        readers = (self._readers, self._scanners)
        self._start()
        await self._reads.end()
        await self._writer.aclose()
        for each in readers:
            await asyncio.to_thread(each.shutdown)
        self._reading.dispose()

    async def _read(self, readers: ThreadPoolExecutor, unit: Callable[[Connection], _T]) -> _T:
        is_given_up = False
        loop = asyncio.get_running_loop()
        async with self._reads.limited():
            try:
                work = partial(_read, self._reading, unit, lambda: is_given_up)
                return await loop.run_in_executor(readers, work)
            finally:
                is_given_up = True


def _read(engine: Engine, unit: Callable[[Connection], _T], is_given_up: Callable[[], bool]) -> _T:
    with trouble_told(), engine.connect() as connection:
        try:
            with interrupt_when(is_given_up, connection):
                return unit(connection)
        except DBAPIError as error:
            if is_trouble(error):
                connection.invalidate()
            raise


def _migrate(engine: Engine, unit: Callable[[Connection], None]) -> None:
    """Do a unit with foreign keys off.

    SQLite's way to change a table is to copy and to drop it, and the drop would take along the
    rows that refer to it.
    """
    with trouble_told(), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        unit(connection)
        connection.commit()


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
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(0.005)
