"""The database's own trouble (locked, full, gone), told from a mistake of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage import StorageDamaged, StorageUnavailable

_SQLITE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_POSTGRES: Final = ("08", "40", "53", "55P03", "57", "58")
"""Classes of SQLSTATE: connection, serialization, resources, a lock, operator, system."""


def is_trouble(error: BaseException) -> bool:
    """Tell whether the database cannot do its work; a mistake of ours has another code."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_POSTGRES)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(cause, OSError | PoolTimeout | DisconnectionError)


def is_interruption(error: BaseException) -> bool:
    """Tell whether SQLite was asked to end what took too long."""
    cause = getattr(error, "orig", error)
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def told(error: BaseException) -> BaseException:
    """Return what callers are told of an error: `StorageUnavailable`, or a mistake as it is."""
    if not is_trouble(error):
        return error
    if is_interruption(error):
        return StorageUnavailable("This takes the database too long.", retry_after=1)
    cause = getattr(error, "orig", error.__cause__) or error
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
        return StorageDamaged()
    text = f"The database cannot do this now ({type(cause).__name__})."
    return StorageUnavailable(text, retry_after=1)


@contextmanager
def trouble_told() -> Iterator[None]:
    """Raise what callers are told of what is raised in the block."""
    try:
        yield
    except Exception as error:
        failed = told(error)
        if failed is error:
            raise
        raise failed from error
