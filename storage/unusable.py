"""Why a database cannot be used at the start, and what to do: for who starts the service."""

from typing import Final

from storage import StorageUnavailable

_STATES: Final = {
    "28": "The server refuses the user or the password. Check DATABASE_URL.",
    "3D": "The server has no such database. Create it, or check DATABASE_URL.",
    "42501": "The user of DATABASE_URL may not do this. Let it own the database.",
    "57P03": "The server is starting or stopping. Try again soon.",
    "53300": "The server has no connection left. Try again soon.",
}
"""By SQLSTATE, or its class (PostgreSQL's manual, appendix A)."""

_FILE: Final = "The file cannot be opened or written. Check its path, its owner and its mode."
_HELD: Final = "Another program holds the file. End it, and start again."
_OTHER: Final = "give another file (DATA_DIR or SESSION_DB_PATH)."
_SQLITE: Final = {
    "SQLITE_CANTOPEN": _FILE,
    "SQLITE_READONLY": _FILE,
    "SQLITE_BUSY": _HELD,
    "SQLITE_LOCKED": _HELD,
    "SQLITE_FULL": f"The disk is full. Make room, or {_OTHER}",
    "SQLITE_IOERR": f"The file cannot be read or written. Check the disk, or {_OTHER}",
    "SQLITE_NOTADB": "The file is no database of SQLite, or a damaged one. Put a backup in its "
    f"place, or {_OTHER}",
}
"""By the begin of SQLite's name of the error."""

_SERVER: Final = "The server cannot be reached ({}). Check that it runs, and DATABASE_URL."


def told_at_start(error: Exception) -> StorageUnavailable | None:
    """Return an error whose text says what to do; None: it is no trouble with the database."""
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None)
    for begin, text in _STATES.items():
        if isinstance(state, str) and state.startswith(begin):
            return StorageUnavailable(text)
    if isinstance(cause, OSError):
        return StorageUnavailable(_SERVER.format(type(cause).__name__))
    name = getattr(cause, "sqlite_errorname", "")
    for begin, text in _SQLITE.items():
        if name.startswith(begin):
            return StorageUnavailable(text)
    return error if isinstance(error, StorageUnavailable) else None


def _cause(error: BaseException) -> BaseException:
    """Return what a driver raised."""
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return error
