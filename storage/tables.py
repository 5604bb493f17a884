"""The tables: one definition for SQLite and PostgreSQL.

`seq` is the order in which rows were made, and it is what messages and runs are sorted by: a
clock can step back. It never leaves this room; outside, rows go by their ids.

Columns of structs hold the JSON that msgspec makes of them. Times are UTC. `lease_until` is set
and compared by the database's own clock, so that processes need not agree about the time.

The objects of the full text search are made by the migrations alone (`FULL_TEXT` names them):
SQLite keeps virtual tables and triggers for it, PostgreSQL indexes of expressions.
"""

from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from events import ChatStart, TerminalEvent
from messages import AssistantMessage, Message

FULL_TEXT = ("messages_search", "conversations_search")
"""What the names of the objects for searching begin with."""

_T = TypeVar("_T")

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(referred_table_name)s_fk",
    }
)

Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives row numbers to columns of the type INTEGER only."""


class Utc(TypeDecorator[datetime]):
    """A time with a zone; SQLite, which has no zones, keeps it in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[_T], Generic[_T]):
    """The JSON of a msgspec type, as text."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._encode = msgspec.json.Encoder().encode

    def process_bind_param(self, value: _T | None, dialect: Dialect) -> str | None:
        return None if value is None else self._encode(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> _T | None:
        return None if value is None else self._decode(value)


def _conversation_key() -> ForeignKeyConstraint:
    columns = ("tenant", "user_id", "conversation_id")
    referred = ("conversations.tenant", "conversations.user_id", "conversations.id")
    return ForeignKeyConstraint(columns, referred, ondelete="CASCADE")


conversations = Table(
    "conversations",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("title", Text),
    Column("metadata", Json[dict[str, Any]](dict[str, Any]), nullable=False),
    Column("ephemeral", Boolean, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("branched_conversation", Text),
    Column("branched_message", Text),
    Column("agent", Text),
    UniqueConstraint("tenant", "user_id", "id"),
    Index(
        "conversations_by_update",
        "tenant",
        "user_id",
        "updated_at",
        "id",
        sqlite_where=text("ephemeral = 0"),
        postgresql_where=text("NOT ephemeral"),
    ),
    Index(
        "conversations_ephemeral",
        "updated_at",
        sqlite_where=text("ephemeral = 1"),
        postgresql_where=text("ephemeral"),
    ),
    Index("conversations_by_age", "updated_at"),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("message", Json[Message](Message), nullable=False),
    Column("run_id", Text),
    Column("created_at", Utc, nullable=False),
    _conversation_key(),
    Index("messages_in_order", "tenant", "user_id", "conversation_id", "seq"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("start", Json[ChatStart](ChatStart), nullable=False),
    Column("status", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("started_at", Utc),
    Column("finished_at", Utc),
    Column("terminal", Json[TerminalEvent](TerminalEvent)),
    Column("key", Text),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("pending", Json[AssistantMessage](AssistantMessage)),
    Column("replaces", Boolean, nullable=False),
    Column("suspensions", Integer, nullable=False),
    Column("instance", Text, nullable=False),
    Column("lease_until", Utc, nullable=False),
    UniqueConstraint("tenant", "id"),
    UniqueConstraint("tenant", "user_id", "key"),
    Index("runs_in_conversation", "tenant", "user_id", "conversation_id"),
    Index(
        "runs_unfinished",
        "seq",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index("runs_by_end", "finished_at"),
    sqlite_autoincrement=True,
)

extraction_jobs = Table(
    "lessons",  # the name that it got in the database at first
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("messages", Json[tuple[Message, ...]](tuple[Message, ...]), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("instance", Text),
    Column("lease_until", Utc, nullable=False),
    Index("lessons_of_user", "tenant", "user_id"),
    sqlite_autoincrement=True,
)

agents = Table(
    "agents",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("config", Text, nullable=False),
)
