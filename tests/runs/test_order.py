"""What is stored before what is said, and in which order."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import ChatComplete, ReaderEvent, RunError, ToolCallError, ToolCallStart
from hub import LogNotFound
from messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from models import AgentConfig
from storage import StoredRun
from storage.store import Store
from tests.agent.support import check_history, until
from tests.runs.support import (
    CALLER,
    SUM,
    Paused,
    ask,
    ended,
    everything,
    history,
    opened,
    started,
)
from tests.runs.test_recovering import CALL, act, leave_behind, recovered
from tests.scripted import Gate, ScriptedProvider, asks, says, types


class HeldUp:
    """Holds up a method of a store, for one run or for all, and notes which runs came."""

    def __init__(self, store: Store, name: str, of: Callable[[StoredRun], bool]) -> None:
        self.gate = Gate()
        self.came: list[str] = []
        self._of = of
        self._method = getattr(store, name)
        setattr(store, name, self)

    async def __call__(self, run: StoredRun, *args: Any, **kwargs: Any) -> Any:
        self.came.append(run.id)
        if self._of(run):
            await self.gate.pass_through()
        return await self._method(run, *args, **kwargs)


def any_run(run: StoredRun) -> bool:
    return True


async def turns_of_the_loop(count: int = 20) -> None:
    """Let every task do what it can do without waiting for anything else."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_end_of_a_run_is_said_when_it_is_stored_and_not_before() -> None:
    async with opened() as registry:
        storing = HeldUp(registry.store, "finish", any_run)
        run = await started(registry, conversation_id="c")
        reader = await registry.read(run.id)
        got: list[ReaderEvent] = []
        await storing.gate.reached()
        waiting = asyncio.create_task(everything(registry, run))
        await turns_of_the_loop()
        got += await reader.read()
        assert types(got) == ["chat_start", "chat_chunk", "chat_chunk"]
        assert not waiting.done()
        assert (run.status, run.terminal) == ("running", None)
        storing.gate.open()
        assert isinstance((await waiting)[-1], ChatComplete)
        await ended(registry, run)


async def test_a_turn_that_is_cancelled_while_it_is_stored_is_stored_once() -> None:
    async with opened(ScriptedProvider(SUM, says("Never said."))) as registry:
        storing = HeldUp(registry.store, "save_turn", lambda run: len(storing.came) == 2)
        run = await started(registry, conversation_id="c")
        await storing.gate.reached()
        await registry.cancel(run.id)
        await turns_of_the_loop()
        assert run.terminal is None
        storing.gate.open()
        await ended(registry, run)
        assert run.status == "cancelled"
        said = await history(registry, run)
        check_history(said)
        assert [message.content for message in said] == ["Hi.", "Well: ", "3"]


async def test_a_message_that_is_interrupted_as_it_waits_lands_behind_the_answer_before_it() -> (
    None
):
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c", message="one")
        await paused.reached(1)
        second = await started(registry, conversation_id="c", message="two")
        storing = HeldUp(registry.store, "finish", lambda run: run.id == first.id)
        third = await started(registry, conversation_id="c", message="three", if_busy="interrupt")
        await storing.gate.reached()
        await turns_of_the_loop()
        assert storing.came == [first.id]
        storing.gate.open()
        (await paused.reached(2)).open()
        await ended(registry, first, second, third)
        assert storing.came == [first.id, second.id, third.id]
        assert [run.status for run in (first, second, third)] == [
            "cancelled",
            "cancelled",
            "completed",
        ]
        said = [message.content for message in await history(registry, third)]
        assert said == ["one", "a", "two", "three", "ab"]


async def left_by_an_agent_that_is_gone(path: Path) -> StoredRun:
    async with opened(path=path) as registry:
        await registry.agents.put(CALLER, "gone", AgentConfig())
    stored = await leave_behind(path, pending=CALL, agent="gone")
    async with Store.open(f"sqlite:///{path}", instance="between") as store:
        await store.delete_agent(CALLER, "gone")
    return stored


async def test_the_calls_of_an_agent_that_is_gone_after_a_crash_are_kept_as_not_known(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    stored = await left_by_an_agent_that_is_gone(path)
    async with opened(path=path, tools=[act]) as registry:
        run = await registry.run(stored.id)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "agent_not_found"
        user, call, result = await history(registry, run)
        assert (user, call) == (UserMessage("Hi."), CALL)
        assert isinstance(result, ToolMessage)
        assert (result.tool_call_id, result.name, result.is_error) == ("c0", "act", True)
        assert "not known" in result.content


async def test_a_crash_in_a_hand_off_leaves_the_agent_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    await with_a_team(path)
    calls = (ToolCall("c0", "transfer_to_b", "{}"), ToolCall("c1", "act", "{}"))
    stored = await leave_behind(path, pending=AssistantMessage("Wait.", calls), agent="front")
    provider = ScriptedProvider(asks(("transfer_to_b", {})), says("Here is b."))
    async with opened(provider, path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        events = await everything(registry, run)
        check_history(await history(registry, run))
    failed = [event.tool_call for event in events if isinstance(event, ToolCallError)]
    assert [(call.id, call.code) for call in failed] == [
        ("c0", "interrupted"),
        ("c1", "interrupted"),
    ]
    assert not any(isinstance(event, ToolCallStart) for event in events)
    assert [request.messages[0].content for request in provider.requests] == ["Front.", "Be b."]


async def test_after_a_crash_behind_a_hand_off_the_next_one_goes_on_with_its_own_model(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    await with_a_team(path)
    provider = ScriptedProvider(asks(("transfer_to_b", {})), [Gate()])
    async with opened(provider, path=path, tools=[act]) as registry:
        asked = ask(agent="front", conversation_id="c")
        run = await registry.start(msgspec.structs.replace(asked, model="asked-1"))
        await until(lambda: len(provider.requests) == 2)
        stored = run.stored
    again = ScriptedProvider(says("Here is b."))
    async with opened(again, path=path, tools=[act]) as registry:
        await recovered(registry, stored)
    assert [request.model for request in provider.requests] == ["asked-1", "small-1"]
    [request] = again.requests
    assert (request.messages[0].content, request.model) == ("Be b.", "small-1")


async def with_a_team(path: Path) -> None:
    async with opened(path=path, tools=[act]) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig(instructions="Be b.", model="small-1"))
        front = AgentConfig(instructions="Front.", handoffs=["b"])
        await registry.agents.put(CALLER, "front", front)


async def test_a_run_that_has_its_turn_begins_in_the_step_that_stores_it() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        beginning = HeldUp(registry.store, "begin", lambda run: False)
        first = await started(registry, conversation_id="c", message="one")
        assert first.status == "running"
        second = await started(registry, conversation_id="c", message="two")
        assert second.status == "queued"
        (await paused.reached(1)).open()
        (await paused.reached(2)).open()
        await ended(registry, first, second)
        assert beginning.came == [second.id]


async def test_observers_are_shown_the_end_of_what_the_stop_of_the_service_ends() -> None:
    seen: list[str] = []

    class Seeing:
        def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
            seen.extend(types(events))

    paused = Paused()
    async with opened(paused.provider, observers=[Seeing()]) as registry:
        await started(registry)
        await paused.reached(1)
    assert seen == ["chat_start", "chat_chunk", "suspended"]


async def test_observers_are_closed_after_the_last_run_however_long_its_end_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.observers.CLOSE_TIMEOUT", 0.05)
    seen: list[str] = []

    class Seeing:
        def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
            seen.extend(types(events))

    paused = Paused()
    async with opened(paused.provider, observers=[Seeing()]) as registry:
        storing = HeldUp(registry.store, "finish", any_run)
        await registry.start(msgspec.structs.replace(ask(), is_kept=False))
        await paused.reached(1)
        asyncio.get_running_loop().call_later(0.3, storing.gate.open)
    assert seen == ["chat_start", "chat_chunk", "error"]


async def test_the_log_of_a_run_goes_with_its_conversation() -> None:
    async with opened() as registry:
        runs = [await started(registry, conversation_id=name) for name in "ab"]
        await ended(registry, *runs)
        assert await registry.delete(CALLER, "a")
        logs = registry.inner._hub
        with pytest.raises(LogNotFound):
            await logs.read(runs[0].id, None)
        assert not (await logs.read(runs[1].id, None)).ended
