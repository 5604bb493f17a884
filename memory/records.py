"""Memories as rows: what a folder of SQLite and PostgreSQL have in common.

A row has its owner, the payload that mem0 gave it, its vector, and the name of the embedder that
made this. Vectors of different embedders cannot be compared, so a search looks at those of the
present one only; `foreign` finds the others, whose vectors are then made anew (`adopt`). So a
changed configuration costs a user's next call some time, and never a wrong answer.

`learn` keeps all of an exchange in one transaction, with a mark that it is done: a crash leaves
nothing half, and a repetition finds the mark. `clear` counts up `cleared`: an exchange that was
being read while its user's memories were cleared finds another number than at its beginning, and
is not kept. Both hold no text.

Methods block, and may be called from any thread.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's is the same
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import TypeEngine

from memory import MemoryUnavailable

MAX_MEMORIES: Final = 20_000
"""Memories of one user; the oldest ones go first."""

MAX_LEARNED: Final = 10_000
"""Marks of one user that say which exchanges were read; the oldest ones go first."""

_T = TypeVar("_T")


class Found(msgspec.Struct, frozen=True):
    """A row as mem0 wants it. `score`: 1 for the same direction, 0 for an unrelated one."""

    id: str
    payload: dict[str, Any]
    score: float | None = None


class Draft(msgspec.Struct, frozen=True):
    """A row to be kept."""

    id: str
    payload: dict[str, Any]
    vector: Sequence[float]

    @property
    def text(self) -> str:
        """What is remembered."""
        return str(self.payload["data"])


class Tables:
    """The tables, with a column type for vectors.

    Args:
        vector: the type of a column for vectors.
        schema: where the tables are; the database's own place where it is None.
    """

    def __init__(self, vector: TypeEngine[Any], schema: str | None) -> None:
        self.metadata = MetaData(schema=schema)
        number = BigInteger().with_variant(Integer(), "sqlite")
        self.memories = Table(
            "memories",
            self.metadata,
            Column("position", number, primary_key=True, autoincrement=True),
            Column("id", Text, nullable=False, unique=True),
            Column("owner", Text, nullable=False),
            Column("hash", Text, nullable=False),
            Column("payload", Text, nullable=False),
            Column("embedder", Text, nullable=False),
            Column("vector", vector, nullable=False),
            Index("memories_of_owner", "owner", "position"),
            Index("memories_by_hash", "owner", "hash"),
            Index("memories_by_embedder", "owner", "embedder"),
        )
        self.learned = Table(
            "learned",
            self.metadata,
            Column("position", number, primary_key=True, autoincrement=True),
            Column("owner", Text, nullable=False),
            Column("run_id", Text, nullable=False),
            UniqueConstraint("owner", "run_id"),
        )
        self.cleared = Table(
            "cleared",
            self.metadata,
            Column("owner", Text, primary_key=True),
            Column("times", Integer, nullable=False),
        )


_Row: TypeAlias = tuple[int, Sequence[float]]
"""A row's position and vector."""


class _Added(NamedTuple):
    """Rows that were added, and whether others had to go for them."""

    rows: list[_Row]
    has_trimmed: bool


_NOTHING = _Added([], False)


class Records(ABC):
    """Rows in a database.

    Args:
        tables: the tables.
        embedder: the name of the embedder that makes vectors now.
    """

    def __init__(self, tables: Tables, embedder: str) -> None:
        self._t = tables
        self._embedder = embedder
        self._engine: Engine | None = None
        self._opening = threading.Lock()

    @abstractmethod
    def _open(self) -> Engine:
        """Connect, and make the tables where there are none."""

    @abstractmethod
    def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Found]:
        """Return the rows whose vectors are nearest, best first."""

    def _closed(self) -> None:  # noqa: B027 - may do nothing
        """Let go of what belongs to an open database."""

    def _kept(  # noqa: B027 - may do nothing
        self, owner: str, rows: Sequence[tuple[int, Sequence[float]]]
    ) -> None:
        """Take note of rows that were added, after the commit: positions and vectors."""

    def _trimmed(self, owner: str) -> None:  # noqa: B027 - may do nothing
        """Take note that an owner's oldest rows had to go for new ones, after the commit."""

    def _changed(self, owner: str) -> None:  # noqa: B027 - may do nothing
        """Take note that rows of an owner were changed or removed, after the commit."""

    def open(self) -> None:
        """Connect, if that has not happened.

        Raises:
            MemoryUnavailable: there is no connection.
        """
        with self._trouble():
            self._connected()

    def close(self) -> None:
        """Close every connection; the next call opens one again."""
        with self._opening:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose()
            self._closed()

    def newest(self, owner: str, limit: int) -> list[Found]:
        """Return the newest rows, newest first."""
        m = self._t.memories
        query = select(m.c.id, m.c.payload).where(m.c.owner == owner)
        query = query.order_by(m.c.position.desc()).limit(limit)
        return self._read(lambda db: [found(row) for row in db.execute(query)])

    def get(self, owner: str, memory_id: str) -> Found | None:
        """Return a row."""
        m = self._t.memories
        query = select(m.c.id, m.c.payload).where(m.c.owner == owner, m.c.id == memory_id)
        row = self._read(lambda db: db.execute(query).first())
        return None if row is None else found(row)

    def keep(self, owner: str, drafts: Sequence[Draft]) -> None:
        """Add rows."""
        self._added(owner, lambda db: self._insert(db, owner, drafts))

    def clearings(self, owner: str) -> int:
        """Return how often the owner's memories were cleared."""
        return self._read(lambda db: self._clearings(db, owner))

    def is_learned(self, owner: str, run_id: str) -> bool:
        """Tell whether an exchange was read before."""
        c = self._t.learned.c
        query = select(c.position).where(c.owner == owner, c.run_id == run_id)
        return self._read(lambda db: db.execute(query).first() is not None)

    def learn(self, owner: str, drafts: Sequence[Draft], run_id: str, clearings: int) -> int:
        """Add the rows of an exchange whose texts are new, once; return how many these are.

        Args:
            owner: whose rows they are.
            drafts: the rows.
            run_id: the exchange.
            clearings: what `clearings` said before the exchange was read.
        """

        def unit(db: Connection) -> _Added:
            # Who reads the same exchange at the same time is waited for here.
            learned = upsert(self._t.learned).values(owner=owner, run_id=run_id)
            marked = learned.on_conflict_do_nothing().returning(self._t.learned.c.position)
            if db.execute(marked).first() is None:
                return _NOTHING
            self._trim(db, self._t.learned, owner, MAX_LEARNED)
            if self._clearings(db, owner) != clearings:
                return _NOTHING
            return self._insert(db, owner, self._unknown(db, owner, drafts))

        return len(self._added(owner, unit))

    def change(self, owner: str, draft: Draft) -> None:
        """Put another payload and vector into a row."""
        m = self._t.memories
        statement = update(m).where(m.c.owner == owner, m.c.id == draft.id)
        self._write(owner, lambda db: db.execute(statement.values(**self._columns(owner, draft))))

    def remove(self, owner: str, memory_id: str) -> None:
        """Delete a row."""
        m = self._t.memories
        statement = delete(m).where(m.c.owner == owner, m.c.id == memory_id)
        self._write(owner, lambda db: db.execute(statement))

    def clear(self, owner: str) -> int:
        """Delete all rows of an owner, and return how many there were."""
        m, c = self._t.memories, self._t.cleared

        def unit(db: Connection) -> int:
            counted = upsert(c).values(owner=owner, times=1)
            again = {"times": c.c.times + 1}
            db.execute(counted.on_conflict_do_update(index_elements=["owner"], set_=again))
            return db.execute(delete(m).where(m.c.owner == owner)).rowcount

        return self._write(owner, unit)

    def foreign(self, owner: str, limit: int) -> list[Found]:
        """Return rows whose vectors another embedder made."""
        m = self._t.memories
        query = select(m.c.id, m.c.payload).where(m.c.owner == owner)
        # Not `!=`, for which no index serves: this is asked before every search.
        others = or_(m.c.embedder < self._embedder, m.c.embedder > self._embedder)
        query = query.where(others).limit(limit)
        return self._read(lambda db: [found(row) for row in db.execute(query)])

    def adopt(self, owner: str, vectors: Mapping[str, tuple[str, Sequence[float]]]) -> None:
        """Give rows new vectors: for each id the hash of the text they were made of, and it.

        A row whose text is another one by now stays as it is.
        """
        m = self._t.memories

        def unit(db: Connection) -> None:
            for memory_id, (made_of, vector) in vectors.items():
                mine = (m.c.owner == owner, m.c.id == memory_id, m.c.hash == made_of)
                db.execute(update(m).where(*mine).values(embedder=self._embedder, vector=vector))

        self._write(owner, unit)

    def _columns(self, owner: str, draft: Draft) -> dict[str, Any]:
        return {
            "id": draft.id,
            "owner": owner,
            "hash": str(draft.payload["hash"]),
            "payload": msgspec.json.encode(draft.payload).decode(),
            "embedder": self._embedder,
            "vector": draft.vector,
        }

    def _insert(self, db: Connection, owner: str, drafts: Sequence[Draft]) -> "_Added":
        rows = [
            (db.execute(self._inserting(owner, draft)).scalar_one(), draft.vector)
            for draft in drafts
        ]
        return _Added(rows, self._trim(db, self._t.memories, owner, MAX_MEMORIES))

    def _inserting(self, owner: str, draft: Draft) -> ReturningInsert[int]:
        m = self._t.memories
        statement: ReturningInsert[int] = (
            insert(m).values(**self._columns(owner, draft)).returning(m.c.position)
        )
        return statement

    def _trim(self, db: Connection, table: Table, owner: str, limit: int) -> bool:
        """Delete an owner's oldest rows beyond a limit, some at once; tell whether any went."""
        c = table.c
        newest = select(c.position).where(c.owner == owner).order_by(c.position.desc())
        if db.execute(newest.offset(limit).limit(1)).scalar() is None:
            return False
        last = db.execute(newest.offset(limit - limit // 20).limit(1)).scalar()
        db.execute(delete(table).where(c.owner == owner, c.position <= last))
        return True

    def _unknown(self, db: Connection, owner: str, drafts: Sequence[Draft]) -> list[Draft]:
        """Return the drafts whose text the owner does not have yet."""
        m = self._t.memories
        hashes = {str(draft.payload["hash"]): draft for draft in drafts}
        query = select(m.c.hash).where(m.c.owner == owner, m.c.hash.in_(hashes))
        known = set(db.execute(query).scalars())
        return [draft for key, draft in hashes.items() if key not in known]

    def _clearings(self, db: Connection, owner: str) -> int:
        c = self._t.cleared.c
        times: int | None = db.execute(select(c.times).where(c.owner == owner)).scalar()
        return times or 0

    def _connected(self) -> Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _read(self, unit: Callable[[Connection], _T]) -> _T:
        with self._trouble(), self._connected().connect() as db:
            return unit(db)

    def _added(self, owner: str, unit: "Callable[[Connection], _Added]") -> list[_Row]:
        def after(added: _Added) -> None:
            if added.has_trimmed:
                self._trimmed(owner)
            else:
                self._kept(owner, added.rows)

        return self._commit(unit, after).rows

    def _write(self, owner: str, unit: Callable[[Connection], _T]) -> _T:
        return self._commit(unit, lambda _: self._changed(owner))

    def _commit(self, unit: Callable[[Connection], _T], after: Callable[[_T], None]) -> _T:
        """Do a unit, commit it, and take note."""
        with self._trouble():
            with self._connected().begin() as db:
                result = unit(db)
            after(result)
            return result

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Turn trouble into `MemoryUnavailable`, and begin with new connections after it."""
        try:
            yield
        except (SQLAlchemyError, OSError, ImportError) as error:
            self.close()
            cause = getattr(error, "orig", None) or error
            text = f"Memories cannot be reached now ({type(cause).__name__})."
            raise MemoryUnavailable(text, retry_after=1) from error


def found(row: Any, score: float | None = None) -> Found:
    """Return what a row of id and payload says."""
    return Found(row.id, msgspec.json.decode(row.payload), score)
