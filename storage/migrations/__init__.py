"""The way from one schema to the next, with Alembic.

`upgrade` is what a store does when it opens; it is what `alembic upgrade head` would do. Processes
that open a database at once do it one after another: on SQLite the transaction has the file's
lock, on PostgreSQL it takes an advisory one. All migrations of an upgrade are one transaction.

To add one, change `storage/tables.py` and let this write a draft to `versions/`:

    python -m storage.migrations "what the change is"

It compares the tables with what the migrations make so far. Read the draft: Alembic does not see
a rename, and objects of the full text search are yours to write. A migration that is released
is never changed again. It must run on both databases (`op.batch_alter_table` for SQLite) and must
not name `storage.tables`, whose present state is not that of the migration.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Select, inspect, literal, select, text
from sqlalchemy import table as lightweight
from sqlalchemy.exc import DBAPIError

from storage import StorageUnusable
from storage.tables import FULL_TEXT, metadata
from storage.trouble import is_trouble

_LOCK = 0x7061726C6579  # "parley": the key of the advisory lock

_NEWER = (
    "A newer version of the service has made it, or another program. Start that version, or give "
    "another database (DATA_DIR, SESSION_DB_PATH or DATABASE_URL)."
)
_FOREIGN = (
    "It has tables that are not the service's, or lacks some. Put a backup in its place, or give "
    "another database (DATA_DIR, SESSION_DB_PATH or DATABASE_URL)."
)

_HERE = Path(__file__).parent


def upgrade(db: Connection) -> None:
    """Bring a database to the newest schema; part of one transaction.

    Raises `StorageUnusable` where it is none that the service has made.
    """
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    settings = config(db)
    newest = ScriptDirectory.from_config(settings).get_heads()
    there = MigrationContext.configure(db).get_current_heads()
    if set(there) != set(newest):
        _check_usable(db, there)
        try:
            command.upgrade(settings, "head")
        except CommandError:
            raise StorageUnusable(_NEWER) from None
    for table in metadata.sorted_tables:
        _check_readable(db, select(table))
    if db.dialect.name == "sqlite":  # on PostgreSQL these are indexes
        for name in FULL_TEXT:
            _check_readable(db, select(literal(1)).select_from(lightweight(name)))


def _check_usable(db: Connection, versions: Sequence[str]) -> None:
    """Raise `StorageUnusable` where a database without a version has tables of our names."""
    if not versions and {*inspect(db).get_table_names()} & {*metadata.tables}:
        raise StorageUnusable(_FOREIGN)


def _check_readable(db: Connection, there: Select[Any]) -> None:
    try:
        db.execute(there.limit(0))
    except DBAPIError as error:
        if is_trouble(error):
            raise
        raise StorageUnusable(_FOREIGN) from error


def revise(db: Connection, message: str, folder: Path | None = None) -> None:
    """Write a draft of the migration from a database at the newest schema to the tables.

    It goes to `folder`, or else to the project's own versions.
    """
    number = 1 + len(list((_HERE / "versions").glob("0*.py")))
    command.revision(
        config(db, folder),
        message,
        autogenerate=True,
        rev_id=f"{number:04}",
        version_path=None if folder is None else str(folder),
    )


def config(db: Connection, *more: Path | None) -> Config:
    """Return Alembic's configuration for a connection; `more` folders of versions."""
    settings = Config()
    folders = [_HERE / "versions", *filter(None, more)]
    settings.set_main_option("script_location", str(_HERE))
    settings.set_main_option("path_separator", "newline")
    settings.set_main_option("version_locations", "\n".join(map(str, folders)))
    settings.attributes["connection"] = db
    return settings
