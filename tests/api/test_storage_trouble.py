"""The service while its database cannot be written, and afterwards."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from storage.sqlite import READERS
from tests.api.support import assert_problem, refused, request, rest, scripted, send, streaming
from tests.service import DEADLINE, running
from tests.storage.support import Endless
from tests.upstream import held, text


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Hold the database's lock from outside; a thread waits for it while the service writes."""
    path = folder / "parley.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_a_message_that_cannot_be_stored_is_refused_and_taken_later(tmp_path: Path) -> None:
    chat = {"message": "My name is Ada.", "conversation_id": "c"}
    async with running(data_dir=tmp_path, storage_timeout=0.1) as service:
        await service.json("POST", "/chat", json=chat)
        async with locked(tmp_path):
            for path in ("/chat", "/chat/stream"):
                await refused(service, "POST", path, 503, "storage_unavailable", json=chat)
            answer = await send(service, request("POST", "/chat", b'{"message": "hi"}'))
            assert_problem(answer, 503, "storage_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert (await service.json("GET", "/health"))["active_runs"] == 0
        question = {"message": "What is my name?", "conversation_id": "c"}
        assert "Ada" in (await service.json("POST", "/chat", json=question))["response"]
        shown = await service.json("GET", "/conversations/c")
        said = [message["content"] for message in shown["messages"] if message["role"] == "user"]
        assert said == ["My name is Ada.", "What is my name?"]


async def test_an_answer_that_cannot_be_stored_is_not_called_complete(tmp_path: Path) -> None:
    options = {"data_dir": tmp_path, "storage_timeout": 0.1}
    async with scripted([held(text("one", " two"))], **options) as (service, upstream):
        async with streaming(service, message="hi", conversation_id="c") as (run_id, incoming):
            await upstream.asked.reach(1)
            async with locked(tmp_path):
                upstream.gate.open()
                events = await rest(incoming)
        assert events[-1]["event_type"] == "error"
        assert (events[-1]["code"], events[-1]["retryable"]) == ("storage_unavailable", True)
        run = await service.json("GET", f"/runs/{run_id}")
        assert (run["status"], run["error"]["code"]) == ("failed", "storage_unavailable")
        while service.registry._runner.endings.has_waiting:
            await service.registry._runner.endings.store_waiting()
        shown = await service.json("GET", "/conversations/c")
        assert [message["content"] for message in shown["messages"]] == ["hi", "one two"]


@pytest.mark.parametrize("path", ["/search?q=x", "/conversations"])
async def test_what_a_client_asked_for_ends_when_it_goes_away(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    units: list[Endless] = []

    def endless(db: Connection, *_: object) -> None:
        units[-1](db)

    async with asyncio.timeout(DEADLINE), running(storage_timeout=600) as service:
        with monkeypatch.context() as patch:
            patch.setattr("storage.store.search.find", endless)
            patch.setattr("storage.store.rows.page", endless)
            for _ in range(READERS):
                units.append(Endless())
                asking = asyncio.create_task(service.json("GET", path))
                await units[-1].begun.wait()
                asking.cancel()
                await asyncio.wait([asking])
        await service.json("GET", path)
