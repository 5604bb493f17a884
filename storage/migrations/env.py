"""What Alembic runs: the migrations, on the connection that it is given."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import TypeDecorator
from sqlalchemy.schema import SchemaItem

from storage.tables import FULL_TEXT, Utc, metadata


def _is_compared(
    item: SchemaItem, name: str | None, kind: str, reflected: bool, other: SchemaItem | None
) -> bool:
    return not (name or "").startswith(FULL_TEXT)


def _as_written(kind: str, item: Any, _of: object) -> str | Literal[False]:
    """Write our types as the types of the columns that they are kept in."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return "sa.DateTime(timezone=True)" if isinstance(item, Utc) else "sa.Text()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_object=_is_compared,
    render_item=_as_written,
    render_as_batch=True,
)
context.run_migrations()
