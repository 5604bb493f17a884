"""One process at a time for a file of SQLite.

A store takes over every run that it finds there, so a second process would take the first one's.
The locks are the operating system's: they end with the process, however that ends.

There are two. One is on a file beside the database, under the name that is left when symbolic
links are followed; earlier versions look at it, too. The other is on the database's file itself,
which a hard link or a mount gives names elsewhere. It is Linux's alone: there it has nothing to do
with the locks that SQLite puts on the file, and on other systems it would keep SQLite out.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import make_url

from storage import StorageUnavailable
from storage.private import own_file, shut


@contextmanager
def sole_user(url: str) -> Iterator[None]:
    """Hold a database for this process alone, where its kind needs that.

    Its files belong to this process's user alone from then on.

    Raises `StorageUnavailable` where another process holds it, or it cannot be written.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        yield
        return
    # Unlike `Path.resolve`, it leaves links in a circle to who opens the file.
    path = Path(os.path.realpath(parsed.database))
    with ExitStack() as held:
        _lock(Path(f"{path}.lock"), held)
        _lock(path, held, is_database=True)
        for beside in ("-wal", "-shm"):
            shut(Path(f"{path}{beside}"))
        yield


def _lock(path: Path, held: ExitStack, *, is_database: bool = False) -> None:
    """Make a file our own, and lock it until `held` is closed."""
    try:
        file = own_file(path)
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be written: {error.strerror}.") from None
    held.callback(os.close, file)
    if is_database and sys.platform != "linux":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not isinstance(error, BlockingIOError):
            raise StorageUnavailable(f"{path} cannot be locked: {error.strerror}.") from None
        raise StorageUnavailable(
            "Another process works with this file of SQLite; for several processes set "
            "DATABASE_URL to a PostgreSQL."
        ) from None
