"""A run whose store is gone is taken over by one other, and by its epoch nobody else writes."""

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest
from sqlalchemy import Connection, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from events import RunError
from messages import AssistantMessage
from storage.store import Store
from tests.storage.servers import PostgresServer, administer
from tests.storage.support import ANN, CALL, DONE, a_run, chat, says, texts


def spoil(db: Connection, column: str, value: str, run_id: str) -> None:
    """Put in what this version cannot read."""
    statement = text(f"UPDATE runs SET {column} = :value WHERE id = :id")
    db.execute(statement, {"value": value, "id": run_id})


async def test_sqlite_claims_what_another_store_has_left(sqlite_url: str) -> None:
    queued, running = a_run("b"), a_run("a")
    async with Store.open(sqlite_url, instance="same") as store:
        await store.accept(queued, begin=None)
        await chat(store, "Hi", "Hello.")
        await store.accept(running, begin=says("Hi"))
        await store.save_turn(running, [], CALL)
        assert await store.claim() == []
    async with Store.open(sqlite_url, instance="same") as store:
        first, second = await store.claim()
        assert first == msgspec.structs.replace(queued, epoch=2)
        assert (second.id, second.epoch, second.pending) == (running.id, 2, CALL)
        assert await store.claim() == []
        assert await store.run(ANN, running.id) == second


async def test_who_has_lost_a_run_writes_no_more(url: str) -> None:
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(Store.open(url, instance="old", lease=-1))
        new = await stack.enter_async_context(Store.open(url, instance="new"))
        run, queued = a_run(), a_run()
        await old.accept(run, begin=says("Hi"))
        await old.accept(queued, begin=None)
        mine, _ = await new.claim()
        assert not await old.save_turn(run, [CALL], CALL)
        assert not await old.finish(run, [AssistantMessage("Old.")], DONE, "Old")
        assert not await old.begin(queued, says("Old"))
        assert await new.finish(mine, [AssistantMessage("New.")], DONE)
        assert await texts(new) == ["Hi", "New."]
        assert [message.content for message in await new.run_messages(mine)] == ["Hi", "New."]
        record = await new.conversation(ANN, "conv")
        assert record is not None
        assert record.title is None


async def test_postgres_claims_only_what_has_outlived_its_lease(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(Store.open(postgres_url, instance="a", lease=-1))
        good = await stack.enter_async_context(Store.open(postgres_url, instance="b", lease=60))
        late, held = a_run("late"), a_run("held")
        await slow.accept(late, begin=None)
        await good.accept(held, begin=None)
        assert [run.id for run in await good.claim()] == [late.id]
        assert await slow.claim() == []


async def test_postgres_leases_are_renewed(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Store.open(postgres_url, instance="a", lease=-1))
        other = await stack.enter_async_context(Store.open(postgres_url, instance="b"))
        run = a_run()
        await one.accept(run, begin=None)
        one._lease = 60
        await one.renew()
        assert await other.claim() == []


async def test_postgres_gives_each_run_to_one_of_those_who_claim_at_once(
    postgres_url: str,
) -> None:
    async with AsyncExitStack() as stack:
        gone, *stores = [
            await stack.enter_async_context(Store.open(postgres_url, instance=name, lease=lease))
            for name, lease in (("gone", -1), ("a", 60), ("b", 60), ("c", 60))
        ]
        ids = []
        for number in range(20):
            run = a_run(f"conv_{number}")
            await gone.accept(run, begin=None)
            ids.append(run.id)
        claimed = await asyncio.gather(*(store.claim() for store in stores for _ in range(3)))
        assert sorted(run.id for runs in claimed for run in runs) == sorted(ids)
        assert {run.epoch for runs in claimed for run in runs} == {2}


async def test_postgres_gives_all_runs_of_a_store_to_one_other(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        gone, a, b = [
            await stack.enter_async_context(Store.open(postgres_url, instance=name, lease=lease))
            for name, lease in (("gone", -1), ("a", 60), ("b", 60))
        ]
        first, second = a_run(), a_run()
        await gone.accept(first, begin=says("Hi"))
        gone._lease = 60
        await gone.accept(second, begin=None)  # behind the first one, and with a later lease
        assert await a.claim() == []
        gone._lease = -1
        await gone.renew()
        engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.begin() as other:
            lock = text("SELECT seq FROM runs WHERE id = :id FOR UPDATE")
            await other.execute(lock, {"id": first.id})
            claims = [asyncio.create_task(store.claim()) for store in (a, b)]
            await asyncio.wait(claims, timeout=0.2)
        await engine.dispose()
        one, none = sorted(await asyncio.gather(*claims), key=len, reverse=True)
        assert [run.id for run in one] == [first.id, second.id]
        assert none == []


async def test_one_key_at_two_stores_is_one_run(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(Store.open(url, instance=name)) for name in ("a", "b")
        ]
        runs = [a_run(f"conv_{number}", key="once") for number in range(8)]
        there = await asyncio.gather(
            *(stores[number % 2].accept(run, begin=says("Hi")) for number, run in enumerate(runs))
        )
        winners = {run.id for run, other in zip(runs, there, strict=True) if other is None}
        assert len(winners) == 1
        assert {other.id for other in there if other is not None} == winners
        assert len((await stores[0].conversations(ANN, limit=99))[0]) == 1


@pytest.mark.parametrize("column", ["start", "pending"])
@pytest.mark.parametrize("strange", ["{", '{"conversation_id": 3, "content": 3}'])
async def test_a_run_that_cannot_be_read_ends_and_the_others_are_claimed(
    url: str, column: str, strange: str
) -> None:
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(Store.open(url, instance="old", lease=-1))
        new = await stack.enter_async_context(Store.open(url, instance="new"))
        odd, good = a_run("odd"), a_run("good")
        for run in (odd, good):
            await old.accept(run, begin=says("Hi"))
            await old.save_turn(run, [], CALL)
        await old._db.write(spoil, column, strange, odd.id)
        assert [run.id for run in await new.claim()] == [good.id]
        ended = await new.run(ANN, odd.id)
        assert ended is not None
        assert isinstance(ended.terminal, RunError)
        assert (ended.terminal.code, ended.status) == ("interrupted", "failed")
        assert not ended.terminal.retryable
        assert (ended.pending, ended.request, ended.finished_at is None) == (None, "", False)
        assert (ended.start.run_id, ended.start.seq, ended.terminal.seq) == (odd.id, 1, 2)
        assert (ended.start.conversation_id, ended.start.agent) == ("odd", "chat")
        assert await texts(new, "odd") == ["Hi"]


async def test_what_a_store_gives_back_another_claims_at_once_and_in_order(url: str) -> None:
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(Store.open(url, instance="old", lease=60))
        runs = [a_run("conv") for _ in range(3)]
        await old.accept(runs[0], begin=says("Hi"))
        await old.save_turn(runs[0], [], CALL)
        for waiting in runs[1:]:
            await old.accept(waiting, begin=None)
        ended = await chat(old, "Ho", "Hello.", conversation_id="other")
        await old.give_back()
        await old.give_back()  # what is not its own any more does not count again
        new = await stack.enter_async_context(Store.open(url, instance="new"))
        claimed = await new.claim()
        assert [run.id for run in claimed] == [run.id for run in runs]
        assert {(run.epoch, run.suspensions) for run in claimed} == {(2, 1)}
        assert (claimed[0].status, claimed[0].pending) == ("running", CALL)
        assert not await old.save_turn(runs[0], [CALL], CALL)
        unchanged = await new.run(ANN, ended.id)
        assert unchanged is not None
        assert (unchanged.epoch, unchanged.suspensions) == (1, 0)


async def test_postgres_claims_runs_in_the_order_in_which_they_came_wherever_their_rows_are(
    server: PostgresServer, postgres_url: str
) -> None:
    name = make_url(postgres_url).database
    for way in ("enable_indexscan", "enable_bitmapscan"):  # as the rows lie in the table
        await administer(server, f"ALTER DATABASE {name} SET {way} = off")
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(Store.open(postgres_url, instance="old", lease=-1))
        new = await stack.enter_async_context(Store.open(postgres_url, instance="new"))
        runs = [a_run(f"conv_{number}") for number in range(5)]
        for run in runs:
            await old.accept(run, begin=says("Hi"))
        for run in reversed(runs):  # a row that is changed goes to the end of the table
            await old.save_turn(run, [], CALL)
        assert [run.id for run in await new.claim()] == [run.id for run in runs]


async def test_a_store_gives_back_only_its_own(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        one, two, three = [
            await stack.enter_async_context(Store.open(postgres_url, instance=name, lease=60))
            for name in ("a", "b", "c")
        ]
        mine, theirs = a_run("mine"), a_run("theirs")
        await one.accept(mine, begin=None)
        await two.accept(theirs, begin=None)
        await one.give_back()
        await one.renew()
        assert [run.id for run in await three.claim()] == [mine.id]


async def test_what_was_given_back_and_then_interrupted_was_interrupted_once(url: str) -> None:
    run = a_run()
    async with Store.open(url, instance="a") as store:
        await store.accept(run, begin=says("Hi"))
        await store.give_back()
    async with Store.open(url, instance="b", lease=-1) as store:
        await store.claim()
    async with Store.open(url, instance="c") as store:
        [claimed] = await store.claim()
        assert (claimed.epoch, claimed.suspensions) == (3, 1)
