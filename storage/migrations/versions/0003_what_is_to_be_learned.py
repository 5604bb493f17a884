"""What is to be learned from exchanges waits in a table."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the queue."""
    op.create_table(
        "lessons",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("instance", sa.Text()),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("lessons_pk")),
        sqlite_autoincrement=True,
    )
    op.create_index("lessons_of_user", "lessons", ["tenant", "user_id"])


def downgrade() -> None:
    """Drop the queue."""
    op.drop_table("lessons")
