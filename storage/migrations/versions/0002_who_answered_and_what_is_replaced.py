"""A conversation knows which agent was asked last, and a run that its answer replaces another."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Go from the first schema to this one; no table is made anew, so no trigger is lost."""
    op.add_column("conversations", sa.Column("agent", sa.Text()))
    no = sa.false()
    op.add_column("runs", sa.Column("replaces", sa.Boolean(), nullable=False, server_default=no))


def downgrade() -> None:
    """Go back to the first schema."""
    op.drop_column("runs", "replaces")
    op.drop_column("conversations", "agent")
