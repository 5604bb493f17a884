"""Memories in one folder, for one process.

A file of SQLite holds the rows. To search, a user's vectors are brought into memory as one matrix
and multiplied: 10,000 of 256 numbers take about a millisecond, exactly, and the interpreter lock
is free meanwhile. A user has a matrix of his own, so what others remember costs him nothing. The
matrices that were used last are kept, up to `CACHE_BYTES`.

One at a time writes or loads a matrix, and whoever writes brings the matrix to the state of the
rows before the next: so no row is missed, also when the caller of a write is cancelled.

What is deleted is gone from the file, too: SQLite overwrites it (`secure_delete`), and the
write-ahead log, which has old pages, is emptied before a deletion is reported.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from memory import Memory, MemoryUnavailable, rows
from memory.records import TIMEOUT, Records
from storage.engine import connect
from storage.private import own_folder
from storage.sole import sole_user
from storage.unit import Begun

CACHE_BYTES: Final = 128 * 1024 * 1024
"""Vectors in memory; the one that is searched is there in any case."""

_PAGE: Final = 512
"""Rows that are loaded at once: between two pages the event loop gets on."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Matrix:
    """One user's vectors. A search sees a state; rows that come are written after it."""

    def __init__(self, positions: Sequence[int], vectors: bytearray, dimensions: int) -> None:
        self._positions = np.array(positions, np.int64)
        self._vectors = np.frombuffer(vectors, np.float32).reshape(-1, dimensions)
        self._length = len(positions)

    @property
    def nbytes(self) -> int:
        return self._vectors.nbytes + self._positions.nbytes

    def append(self, position: int, vector: Sequence[float]) -> None:
        if self._length == len(self._positions):
            room = max(16, self._length // 4)
            self._positions = np.concatenate([self._positions, np.zeros(room, np.int64)])
            empty = np.zeros((room, len(vector)), np.float32)
            self._vectors = np.concatenate([self._vectors, empty])
        self._positions[self._length] = position
        self._vectors[self._length] = vector
        self._length += 1

    def state(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return self._positions[: self._length], self._vectors[: self._length]


def _nearest(
    positions: NDArray[np.int64], vectors: NDArray[np.float32], vector: Sequence[float], limit: int
) -> dict[int, float]:
    """Return the scores of the best rows by their positions."""
    scores = vectors @ np.asarray(vector, np.float32)
    is_all = limit >= len(scores)
    best = range(len(scores)) if is_all else np.argpartition(-scores, limit)[:limit]
    return {int(positions[index]): float(scores[index]) for index in best}


class LocalRecords(Records):
    """Memories in a folder, which is made where it is not there; see `Records`."""

    def __init__(self, folder: Path, embedder: str, dimensions: int) -> None:
        self._folder = folder
        self._url = f"sqlite:///{folder / 'memories.db'}"
        super().__init__(connect(self._url, TIMEOUT), embedder)
        self._dimensions = dimensions
        self._held = ExitStack()
        self._matrices: OrderedDict[str, Matrix] = OrderedDict()
        self._alone = asyncio.Lock()
        self._begun = Begun()

    async def close(self) -> None:
        """Close the file once all writes are done, and let another process have it."""
        await self._begun.end()
        await super().close()

    async def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Memory]:
        matrix = self._matrices.get(owner)
        if matrix is None:
            matrix = await self._load(owner)
        else:
            self._matrices.move_to_end(owner)
        scores = await asyncio.to_thread(_nearest, *matrix.state(), vector, limit)
        return await self.read(rows.at, scores)

    async def write(
        self,
        owner: str,
        unit: Callable[Concatenate[Connection, str, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Do a unit that changes rows of an owner; what it deletes is gone from the file."""
        return await self._begun.do(self._write(owner, unit, *args, **kwargs))

    async def _write(self, owner: str, unit: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        async with self._alone:
            try:
                result = await super().write(owner, _overwriting(unit), *args, **kwargs)
            except MemoryUnavailable:  # whether it was committed is not known
                self._matrices.pop(owner, None)
                raise
            if isinstance(result, rows.Added):
                self._append(owner, result)
            else:
                self._matrices.pop(owner, None)
                await self._erase()
            return result

    def _append(self, owner: str, added: rows.Added) -> None:
        matrix = self._matrices.get(owner)
        if added.has_trimmed:
            self._matrices.pop(owner, None)
        elif matrix is not None:
            for position, vector in added.rows:
                matrix.append(position, vector)
            self._shrink()

    async def _erase(self) -> None:
        if await self.read(_checkpoint):
            text = "What was deleted is not yet gone from the file."
            raise MemoryUnavailable(text, retry_after=1)

    async def _load(self, owner: str) -> Matrix:
        async with self._alone:
            matrix = self._matrices.get(owner)
            if matrix is None:
                self._matrices[owner] = matrix = await self._read_matrix(owner)
                self._shrink()
            return matrix

    async def _read_matrix(self, owner: str) -> Matrix:
        size = self._dimensions * 4
        positions: list[int] = []
        vectors = bytearray()
        last = 0
        while page := await self.read(rows.vectors, owner, self.embedder, last, _PAGE):
            whole = [row for row in page if len(row[1]) == size]
            positions += [position for position, _ in whole]
            vectors += b"".join([vector for _, vector in whole])
            last = page[-1][0]
        return Matrix(positions, vectors, self._dimensions)

    def _shrink(self) -> None:
        """Let go of the vectors that were not used for longest."""
        size = sum(matrix.nbytes for matrix in self._matrices.values())
        while size > CACHE_BYTES and len(self._matrices) > 1:
            size -= self._matrices.popitem(last=False)[1].nbytes

    async def _open(self) -> None:
        with ExitStack() as held:
            own_folder(self._folder)
            held.enter_context(sole_user(self._url))
            await super()._open()
            self._held = held.pop_all()

    async def _reset(self) -> None:
        await super()._reset()
        self._matrices.clear()
        self._held.close()


def _overwriting(unit: Callable[..., _T]) -> Callable[..., _T]:
    def overwriting(db: Connection, *args: Any, **kwargs: Any) -> _T:
        db.exec_driver_sql("PRAGMA secure_delete=ON")
        return unit(db, *args, **kwargs)

    return overwriting


def _checkpoint(db: Connection) -> bool:
    """Put all of the write-ahead log into the file and empty it; True: somebody prevents it."""
    return bool(db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one())
