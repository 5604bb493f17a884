"""The registry: every run has one end, and no two are ever mixed up."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

import hub.memory
from conversations import Conversation, Run
from errors import (
    Conflict,
    Invalid,
    NotFound,
    ParleyError,
    TooMany,
    Unavailable,
    UpstreamError,
)
from events import TERMINAL, ChatChunk, ChatComplete, ReaderEvent, Reset, RunError, stamped
from hub import InvalidCursor
from hub.memory import MemoryHub
from models import (
    AgentConfig,
    AssistantMessage,
    ChatRequest,
    EndPart,
    ModelRequest,
    TextPart,
    ToolMessage,
    UserMessage,
)
from registry import AgentRegistry, Limits
from tests.scripted import DEADLINE, Gate, Output, Script, ScriptedProvider, asks, says, types
from tests.service import running
from tests.test_agent import Held, add, check_calls, check_history, fail, hang, until
from tools.tool import tool_from

LIMITS = Limits(
    max_message_chars=1000,
    max_active_runs=50,
    max_queued_messages=3,
    max_conversations=100,
    max_agents=5,
    history_messages=20,
    run_timeout=60,
    run_ttl=600,
    max_runs=100,
    tool_workers=16,
    shutdown_grace=10,
)
TOOLS = (add, hang, fail)
SUM = asks(("add", {"a": 1, "b": 2}), text="Well: ")


@asynccontextmanager
async def opened(
    provider: ScriptedProvider | None = None,
    *,
    tools: Iterable[Callable[..., Any]] = TOOLS,
    log_ttl: float = 600,
    log_max_events: int = 10_000,
    allowed_models: frozenset[str] = frozenset(),
    **limits: Any,
) -> AsyncIterator[AgentRegistry]:
    registry = AgentRegistry(
        provider=provider or ScriptedProvider(reply_to=echo),
        hub=MemoryHub(ttl=log_ttl, max_events=log_max_events, max_bytes=1 << 30),
        tools=map(tool_from, tools),
        limits=LIMITS._replace(**limits),
        instructions="Be brief.",
        allowed_models=allowed_models,
    )
    async with registry:
        yield registry


def echo(request: ModelRequest) -> Script:
    """Answer with the last question."""
    questions = [message for message in request.messages if isinstance(message, UserMessage)]
    return says("You said: ", questions[-1].content)


class Paused:
    """A model whose replies each stop in the middle, at a gate of their own."""

    def __init__(self) -> None:
        self.gates: list[Gate] = []
        self.provider = ScriptedProvider(reply_to=self._reply)

    def _reply(self, request: ModelRequest) -> Script:
        self.gates.append(Gate())
        return [TextPart("a"), self.gates[-1], TextPart("b"), EndPart("stop")]

    async def reached(self, count: int) -> Gate:
        """Wait until the `count`-th reply is in its middle."""
        await until(lambda: len(self.gates) >= count)
        await self.gates[count - 1].reached()
        return self.gates[count - 1]


def ask(message: str = "Hi.", **fields: Any) -> ChatRequest:
    return ChatRequest(message=message, **fields)


async def everything(
    registry: AgentRegistry, run: Run, after: str | None = None
) -> list[ReaderEvent]:
    """Read a run's events to the end."""
    reader = await registry.read(run.id, after)
    got: list[ReaderEvent] = []
    async with asyncio.timeout(DEADLINE):
        while not reader.ended:
            got += await reader.read()
    return got


async def started(registry: AgentRegistry, key: str | None = None, **fields: Any) -> Run:
    async with asyncio.timeout(DEADLINE):
        return await registry.start(ask(**fields), key)


def is_over(run: Run) -> bool:
    return run.terminal is not None


def history(registry: AgentRegistry, run: Run) -> Conversation:
    """Return the conversation of a run."""
    return registry._conversations.get_or_create(run.start.conversation_id)


async def ended(registry: AgentRegistry, *runs: Run) -> None:
    """Wait for the end of runs and check what holds for each."""
    for run in runs:
        check_log(run, await everything(registry, run))
        await until(partial(is_over, run))


async def answered(registry: AgentRegistry, **fields: Any) -> str:
    """Chat, and return the answer."""
    run = await started(registry, **fields)
    await ended(registry, run)
    assert isinstance(run.terminal, ChatComplete)
    return run.terminal.final_response


def check_log(run: Run, events: list[ReaderEvent]) -> None:
    assert types(events)[0] == "chat_start"
    assert [event for event in events if isinstance(event, TERMINAL)] == events[-1:]
    told = [event for event in events if not isinstance(event, Reset)]
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    assert {event.run_id for event in told} == {run.id}
    check_calls(told)


# One end, whatever happens.

FAULT = UpstreamError("The stream broke off.", code="upstream_truncated", retryable=True)
BUG = ZeroDivisionError("a provider's mistake")


def script(calls: Output | list[Output], fault: tuple[int, Exception] | None) -> list[list[Output]]:
    first: list[Output] = [TextPart("Well: "), *(calls if isinstance(calls, list) else [calls])]
    outputs = [first, says("It is ", "3.")]
    if fault is not None:
        at, error = fault
        flat = [(turn, place) for turn in range(2) for place in range(len(outputs[turn]) + 1)]
        turn, place = flat[at % len(flat)]
        outputs[turn].insert(place, error)
    return outputs


BEHAVIOURS: dict[str, list[tuple[str, Any]]] = {
    "good": [("add", {"a": 1, "b": 2})],
    "mixed": [("add", {"a": 1, "b": 2}), ("fail", {}), ("nothing", {}), ("add", "{")],
    "hanging": [("add", {"a": 1, "b": 2}), ("hang", {})],
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("fault_at", [None, *range(7)])
@pytest.mark.parametrize("error", [FAULT, BUG], ids=["fault", "bug"])
async def test_every_run_has_exactly_one_end_whatever_happens_and_wherever_it_is_cancelled(
    behaviour: str, fault_at: int | None, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    fault = None if fault_at is None else (fault_at, error)
    for cancel_at in itertools.count():
        provider = ScriptedProvider(*script(asks(*BEHAVIOURS[behaviour]), fault), says("Next."))
        async with opened(provider) as registry:
            registry.put_agent("quick", AgentConfig(tool_call_timeout=0.02))
            run = await started(registry, conversation_id="c", agent="quick")
            reader = await registry.read(run.id)
            events: list[ReaderEvent] = []
            async with asyncio.timeout(DEADLINE):
                while not reader.ended:
                    if len(events) >= cancel_at:
                        registry.cancel(run.id)
                    events += await reader.read()
            await until(partial(is_over, run))
            check_log(run, events)
            assert run.terminal == events[-1]
            check_history(history(registry, run).messages)
            assert registry.active_runs == 0
            assert not history(registry, run).runs
            if isinstance(run.terminal, RunError):
                codes = {FAULT.code} if error is FAULT else {"internal_error"}
                assert run.terminal.code in codes
        if cancel_at > len(events):
            assert run.status != "cancelled"
            return


async def test_a_mistake_of_ours_ends_the_run_with_an_error_that_tells_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(ScriptedProvider([TextPart("a"), BUG], says("b"))) as registry:
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert (run.terminal.code, run.terminal.retryable) == ("internal_error", False)
        assert "mistake" not in run.terminal.message.replace("made a mistake", "")
        assert "a provider's mistake" in caplog.text
        assert await answered(registry, conversation_id="c") == "b"


async def test_an_error_of_the_provider_is_passed_on_and_the_conversation_goes_on() -> None:
    provider = ScriptedProvider(SUM, [TextPart("It is"), FAULT], says("Three."))
    async with opened(provider) as registry:
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        error = RunError(code="upstream_truncated", message=FAULT.message, retryable=True)
        assert run.terminal is not None
        assert stamped(run.terminal, "", 0) == error
        assert run.status == "failed"
        assert await answered(registry, conversation_id="c", message="And?") == "Three."
        assert [message.content for message in provider.requests[-1].messages] == [
            "Be brief.",
            "Hi.",
            "Well: ",
            "3",
            "It is",
            "And?",
        ]


async def test_a_run_that_takes_too_long_ends_with_an_error_and_its_conversation_goes_on() -> None:
    provider = ScriptedProvider([TextPart("a"), Gate()], says("b"))
    async with opened(provider, run_timeout=0.05) as registry:
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert (run.terminal.code, run.terminal.retryable) == ("run_timeout", True)
        assert provider.open_streams == 0
        assert await answered(registry, conversation_id="c") == "b"


async def test_waiting_for_the_floor_does_not_count_as_the_runs_time() -> None:
    provider = ScriptedProvider([Gate()], says("b"))
    async with opened(provider, run_timeout=0.1) as registry:
        first, second = [await started(registry, conversation_id="c") for _ in range(2)]
        await ended(registry, first, second)
        assert (first.status, second.status) == ("failed", "completed")


async def test_a_run_that_fills_its_log_ends_with_an_error() -> None:
    provider = ScriptedProvider(says(*"abcdefghij"))
    async with opened(provider, log_max_events=5) as registry:
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "run_too_long"
        assert provider.open_streams == 0


async def test_a_time_out_during_a_cancel_leaves_one_end_and_no_open_call() -> None:
    held = Held()
    provider = ScriptedProvider(asks(("held", {}), text="A"))
    async with opened(provider, tools=[held.held], run_timeout=0.15) as registry:
        run = await started(registry, conversation_id="c")
        await until(held.entered.is_set)
        registry.cancel(run.id)
        await ended(registry, run)
        held.released.set()
        assert run.status == "cancelled"
        check_history(history(registry, run).messages)
        assert [type(message) for message in history(registry, run).messages] == [
            UserMessage,
            AssistantMessage,
            ToolMessage,
        ]


# Cancelling.


async def test_a_cancel_keeps_what_was_said_and_closes_the_stream() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        run = await started(registry, conversation_id="c")
        await paused.reached(1)
        assert registry.cancel(run.id) is run
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert (run.terminal.final_response, run.terminal.finish_reason) == ("a", "cancelled")
        assert history(registry, run).messages == [UserMessage("Hi."), AssistantMessage("a")]
        assert paused.provider.open_streams == 0


async def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        run = await started(registry)
        gate = await paused.reached(1)
        reader = await registry.read(run.id)
        await reader.read()
        read_under_way = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        read_under_way.cancel()
        await asyncio.wait([read_under_way])
        gate.open()
        await ended(registry, run)
        assert run.status == "completed"


async def test_a_caller_that_goes_away_while_it_starts_a_run_does_not_end_it() -> None:
    async with opened() as registry:
        call = asyncio.create_task(registry.start(ask(conversation_id="c"), "key"))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        run = await started(registry, "key", conversation_id="c")
        await ended(registry, run)
        assert run.status == "completed"


async def test_a_run_that_waits_can_be_cancelled_and_leaves_no_trace() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c", message="one")
        second = await started(registry, conversation_id="c", message="two")
        third = await started(registry, conversation_id="c", message="three")
        (await paused.reached(1)).open()
        registry.cancel(second.id)
        await ended(registry, second, first)
        (await paused.reached(2)).open()
        await ended(registry, third)
        assert [run.status for run in (first, second, third)] == [
            "completed",
            "cancelled",
            "completed",
        ]
        said = [message.content for message in history(registry, first).messages]
        assert said == ["one", "ab", "three", "ab"]


async def test_a_second_cancel_and_a_cancel_behind_the_end_change_nothing() -> None:
    async with opened() as registry:
        run = await started(registry)
        await ended(registry, run)
        before = run.terminal
        assert registry.cancel(run.id).terminal is before
        with pytest.raises(NotFound):
            registry.cancel("run_unknown")


async def test_one_tool_call_is_cancelled_and_the_run_goes_on() -> None:
    provider = ScriptedProvider(asks(("hang", {}), ("add", {"a": 1, "b": 2})), says("Done."))
    async with opened(provider) as registry:
        run = await started(registry)
        await until(lambda: run.work and run.work.log and run.work.log.last_seq >= 4)
        with pytest.raises(NotFound) as caught:
            registry.cancel_tool(run.id, "c1")
        assert caught.value.code == "tool_call_not_found"
        registry.cancel_tool(run.id, "c0")
        await ended(registry, run)
        assert run.status == "completed"
        for run_id, call_id in ((run.id, "c0"), (run.id, "other"), ("run_unknown", "c0")):
            with pytest.raises(NotFound):
                registry.cancel_tool(run_id, call_id)


# Two messages into one conversation.


async def test_messages_into_one_conversation_are_answered_one_after_another() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs = [await started(registry, conversation_id="c", message=text) for text in "xyz"]
        for number, run in enumerate(runs, 1):
            gate = await paused.reached(number)
            assert [other.status for other in runs[number:]] == ["queued"] * (3 - number)
            assert paused.provider.open_streams == 1
            gate.open()
            await ended(registry, run)
        seen = [message.content for message in paused.provider.requests[-1].messages]
        assert seen == ["Be brief.", "x", "ab", "y", "ab", "z"]


async def test_conversations_do_not_wait_for_each_other_and_share_nothing() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs = [await started(registry, message=text) for text in "xyz"]
        for number in (1, 2, 3):
            await paused.reached(number)
        for gate in paused.gates:
            gate.open()
        await ended(registry, *runs)
        assert len({run.start.conversation_id for run in runs}) == 3
        assert all(len(request.messages) == 2 for request in paused.provider.requests)


async def test_a_busy_conversation_rejects_who_asked_for_that() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c")
        with pytest.raises(Conflict) as caught:
            await started(registry, conversation_id="c", if_busy="reject")
        assert caught.value.code == "conversation_busy"
        assert first.id in caught.value.message
        (await paused.reached(1)).open()
        await ended(registry, first)
        second = await started(registry, conversation_id="c", if_busy="reject")
        (await paused.reached(2)).open()
        await ended(registry, second)


async def test_of_many_at_once_one_has_the_floor_and_the_others_are_rejected() -> None:
    async with opened() as registry:
        request = ask(conversation_id="c", if_busy="reject")
        starts = [registry.start(request) for _ in range(20)]
        got = await asyncio.gather(*starts, return_exceptions=True)
        runs = [run for run in got if isinstance(run, Run)]
        assert len(runs) == 1
        assert all(isinstance(other, Conflict) for other in got if other is not runs[0])
        await ended(registry, *runs)


async def test_an_interrupt_cancels_all_that_wait_and_then_answers() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        before = [await started(registry, conversation_id="c") for _ in range(3)]
        await paused.reached(1)
        run = await started(registry, conversation_id="c", if_busy="interrupt", message="Stop!")
        (await paused.reached(2)).open()
        await ended(registry, *before, run)
        assert [other.status for other in before] == ["cancelled"] * 3
        assert run.status == "completed"
        said = [message.content for message in history(registry, run).messages]
        assert said == ["Hi.", "a", "Stop!", "ab"]


async def test_of_many_interrupts_at_once_the_last_is_answered() -> None:
    async with opened() as registry:
        request = ask(conversation_id="c", if_busy="interrupt")
        async with asyncio.timeout(DEADLINE):
            runs = await asyncio.gather(*[registry.start(request) for _ in range(5)])
        await ended(registry, *runs)
        assert [run.status for run in runs] == [*["cancelled"] * 4, "completed"]
        assert await answered(registry, conversation_id="c") == "You said: Hi."


async def test_as_many_messages_wait_as_may_and_no_more() -> None:
    paused = Paused()
    async with opened(paused.provider, max_queued_messages=2) as registry:
        runs = [await started(registry, conversation_id="c") for _ in range(3)]
        with pytest.raises(TooMany) as caught:
            await started(registry, conversation_id="c")
        assert caught.value.retryable
        other = await started(registry, conversation_id="other")
        registry.cancel(runs[2].id)
        await ended(registry, runs[2])
        last = await started(registry, conversation_id="c")
        for run in (*runs, other, last):
            registry.cancel(run.id)
        await ended(registry, *runs, other, last)


async def test_with_no_place_to_wait_a_busy_conversation_is_full() -> None:
    paused = Paused()
    async with opened(paused.provider, max_queued_messages=0) as registry:
        run = await started(registry, conversation_id="c")
        with pytest.raises(TooMany):
            await started(registry, conversation_id="c")
        (await paused.reached(1)).open()
        await ended(registry, run)


# History.


async def test_a_history_grows_by_whole_turns_and_can_be_reset() -> None:
    provider = ScriptedProvider(SUM, says("3."), says("Yes."), says("New."))
    async with opened(provider) as registry:
        for message in ("one", "two"):
            await answered(registry, conversation_id="c", message=message)
        run = await started(registry, conversation_id="c", message="three", reset_history=True)
        await ended(registry, run)
        assert [message.content for message in provider.requests[2].messages] == [
            "Be brief.",
            "one",
            "Well: ",
            "3",
            "3.",
            "two",
        ]
        assert [message.content for message in provider.requests[3].messages] == [
            "Be brief.",
            "three",
        ]
        assert [message.content for message in history(registry, run).messages] == ["three", "New."]


async def test_a_reset_that_waits_forgets_only_when_its_turn_comes() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c", message="one")
        second = await started(registry, conversation_id="c", message="two", reset_history=True)
        (await paused.reached(1)).open()
        await ended(registry, first)
        (await paused.reached(2)).open()
        await ended(registry, second)
        said = [message.content for message in history(registry, first).messages]
        assert said == ["two", "ab"]


async def test_a_model_sees_no_more_of_a_long_history_than_configured() -> None:
    async with opened(history_messages=4) as registry:
        for number in range(5):
            await answered(registry, conversation_id="c", message=str(number))
        assert isinstance(registry.provider, ScriptedProvider)
        seen = [message.content for message in registry.provider.requests[-1].messages]
        assert seen == ["Be brief.", "3", "You said: 3", "4"]


async def test_the_conversation_unused_for_the_longest_time_is_forgotten() -> None:
    async with opened(max_conversations=2) as registry:
        for conversation_id in "abca":
            await answered(registry, conversation_id=conversation_id)
        assert isinstance(registry.provider, ScriptedProvider)
        assert len(registry.provider.requests[-1].messages) == 2


# The same request twice.


async def test_the_same_key_and_request_are_the_same_run_while_it_runs_and_afterwards() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, "key", conversation_id="c")
        assert await started(registry, "key", conversation_id="c") is first
        (await paused.reached(1)).open()
        await ended(registry, first)
        assert await started(registry, "key", conversation_id="c") is first
        assert len(paused.provider.requests) == 1


async def test_the_same_key_at_the_same_time_is_one_run() -> None:
    async with opened() as registry:
        starts = [registry.start(ask(), "key") for _ in range(20)]
        runs = await asyncio.gather(*starts)
        assert len(set(runs)) == 1
        await ended(registry, runs[0])


@pytest.mark.parametrize(
    "other",
    [
        {"message": "Bye."},
        {"conversation_id": "c"},
        {"reset_history": True},
        {"parallel_tools": False},
        {"if_busy": "reject"},
    ],
)
async def test_a_key_that_was_used_for_another_request_is_a_conflict(other: dict[str, Any]) -> None:
    async with opened() as registry:
        run = await started(registry, "key")
        with pytest.raises(Conflict) as caught:
            await started(registry, "key", **other)
        assert caught.value.code == "idempotency_conflict"
        await ended(registry, run)


async def test_other_keys_and_no_key_are_other_runs() -> None:
    async with opened() as registry:
        runs = [await started(registry, key) for key in ("a", "b", None, None)]
        assert len(set(runs)) == 4
        await ended(registry, *runs)


async def test_a_request_that_was_refused_does_not_use_up_its_key() -> None:
    async with opened() as registry:
        with pytest.raises(NotFound):
            await started(registry, "key", agent="later")
        registry.put_agent("later", AgentConfig())
        await ended(registry, await started(registry, "key", agent="later"))


async def test_a_key_is_forgotten_with_its_run() -> None:
    async with opened(max_runs=1) as registry:
        first = await started(registry, "key")
        await ended(registry, first)
        await answered(registry)
        second = await started(registry, "key")
        assert second is not first
        await ended(registry, second)


# Bounds.


async def test_a_message_that_is_too_long_is_refused() -> None:
    async with opened(max_message_chars=5) as registry:
        assert await answered(registry, message="12345")
        with pytest.raises(Invalid) as caught:
            await started(registry, message="123456")
        assert [fault["field"] for fault in caught.value.errors] == ["message"]


async def test_no_more_runs_are_under_way_than_may() -> None:
    paused = Paused()
    async with opened(paused.provider, max_active_runs=2) as registry:
        runs = [await started(registry) for _ in range(2)]
        assert registry.active_runs == 2
        with pytest.raises(Unavailable):
            await started(registry)
        (await paused.reached(1)).open()
        await ended(registry, runs[0])
        runs.append(await started(registry))
        (await paused.reached(2)).open()
        (await paused.reached(3)).open()
        await ended(registry, *runs)
        assert registry.active_runs == 0


async def test_what_is_refused_leaves_nothing_behind() -> None:
    async with opened(max_conversations=1) as registry:
        for fields in ({"agent": "unknown"}, {"message": "x" * 2000}):
            with pytest.raises(ParleyError):
                await started(registry, **fields)
        assert registry.active_runs == 0
        assert await answered(registry, conversation_id="c") == "You said: Hi."


# What is remembered.


async def test_a_run_is_found_until_it_is_forgotten() -> None:
    async with opened(max_runs=2) as registry:
        runs = []
        for _ in range(4):
            run = await started(registry)
            await ended(registry, run)
            runs.append(run)
        for run in runs[:2]:
            for look in (registry.run, registry.cancel):
                with pytest.raises(NotFound) as caught:
                    look(run.id)
                assert caught.value.code == "run_not_found"
        assert [registry.run(run.id) for run in runs[2:]] == runs[2:]


async def test_a_run_is_forgotten_when_its_time_is_over() -> None:
    async with opened(run_ttl=0.05) as registry:
        run = await started(registry)
        await ended(registry, run)

        def is_forgotten() -> bool:
            try:
                registry.run(run.id)
            except NotFound:
                return True
            return False

        await until(is_forgotten)


async def test_a_run_tells_where_it_stands() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c")
        second = await started(registry, conversation_id="c")
        gate = await paused.reached(1)
        assert (first.status, second.status) == ("running", "queued")
        assert second.info().started_at is None
        gate.open()
        await ended(registry, first)
        (await paused.reached(2)).open()
        await ended(registry, second)
        info = second.info()
        assert info.status == "completed"
        assert info.started_at is not None
        assert info.finished_at is not None
        assert info.created_at <= info.started_at <= info.finished_at
        assert (info.agent, info.model, info.conversation_id) == ("chat", "scripted-1", "c")


class Clock:
    """A monotonic clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


async def test_a_log_that_expired_is_told_as_a_reset_and_the_state_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    async with opened(ScriptedProvider(SUM, says("It ", "is ", "3.")), log_ttl=60) as registry:
        run = await started(registry)
        whole = await everything(registry, run)
        last = whole[-1]
        assert not isinstance(last, Reset)
        clock.now += 61
        for after in (None, "0", "3", f"{run.id}:1:2"):
            got = await everything(registry, run, after)
            assert types(got) == ["reset", "chat_start", "chat_chunk", "chat_complete"]
            reset, start, piece, end = got
            assert reset == Reset(run_id=run.id, epoch=1, reason="log_expired")
            assert (start, end) == (whole[0], last)
            assert isinstance(piece, ChatChunk)
            assert (piece.content, piece.first_seq, piece.seq) == ("It is 3.", 2, last.seq - 1)
        assert await everything(registry, run, f"{run.id}:1:{last.seq}") == []
        for after in ("nonsense", "run_other:1:1", "-1"):
            with pytest.raises(InvalidCursor):
                await registry.read(run.id, after)


async def test_an_expired_log_of_a_run_that_failed_tells_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    async with opened(ScriptedProvider([TextPart("a"), FAULT]), log_ttl=60) as registry:
        run = await started(registry)
        whole = await everything(registry, run)
        clock.now += 61
        got = await everything(registry, run)
        assert types(got) == ["reset", "chat_start", "error"]
        assert got[1:] == [whole[0], whole[-1]]


async def test_a_run_that_is_not_known_cannot_be_read() -> None:
    async with opened() as registry:
        with pytest.raises(NotFound):
            await registry.read("run_unknown")


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
        assert await started(registry, "key", conversation_id="c") is first
        for number in (1, 2):
            (await paused.reached(number)).open()
        await ended(registry, first, second)
        assert (first.status, second.status) == ("completed", "completed")


async def test_leaving_ends_all_runs_with_an_error_that_says_so_and_is_quick() -> None:
    held = Held()
    turns: list[Script] = [
        asks(("held", {}), text="A"),
        [TextPart("a"), Gate()],
    ]
    provider = ScriptedProvider(*turns)
    begin = asyncio.get_running_loop().time()
    async with asyncio.timeout(DEADLINE):
        async with opened(provider, tools=[held.held]) as registry:
            runs = [await started(registry, conversation_id=name) for name in "aba"]
            await until(held.entered.is_set)
            await until(lambda: provider.open_streams == 1)
            readers = [await registry.read(run.id) for run in runs]
            begin = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begin < 3
    held.released.set()
    for run, reader in zip(runs, readers, strict=True):
        got: list[ReaderEvent] = []
        while not reader.ended:
            got += await reader.read()
        check_log(run, got)
        assert isinstance(run.terminal, RunError)
        assert (run.terminal.code, run.terminal.retryable) == ("shutting_down", True)
        check_history(history(registry, run).messages)
    assert provider.is_closed
    assert provider.open_streams == 0


async def test_a_run_that_was_just_accepted_is_ended_too() -> None:
    async with opened() as registry:
        start = asyncio.create_task(registry.start(ask()))
        await asyncio.sleep(0)
        registry.end_all()
        async with asyncio.timeout(DEADLINE):
            run = await start
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "shutting_down"


async def test_a_provider_that_cannot_be_prepared_does_not_stop_the_service() -> None:
    class Unreachable(ScriptedProvider):
        async def warm(self) -> None:
            raise UpstreamError("No connection.")

    async with opened(Unreachable(says("Here."))) as registry:
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
        [info] = registry.agents()
        assert registry.agent("chat") == info
        assert (info.agent_name, info.name, info.built_in) == ("chat", "chat", True)
        assert (info.instructions, info.model) == ("Be brief.", "scripted-1")
        assert info.tools == ["add", "hang", "fail"]


async def test_an_agent_is_created_replaced_and_deleted() -> None:
    async with opened() as registry:
        assert registry.put_agent("b", AgentConfig(instructions="Rhyme.", tools=["add", "add"]))
        assert registry.agent("b").tools == ["add"]
        assert not registry.agent("b").built_in
        assert not registry.put_agent("b", AgentConfig(tools=[], model="big-1", name="Bee"))
        info = registry.agent("b")
        assert (info.name, info.instructions, info.tools) == ("Bee", "Be brief.", [])
        assert [agent.agent_name for agent in registry.agents()] == ["b", "chat"]
        run = await started(registry, agent="b")
        await ended(registry, run)
        assert (run.start.agent, run.start.model) == ("b", "big-1")
        registry.delete_agent("b")
        for look in (registry.agent, registry.delete_agent):
            with pytest.raises(NotFound) as caught:
                look("b")
            assert caught.value.code == "agent_not_found"
        with pytest.raises(NotFound):
            await started(registry, agent="b")


async def test_the_default_agent_can_be_replaced_but_not_deleted() -> None:
    async with opened() as registry:
        with pytest.raises(Conflict):
            registry.delete_agent("chat")
        assert not registry.put_agent("chat", AgentConfig(instructions="Rhyme."))
        assert registry.agent("chat").built_in
        await answered(registry)
        assert isinstance(registry.provider, ScriptedProvider)
        assert registry.provider.requests[0].messages[0].content == "Rhyme."


async def test_a_configuration_with_faults_is_refused_and_every_fault_named() -> None:
    async with opened(allowed_models=frozenset({"small-1"})) as registry:
        config = AgentConfig(tools=["add", "rm", "mv"], model="big-1")
        with pytest.raises(Invalid) as caught:
            registry.put_agent("b", config)
        faults = [fault["field"] for fault in caught.value.errors]
        assert faults == ["tools", "tools", "model"]
        assert "'rm'" in caught.value.errors[0]["message"]
        assert "small-1" in caught.value.errors[2]["message"]
        with pytest.raises(NotFound):
            registry.agent("b")
        assert registry.put_agent("b", AgentConfig(model="small-1"))
        assert registry.put_agent("c", AgentConfig())


async def test_there_are_no_more_agents_than_may_be() -> None:
    async with opened(max_agents=2) as registry:
        registry.put_agent("b", AgentConfig())
        with pytest.raises(TooMany):
            registry.put_agent("c", AgentConfig())
        assert not registry.put_agent("b", AgentConfig(instructions="Rhyme."))
        registry.delete_agent("b")
        assert registry.put_agent("c", AgentConfig())


async def test_a_run_under_way_keeps_the_agent_that_it_began_with() -> None:
    gate = Gate()
    provider = ScriptedProvider([gate, *SUM], says("3."), says("Rhyme."))
    async with opened(provider) as registry:
        registry.put_agent("b", AgentConfig(instructions="Old.", tools=["add"]))
        run = await started(registry, agent="b", conversation_id="c")
        await gate.reached()
        registry.put_agent("b", AgentConfig(instructions="New.", tools=[]))
        gate.open()
        await ended(registry, run)
        await answered(registry, agent="b", conversation_id="c")
        told = [request.messages[0].content for request in provider.requests]
        assert told == ["Old.", "Old.", "New."]
        assert [len(request.tools) for request in provider.requests] == [1, 1, 0]


async def test_deleting_an_agent_does_not_end_its_run() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        registry.put_agent("b", AgentConfig())
        run = await started(registry, agent="b")
        gate = await paused.reached(1)
        registry.delete_agent("b")
        gate.open()
        await ended(registry, run)
        assert run.status == "completed"


async def test_the_demo_never_claims_to_be_the_model_that_an_agent_names() -> None:
    async with running() as service:
        await service.json("POST", "/agents/fancy", 201, json={"model": "gpt-4-turbo-preview"})
        answer = await service.json("POST", "/chat", json={"message": "hi", "agent": "fancy"})
        assert answer["model"] == "demo"
