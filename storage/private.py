"""Files and folders that belong to the service's user alone: 0600 and 0700, whatever the umask.

Those of earlier versions, which were readable by every local user, are narrowed when they are
opened. SQLite gives what it writes beside a database the mode of the database's file.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def own_folder(path: Path) -> None:
    """Make a folder, where there is none, and shut others out; `OSError` where it cannot be made.

    One that is not ours, or meant for all, as `/tmp` is, stays as it is.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.stat().st_mode & stat.S_ISVTX:
        shut(path)


def own_file(path: Path) -> int:
    """Open a file, made where there is none, and shut others out; `OSError` where it cannot be.

    Returns a file descriptor for reading and writing.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    shut(path)
    return file


def shut(path: Path) -> None:
    """Take away what others may do with a file or folder of ours; it may be missing."""
    with suppress(FileNotFoundError):
        found = path.stat()
        if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
