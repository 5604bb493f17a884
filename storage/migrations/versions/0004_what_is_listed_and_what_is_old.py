"""What is listed, and what is old, is found without a look at all else.

Whoever calls without a conversation leaves an ephemeral one each time: the index of the list leaves
these out. What is to be deleted is found by its age.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LISTED = ["tenant", "user_id", "updated_at", "id"]


def upgrade() -> None:
    """Make the indexes anew."""
    op.drop_index("conversations_by_update", "conversations")
    op.drop_index("conversations_ephemeral", "conversations")
    _create("conversations_by_update", _LISTED, "ephemeral = 0", "NOT ephemeral")
    _create("conversations_ephemeral", ["updated_at"], "ephemeral = 1", "ephemeral")
    op.create_index("conversations_by_age", "conversations", ["updated_at"])


def downgrade() -> None:
    """Go back to the indexes of before."""
    for name in ("conversations_by_age", "conversations_ephemeral", "conversations_by_update"):
        op.drop_index(name, "conversations")
    op.create_index("conversations_by_update", "conversations", _LISTED)
    _create("conversations_ephemeral", ["seq"], "ephemeral = 1", "ephemeral")


def _create(name: str, columns: list[str], on_sqlite: str, on_postgres: str) -> None:
    """Make an index of the rows of one kind."""
    op.create_index(
        name,
        "conversations",
        columns,
        sqlite_where=sa.text(on_sqlite),
        postgresql_where=sa.text(on_postgres),
    )
