"""One process at a time for a file of SQLite.

A store takes over every run that it finds there, so a second process would take the first one's.
The lock is the operating system's: it ends with the process, however that ends.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sqlalchemy import make_url

from storage import StorageUnavailable


@contextmanager
def sole_user(url: str) -> Iterator[None]:
    """Hold a database for this process alone, where its kind needs that.

    Raises `StorageUnavailable` where another process holds it, or its lock cannot be written.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        yield
        return
    with _locked(Path(f"{parsed.database}.lock")):
        yield


def _locked(path: Path) -> TextIO:
    """Return the lock's file; it is held until that is closed."""
    try:
        file = path.open("a")
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError):
            raise StorageUnavailable(f"{path} cannot be locked: {error.strerror}.") from None
        raise StorageUnavailable(
            "Another process works with this file of SQLite; for several processes set "
            "DATABASE_URL to a PostgreSQL."
        ) from None
    return file
