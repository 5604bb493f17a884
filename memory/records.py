"""Where memories are kept: a database of the service's own kind (`storage.engine`), with pgvector.

The tables stand in a schema of their own, next to the service's. There is no index over all
vectors: such an index is searched first and its result sorted out by owner afterwards, so that a
user among many finds few of his own memories, or none. The index by owner finds a user's rows,
and these are compared one by one, which is exact.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from memory import Memory, MemoryUnavailable, rows
from storage import StorageUnavailable
from storage.engine import Database, connect
from storage.unit import Unit

TIMEOUT: Final = 5.0
"""Seconds to wait for a lock, a connection or an answer."""

SCHEMA: Final = "parley_memory"

_LOCK: Final = 7_236_411
"""The number of the lock under which the tables are made."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Records(ABC):
    """Does units of work (`memory.rows`) in a database. Every method raises `MemoryUnavailable`.

    Args:
        database: opened at the first unit, and again after an error that is not its own.
        embedder: the name of the embedder that makes vectors now.
    """

    def __init__(self, database: Database, embedder: str) -> None:
        self.embedder = embedder
        self._database = database
        self._opening = asyncio.Lock()
        self._is_open = False

    @abstractmethod
    async def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Memory]:
        """Return the memories whose vectors are nearest, best first."""

    async def open(self) -> None:
        """Connect, and make the tables where there are none."""
        async with self._trouble():
            await self._opened()

    async def close(self) -> None:
        """Close every connection; the next unit opens the database again."""
        await self._reset()

    async def read(self, unit: Unit[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async with self._trouble():
            await self._opened()
            return await self._database.read(self._unit(unit), *args, **kwargs)

    async def write(
        self,
        owner: str,
        unit: Callable[Concatenate[Connection, str, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Do a unit that changes rows of an owner, who is its first argument."""
        async with self._trouble():
            await self._opened()
            return await self._database.write(self._unit(unit), owner, *args, **kwargs)

    def _unit(self, unit: Unit[_P, _T]) -> Unit[_P, _T]:
        """Return a unit as this kind of database wants it done."""
        return unit

    def _create(self, db: Connection) -> None:
        rows.metadata.create_all(db)

    async def _open(self) -> None:
        await self._database.migrate(self._unit(self._create))

    async def _opened(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self._open()
                self._is_open = True

    async def _reset(self) -> None:
        self._is_open = False
        await self._database.aclose()

    @asynccontextmanager
    async def _trouble(self) -> AsyncIterator[None]:
        """Turn the database's trouble into `MemoryUnavailable`.

        The engine replaces a connection that failed. An error that it does not expect, such as a
        damaged file or a lost table, may be mended from outside, so the database is opened again.
        """
        try:
            yield
        except StorageUnavailable as error:
            text = f"Memories cannot be reached now: {error.message}"
            raise MemoryUnavailable(text, retry_after=1) from error
        except (SQLAlchemyError, OSError) as error:
            await self._reset()
            cause = getattr(error, "orig", None) or error
            text = f"Memories cannot be reached now ({type(cause).__name__})."
            raise MemoryUnavailable(text, retry_after=1) from error


class PostgresRecords(Records):
    """Memories in PostgreSQL, which several processes share."""

    def __init__(self, url: str, embedder: str) -> None:
        super().__init__(connect(url, TIMEOUT), embedder)

    async def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Memory]:
        return await self.read(rows.nearest, owner, self.embedder, vector, limit)

    def _unit(self, unit: Unit[_P, _T]) -> Unit[_P, _T]:
        def in_schema(db: Connection, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            mapped = db.execution_options(schema_translate_map={None: SCHEMA})
            return unit(mapped, *args, **kwargs)

        return in_schema

    def _create(self, db: Connection) -> None:
        db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        db.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        db.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        super()._create(db)
