"""A caller that is cancelled leaves a transaction whole or none, and a connection that works."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from sqlalchemy import Connection

from caller import Caller
from messages import AssistantMessage
from storage import Entry, runs
from storage.engine import CONNECTIONS
from storage.store import Store
from tests.storage.support import ANN, DONE, a_run, chat, says, texts

STEPS = [*range(12), 16, 24, 32, 48, 64, 96, 128, 256]
"""After how many turns of the event loop the caller is cancelled."""


async def cancelled_after(steps: int, call: Coroutine[Any, Any, object]) -> None:
    task = asyncio.create_task(call)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


async def test_a_cancelled_accept_is_whole_or_none(url: str) -> None:
    made = [a_run(f"conv_{steps}") for steps in STEPS]
    async with Store.open(url, instance="test") as store:
        for steps, run in zip(STEPS, made, strict=True):
            await cancelled_after(steps, store.accept(run, begin=says("Hi")))
        await asyncio.gather(*(store.ping() for _ in range(2 * CONNECTIONS)))
    async with Store.open(url, instance="test") as store:
        assert await store.run(ANN, made[0].id) is None
        for run in made:
            found = await store.run(ANN, run.id)
            said = await texts(store, run.conversation_id)
            record = await store.conversation(run.owner, run.conversation_id)
            assert (found is not None, record is not None) == (bool(said), bool(said))


async def test_a_cancelled_end_is_whole_or_none(url: str) -> None:
    made = [a_run(f"conv_{steps}") for steps in STEPS]
    async with Store.open(url, instance="test") as store:
        for steps, run in zip(STEPS, made, strict=True):
            await store.accept(run, begin=says("Hi"))
            end = store.finish(run, [AssistantMessage("Hello.")], DONE, "Title")
            await cancelled_after(steps, end)
    async with Store.open(url, instance="test") as store:
        for run in made:
            found = await store.run(ANN, run.id)
            record = await store.conversation(run.owner, run.conversation_id)
            assert found is not None
            assert record is not None
            ended = found.terminal is not None
            said = ["Hi", "Hello."] if ended else ["Hi"]
            assert await texts(store, run.conversation_id) == said
            assert (record.title, found.status) == (
                ("Title", "completed") if ended else (None, "running")
            )


async def test_a_unit_that_has_begun_is_done_though_its_caller_is_cancelled(url: str) -> None:
    run = a_run()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with Store.open(url, instance="test") as store:

        def unit(db: Connection) -> None:
            loop.call_soon_threadsafe(begun.set)
            runs.accept(db, run, says("Hi"), Entry(), "test", 30.0)

        task = asyncio.create_task(store._db.write(unit))
        async with asyncio.timeout(5):
            await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    async with Store.open(url, instance="test") as store:
        assert await texts(store) == ["Hi"]


async def test_many_callers_may_be_cancelled_at_once(url: str) -> None:
    async with Store.open(url, instance="test") as store:
        calls = [
            asyncio.create_task(store.accept(a_run(f"conv_{number}"), begin=says("Hi")))
            for number in range(3 * CONNECTIONS)
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await chat(store, "Still", "There.", owner=Caller("acme", "ben"))
        assert await texts(store, owner=Caller("acme", "ben")) == ["Still", "There."]
