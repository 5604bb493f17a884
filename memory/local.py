"""Memories in one folder, for one process.

A file of SQLite holds the rows. To search, a user's vectors are brought into memory as one matrix
and multiplied: 10,000 of 256 numbers take about a millisecond, exactly, and the interpreter lock
is free meanwhile. A user has a matrix of his own, so what others remember costs him nothing. The
matrices that were used last are kept, up to `CACHE_BYTES`.

What is deleted is gone from the file, too: SQLite overwrites it (`secure_delete`), and the
write-ahead log, which has old pages, is emptied before a deletion is reported.

The folder's lock is the operating system's: it ends with the process, however that ends.
"""

import fcntl
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    LargeBinary,
    Result,
    create_engine,
    event,
    select,
)
from sqlalchemy.types import TypeDecorator

from memory import MemoryUnavailable
from memory.records import Found, Records, Tables, found

CACHE_BYTES: Final = 128 * 1024 * 1024
"""Vectors in memory; the one that is searched is there in any case."""

TIMEOUT: Final = 5.0
"""Seconds to wait for the file's lock."""

_STEP: Final = 256

_T = TypeVar("_T")


class _Floats(TypeDecorator[Any]):
    """A vector as the bytes of its 32 bit numbers."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes:
        return np.asarray(value, np.float32).tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value


class Partition:
    """One user's vectors. A search sees a state; rows that come are written behind it."""

    def __init__(self, positions: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        self._positions = positions
        self._vectors = vectors
        self._length = len(positions)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._vectors.nbytes + self._positions.nbytes

    def append(self, position: int, vector: Sequence[float]) -> None:
        """Add a row."""
        if self._length == len(self._positions):
            room = max(16, self._length // 4)
            self._positions = np.concatenate([self._positions, np.zeros(room, np.int64)])
            empty = np.zeros((room, len(vector)), np.float32)
            self._vectors = np.concatenate([self._vectors, empty])
        self._positions[self._length] = position
        self._vectors[self._length] = vector
        self._length += 1

    def state(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return positions and vectors as they are now."""
        return self._positions[: self._length], self._vectors[: self._length]


class LocalRecords(Records):
    """Rows in a folder.

    Args:
        folder: made where it is not there.
        embedder: the name of the embedder that makes vectors now.
        dimensions: how long they are.
    """

    def __init__(self, folder: Path, embedder: str, dimensions: int) -> None:
        super().__init__(Tables(_Floats(), None), embedder)
        self._folder = folder
        self._dimensions = dimensions
        self._lock: IO[str] | None = None
        self._cache: OrderedDict[str, Partition] = OrderedDict()
        self._caching = threading.Lock()
        self._writing = threading.RLock()

    def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Found]:
        """Return the rows whose vectors are nearest; see `Records`."""
        with self._caching:
            partition = self._cache.get(owner)
            if partition is not None:
                self._cache.move_to_end(owner)
                state = partition.state()
        if partition is None:
            state = self._load(owner)
        positions, vectors = state
        scores = vectors @ np.asarray(vector, np.float32)
        best = (
            np.argpartition(-scores, limit)[:limit] if limit < len(scores) else range(len(scores))
        )
        near = {int(positions[index]): float(scores[index]) for index in best}
        rows = self._read(lambda db: self._rows(db, near))
        return sorted(rows, key=lambda row: row.score or 0.0, reverse=True)

    def _rows(self, db: Connection, near: dict[int, float]) -> list[Found]:
        m = self._t.memories
        query = select(m.c.position, m.c.id, m.c.payload).where(m.c.position.in_(near))
        return [found(row, min(1.0, max(0.0, near[row.position]))) for row in db.execute(query)]

    def _load(self, owner: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Bring a user's vectors into memory. Nothing is written meanwhile, so none is missed."""
        m = self._t.memories
        query = select(m.c.position, m.c.vector).order_by(m.c.position)
        query = query.where(m.c.owner == owner, m.c.embedder == self._embedder)
        with self._writing:
            partition = self._read(lambda db: self._partition(db.execute(query)))
            with self._caching:
                self._cache[owner] = partition
                self._shrink()
                return partition.state()

    def _partition(self, result: Result[int, bytes]) -> Partition:
        """Return rows as a partition. In small steps, between which the event loop gets on."""
        size = self._dimensions * 4
        positions: list[int] = []
        vectors = bytearray()
        for rows in result.partitions(_STEP):
            whole = [row for row in rows if len(row[1]) == size]
            positions += [row[0] for row in whole]
            vectors += b"".join([row[1] for row in whole])
        matrix = np.frombuffer(vectors, np.float32).reshape(-1, self._dimensions)
        return Partition(np.array(positions, np.int64), matrix)

    def _shrink(self) -> None:
        """Let go of the vectors that were not used for longest."""
        size = sum(partition.nbytes for partition in self._cache.values())
        while size > CACHE_BYTES and len(self._cache) > 1:
            size -= self._cache.popitem(last=False)[1].nbytes

    def _kept(self, owner: str, rows: Sequence[tuple[int, Sequence[float]]]) -> None:
        with self._caching:
            partition = self._cache.get(owner)
            if partition is not None:
                for position, vector in rows:
                    partition.append(position, vector)
                self._shrink()

    def _trimmed(self, owner: str) -> None:
        with self._caching:
            self._cache.pop(owner, None)

    def _changed(self, owner: str) -> None:
        self._trimmed(owner)
        connection = self._connected().raw_connection()
        try:
            is_busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.close()
        if is_busy:
            raise MemoryUnavailable(
                "What was deleted is not yet gone from the file.", retry_after=1
            )

    def _commit(self, unit: Callable[[Connection], _T], after: Callable[[_T], None]) -> _T:
        with self._writing:
            return super()._commit(unit, after)

    def _open(self) -> Engine:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self._folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._prepared()
        except BaseException:
            self._closed()
            raise

    def _prepared(self) -> Engine:
        engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(self._folder / "memories.db")),
            hide_parameters=True,  # they are what users said
            connect_args={"isolation_level": None, "timeout": TIMEOUT, "check_same_thread": False},
        )
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN"))
        try:
            self._t.metadata.create_all(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _closed(self) -> None:
        with self._caching:
            self._cache.clear()
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(OSError):
                lock.close()


def _prepare(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
