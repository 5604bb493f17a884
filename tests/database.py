"""An empty database file, which is migrated once a process: that takes longer than most tests."""

from pathlib import Path
from tempfile import TemporaryDirectory

from storage.store import Store

_made: list[bytes] = []


async def empty_database(path: Path) -> None:
    """Put a file at `path` that is as a first start makes it."""
    if not _made:
        with TemporaryDirectory() as directory:
            template = Path(directory) / "template.db"
            async with Store.open(f"sqlite:///{template}", instance="template"):
                pass
            _made.append(template.read_bytes())
    path.write_bytes(_made[0])  # noqa: ASYNC240 - 100 kB on a local disk
