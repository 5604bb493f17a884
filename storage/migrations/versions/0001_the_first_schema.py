"""The first schema.

The full text search, made by hand below:

* SQLite: two FTS5 tables that keep the index only (`content=''`) and triggers that tell them of
  every change, deletions that cascade included. Besides the words a row has one token made of
  its owner's names, so that a search never walks through what others said.
* PostgreSQL: two GIN indexes of an expression. Punctuation goes first, because PostgreSQL would
  take `either/or` for the name of a file. A text vector has at most 1 MiB; so of a message the
  first 100,000 characters are searched.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_UNFINISHED = sa.text("finished_at IS NULL")

_ON_SQLITE = """
CREATE VIRTUAL TABLE {name} USING fts5(
    owner, words, content='', tokenize="unicode61 remove_diacritics 2"
);
CREATE TRIGGER {name}_insert AFTER INSERT ON {table} WHEN {new_has} BEGIN
    INSERT INTO {name}(rowid, owner, words)
    VALUES (new.seq, hex(new.tenant) || 'x' || hex(new.user_id), {new});
END;
CREATE TRIGGER {name}_delete AFTER DELETE ON {table} WHEN {old_has} BEGIN
    INSERT INTO {name}({name}, rowid, owner, words)
    VALUES ('delete', old.seq, hex(old.tenant) || 'x' || hex(old.user_id), {old});
END;
"""
_ON_UPDATE = """
CREATE TRIGGER conversations_search_update AFTER UPDATE OF title ON conversations
WHEN old.title IS NOT new.title BEGIN
    INSERT INTO conversations_search(conversations_search, rowid, owner, words)
    SELECT 'delete', old.seq, hex(old.tenant) || 'x' || hex(old.user_id), old.title
    WHERE old.title IS NOT NULL;
    INSERT INTO conversations_search(rowid, owner, words)
    SELECT new.seq, hex(new.tenant) || 'x' || hex(new.user_id), new.title
    WHERE new.title IS NOT NULL;
END;
"""
_ON_POSTGRES = r"""
CREATE INDEX {name} ON {table} USING gin (
    to_tsvector('simple', regexp_replace({text}, '[!-/:-@\[-`{{-~]+', ' ', 'g'))
) WHERE {has};
"""


def upgrade() -> None:
    """Go from the empty schema to this one."""
    _create_conversations()
    _create_messages()
    _create_runs()
    op.create_table(
        "agents",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="agents_pk"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _create_search_on_sqlite()
    else:
        _create_search_on_postgres()


def downgrade() -> None:
    """Go back to the empty schema."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE messages_search")
        op.execute("DROP TABLE conversations_search")
    for table in ("agents", "runs", "messages", "conversations"):
        op.drop_table(table)


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text()),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("ephemeral", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("branched_conversation", sa.Text()),
        sa.Column("branched_message", sa.Text()),
        sa.PrimaryKeyConstraint("seq", name="conversations_pk"),
        sa.UniqueConstraint("tenant", "user_id", "id", name="conversations_tenant_user_id_id_key"),
        sqlite_autoincrement=True,
    )
    columns = ["tenant", "user_id", "updated_at", "id"]
    op.create_index("conversations_by_update", "conversations", columns)
    op.create_index(
        "conversations_ephemeral",
        "conversations",
        ["seq"],
        sqlite_where=sa.text("ephemeral = 1"),
        postgresql_where=sa.text("ephemeral"),
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="messages_pk"),
        sa.ForeignKeyConstraint(
            ["tenant", "user_id", "conversation_id"],
            ["conversations.tenant", "conversations.user_id", "conversations.id"],
            name="messages_conversations_fk",
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    columns = ["tenant", "user_id", "conversation_id", "seq"]
    op.create_index("messages_in_order", "messages", columns)


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("terminal", sa.Text()),
        sa.Column("key", sa.Text()),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("pending", sa.Text()),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("lease_until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="runs_pk"),
        sa.UniqueConstraint("tenant", "id", name="runs_tenant_id_key"),
        sa.UniqueConstraint("tenant", "user_id", "key", name="runs_tenant_user_id_key_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("runs_in_conversation", "runs", ["tenant", "user_id", "conversation_id"])
    op.create_index("runs_by_end", "runs", ["finished_at"])
    op.create_index(
        "runs_unfinished", "runs", ["seq"], sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED
    )


def _create_search_on_sqlite() -> None:
    _on_sqlite(
        _ON_SQLITE.format(
            name="messages_search",
            table="messages",
            new_has="new.role IN ('user', 'assistant')",
            new="json_extract(new.message, '$.content')",
            old_has="old.role IN ('user', 'assistant')",
            old="json_extract(old.message, '$.content')",
        )
    )
    _on_sqlite(
        _ON_SQLITE.format(
            name="conversations_search",
            table="conversations",
            new_has="new.title IS NOT NULL",
            new="new.title",
            old_has="old.title IS NOT NULL",
            old="old.title",
        )
    )
    _on_sqlite(_ON_UPDATE)


def _on_sqlite(script: str) -> None:
    """Execute statements one by one: the driver's way to execute a script commits first."""
    for statement in script.strip().split("\nCREATE "):
        op.execute("CREATE " + statement.removeprefix("CREATE "))


def _create_search_on_postgres() -> None:
    content = "left(CAST(message AS json) ->> 'content', 100000)"
    has = "role IN ('user', 'assistant')"
    op.execute(_ON_POSTGRES.format(name="messages_search", table="messages", text=content, has=has))
    op.execute(
        _ON_POSTGRES.format(
            name="conversations_search",
            table="conversations",
            text="title",
            has="title IS NOT NULL",
        )
    )
