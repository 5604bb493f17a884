"""A statement has its time, ends with who waits for it, and leaves room for the others."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, Dialect, text

from storage import StorageUnavailable
from storage.engine import CONNECTIONS, Database, connect
from storage.store import Store
from storage.tables import Json
from tests.storage.support import ANN, Endless, a_run, chat, says

DEADLINE = 10.0
"""Seconds in which what is interrupted has to be over; by itself it never is."""

MANY = 2 * CONNECTIONS

ON_SERVER = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid != pg_backend_pid()
"""


def one(db: Connection) -> int:
    return int(db.execute(text("SELECT 1")).scalar_one())


async def begun(calls: list[Any]) -> list[asyncio.Task[None]]:
    """Let endless units begin, as many as can."""
    units = [Endless() for _ in calls]
    tasks = [asyncio.create_task(call(unit)) for call, unit in zip(calls, units, strict=True)]
    async with asyncio.timeout(DEADLINE):
        first = [asyncio.create_task(unit.begun.wait()) for unit in units]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for each in first:
        each.cancel()
    return tasks


async def nothing_runs(database: Database) -> None:
    """Wait until the server executes nothing any more."""
    if database.shared:
        async with asyncio.timeout(DEADLINE):
            while await database.read(lambda db: db.execute(text(ON_SERVER)).scalar_one()):
                pass


@pytest.fixture
async def patient(url: str) -> AsyncIterator[Database]:
    """Return a database in which a statement may take longer than any test."""
    database = connect(url, 600)
    yield database
    async with asyncio.timeout(DEADLINE):
        await database.aclose()


@pytest.fixture
async def hasty(url: str) -> AsyncIterator[Database]:
    database = connect(url, 0.5)
    yield database
    async with asyncio.timeout(DEADLINE):
        await database.aclose()


@pytest.mark.parametrize("way", ["read", "scan", "write"])
async def test_what_takes_too_long_is_interrupted_and_its_place_is_free(
    hasty: Database, way: str
) -> None:
    call = getattr(hasty, way)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(StorageUnavailable) as caught:
            await call(Endless())
        assert caught.value.retry_after == 1
        await nothing_runs(hasty)
        assert await call(one) == 1


async def test_slow_scans_leave_room_for_all_else(patient: Database) -> None:
    scans = await begun([patient.scan] * MANY)
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            assert await patient.read(one) == 1
            assert await patient.write(one) == 1
    assert not any(scan.done() for scan in scans)
    for scan in scans:
        scan.cancel()
    await asyncio.wait(scans)


async def test_who_finds_no_place_for_a_scan_is_told_in_time(hasty: Database) -> None:
    async with asyncio.timeout(DEADLINE):
        got = await asyncio.gather(
            *(hasty.scan(Endless()) for _ in range(MANY)), return_exceptions=True
        )
    assert {type(each) for each in got} == {StorageUnavailable}


@pytest.mark.parametrize("way", ["read", "scan"])
async def test_a_read_ends_with_who_waits_for_it(patient: Database, way: str) -> None:
    call = getattr(patient, way)
    reads = await begun([call] * MANY)
    for read in reads:
        read.cancel()
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait(reads)
        assert all(read.cancelled() for read in reads)
        assert await asyncio.gather(*(call(one) for _ in range(MANY))) == [1] * MANY
    await nothing_runs(patient)


async def test_slow_reads_do_not_keep_a_database_from_closing(patient: Database) -> None:
    reads = await begun([patient.read, patient.scan] * MANY)
    async with asyncio.timeout(DEADLINE):
        await patient.aclose()
        got = await asyncio.gather(*reads, return_exceptions=True)
    assert {type(each) for each in got} == {StorageUnavailable}
    assert await patient.read(one) == 1
    await nothing_runs(patient)


async def test_slow_searches_and_lists_leave_room_for_a_chat(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE), Store.open(url, instance="test", timeout=600) as store:
        run = await chat(store, "Hi", "Hello.")
        units = [Endless() for _ in range(3)]
        for name, unit in zip(("search.find", "rows.page", "rows.said"), units, strict=True):
            monkeypatch.setattr(f"storage.store.{name}", lambda db, *_, unit=unit: unit(db))
        slow = [
            asyncio.create_task(call)
            for _ in range(MANY)
            for call in (
                store.search(ANN, "nowhere", limit=9),
                store.conversations(ANN, limit=9),
                store.messages(ANN, "conv"),
            )
        ]
        waiting = [asyncio.create_task(unit.begun.wait()) for unit in units]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await store.accept(a_run(), begin=says("Again"))
        assert await store.run(ANN, run.id) is not None
        assert len(await store.context(ANN, "conv", 9)) == 3
        for task in (*slow, *waiting):
            task.cancel()
        await asyncio.wait(slow)


async def test_rows_are_decoded_where_they_are_read_and_not_in_the_event_loop(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    decode = Json.process_result_value

    def noted(column: Json[Any], value: str | None, dialect: Dialect) -> Any:
        threads.add(threading.current_thread())
        return decode(column, value, dialect)

    monkeypatch.setattr(Json, "process_result_value", noted)
    async with Store.open(sqlite_url, instance="test") as store:
        run = await chat(store, "Hi", "Hello.", title="Greeting")
        for reading in (
            store.run(ANN, run.id),
            store.run_messages(run),
            store.context(ANN, "conv", 9),
            store.messages(ANN, "conv"),
            store.conversations(ANN, limit=9),
            store.search(ANN, "hello", limit=9),
        ):
            threads.clear()
            await reading
            assert len(threads) == 1
            assert threading.current_thread() not in threads
