"""What is done now and then, agents that are stored, and what cannot be done to a run."""

import asyncio
from typing import Any

import pytest

from errors import Conflict, NotFound, Unavailable
from events import ChatComplete
from loop.state import RunState
from models import AgentConfig
from runs.agents import Roster
from storage import StorageUnavailable
from tests.agent.support import Held, until
from tests.runs.support import (
    CALLER,
    LIMITS,
    Paused,
    Registry,
    Troubled,
    ended,
    opened,
    started,
)
from tests.runs.test_order import HeldUp, any_run
from tests.scripted import ScriptedProvider, asks, says

ROUNDS = ("renew", "claim", "expire")


class Counted:
    """Counts the calls of some methods of a store."""

    def __init__(self, registry: Registry, *names: str) -> None:
        self.calls = dict.fromkeys(names, 0)
        self._sound = {name: getattr(registry.store, name) for name in names}
        for name in names:
            setattr(registry.store, name, self._counting(name))

    def _counting(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return await self._sound[name](*args, **kwargs)

        return call


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    monkeypatch.setattr("runs.runner.RETRY", 0.005)


@pytest.mark.usefixtures("quick")
async def test_leases_are_renewed_and_what_is_left_is_taken_up_and_what_is_old_goes() -> None:
    async with opened() as registry:
        counted = Counted(registry, *ROUNDS)
        await until(lambda: min(counted.calls.values()) >= 3)
        registry.drain()
        claims = counted.calls["claim"]
        await until(lambda: counted.calls["renew"] >= 10)
        assert counted.calls["claim"] <= claims + 1


@pytest.mark.usefixtures("quick")
async def test_a_database_that_fails_once_does_not_end_the_rounds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as registry:
        trouble = Troubled(registry, "renew")
        await until(lambda: trouble.asked >= 3)
        assert "cannot be tidied now" in caplog.text
        trouble.repair()
        counted = Counted(registry, *ROUNDS)
        await until(lambda: min(counted.calls.values()) >= 2)


@pytest.mark.usefixtures("quick")
async def test_a_run_that_has_ended_goes_from_the_database_after_its_time() -> None:
    async with opened(run_ttl=0.02, max_runs=0) as registry:
        run = await started(registry)
        await ended(registry, run)
        async with asyncio.timeout(10):
            while await registry.store.run(CALLER, run.id):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.005)


async def test_an_agent_that_could_not_be_deleted_or_stored_stays_as_it_was() -> None:
    async with opened() as registry:
        await registry.agents.put(CALLER, "b", AgentConfig(instructions="Old."))
        trouble = Troubled(registry, "delete_agent", "put_agent")
        with pytest.raises(StorageUnavailable):
            await registry.agents.delete(CALLER, "b")
        with pytest.raises(StorageUnavailable):
            await registry.agents.put(CALLER, "b", AgentConfig(instructions="New."))
        with pytest.raises(StorageUnavailable):
            await registry.agents.put(CALLER, "c", AgentConfig())
        assert registry.agents.info(CALLER, "b").instructions == "Old."
        assert registry.agents.names(CALLER) == ["assistant", "b", "chat"]
        trouble.repair()
        await registry.agents.delete(CALLER, "b")
        assert registry.agents.names(CALLER) == ["assistant", "chat"]


async def test_the_agents_of_a_tenant_are_its_own() -> None:
    other = CALLER._replace(tenant="other")
    async with opened(allowed_models=frozenset({"small-1"})) as registry:
        agents = registry.agents
        await agents.put(other, "b", AgentConfig())
        assert agents.names(CALLER) == ["assistant", "chat"]
        assert agents.names(other) == ["assistant", "b", "chat"]
        with pytest.raises(NotFound):
            agents.find(CALLER, "b")
        assert agents.find(other, "b").name == "b"
        assert agents.models() == ["scripted-1", "small-1"]
        assert agents.fixed() == []


async def test_a_stored_agent_that_does_not_fit_any_more_is_left_out_and_the_others_are_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as registry:
        stored = {
            "a": '{"tools": ["gone"]}',
            "b": '{"temperature": "hot"}',
            "c": '{"instructions": "Rhyme."}',
        }
        for name, config in stored.items():
            await registry.store.put_agent(CALLER, name, config, built_in=(), limit=10)
        await registry.agents.load()
        assert registry.agents.names(CALLER) == ["assistant", "c", "chat"]
        assert registry.agents.info(CALLER, "c").instructions == "Rhyme."
        assert "'a' does not fit" in caplog.text
        assert "'b' does not fit" in caplog.text


async def test_what_is_not_there_cannot_be_deleted() -> None:
    async with opened() as registry:
        assert await registry.delete(CALLER, "none") is False
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert await registry.delete(CALLER, "c") is True
        with pytest.raises(NotFound):
            await registry.run(run.id)


async def test_a_conversation_is_not_deleted_under_a_run_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.registry.CANCEL_WAIT", 0.02)
    paused = Paused()
    async with opened(paused.provider) as registry:
        storing = HeldUp(registry.store, "finish", any_run)
        run = await started(registry, conversation_id="c")
        await paused.reached(1)
        for way in (registry.delete, registry.clear):
            with pytest.raises(Conflict) as caught:
                await way(CALLER, "c")
            assert caught.value.code == "conversation_busy"
        storing.gate.open()
        await ended(registry, run)
        assert await registry.store.context(CALLER, "c", 10) != []


async def test_a_cancel_may_wait_for_the_end() -> None:
    held = Held()
    provider = ScriptedProvider(asks(("held", {})), says("Never."))
    async with opened(provider, tools=[held.held]) as registry:
        run = await started(registry)
        await until(held.entered.is_set)
        stored = await registry.inner.cancel(CALLER, run.id, wait=10)
        held.released.set()
        assert (stored.status, run.status) == ("cancelled", "cancelled")


async def test_a_cancel_waits_no_longer_than_it_was_told() -> None:
    async with opened() as registry:
        storing = HeldUp(registry.store, "finish", any_run)
        run = await started(registry)
        await storing.gate.reached()
        stored = await registry.inner.cancel(CALLER, run.id, wait=0.01)
        assert stored.terminal is None
        storing.gate.open()
        await ended(registry, run)


async def test_the_run_that_has_its_turn_is_told_of_when_it_is_accepted() -> None:
    async with opened() as registry:
        storing = HeldUp(registry.store, "accept", any_run)
        starting = asyncio.create_task(started(registry, conversation_id="c"))
        await storing.gate.reached()
        asking = asyncio.create_task(registry.active_run("c"))
        assert await registry.inner.open_runs(CALLER, "c") == []
        await asyncio.wait([asking], timeout=0)
        assert not asking.done()
        storing.gate.open()
        run = await starting
        found = await asking
        assert found is not None
        assert found.id == run.id
        await ended(registry, run)


async def test_who_waits_until_the_provider_is_warm_waits_for_that() -> None:
    go = asyncio.Event()

    class Slow(ScriptedProvider):
        async def warm(self) -> None:
            await go.wait()

    async with opened(Slow()) as registry:
        warming = asyncio.create_task(registry.inner.warmed())
        await asyncio.wait([warming], timeout=0)
        assert not warming.done()
        go.set()
        await asyncio.wait([warming], timeout=10)
        assert warming.done()


async def test_a_service_that_is_full_or_stopping_says_when_to_come_again() -> None:
    paused = Paused()
    async with opened(paused.provider, max_active_runs=1) as registry:
        run = await started(registry)
        with pytest.raises(Unavailable) as caught:
            await started(registry)
        assert caught.value.retry_after == 1
        (await paused.reached(1)).open()
        await ended(registry, run)


async def test_what_could_not_be_stored_is_tried_often_and_the_rest_is_done_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.runner.RETRY", 0.005)
    async with opened() as registry:
        trouble = Troubled(registry, "finish")
        counted = Counted(registry, *ROUNDS)
        await ended(registry, await started(registry))
        registry.inner._housekeeping.cancel()
        again = asyncio.create_task(registry.inner._runner.keep_house())
        await until(lambda: trouble.asked > 5)
        trouble.repair()
        await until(lambda: not registry.endings.has_waiting)
        again.cancel()
        assert max(counted.calls.values()) <= 2  # once by each of the two tasks


async def test_while_the_service_leaves_nothing_new_is_begun() -> None:
    faults: list[object] = []
    async with opened() as registry:
        storing = HeldUp(registry.store, "finish", any_run)
        run = await started(registry)
        await storing.gate.reached()

        async def come_late() -> None:
            try:
                await started(registry)
            except Unavailable as error:
                faults.append(error.retry_after)
            storing.gate.open()

        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(come_late()))
    assert faults == [LIMITS.shutdown_grace]
    assert run.status == "completed"


async def test_an_agent_of_another_kind_goes_before_a_configured_one_of_its_name() -> None:
    class Special:
        name, model, remembers = "b", "special-1", False

        async def run(self, state: RunState) -> ChatComplete:
            raise NotImplementedError

    async with opened() as registry:
        await registry.store.put_agent(CALLER, "b", "{}", built_in=(), limit=10)
        special = Special()
        roster = Roster(
            provider=registry.provider,
            store=registry.store,
            tools={},
            workers=registry.inner._workers,
            special=[special],
            instructions="",
            allowed_models=frozenset({"scripted-1"}),
            limit=5,
        )
        await roster.load()
        assert roster.find(CALLER, "b") is special
        assert roster.fixed() == ["b"]
        assert roster.names(CALLER) == ["assistant", "b", "chat"]
        assert roster.resolve(CALLER, "b") == ("b", None)
        with pytest.raises(Conflict):
            await roster.put(CALLER, "b", AgentConfig())


@pytest.mark.usefixtures("quick")
async def test_a_mistake_in_a_round_ends_neither_the_rounds_nor_the_service(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as registry:
        with monkeypatch.context() as broken:
            broken.setattr(registry.store, "renew", mistaken)
            await until(lambda: "could not be tidied" in caplog.text)
        assert not registry.draining
        counted = Counted(registry, *ROUNDS)
        await until(lambda: min(counted.calls.values()) >= 2)


async def mistaken() -> None:
    raise RuntimeError("no such table")
