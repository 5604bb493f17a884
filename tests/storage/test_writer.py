"""SQLite's writer: units that wait share a commit, and nothing else."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from storage import StorageUnavailable
from storage.sqlite import READERS, SqliteDatabase
from storage.writer import LONG, MOST, driver_of

DEADLINE = 10.0

ENDLESS = """
    WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted)
    INSERT INTO t SELECT max(n) FROM counted
"""


class Held:
    """A unit that keeps its thread busy until the test lets it go."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.go = threading.Event()

    def __call__(self, db: Connection) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.go.wait(DEADLINE)


def create(db: Connection) -> None:
    db.execute(text("CREATE TABLE t (n INTEGER)"))


@asynccontextmanager
async def opened(tmp_path: Path, timeout: float = 5.0) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(str(tmp_path / "w.db"), timeout)
    await database.migrate(create)
    try:
        yield database
    finally:
        async with asyncio.timeout(DEADLINE):
            await database.aclose()


@asynccontextmanager
async def busy(database: SqliteDatabase) -> AsyncIterator[Held]:
    """Keep the writer busy for the length of the block."""
    held = Held()
    holding = asyncio.create_task(database.write(held))
    await asyncio.wait_for(held.begun.wait(), DEADLINE)
    try:
        yield held
    finally:
        held.go.set()
        await holding


def put(db: Connection, number: int) -> int:
    db.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})
    if number < 0:
        raise ValueError(number)
    return number


def numbers(db: Connection) -> list[int]:
    return sorted(db.execute(text("SELECT n FROM t")).scalars())


async def test_units_that_wait_share_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        commits: list[Connection] = []
        async with busy(database):
            event.listen(database._writing, "commit", commits.append)
            writes = [asyncio.create_task(database.write(put, number)) for number in range(MOST)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*writes) == [*range(MOST)]
        assert len(commits) == 2  # with that of what kept the writer busy
        assert await database.read(numbers) == [*range(MOST)]


async def test_a_unit_that_fails_takes_nothing_of_the_others_along(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        async with busy(database):
            writes = [asyncio.create_task(database.write(put, number)) for number in (1, -2, 3)]
            await asyncio.sleep(0)
        got = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(each) for each in got] == [int, ValueError, int]
        assert await database.read(numbers) == [1, 3]


async def test_the_databases_trouble_is_told_at_once_to_all_that_share_the_transaction(
    tmp_path: Path,
) -> None:
    def broken(db: Connection) -> int:
        trouble = sqlite3.OperationalError("disk full")
        trouble.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise OperationalError("INSERT", None, trouble)

    async with opened(tmp_path, timeout=6 * DEADLINE) as database:
        async with busy(database):
            writes = [asyncio.create_task(database.write(put, 1))]
            writes += [asyncio.create_task(database.write(broken))]
            writes += [asyncio.create_task(database.write(put, number)) for number in (2, 3)]
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            got = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(each) for each in got} == {StorageUnavailable}
        assert await database.read(numbers) == []
        assert await database.write(put, 4) == 4


async def test_a_unit_that_fails_alone_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        with pytest.raises(ValueError, match="-1"):
            await database.write(put, -1)
        assert await database.write(put, 1) == 1
        assert await database.read(numbers) == [1]


async def test_a_connection_that_cannot_roll_back_is_replaced(tmp_path: Path) -> None:
    def breaking(db: Connection) -> None:
        put(db, 1)
        driver_of(db).close()
        raise ValueError("broken")

    async with asyncio.timeout(DEADLINE), opened(tmp_path) as database:
        with pytest.raises(ValueError, match="broken"):
            await database.write(breaking)
        assert await database.write(put, 2) == 2
        assert await database.read(numbers) == [2]


async def test_a_unit_whose_caller_left_before_it_began_is_not_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        async with busy(database):
            writes = [asyncio.create_task(database.write(put, number)) for number in (1, 2)]
            await asyncio.sleep(0)
            writes[0].cancel()
            await asyncio.sleep(0)
        assert await writes[1] == 2
        assert await database.read(numbers) == [2]


async def test_a_unit_that_waits_too_long_is_refused_and_its_neighbours_are_done(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, timeout=0.5) as database:
        async with busy(database):
            late = asyncio.create_task(database.write(put, 1))
            await asyncio.sleep(0.55)
            prompt = asyncio.create_task(database.write(put, 2))
            await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable):
            await late
        assert await prompt == 2
        assert await database.read(numbers) == [2]


async def test_who_waits_too_long_is_told_while_the_writer_is_still_busy(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout=0.2) as database:
        async with busy(database):
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(StorageUnavailable):
                    await database.write(put, 1)
        assert await database.write(put, 2) == 2
        assert await database.read(numbers) == [2]


async def test_who_waits_too_long_for_a_neighbour_is_told_and_its_unit_is_not_done(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, timeout=0.3) as database:
        neighbour = Held()
        async with busy(database):
            holding = asyncio.create_task(database.write(neighbour))
            late = asyncio.create_task(database.write(put, 1))
            await asyncio.sleep(0)
        await asyncio.wait_for(neighbour.begun.wait(), DEADLINE)
        with pytest.raises(StorageUnavailable):
            await late
        neighbour.go.set()
        await holding
        assert await database.read(numbers) == []


async def test_who_waits_too_long_to_read_is_told_while_the_readers_are_still_busy(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, timeout=0.2) as database:
        held = [Held() for _ in range(READERS // 2)]
        reading = [asyncio.create_task(database.read(each)) for each in held]
        for each in held:
            await asyncio.wait_for(each.begun.wait(), DEADLINE)
        with pytest.raises(StorageUnavailable):
            await database.read(numbers)
        for each in held:
            each.go.set()
        got = await asyncio.gather(*reading, return_exceptions=True)
        assert {type(each) for each in got} == {StorageUnavailable}  # they took too long, too
        assert await database.read(numbers) == []


async def test_a_unit_that_takes_too_long_is_undone_and_its_neighbour_is_done(
    tmp_path: Path,
) -> None:
    def endless(db: Connection) -> None:
        put(db, 2)
        db.execute(text(ENDLESS))

    async with opened(tmp_path, timeout=0.5) as database:
        async with busy(database):
            prompt = asyncio.create_task(database.write(put, 1))
            late = asyncio.create_task(database.write(endless))
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            assert await prompt == 1
            with pytest.raises(StorageUnavailable):
                await late
        assert await database.write(put, 3) == 3
        assert await database.read(numbers) == [1, 3]


async def test_a_unit_that_takes_long_is_committed_before_those_after_it(tmp_path: Path) -> None:
    def last(db: Connection) -> int:
        time.sleep(LONG + 0.05)
        return 0

    async with opened(tmp_path) as database:
        commits: list[Connection] = []
        async with busy(database):
            event.listen(database._writing, "commit", commits.append)
            writes = [asyncio.create_task(database.write(put, number)) for number in (1, 2)]
            writes += [asyncio.create_task(database.write(last))]
            writes += [asyncio.create_task(database.write(put, number)) for number in (3, 4)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*writes) == [1, 2, 0, 3, 4]
        assert len(commits) == 3  # with that of what kept the writer busy
        assert await database.read(numbers) == [1, 2, 3, 4]


async def test_what_is_queued_is_done_before_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        async with busy(database):
            writes = [asyncio.create_task(database.write(put, number)) for number in range(3)]
            closing = asyncio.create_task(database.aclose())
            await asyncio.sleep(0)
        await closing
        assert await asyncio.gather(*writes) == [0, 1, 2]
