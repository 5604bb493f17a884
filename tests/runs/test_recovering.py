"""The registry after a crash: what goes on, what ends, what is told again."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from caller import Caller
from errors import NotFound, ToolError
from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ReaderEvent,
    Reset,
    RunError,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
)
from hub import cursor
from messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from models import AgentConfig
from runs.replay import MAX_EPOCHS, replayed
from runs.request import RunRequest, encoded
from storage import Begin, StorageUnavailable, StoredRun
from storage.store import Store
from tests.agent.support import check_history, until
from tests.runs.support import (
    CALLER,
    Handle,
    Paused,
    Registry,
    Troubled,
    ask,
    check_log,
    ended,
    everything,
    history,
    opened,
    started,
)
from tests.scripted import DEADLINE, ScriptedProvider, asks, says, types
from tools.tool import idempotent

CALL = AssistantMessage("Well: ", (ToolCall("c0", "act", "{}"),))
RESULT = ToolMessage("c0", "act", '"done"')
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def admitted(registry: Registry, request: RunRequest) -> StoredRun:
    """Return a run as it is to be stored, without beginning it."""
    agent = registry.agents.find(CALLER, request.agent or "chat")
    stored = registry.inner._stored(CALLER, request, agent, request.conversation_id or "c")
    return msgspec.structs.replace(stored, request=encoded(request))


async def _dead() -> None:
    """Give nothing back: who was killed cannot."""


async def leave_behind(
    path: Path,
    *,
    messages: Sequence[Message] = (),
    pending: AssistantMessage | None = None,
    begun: bool = True,
    epoch: int = 1,
    **fields: Any,
) -> StoredRun:
    """Store a run as a service that was killed leaves it."""
    async with opened(path=path) as registry:
        request = ask(**{"conversation_id": "c"} | fields)
        stored = admitted(registry, request)
        begin = request.begin
        store = registry.store
        await store.accept(stored, begin=begin if begun else None)
        if messages or pending:
            await store.save_turn(stored, messages, pending)
        store.give_back = _dead  # type: ignore[method-assign]
    for _ in range(epoch - 1):
        async with Store.open(f"sqlite:///{path}", instance="killed") as other:
            [stored] = await other.claim()
    return stored


async def recovered(registry: Registry, stored: StoredRun) -> Handle:
    run = await registry.run(stored.id)
    await ended(registry, run)
    return run


def act() -> str:
    """Act."""
    return "again"


async def test_a_run_that_was_under_way_goes_on_and_ends_once(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    stored = await leave_behind(path, message="Tell me.")
    async with opened(path=path) as registry:
        run = await recovered(registry, stored)
        assert isinstance(run.terminal, ChatComplete)
        assert run.terminal.final_response == "You said: Tell me."
        assert await history(registry, run) == [
            UserMessage("Tell me."),
            AssistantMessage("You said: Tell me."),
        ]
    async with opened(path=path) as registry:
        again = await registry.run(stored.id)
        assert again.terminal == run.terminal
        assert registry.active_runs == 0


async def test_a_run_that_waited_begins_after_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    first = await leave_behind(path, message="one")
    async with Store.open(f"sqlite:///{path}", instance="killed") as store:
        second = StoredRun(
            id="run_2",
            owner=Caller("open", "default"),
            conversation_id="c",
            agent="chat",
            request=encoded(ask("two", conversation_id="c")),
            start=first.start,
            status="queued",
            created_at=first.created_at,
        )
        await store.accept(second, begin=None)
    async with opened(path=path) as registry:
        runs = [await registry.run(id) for id in (first.id, "run_2")]
        await ended(registry, runs[0])
        await ended(registry, runs[1])
        said = [message.content for message in await history(registry, runs[0])]
        assert said == ["one", "You said: one", "two", "You said: two"]


async def test_the_new_log_has_the_state_so_far_and_an_old_cursor_is_reset(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    result = msgspec.structs.replace(RESULT, started_at=NOON, duration_ms=1.5)
    stored = await leave_behind(path, messages=[CALL, result])
    provider = ScriptedProvider(says("It is done."))
    async with opened(provider, path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        events = await everything(registry, run, cursor(run.id, 1, 2))
        assert isinstance(events[0], Reset)
        assert (events[0].epoch, events[0].reason) == (2, "epoch_changed")
        check_log(run, events[1:])
        assert types(events[1:]) == [
            "chat_start",
            "chat_chunk",
            "tool_call_start",
            "tool_call_complete",
            "chat_chunk",
            "chat_complete",
        ]
        [complete] = [event for event in events if isinstance(event, ToolCallComplete)]
        assert complete.tool_call.result == "done"
        assert complete.tool_call.started_at == NOON
        assert provider.requests[0].messages[1:] == (UserMessage("Hi."), CALL, result)


@pytest.mark.parametrize("harmless", [True, False])
async def test_a_call_without_a_result_is_repeated_only_where_that_does_no_harm(
    tmp_path: Path, harmless: bool
) -> None:
    path = tmp_path / "p.db"
    called = []

    def act() -> str:
        """Act."""
        called.append(1)
        return "again"

    stored = await leave_behind(path, pending=CALL)
    provider = ScriptedProvider(says("So it is."))
    async with opened(
        provider, path=path, tools=[idempotent(act) if harmless else act]
    ) as registry:
        run = await recovered(registry, stored)
        said = await history(registry, run)
        check_history(said)
        [result] = [message for message in said if isinstance(message, ToolMessage)]
        events = await everything(registry, run)
        codes = [event.tool_call.code for event in events if isinstance(event, ToolCallError)]
    if harmless:
        assert (called, result.content, codes) == ([1], "again", [])
    else:
        assert (called, codes) == ([], ["interrupted"])
        assert "not known" in result.content
    assert said[1] == CALL


async def test_a_run_that_brings_the_service_down_is_not_begun_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    stored = await leave_behind(path, epoch=MAX_EPOCHS)
    provider = ScriptedProvider(says("Never asked."))
    async with opened(provider, path=path) as registry:
        run = await recovered(registry, stored)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "interrupted"
        assert provider.requests == []


async def test_calls_of_a_run_that_is_given_up_are_kept_with_an_unknown_outcome(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    stored = await leave_behind(path, pending=CALL, epoch=MAX_EPOCHS)
    async with opened(ScriptedProvider(), path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        said = await history(registry, run)
        check_history(said)
        assert "not known" in said[-1].content
        assert said[1] == CALL


async def test_a_call_after_a_crash_has_an_id_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    stored = await leave_behind(path, messages=[CALL, RESULT])
    provider = ScriptedProvider(asks(("act", {})), says("Done."))
    async with opened(provider, path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        check_history(await history(registry, run))


async def test_a_run_whose_agent_is_gone_ends_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        await registry.agents.put(CALLER, "gone", AgentConfig())
    async with opened(path=path) as registry:
        assert registry.agents.info(CALLER, "gone").agent_name == "gone"
        stored = admitted(registry, ask(agent="gone", conversation_id="c"))
        await registry.store.accept(stored, begin=Begin(messages=(UserMessage("Hi."),)))
        await registry.agents.delete(CALLER, "gone")
    async with opened(path=path) as registry:
        run = await registry.run(stored.id)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "agent_not_found"
        events = await everything(registry, run)
        assert types(events) == ["reset", "chat_start", "error"]
        assert (events[-1].run_id, events[-1].seq) == (stored.id, 2)


# Trouble with the database.


async def test_what_is_not_stored_is_not_accepted_and_leaves_nothing_behind() -> None:
    async with opened() as registry:
        trouble = Troubled(registry, "accept")
        with pytest.raises(StorageUnavailable):
            await started(registry, "key", conversation_id="c")
        assert registry.active_runs == 0
        assert await registry.active_run("c") is None
        trouble.repair()
        run = await started(registry, "key", conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)


async def test_an_answer_that_is_not_stored_is_not_called_complete_and_is_stored_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.runner.RETRY", 0.005)
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    async with opened() as registry:
        trouble = Troubled(registry, "finish")
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert (run.terminal.code, run.terminal.retryable) == ("storage_unavailable", True)
        await until(lambda: trouble.asked > 2)
        trouble.repair()
        await until(lambda: not registry.endings.has_waiting)
        stored = await registry.store.run(CALLER, run.id)
        assert stored is not None
        assert stored.terminal == run.terminal
        said = [message.content for message in await history(registry, run)]
        assert said == ["Hi.", "You said: Hi."]


async def test_a_turn_that_is_not_stored_ends_the_run() -> None:
    provider = ScriptedProvider(asks(("act", {})), says("Never said."))
    async with opened(provider, tools=[act]) as registry:
        trouble = Troubled(registry, "save_turn")
        run = await started(registry)
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "storage_unavailable"
        trouble.repair()
        check_history(await history(registry, run))


async def test_a_cancel_while_the_end_is_stored_does_not_undo_it() -> None:
    async with opened() as registry:
        finish, entered, go = registry.store.finish, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> bool:
            entered.set()
            await go.wait()
            return await finish(*args)

        registry.store.finish = slow  # type: ignore[assignment, method-assign]
        run = await started(registry)
        async with asyncio.timeout(DEADLINE):
            await entered.wait()
            await registry.cancel(run.id)
            go.set()
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert run.terminal.finish_reason == "stop"


async def test_the_same_request_before_and_after_a_restart_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        first = await started(registry, "key")
        await ended(registry, first)
    async with opened(path=path) as registry:
        again = await started(registry, "key")
        assert (again.id, again.terminal) == (first.id, first.terminal)
        assert registry.active_runs == 0


# Telling again.


def test_only_what_is_stored_is_told_again() -> None:
    failed = ToolMessage("c1", "act", "Error: No.", is_error=True)
    two = AssistantMessage("", (ToolCall("c0", "act", "{"), ToolCall("c1", "act", '{"a": 1}')))
    events = [*replayed([UserMessage("Hi."), two, RESULT, failed, AssistantMessage("So.")], "chat")]
    assert types(events) == [
        "tool_call_start",
        "tool_call_complete",
        "tool_call_error",
        "chat_chunk",
    ]
    start, _, error, text = events
    assert isinstance(error, ToolCallError)
    assert isinstance(text, ChatChunk)
    assert start.tool_call.arguments == "{"  # type: ignore[union-attr]
    assert (error.tool_call.error, error.tool_call.arguments) == ("No.", {"a": 1})
    assert text.message_id != error.message_id


TWO = AssistantMessage("", (ToolCall("c0", "act", "{}"), ToolCall("c1", "act", "{}")))


def test_a_call_is_told_again_with_the_time_of_its_execution() -> None:
    done = ToolMessage("c0", "act", '"done"', started_at=NOON, duration_ms=1.5)
    failed = ToolMessage("c1", "act", "Error: No.", is_error=True, started_at=NOON, duration_ms=2.5)
    events = [*replayed([TWO, done, failed], "chat")]
    assert types(events) == [
        "tool_call_start",
        "tool_call_complete",
        "tool_call_start",
        "tool_call_error",
    ]
    calls = [event.tool_call for event in events]  # type: ignore[union-attr]
    assert [call.started_at for call in calls] == [NOON] * 4  # type: ignore[union-attr]
    assert [calls[1].duration_ms, calls[3].duration_ms] == [1.5, 2.5]  # type: ignore[union-attr]


def test_a_call_that_was_never_executed_is_told_again_without_a_start() -> None:
    done = ToolMessage("c0", "act", '"done"')  # as rows have it that are older than the times
    failed = ToolMessage("c1", "act", "Error: No.", is_error=True)
    start, complete, error = replayed([TWO, done, failed], "chat")
    assert isinstance(start, ToolCallStart)
    assert isinstance(complete, ToolCallComplete)
    assert isinstance(error, ToolCallError)
    for event in (start, complete, error):
        assert event.tool_call.started_at is None
    assert complete.tool_call.duration_ms == error.tool_call.duration_ms == 0


async def test_after_a_restart_the_calls_of_a_run_have_the_times_that_they_had(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"

    def broken() -> None:
        """Fail."""
        raise ToolError("No.")

    provider = ScriptedProvider(asks(("act", {}), ("broken", {}), ("none", {})), says("Done."))
    async with opened(provider, path=path, tools=[act, broken]) as registry:
        run = await started(registry)
        await ended(registry, run)
        live = times(await everything(registry, run))
    async with opened(path=path, tools=[act, broken]) as registry:
        again = times(await everything(registry, await registry.run(run.id)))
    assert len(live) == 5
    assert again == live


def times(events: Sequence[ReaderEvent]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return for each start and end of a call when it began and what it took."""
    return {
        (event.tool_call.id, event.event_type): (
            event.tool_call.started_at,
            getattr(event.tool_call, "duration_ms", None),
        )
        for event in events
        if isinstance(event, ToolCallStart | ToolCallComplete | ToolCallError)
    }


async def test_a_conversation_made_quiet_has_no_run() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs = [await started(registry, conversation_id="c") for _ in range(2)]
        await paused.reached(1)
        await registry.clear(CALLER, "c")
        assert [run.status for run in runs] == ["cancelled", "cancelled"]
        assert await registry.active_run("c") is None
        with pytest.raises(NotFound):
            await registry.run("run_none")


HANDED_OVER = (
    AssistantMessage("Wait.", (ToolCall("c0", "transfer_to_b", "{}"),)),
    ToolMessage("c0", "transfer_to_b", "The agent 'b' goes on from here.", successor="b"),
)


@pytest.mark.parametrize("handoffs", [["b"], []])
async def test_after_a_hand_off_the_agent_that_took_over_goes_on(
    tmp_path: Path, handoffs: list[str]
) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig(instructions="Be b."))
        await registry.agents.put(CALLER, "front", AgentConfig(handoffs=["b"]))
        await registry.agents.put(CALLER, "front", AgentConfig(handoffs=handoffs))
    stored = await leave_behind(path, messages=HANDED_OVER, agent="front")
    provider = ScriptedProvider(says("Here is b."))
    async with opened(provider, path=path) as registry:
        run = await recovered(registry, stored)
        events = await everything(registry, run)
        assert types(events)[:3] == ["chat_start", "chat_chunk", "agent_updated"]
        assert isinstance(events[2], AgentUpdated)
        assert (events[2].previous_agent, events[2].agent) == ("front", "b")
        if handoffs:
            assert [request.messages[0].content for request in provider.requests] == ["Be b."]
        else:
            assert isinstance(run.terminal, RunError)
            assert run.terminal.code == "agent_not_found"


async def test_what_is_stored_of_a_run_that_was_given_up_is_told_in_order(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    other = AssistantMessage("And: ", (ToolCall("c1", "act", "{}"),))
    stored = await leave_behind(path, messages=[CALL, RESULT], pending=other, epoch=MAX_EPOCHS)
    async with opened(path=path, tools=[act]) as registry:
        await recovered(registry, stored)
    async with opened(path=path) as registry:
        run = await registry.run(stored.id)
        told = await everything(registry, run)
        check_log(run, told[1:])
        assert "tool_call_complete" in types(told)
        end = told[-1]
        assert not isinstance(end, Reset)
        assert await everything(registry, run, cursor(run.id, MAX_EPOCHS + 1, end.seq)) == []
        again = await everything(registry, run, cursor(run.id, MAX_EPOCHS + 1, end.seq - 1))
        assert again[0] == told[0]


@pytest.mark.parametrize("has_acted", [False, True])
async def test_an_answer_that_is_made_anew_goes_on_without_the_one_before(
    tmp_path: Path, has_acted: bool
) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        await ended(registry, await started(registry, conversation_id="c"))
        stored = admitted(
            registry, RunRequest(conversation_id="c", must_exist=True, regenerates=True)
        )
        await registry.store.accept(stored, begin=Begin())
        await registry.store.save_turn(stored, [CALL, RESULT] if has_acted else [], None)
    provider = ScriptedProvider(says("New."))
    async with opened(provider, path=path, tools=[act]) as registry:
        run = await recovered(registry, stored)
        acted = [CALL, RESULT] if has_acted else []
        assert provider.requests[0].messages[1:] == (UserMessage("Hi."), *acted)
        assert await history(registry, run) == [
            UserMessage("Hi."),
            *acted,
            AssistantMessage("New."),
        ]


async def test_what_a_client_brings_is_not_told_as_the_runs_own(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    brought = (UserMessage("Hi."), CALL, RESULT, AssistantMessage("So."), UserMessage("And?"))
    async with opened(path=path) as registry:
        request = RunRequest(messages=brought, is_whole=True)
        stored = admitted(registry, request)
        await registry.store.accept(stored, begin=request.begin)
    async with opened(ScriptedProvider(says("Yes.")), path=path) as registry:
        run = await recovered(registry, stored)
        assert types(await everything(registry, run)) == [
            "chat_start",
            "chat_chunk",
            "chat_complete",
        ]
        assert await history(registry, run) == [*brought, AssistantMessage("Yes.")]
