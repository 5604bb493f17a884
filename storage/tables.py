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
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from events import ChatStart, TerminalEvent
from messages import AssistantMessage, Message

FULL_TEXT = ("messages_search", "conversations_search")
"""What the names of the objects for searching begin with."""

_T = TypeVar("_T")

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(referred_table_name)s_fk",
    }
)

Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite gives row numbers to columns of the type INTEGER only."""


class Utc(sa.TypeDecorator[datetime]):
    """A time with a zone; SQLite, which has no zones, keeps it in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(sa.TypeDecorator[_T], Generic[_T]):
    """The JSON of a msgspec type, as text."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._encode = msgspec.json.Encoder().encode

    def process_bind_param(self, value: _T | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self._encode(value).decode()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> _T | None:
        return None if value is None else self._decode(value)


class seconds_from_now(FunctionElement[datetime]):
    """The database's own time, moved by so many seconds."""

    type = Utc()
    inherit_cache = True


@compiles(seconds_from_now, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds')"


@compiles(seconds_from_now, "postgresql")
def _on_postgres(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kwargs)}))"


def _conversation_key() -> sa.ForeignKeyConstraint:
    columns = ("tenant", "user_id", "conversation_id")
    referred = ("conversations.tenant", "conversations.user_id", "conversations.id")
    return sa.ForeignKeyConstraint(columns, referred, ondelete="CASCADE")


conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("metadata", Json[dict[str, Any]](dict[str, Any]), nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("updated_at", Utc, nullable=False),
    sa.Column("branched_conversation", sa.Text),
    sa.Column("branched_message", sa.Text),
    sa.Column("agent", sa.Text),
    sa.UniqueConstraint("tenant", "user_id", "id"),
    sa.Index(
        "conversations_by_update",
        "tenant",
        "user_id",
        "updated_at",
        "id",
        sqlite_where=sa.text("ephemeral = 0"),
        postgresql_where=sa.text("NOT ephemeral"),
    ),
    sa.Index(
        "conversations_ephemeral",
        "updated_at",
        sqlite_where=sa.text("ephemeral = 1"),
        postgresql_where=sa.text("ephemeral"),
    ),
    sa.Index("conversations_by_age", "updated_at"),
    sqlite_autoincrement=True,
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("conversation_id", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("message", Json[Message](Message), nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("created_at", Utc, nullable=False),
    _conversation_key(),
    sa.Index("messages_in_order", "tenant", "user_id", "conversation_id", "seq"),
    sqlite_autoincrement=True,
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("conversation_id", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("start", Json[ChatStart](ChatStart), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("started_at", Utc),
    sa.Column("finished_at", Utc),
    sa.Column("terminal", Json[TerminalEvent](TerminalEvent)),
    sa.Column("key", sa.Text),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("pending", Json[AssistantMessage](AssistantMessage)),
    sa.Column("replaces", sa.Boolean, nullable=False),
    sa.Column("suspensions", sa.Integer, nullable=False),
    sa.Column("instance", sa.Text, nullable=False),
    sa.Column("lease_until", Utc, nullable=False),
    sa.UniqueConstraint("tenant", "id"),
    sa.UniqueConstraint("tenant", "user_id", "key"),
    sa.Index("runs_in_conversation", "tenant", "user_id", "conversation_id"),
    sa.Index(
        "runs_unfinished",
        "seq",
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    ),
    sa.Index("runs_by_end", "finished_at"),
    sqlite_autoincrement=True,
)

extraction_jobs = sa.Table(
    "lessons",  # the name that it got in the database at first
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("messages", Json[tuple[Message, ...]](tuple[Message, ...]), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("instance", sa.Text),
    sa.Column("lease_until", Utc, nullable=False),
    sa.Index("lessons_of_user", "tenant", "user_id"),
    sqlite_autoincrement=True,
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("config", sa.Text, nullable=False),
)


def of_owner(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Match the rows of the user whom `of_tenant` and `of_user` name in a statement."""
    return sa.and_(
        table.c.tenant == sa.bindparam("of_tenant"), table.c.user_id == sa.bindparam("of_user")
    )


def of_conversation(table: sa.Table) -> sa.ColumnElement[bool]:
    """Match the rows of that user's conversation that `of_conversation` names."""
    return sa.and_(of_owner(table), table.c.conversation_id == sa.bindparam("of_conversation"))


def in_its_conversation(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Join the rows with their conversation."""
    return sa.and_(
        table.c.tenant == conversations.c.tenant,
        table.c.user_id == conversations.c.user_id,
        table.c.conversation_id == conversations.c.id,
    )
