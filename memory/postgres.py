"""Memories in PostgreSQL, with pgvector: several processes share them.

The tables are in a schema of their own, next to the service's. There is no index over all
vectors: such an index is searched first and its result sorted out by owner afterwards, so that a
user among many finds few of his own memories, or none. The index by owner finds a user's rows,
and these are compared one by one, which is exact.

The driver is psycopg, because mem0 works in threads.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, Float, create_engine, literal, make_url, select, text
from sqlalchemy.types import UserDefinedType

from memory.records import Found, Records, Tables, found

SCHEMA = "parley_memory"
CONNECTIONS = 8
"""Connections that a process holds at most."""

_TIMEOUT = 5
_LOCK = 7_236_411
"""The number of the lock under which the tables are made."""


class _Vector(UserDefinedType[Any]):
    """pgvector's type, of any length."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vector"

    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: "[" + ",".join(map(repr, value)) + "]"


class PostgresRecords(Records):
    """Rows in PostgreSQL.

    Args:
        url: `postgresql://…`.
        embedder: the name of the embedder that makes vectors now.
    """

    def __init__(self, url: str, embedder: str) -> None:
        super().__init__(Tables(_Vector(), SCHEMA), embedder)
        self._url = make_url(url).set(drivername="postgresql+psycopg")

    def nearest(self, owner: str, vector: Sequence[float], limit: int) -> list[Found]:
        """Return the rows whose vectors are nearest; see `Records`."""
        m = self._t.memories
        distance = m.c.vector.op("<=>", return_type=Float())(literal(vector, _Vector()))
        query = select(m.c.id, m.c.payload, distance.label("distance"))
        query = query.where(m.c.owner == owner, m.c.embedder == self._embedder)
        query = query.order_by("distance").limit(limit)
        rows = self._read(lambda db: db.execute(query).all())
        return [found(row, min(1.0, max(0.0, 1.0 - row.distance))) for row in rows]

    def _open(self) -> Engine:
        engine = create_engine(
            self._url,
            hide_parameters=True,  # they are what users said
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=_TIMEOUT,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _TIMEOUT,
                "options": f"-c statement_timeout={_TIMEOUT * 1000} -c client_encoding=UTF8",
            },
        )
        try:
            with engine.begin() as db:
                db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                db.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
                db.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
                self._t.metadata.create_all(db)
        except BaseException:
            engine.dispose()
            raise
        return engine
