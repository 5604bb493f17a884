"""Every run ends once, whatever happens to it."""

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest

from errors import (
    NotFound,
)
from events import ChatComplete, ReaderEvent, RunError, stamped
from messages import AssistantMessage, TextPart, ToolMessage, UserMessage
from models import AgentConfig
from tests.agent.support import Held, check_history, until
from tests.runs.support import (
    CALLER,
    FAULT,
    SUM,
    Paused,
    answered,
    ask,
    check_log,
    ended,
    history,
    is_over,
    opened,
    started,
)
from tests.scripted import DEADLINE, Gate, Output, ScriptedProvider, asks, says

# One end, whatever happens.

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


@pytest.mark.slow
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
            await registry.agents.put(CALLER, "quick", AgentConfig(tool_call_timeout=0.02))
            run = await started(registry, conversation_id="c", agent="quick")
            reader = await registry.read(run.id)
            events: list[ReaderEvent] = []
            async with asyncio.timeout(DEADLINE):
                while not reader.ended:
                    if len(events) >= cancel_at:
                        await registry.cancel(run.id)
                    events += await reader.read()
            await until(partial(is_over, run))
            check_log(run, events)
            assert run.terminal == events[-1]
            check_history(await history(registry, run))
            assert registry.active_runs == 0
            assert await registry.active_run(run.start.conversation_id) is None
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
        await registry.cancel(run.id)
        await ended(registry, run)
        held.released.set()
        assert run.status == "cancelled"
        check_history(await history(registry, run))
        assert [type(message) for message in await history(registry, run)] == [
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
        assert (await registry.cancel(run.id)).id == run.id
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert (run.terminal.final_response, run.terminal.finish_reason) == ("a", "cancelled")
        assert await history(registry, run) == [UserMessage("Hi."), AssistantMessage("a")]
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
        await registry.cancel(second.id)
        await ended(registry, second, first)
        (await paused.reached(2)).open()
        await ended(registry, third)
        assert [run.status for run in (first, second, third)] == [
            "completed",
            "cancelled",
            "completed",
        ]
        said = [message.content for message in await history(registry, first)]
        assert said == ["one", "ab", "three", "ab"]


async def test_a_second_cancel_and_a_cancel_behind_the_end_change_nothing() -> None:
    async with opened() as registry:
        run = await started(registry)
        await ended(registry, run)
        before = run.terminal
        assert (await registry.cancel(run.id)).terminal is before
        with pytest.raises(NotFound):
            await registry.cancel("run_unknown")


async def test_one_tool_call_is_cancelled_and_the_run_goes_on() -> None:
    provider = ScriptedProvider(asks(("hang", {}), ("add", {"a": 1, "b": 2})), says("Done."))
    async with opened(provider) as registry:
        run = await started(registry)
        await until(lambda: run.state and "c1" in run.state.calls and run.state.calls["c1"].done())
        with pytest.raises(NotFound) as caught:
            await registry.cancel_call(run.id, "c1")
        assert caught.value.code == "tool_call_not_found"
        await registry.cancel_call(run.id, "c0")
        await ended(registry, run)
        assert run.status == "completed"
        for run_id, call_id in ((run.id, "c0"), (run.id, "other"), ("run_unknown", "c0")):
            with pytest.raises(NotFound):
                await registry.cancel_call(run_id, call_id)
