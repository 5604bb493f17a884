"""Memories as rows. Each function is part of one transaction; SQLite and PostgreSQL have the same.

A row has its owner (`long_term.key_of` a caller), a payload, its vector, and
the name of the embedder that made this. Vectors of different embedders cannot be compared, so a
search looks at those of the present one only; `foreign` finds the others, whose vectors are then
computed again (`adopt`). So a changed configuration costs a user's next call some time, and never
a wrong answer.

`learn` keeps all of an exchange in one transaction, with a mark that it is done: a crash leaves
nothing half, and a repetition finds the mark. `clear` counts up `cleared`: an exchange that was
being read while its user's memories were cleared finds another number than at its beginning, and
is not kept. Both hold no text.
"""

from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import md5
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite's is the same
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from memory import Memory
from storage.tables import Serial

MAX_MEMORIES: Final = 20_000
"""Memories of one user; the oldest ones go first."""

MAX_LEARNED: Final = 10_000
"""Marks of one user that say which exchanges were read; the oldest ones go first."""


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a row says, as JSON, with the names that mem0 uses. Times are UTC.

    `hash`: of `data`, the text. `learned_from`: a run's id. `attributed_to`: who said it.
    """

    data: str
    hash: str
    created_at: datetime
    updated_at: datetime | None = None
    learned_from: str | None = None
    attributed_to: str | None = None


class Draft(NamedTuple):
    id: str
    payload: Payload
    vector: Sequence[float]

    @property
    def memory(self) -> Memory:
        return _memory(self.id, self.payload)


def draft(text: str, vector: Sequence[float], learned_from: str | None, by: str = "user") -> Draft:
    """Return a row for a text that somebody has said now."""
    now = datetime.now(UTC)
    return Draft(str(uuid4()), Payload(text, _hash(text), now, now, learned_from, by), vector)


class Added(NamedTuple):
    """Rows that were added (position, vector), and whether older ones had to go for them."""

    rows: list[tuple[int, Sequence[float]]]
    has_trimmed: bool


class _PgVector(UserDefinedType[Any]):
    """pgvector's type, of any length."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vector"


class Vector(TypeDecorator[Any]):
    """A vector: pgvector's type, or the bytes of its 32 bit numbers on SQLite; read as it is."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            _PgVector() if dialect.name == "postgresql" else self.impl_instance
        )

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | bytes:
        if dialect.name == "postgresql":
            return "[" + ",".join(map(repr, value)) + "]"
        return array("f", value).tobytes()


metadata = sa.MetaData()

memories = sa.Table(
    "memories",
    metadata,
    sa.Column("position", Serial, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("vector", Vector, nullable=False),
    sa.Index("memories_of_owner", "owner", "position"),
    sa.Index("memories_by_hash", "owner", "hash"),
    sa.Index("memories_by_embedder", "owner", "embedder"),
)

learned = sa.Table(
    "learned",
    metadata,
    sa.Column("position", Serial, primary_key=True, autoincrement=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.UniqueConstraint("owner", "run_id"),
)

cleared = sa.Table(
    "cleared",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("times", sa.Integer, nullable=False),
)

_m = memories.c


def newest(db: sa.Connection, owner: str, limit: int) -> list[Memory]:
    query = sa.select(_m.id, _m.payload).where(_m.owner == owner)
    rows = db.execute(query.order_by(_m.position.desc()).limit(limit))
    return [_memory_in(row) for row in rows]


def find(db: sa.Connection, owner: str, memory_id: str) -> Memory | None:
    query = sa.select(_m.id, _m.payload).where(_m.owner == owner, _m.id == memory_id)
    row = db.execute(query).first()
    return None if row is None else _memory_in(row)


def nearest(
    db: sa.Connection, owner: str, embedder: str, vector: Sequence[float], limit: int
) -> list[Memory]:
    """Return the memories whose vectors are nearest, best first, as pgvector finds them."""
    distance = _m.vector.op("<=>", return_type=sa.Float())(sa.literal(vector, Vector()))
    query = sa.select(_m.id, _m.payload, distance.label("distance"))
    query = query.where(_m.owner == owner, _m.embedder == embedder)
    rows = db.execute(query.order_by("distance").limit(limit))
    return [_memory_in(row, 1.0 - row.distance) for row in rows]


def at(db: sa.Connection, scores: Mapping[int, float]) -> list[Memory]:
    """Return the memories at some positions, with their scores, best first."""
    query = sa.select(_m.position, _m.id, _m.payload).where(_m.position.in_(scores))
    rows = sorted(db.execute(query), key=lambda row: -scores[row.position])
    return [_memory_in(row, scores[row.position]) for row in rows]


def vectors(
    db: sa.Connection, owner: str, embedder: str, after: int, limit: int
) -> Sequence[sa.Row[int, bytes]]:
    """Return positions and vectors of rows after a position, in order; SQLite only."""
    query = sa.select(_m.position, _m.vector).where(_m.owner == owner, _m.position > after)
    rows = db.execute(query.where(_m.embedder == embedder).order_by(_m.position).limit(limit))
    return rows.all()


def add(db: sa.Connection, owner: str, embedder: str, drafts: Sequence[Draft]) -> Added:
    if not drafts:
        return Added([], False)
    _clearings(db, owner)  # whoever adds at the same time waits, and counts these rows, too
    rows = [
        {"id": draft.id, "owner": owner, **_columns(draft.payload, embedder, draft.vector)}
        for draft in drafts
    ]
    statement = sa.insert(memories).returning(_m.position, sort_by_parameter_order=True)
    positions = db.execute(statement, rows).scalars()
    added = [*zip(positions, (draft.vector for draft in drafts), strict=True)]
    return Added(added, _trim(db, memories, owner, MAX_MEMORIES))


def clearings_unless_learned(db: sa.Connection, owner: str, run_id: str) -> int | None:
    """Return how often the owner's memories were cleared; None: the exchange was read before."""
    c = learned.c
    mark = sa.select(c.position).where(c.owner == owner, c.run_id == run_id)
    if db.execute(mark).first() is not None:
        return None
    return db.execute(sa.select(cleared.c.times).where(cleared.c.owner == owner)).scalar() or 0


def learn(
    db: sa.Connection,
    owner: str,
    embedder: str,
    drafts: Sequence[Draft],
    run_id: str,
    clearings: int,
) -> Added:
    """Add the rows of an exchange whose texts are new, once.

    `clearings`: how often the owner's memories had been cleared before the exchange was read.
    """
    is_same = _clearings(db, owner) == clearings
    mark = upsert(learned).values(owner=owner, run_id=run_id).on_conflict_do_nothing()
    if db.execute(mark.returning(learned.c.position)).first() is None:
        return Added([], False)
    _trim(db, learned, owner, MAX_LEARNED)
    if not is_same:
        return Added([], False)
    by_hash = {draft.payload.hash: draft for draft in drafts}
    query = sa.select(_m.hash).where(_m.owner == owner, _m.hash.in_(by_hash))
    known = set(db.execute(query).scalars())
    return add(db, owner, embedder, [by_hash[each] for each in by_hash if each not in known])


def change(
    db: sa.Connection, owner: str, embedder: str, memory_id: str, text: str, vector: Sequence[float]
) -> Memory | None:
    """Put another text and its vector into a row, and return it; None: there is no such row."""
    row = (_m.owner == owner, _m.id == memory_id)
    encoded = db.execute(sa.select(_m.payload).where(*row)).scalar()
    if encoded is None:
        return None
    said = {"data": text, "hash": _hash(text), "updated_at": datetime.now(UTC)}
    payload = msgspec.structs.replace(_payload(encoded), **said)
    db.execute(sa.update(memories).where(*row).values(_columns(payload, embedder, vector)))
    return _memory(memory_id, payload)


def remove(db: sa.Connection, owner: str, memory_id: str) -> bool:
    return db.execute(sa.delete(memories).where(_m.owner == owner, _m.id == memory_id)).rowcount > 0


def clear(db: sa.Connection, owner: str) -> int:
    _clearings(db, owner, 1)
    return db.execute(sa.delete(memories).where(_m.owner == owner)).rowcount


def foreign(db: sa.Connection, owner: str, embedder: str, limit: int) -> list[tuple[str, str, str]]:
    """Return id, hash and text of rows whose vectors another embedder made."""
    # Not `!=`, for which no index serves: this is asked before every search.
    others = sa.or_(_m.embedder < embedder, _m.embedder > embedder)
    query = sa.select(_m.id, _m.hash, _m.payload).where(_m.owner == owner, others).limit(limit)
    return [(row.id, row.hash, _payload(row.payload).data) for row in db.execute(query)]


def adopt(
    db: sa.Connection, owner: str, embedder: str, made: Sequence[tuple[str, str, Sequence[float]]]
) -> None:
    """Give rows new vectors: for each an id, the hash of the text it was made of, and the vector.

    A row whose text is another one by now stays as it is.
    """
    for memory_id, made_of, vector in made:
        row = (_m.owner == owner, _m.id == memory_id, _m.hash == made_of)
        db.execute(sa.update(memories).where(*row).values(embedder=embedder, vector=vector))


_payload = msgspec.json.Decoder(Payload).decode


def _columns(payload: Payload, embedder: str, vector: Sequence[float]) -> dict[str, Any]:
    encoded = msgspec.json.encode(payload).decode()
    return {"hash": payload.hash, "payload": encoded, "embedder": embedder, "vector": vector}


def _memory_in(row: sa.Row[*tuple[Any, ...]], score: float | None = None) -> Memory:
    return _memory(row.id, _payload(row.payload), score)


def _memory(memory_id: str, payload: Payload, score: float | None = None) -> Memory:
    return Memory(
        id=memory_id,
        text=payload.data,
        created_at=payload.created_at,
        updated_at=payload.updated_at or payload.created_at,
        score=None if score is None else min(1.0, max(0.0, score)),
    )


def _hash(text: str) -> str:
    """Return the hash that mem0 gives a text, too."""
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def _trim(db: sa.Connection, table: sa.Table, owner: str, limit: int) -> bool:
    """Delete an owner's oldest rows beyond a limit, some at once; tell whether any went."""
    c = table.c
    newest = sa.select(c.position).where(c.owner == owner).order_by(c.position.desc())
    if db.execute(newest.offset(limit).limit(1)).scalar() is None:
        return False
    last = db.execute(newest.offset(limit - limit // 20).limit(1)).scalar()
    db.execute(sa.delete(table).where(c.owner == owner, c.position <= last))
    return True


def _clearings(db: sa.Connection, owner: str, more: int = 0) -> int:
    """Count clearings of an owner and return them all.

    Who learns of the owner, or clears, at the same time waits for the commit.
    """
    times = cleared.c.times
    first = upsert(cleared).values(owner=owner, times=more)
    again = first.on_conflict_do_update(index_elements=["owner"], set_={"times": times + more})
    counted: int = db.execute(again.returning(times)).scalar_one()
    return counted
