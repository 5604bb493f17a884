r"""On PostgreSQL the index of the words knows whose they are, as on SQLite.

Without that a search goes through what others said, too, or asks each message of the owner for its
words, which takes seconds. A word holds no colon, so no word is taken for an owner. What is looked
for in the newest messages only finds these by an index of their order.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

_INDEX = r"""
CREATE INDEX {table}_search ON {table} USING gin (
    (to_tsvector('simple', regexp_replace({text}, '[!-/:-@\[-`{{-~]+', ' ', 'g')){owner})
) WHERE {has};
"""
_OWNER = " || array_to_tsvector(ARRAY[':' || tenant || ':' || user_id])"


_NEWEST = "messages_search_newest"


def upgrade() -> None:
    """Make the indexes anew."""
    if op.get_bind().dialect.name == "postgresql":
        _make(_OWNER)
        has = "role IN ('user', 'assistant')"
        op.execute(f"CREATE INDEX {_NEWEST} ON messages (tenant, user_id, seq) WHERE {has}")


def downgrade() -> None:
    """Go back to indexes of words alone."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP INDEX {_NEWEST}")
        _make("")


def _make(owner: str) -> None:
    content = "left(CAST(message AS json) ->> 'content', 100000)"
    has_words = {
        "messages": (content, "role IN ('user', 'assistant')"),
        "conversations": ("title", "title IS NOT NULL"),
    }
    for table, (text, has) in has_words.items():
        op.execute(f"DROP INDEX {table}_search")
        op.execute(_INDEX.format(table=table, text=text, has=has, owner=owner))
