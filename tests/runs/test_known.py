"""Which runs are known here, for how long, and what is refused before one is."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from errors import Invalid
from events import ChatComplete, ChatStart, Reset, RunError
from messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from models import AgentConfig
from runs.replay import MAX_EPOCHS, replay_of
from tests.agent.support import check_history, until
from tests.runs.support import (
    CALLER,
    Handle,
    Paused,
    ended,
    everything,
    history,
    opened,
    started,
)
from tests.runs.test_order import HeldUp
from tests.runs.test_recovering import HANDED_OVER, act, leave_behind, recovered
from tests.scripted import DEADLINE, types


async def test_of_the_runs_that_have_ended_the_newest_are_known() -> None:
    async with opened(max_runs=2) as registry:
        index = registry.inner._index
        runs: list[Handle] = []
        for _ in range(5):
            runs.append(await started(registry, key=f"key-{len(runs)}"))
            await ended(registry, runs[-1])
        await until(lambda: registry.active_runs == 0)
        assert [index.find(run.id) is not None for run in runs] == [False] * 3 + [True] * 2
        keys = [index.of_key(CALLER, f"key-{number}") for number in range(5)]
        assert keys == [None, None, None, runs[3].id, runs[4].id]


async def test_a_run_that_has_ended_is_known_for_its_time() -> None:
    async with opened(run_ttl=0.05) as registry:
        index = registry.inner._index
        run = await started(registry, key="key")
        await ended(registry, run)
        await until(lambda: index.find(run.id) is None)
        assert index.of_key(CALLER, "key") is None


async def test_a_run_under_way_is_known_however_many_have_ended() -> None:
    paused = Paused()
    async with opened(paused.provider, max_runs=1) as registry:
        first = await started(registry, key="key")
        gate = await paused.reached(1)
        for number in (2, 3, 4):
            other = await started(registry)
            (await paused.reached(number)).open()
            await ended(registry, other)
        assert registry.inner._index.find(first.id) is first.stored
        assert registry.inner._index.of_key(CALLER, "key") == first.id
        gate.open()
        await ended(registry, first)


@pytest.mark.parametrize("handoffs", [["nobody"], ["b"], ["chat", "nobody"]])
async def test_an_agent_hands_over_to_others_that_are_there(handoffs: Sequence[str]) -> None:
    async with opened() as registry:
        config = AgentConfig(handoffs=[*handoffs])
        with pytest.raises(Invalid) as caught:
            await registry.agents.put(CALLER, "b", config)
        assert [fault["field"] for fault in caught.value.errors] == ["handoffs"]
        assert repr(handoffs[-1]) in caught.value.errors[0]["message"]
        assert await registry.agents.put(CALLER, "b", AgentConfig(handoffs=["chat"]))
        with pytest.raises(Invalid):
            await registry.agents.put(CALLER, "b", AgentConfig(handoffs=["b"]))


CALL_OF_B = AssistantMessage("Now: ", (ToolCall("c9", "act", "{}"),))


async def test_calls_under_way_are_kept_where_the_agent_that_made_them_cannot_go_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        await registry.agents.put(CALLER, "front", AgentConfig())
    stored = await leave_behind(path, messages=HANDED_OVER, pending=CALL_OF_B, agent="front")
    async with opened(path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "agent_not_found"
        said = await history(registry, run)
        check_history(said)
        assert said[:4] == [UserMessage("Hi."), *HANDED_OVER, CALL_OF_B]
        assert isinstance(said[4], ToolMessage)
        assert "not known" in said[4].content


async def test_a_message_that_is_interrupted_as_it_waits_is_kept_though_the_service_breaks_off(
    tmp_path: Path,
) -> None:
    path, paused = tmp_path / "p.db", Paused()

    async def breaks_off() -> None:
        async with opened(paused.provider, path=path) as registry:
            first = await started(registry, conversation_id="c", message="one")
            await paused.reached(1)
            await started(registry, conversation_id="c", message="two")
            storing = HeldUp(registry.store, "finish", lambda run: run.id == first.id)
            await started(registry, conversation_id="c", message="three", if_busy="interrupt")
            await storing.gate.reached()
            asyncio.get_running_loop().call_later(0.05, storing.gate.open)
            raise KeyError("what the service was in the middle of")

    async with asyncio.timeout(DEADLINE):
        with pytest.raises(ExceptionGroup):
            await breaks_off()
    async with opened(path=path) as registry:
        await until(lambda: registry.active_runs == 0)
        said = [message.content for message in await registry.store.context(CALLER, "c", 100)]
        assert said[:3] == ["one", "a", "two"]


async def test_a_run_that_only_waited_begins_however_often_the_service_was_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    stored = await leave_behind(path, begun=False, epoch=MAX_EPOCHS + 2)
    async with opened(path=path) as registry:
        run = await recovered(registry, stored)
        assert isinstance(run.terminal, ChatComplete)
        assert [message.content for message in await history(registry, run)] == [
            "Hi.",
            "You said: Hi.",
        ]


DONE = ChatComplete(run_id="run_1", seq=9, final_response="So.", finish_reason="stop", usage=None)
BEGAN = ChatStart(
    run_id="run_1", seq=1, conversation_id="c", agent="chat", model="m", message_id="msg_1"
)


@pytest.mark.parametrize(
    ("after", "rest"),
    [
        (None, ["reset", "chat_start", "chat_chunk", "chat_complete"]),
        ("8", ["reset", "chat_start", "chat_chunk", "chat_complete"]),
        ("9", []),
        ("10", []),
        ("run_1:2:8", ["reset", "chat_start", "chat_chunk", "chat_complete"]),
        ("run_1:2:9", []),
        ("run_1:1:9", ["reset", "chat_start", "chat_chunk", "chat_complete"]),
    ],
)
async def test_of_a_log_that_is_gone_everything_is_told_but_to_who_has_the_end(
    after: str | None, rest: Sequence[str]
) -> None:
    reader = replay_of(BEGAN, DONE, [], epoch=2, after=after)
    assert (reader.epoch, reader.seq) == (2, 0)
    events = await reader.read()
    assert types(events) == rest
    assert reader.ended
    assert [event.seq for event in events if not isinstance(event, Reset)] == [1, 2, 9][: len(rest)]


async def test_what_was_said_before_is_still_told_as_it_was() -> None:
    async with opened() as registry:
        first = await started(registry, conversation_id="c")
        await ended(registry, first)
        before = await everything(registry, first)
        await ended(registry, await started(registry, conversation_id="c"))
        assert await everything(registry, first) == before


async def test_a_run_that_is_forgotten_leaves_nothing_behind() -> None:
    async with opened(max_runs=0) as registry:
        index = registry.inner._index
        for key in (None, "key"):
            run = await started(registry, key)
            await ended(registry, run)
        await until(lambda: registry.active_runs == 0)
        assert index.find(run.id) is None
        tables = [each for each in vars(index).values() if isinstance(each, dict)]
        assert len(tables) >= 3
        assert not any(tables)
