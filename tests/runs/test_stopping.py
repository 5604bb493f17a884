"""Stopping the registry, and its agents."""

import asyncio

import pytest

from errors import (
    Conflict,
    Invalid,
    NotFound,
    TooMany,
    Unavailable,
    UpstreamError,
)
from models import AgentConfig
from tests.agent.support import until
from tests.runs.support import (
    CALLER,
    LIMITS,
    SUM,
    Paused,
    Troubled,
    answered,
    ended,
    history,
    opened,
    started,
)
from tests.scripted import Gate, ScriptedProvider, says
from tests.service import running

# Stopping.


async def test_a_service_that_drains_refuses_new_runs_and_finishes_the_others() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, "key", conversation_id="c")
        second = await started(registry, conversation_id="c")
        await paused.reached(1)
        registry.drain()
        with pytest.raises(Unavailable) as caught:
            await started(registry)
        assert caught.value.retry_after == LIMITS.shutdown_grace
        assert (await started(registry, "key", conversation_id="c")).id == first.id
        for number in (1, 2):
            (await paused.reached(number)).open()
        await ended(registry, first, second)
        assert (first.status, second.status) == ("completed", "completed")


async def test_a_message_that_could_not_be_begun_is_kept_when_the_storage_can_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.runner.RETRY", 0.005)
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c", message="one")
        gate = await paused.reached(1)
        second = await started(registry, conversation_id="c", message="two")
        trouble = Troubled(registry, "begin", "finish")
        gate.open()
        await ended(registry, first, second)
        assert second.status == "failed"
        trouble.repair()
        await until(lambda: not registry.endings.has_waiting)
        said = [message.content for message in await history(registry, second)]
        assert said == ["one", "ab", "two"]


async def test_leaving_closes_the_provider() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        await started(registry)
        await paused.reached(1)
    assert paused.provider.is_closed
    assert paused.provider.open_streams == 0


@pytest.mark.parametrize("failure", [UpstreamError("No connection."), ZeroDivisionError()])
async def test_a_provider_that_cannot_be_prepared_does_not_stop_the_service(
    failure: Exception,
) -> None:
    class Unreachable(ScriptedProvider):
        async def warm(self) -> None:
            raise failure

    async with opened(Unreachable(says("Here."))) as registry:
        await registry.inner.warmed()
        assert await answered(registry) == "Here."


async def test_leaving_does_not_wait_for_a_provider_that_is_still_being_prepared() -> None:
    class Slow(ScriptedProvider):
        async def warm(self) -> None:
            await asyncio.Event().wait()

    async with asyncio.timeout(3):
        async with opened(Slow(says("Here."))) as registry:
            assert await answered(registry) == "Here."


# Agents.


async def test_the_default_agent_is_there_with_every_default_filled_in() -> None:
    async with opened() as registry:
        assistant, info = registry.agents.all(CALLER)
        assert registry.agents.info(CALLER, "chat") == info
        assert assistant.agent_name == "assistant"
        assert (info.agent_name, info.name, info.built_in) == ("chat", "chat", True)
        assert (info.instructions, info.model) == ("Be brief.", "scripted-1")
        assert info.tools == ["add", "hang", "fail"]


async def test_an_agent_is_created_replaced_and_deleted() -> None:
    async with opened() as registry:
        assert await registry.agents.put(
            CALLER, "b", AgentConfig(instructions="Rhyme.", tools=["add", "add"])
        )
        assert registry.agents.info(CALLER, "b").tools == ["add"]
        assert not registry.agents.info(CALLER, "b").built_in
        assert not await registry.agents.put(
            CALLER, "b", AgentConfig(tools=[], model="big-1", name="Bee")
        )
        info = registry.agents.info(CALLER, "b")
        assert (info.name, info.instructions, info.tools) == ("Bee", "Be brief.", [])
        assert [agent.agent_name for agent in registry.agents.all(CALLER)] == [
            "assistant",
            "b",
            "chat",
        ]
        run = await started(registry, agent="b")
        await ended(registry, run)
        assert (run.start.agent, run.start.model) == ("b", "big-1")
        await registry.agents.delete(CALLER, "b")
        with pytest.raises(NotFound) as caught:
            registry.agents.info(CALLER, "b")
        assert caught.value.code == "agent_not_found"
        with pytest.raises(NotFound):
            await registry.agents.delete(CALLER, "b")
        with pytest.raises(NotFound):
            await started(registry, agent="b")


async def test_the_default_agent_can_be_replaced_but_not_deleted() -> None:
    async with opened() as registry:
        with pytest.raises(Conflict):
            await registry.agents.delete(CALLER, "chat")
        assert not await registry.agents.put(CALLER, "chat", AgentConfig(instructions="Rhyme."))
        assert registry.agents.info(CALLER, "chat").built_in
        await answered(registry)
        assert isinstance(registry.provider, ScriptedProvider)
        assert registry.provider.requests[0].messages[0].content == "Rhyme."


async def test_a_configuration_with_faults_is_refused_and_every_fault_named() -> None:
    async with opened(allowed_models=frozenset({"small-1"})) as registry:
        config = AgentConfig(tools=["add", "rm", "mv"], model="big-1")
        with pytest.raises(Invalid) as caught:
            await registry.agents.put(CALLER, "b", config)
        faults = [fault["field"] for fault in caught.value.errors]
        assert faults == ["tools", "tools", "model"]
        assert "'rm'" in caught.value.errors[0]["message"]
        assert "small-1" in caught.value.errors[2]["message"]
        with pytest.raises(NotFound):
            registry.agents.info(CALLER, "b")
        assert await registry.agents.put(CALLER, "b", AgentConfig(model="small-1"))
        assert await registry.agents.put(CALLER, "c", AgentConfig())


class Prefixed(ScriptedProvider):
    """A provider whose models have two names each."""

    def answering(self, wanted: str | None) -> str:
        return (wanted or self.default_model).removeprefix("scripted:")


async def test_a_model_may_be_asked_for_by_any_of_its_names() -> None:
    allowed = frozenset({"scripted:small-1", "mid-1"})
    async with opened(Prefixed(), allowed_models=allowed) as registry:
        agents = registry.agents
        for name in ("small-1", "scripted:small-1", "scripted:mid-1", "scripted-1"):
            await agents.put(CALLER, "a", AgentConfig(model=name))
            assert agents.resolve(CALLER, name) == ("chat", name)
        with pytest.raises(Invalid) as caught:
            await agents.put(
                CALLER, "b", AgentConfig(fallback_models=["small-1", "scripted:big-1"])
            )
        assert [fault["field"] for fault in caught.value.errors] == ["fallback_models"]
        with pytest.raises(NotFound) as missing:
            agents.resolve(CALLER, "big-1")
        assert missing.value.code == "model_not_found"


async def test_what_a_client_calls_a_model_is_an_agent_or_else_a_model() -> None:
    async with running() as service:
        agents = service.registry.agents
        await agents.put(CALLER, "b", AgentConfig())
        for name in ("chat", "b", "research"):
            assert agents.resolve(CALLER, name) == (name, None)
        assert agents.resolve(CALLER, "gpt-big") == ("chat", "gpt-big")


async def test_there_are_no_more_agents_than_may_be() -> None:
    async with opened(max_agents=3) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig())
        with pytest.raises(TooMany):
            await registry.agents.put(CALLER, "c", AgentConfig())
        assert not await registry.agents.put(CALLER, "b", AgentConfig(instructions="Rhyme."))
        await registry.agents.delete(CALLER, "b")
        assert await registry.agents.put(CALLER, "c", AgentConfig())


async def test_a_run_under_way_keeps_the_agent_that_it_began_with() -> None:
    gate = Gate()
    provider = ScriptedProvider([gate, *SUM], says("3."), says("Rhyme."))
    async with opened(provider) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig(instructions="Old.", tools=["add"]))
        run = await started(registry, agent="b", conversation_id="c")
        await gate.reached()
        await registry.agents.put(CALLER, "b", AgentConfig(instructions="New.", tools=[]))
        gate.open()
        await ended(registry, run)
        await answered(registry, agent="b", conversation_id="c")
        told = [request.messages[0].content for request in provider.requests]
        assert told == ["Old.", "Old.", "New."]
        assert [len(request.tools) for request in provider.requests] == [1, 1, 0]


async def test_deleting_an_agent_does_not_end_its_run() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig())
        run = await started(registry, agent="b")
        gate = await paused.reached(1)
        await registry.agents.delete(CALLER, "b")
        gate.open()
        await ended(registry, run)
        assert run.status == "completed"


async def test_the_demo_never_claims_to_be_the_model_that_an_agent_names() -> None:
    async with running() as service:
        await service.json("POST", "/agents/fancy", 201, json={"model": "gpt-4-turbo-preview"})
        answer = await service.json("POST", "/chat", json={"message": "hi", "agent": "fancy"})
        assert answer["model"] == "demo"


async def test_agents_take_no_more_bytes_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.agents.AGENTS_BYTES", 250_000)
    large, small = AgentConfig(instructions="x" * 100_000), AgentConfig()
    async with opened(max_agents=100) as registry:
        agents = registry.agents
        for name in ("a", "b"):
            await agents.put(CALLER, name, large)
        with pytest.raises(TooMany, match="memory"):
            await agents.put(CALLER, "c", large)
        await agents.put(CALLER, "a", large)
        await agents.put(CALLER, "c", small)
        puts = [agents.put(CALLER, f"d{n}", small) for n in range(100)]
        ends = await asyncio.gather(*puts, return_exceptions=True)
        assert any(isinstance(end, TooMany) for end in ends)
        assert sum(agents._sizes.values()) <= 250_000
        assert len(agents._sizes) == len(await registry.store.agents())
        await agents.delete(CALLER, "a")
        await agents.put(CALLER, "c", large)
