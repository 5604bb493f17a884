"""How often a service that stopped in order has given a run back is known."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Count from now on; a service of the version before makes rows without the column."""
    none = sa.text("0")
    op.add_column(
        "runs", sa.Column("suspensions", sa.Integer(), nullable=False, server_default=none)
    )


def downgrade() -> None:
    """Drop the count."""
    op.drop_column("runs", "suspensions")
