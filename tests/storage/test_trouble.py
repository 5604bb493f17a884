"""A database that is locked, full or gone is named, and used again when it is back."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from messages import AssistantMessage, new_id
from storage import StorageUnavailable
from storage.store import Store
from tests.storage.servers import PostgresServer, server_in, start, stop
from tests.storage.support import ANN, DONE, a_run, chat, says, texts


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


@contextmanager
def locked(url: str) -> Iterator[None]:
    other = sqlite3.connect(path_of(url), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


async def test_a_locked_file_is_trouble_until_it_is_released(sqlite_url: str) -> None:
    async with Store.open(sqlite_url, instance="test", timeout=0.5) as store:
        run = await chat(store, "Hi", "Hello.")
        with locked(sqlite_url):
            with pytest.raises(StorageUnavailable) as caught:
                await store.accept(a_run("other"), begin=says("Hi"))
            assert await store.run(ANN, run.id) is not None
        assert (caught.value.code, caught.value.status) == ("storage_unavailable", 503)
        assert (caught.value.retryable, caught.value.retry_after) == (True, 1)
        assert await texts(store, "other") == []
        await chat(store, "Hi", "Hello.", conversation_id="other")


async def test_who_waits_for_a_locked_file_waits_his_own_time_only(sqlite_url: str) -> None:
    async with Store.open(sqlite_url, instance="test", timeout=0.2) as store:
        with locked(sqlite_url):
            async with asyncio.timeout(5):  # one after another they would take ten
                calls = (store.accept(a_run(), begin=None) for _ in range(50))
                results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {StorageUnavailable}
        await chat(store, "Hi", "Hello.")


async def test_a_locked_file_cannot_be_opened_for_new_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with locked(url), pytest.raises(StorageUnavailable):
        async with Store.open(url, instance="test", timeout=0.1):
            pass


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
async def test_who_opens_a_file_waits_while_another_makes_its_log(
    sqlite_url: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(sqlite3.Connection):
        refusals = 3

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql and self.refusals:
                self.refusals -= 1
                busy = sqlite3.OperationalError("database is locked")
                busy.sqlite_errorcode = code
                raise busy
            return super().execute(sql, *args)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Late))
    async with Store.open(sqlite_url, instance="test") as store:
        await chat(store, "Hi", "Hello.")


async def test_a_file_in_no_folder_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        async with Store.open(f"sqlite:///{tmp_path}/none/parley.db", instance="test"):
            pass


async def test_a_full_disk_is_trouble_until_there_is_room(sqlite_url: str) -> None:
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 60")

    event.listen(Engine, "connect", limit)
    try:
        async with Store.open(sqlite_url, instance="test") as store:
            run = await chat(store, "Hi", "Hello.")
            large = a_run()
            await store.accept(large, begin=says("More"))
            for _ in range(2):
                with pytest.raises(StorageUnavailable):
                    await store.finish(large, [AssistantMessage("x" * 1_000_000)], DONE)
            assert await store.run(ANN, run.id) is not None
            assert await texts(store) == ["Hi", "Hello.", "More"]
            event.remove(Engine, "connect", limit)
            with sqlite3.connect(path_of(sqlite_url)) as check:
                assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            check.close()
            assert await store.finish(large, [AssistantMessage("x" * 1_000_000)], DONE)
    finally:
        if event.contains(Engine, "connect", limit):
            event.remove(Engine, "connect", limit)


async def test_a_mistake_of_ours_is_not_the_databases_trouble(store: Store) -> None:
    run = a_run(request="what a user said")
    await store.accept(run, begin=None)
    with pytest.raises(Exception, match=r"(?i)unique") as caught:
        await store.accept(run, begin=says("Hi"))
    assert not isinstance(caught.value, StorageUnavailable)
    assert "what a user said" not in str(caught.value)
    assert await texts(store) == []
    await chat(store, "Hi", "Hello.")


async def test_a_row_that_another_holds_is_trouble_until_it_is_released(
    postgres_url: str,
) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with Store.open(postgres_url, instance="test", timeout=0.2) as store:
        await chat(store, "Hi", "Hello.")
        async with engine.begin() as other:
            await other.execute(text("UPDATE conversations SET title = 'Mine'"))
            with pytest.raises(StorageUnavailable):
                await store.accept(a_run(), begin=says("Hi"))
        assert await texts(store) == ["Hi", "Hello."]
        await chat(store, "Again", "Yes.")
    await engine.dispose()


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    server = await asyncio.to_thread(server_in, new_id("own"))
    yield server
    await asyncio.to_thread(server.cleanup)


@pytest.mark.slow
async def test_a_server_that_was_stopped_is_used_again(own_server: PostgresServer) -> None:
    async with Store.open(own_server.get_uri(), instance="test") as store:
        run = await chat(store, "Hi", "Hello.")
        await asyncio.gather(*(store.ping() for _ in range(5)))
        await asyncio.to_thread(stop, own_server)
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await store.accept(a_run(), begin=says("Hi"))
            with pytest.raises(StorageUnavailable):
                await store.run(ANN, run.id)
        with pytest.raises(StorageUnavailable):
            async with Store.open(own_server.get_uri(), instance="late"):
                pass
        await asyncio.to_thread(start, own_server)
        await chat(store, "Again", "Yes.")
        assert await texts(store) == ["Hi", "Hello.", "Again", "Yes."]
        # Stopped and started while nobody asked: nobody notices.
        await asyncio.gather(*(store.ping() for _ in range(5)))
        await asyncio.to_thread(stop, own_server)
        await asyncio.to_thread(start, own_server)
        await asyncio.gather(*(store.ping() for _ in range(5)))
