"""What was acknowledged is there after the process was killed."""

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection

from storage.store import Store
from tests.storage.support import ANN, DONE, texts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
async def test_a_killed_process_loses_nothing_that_it_acknowledged(sqlite_url: str) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storage.writer",
        sqlite_url,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout is not None
    async with asyncio.timeout(30):
        kept = [(await writer.stdout.readline()).decode() for _ in range(20)]
        writer.kill()
        kept += (await writer.stdout.read()).decode().splitlines(keepends=True)
        await writer.wait()
    ids = [line.strip() for line in kept if line.endswith("\n")]
    async with Store.open(sqlite_url, instance="after") as store:
        for run_id in ids:
            run = await store.run(ANN, run_id)
            assert run is not None
            assert run.terminal == DONE
        assert len(await texts(store)) >= 2 * len(ids)
    check = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()


async def test_a_commit_is_on_the_disk(sqlite_url: str) -> None:
    def settings(db: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    async with Store.open(sqlite_url, instance="test") as store:
        found = await store._db.write(settings)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
