"""The agent loop: cancelled anywhere, and its laws for any script."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import (
    ChatComplete,
    Event,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
)
from messages import AssistantMessage, EndPart, ReasoningPart, TextPart
from tests.agent.support import (
    BROKEN,
    TOOLS,
    Bench,
    Held,
    add,
    hang,
    until,
)
from tests.logs import unhurried
from tests.scripted import (
    DEADLINE,
    USAGE,
    Gate,
    Output,
    Recorder,
    Script,
    asks,
    says,
)
from tools.workers import Workers

# Cancelling.


async def cancelled(bench: Bench, run: "asyncio.Task[Any]") -> None:
    """Wait for the end of a run that was cancelled, and check the laws."""
    await asyncio.wait([run], timeout=DEADLINE)
    assert run.cancelled()
    bench.check()


THREE = {"a": 1, "b": 2}
EVERYTHING: list[Script] = [
    [ReasoningPart("Hm."), *asks(("add", THREE), ("nothing", {}), ("add", "{"), text="A")],
    asks(("add", THREE), ("held", {}), ("hang", {}), ("fail", {}), ("count", {}), text="B"),
    says("C", "D"),
]
"""A script in which everything happens that can happen in a run."""


async def test_a_call_is_cancelled_while_its_long_arguments_are_parsed(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsing = asyncio.Event()

    async def never(*args: object) -> None:
        parsing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("loop.calls.offload", never)
    long = {"a": 1, "b": 2, "c": "x" * 20_000}
    bench = Bench(workers, asks(("add", long), ("add", THREE)), says("3."))
    run = asyncio.create_task(bench.agent.run(bench.state))
    async with asyncio.timeout(DEADLINE):
        await parsing.wait()
        bench.state.calls["c0"].cancel()
        await run
    bench.check()
    errors = bench.sink.of(ToolCallError)
    assert [error.tool_call.code for error in errors] == ["cancelled"]
    assert errors[0].tool_call.arguments == long
    assert len(bench.sink.of(ToolCallComplete)) == 1


async def cancelled_behind(at: int, workers: Workers, *replies: Script) -> "asyncio.Task[Any]":
    """Run, cancel behind the event `at`, check the laws, and return the task."""
    held = Held()

    def on_event(event: Event) -> None:
        if event.seq == at:
            run.cancel()
        if event.seq >= 12:
            held.released.set()

    tools = [*TOOLS, held.held]
    bench = Bench(workers, *replies, tools=tools, sink=Recorder(on_event), tool_call_timeout=0.1)
    run = asyncio.create_task(bench.agent.run(bench.state))
    await asyncio.wait([run], timeout=DEADLINE)
    held.released.set()
    bench.check()
    assert run.cancelled() or at >= len(bench.sink.events)
    return run


async def test_a_cancel_behind_any_event_leaves_no_orphan(workers: Workers) -> None:
    for at in range(1, 40):
        run = await cancelled_behind(at, workers, *EVERYTHING)
        if not run.cancelled():
            assert run.result().finish_reason == "stop"
            return
    pytest.fail("the run has no end")


class CancelledAt:
    """Awaits a coroutine and cancels its task whenever it waits for the n-th time, n in `at`."""

    def __init__(self, coroutine: Awaitable[Any], at: Iterable[int]) -> None:
        self.waits = 0
        self._coroutine = coroutine
        self._at = set(at)

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        step: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            if self.waits in self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            self.waits += 1
            try:
                yield waited_for
                step = partial(next, inner)
            except BaseException as error:
                assert isinstance(inner, Generator)
                step = partial(inner.throw, error)


async def outcome(
    workers: Workers, at: Iterable[int], *replies: Script, tools: Iterable[Callable[..., Any]]
) -> tuple[Bench, "asyncio.Task[Any]", CancelledAt]:
    bench = Bench(workers, *replies, tools=tools, tool_call_timeout=DEADLINE)
    coroutine = CancelledAt(bench.agent.run(bench.state), at)

    async def run() -> Any:
        return await coroutine

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=DEADLINE)
    assert task.done()
    return bench, task, coroutine


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancel_at_any_await_leaves_no_orphan_and_keeps_the_text(
    workers: Workers, times: int
) -> None:
    replies: list[Script] = [
        [ReasoningPart("Hm."), *asks(("add", THREE), ("nothing", {}), ("count", {}), text="A")],
        [TextPart("B"), TextPart("C"), EndPart("stop", USAGE)],
    ]
    for at in range(60):
        bench, run, coroutine = await outcome(workers, range(at, at + times), *replies, tools=TOOLS)
        bench.check()
        if at >= coroutine.waits:
            assert run.result().finish_reason == "stop"
            return
        assert run.cancelled()
    pytest.fail("the run has no end")


async def test_a_cancelled_run_ends_its_tools_within_two_seconds(
    workers: Workers, held: Held
) -> None:
    entered, ended = threading.Event(), threading.Event()

    async def tidy() -> None:
        """Wait and clean up."""
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bench = Bench(workers, asks(("held", {}), ("tidy", {}), text="A"), tools=[held.held, tidy])
    run = asyncio.create_task(bench.agent.run(bench.state))
    await until(lambda: held.entered.is_set() and entered.is_set())
    began = time.monotonic()
    run.cancel()
    await cancelled(bench, run)
    assert time.monotonic() - began < 2
    assert ended.is_set()
    assert bench.errors() == [("c1", "cancelled"), ("c0", "cancelled")]
    assert [result.content for result in bench.results()] == ["Error: The call was cancelled."] * 2


async def test_a_second_cancel_while_the_tools_end_loses_nothing(
    workers: Workers, held: Held
) -> None:
    bench = Bench(workers, asks(("held", {}), ("hang", {}), text="A"), tools=[held.held, hang])
    run = asyncio.create_task(bench.agent.run(bench.state))
    assert await asyncio.to_thread(held.entered.wait, DEADLINE)
    run.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not run.done()
    run.cancel()
    await cancelled(bench, run)
    assert len(bench.results()) == 2


async def test_cancelling_closes_the_stream_of_the_model(workers: Workers) -> None:
    gate = Gate()
    bench = Bench(workers, [TextPart("a"), gate])
    run = asyncio.create_task(bench.agent.run(bench.state))
    await gate.reached()
    assert bench.provider.open_streams == 1
    run.cancel()
    await cancelled(bench, run)
    assert bench.state.transcript.messages == [AssistantMessage("a")]


@pytest.mark.parametrize("which", ["held", "hang"])
async def test_one_call_can_be_cancelled_and_its_siblings_go_on(
    workers: Workers, held: Held, which: str
) -> None:
    bench = Bench(
        workers,
        asks((which, {}), ("add", {"a": 1, "b": 2})),
        says("a"),
        tools=[held.held, add, hang],
    )
    run = asyncio.create_task(bench.run())
    await until(lambda: bench.sink.of(ToolCallComplete))
    bench.state.calls["c0"].cancel()
    bench.state.calls["c0"].cancel()
    assert (await run).finish_reason == "stop"
    assert bench.errors() == [("c0", "cancelled")]
    assert [result.is_error for result in bench.results()] == [True, False]


async def test_a_call_that_waits_for_its_place_can_be_cancelled(
    workers: Workers, held: Held
) -> None:
    bench = Bench(
        workers,
        asks(("held", {}), ("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})),
        says("a"),
        tools=[held.held, add],
        max_parallel_tools=1,
    )
    run = asyncio.create_task(bench.run())
    await until(held.entered.is_set)
    bench.state.calls["c1"].cancel()
    await until(bench.errors)
    held.released.set()
    await run
    assert bench.errors() == [("c1", "cancelled")]
    assert [result.content for result in bench.results()][::2] == ["released", "7"]
    assert [event.tool_call.id for event in bench.sink.of(ToolCallStart)] == ["c0", "c2"]


async def test_a_call_can_be_cancelled_before_its_first_step(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), ("add", {"a": 1, "b": 2})), says("a"))

    async def cancel_at_once() -> None:
        while not bench.state.calls:  # noqa: ASYNC110 - every turn of the loop counts
            await asyncio.sleep(0)
        bench.state.calls["c1"].cancel()

    await asyncio.gather(bench.run(), cancel_at_once())
    assert bench.errors() == [("c1", "cancelled")]


# The laws, for any script.

_calls: st.SearchStrategy[tuple[str, Any]] = st.sampled_from(
    [
        ("add", {"a": 1, "b": 2}),
        ("add", "{"),
        ("fail", {}),
        ("leave", {}),
        ("count", {}),
        ("nothing", {}),
    ]
)


@st.composite
def replies(draw: st.DrawFn) -> list[Output]:
    text: list[Output] = [TextPart(piece) for piece in draw(st.lists(st.just("x"), max_size=3))]
    calls = draw(st.lists(_calls, max_size=4))
    reply = [*text, *(asks(*calls) if calls else says())]
    if draw(st.integers(0, 9)) == 0:
        reply.insert(draw(st.integers(0, len(reply))), BROKEN)
    return reply


@unhurried
@given(
    script=st.lists(replies(), max_size=4),
    at=st.sets(st.integers(0, 30), max_size=2),
    parallel_tools=st.booleans(),
    limits=st.fixed_dictionaries(
        {"max_turns": st.integers(1, 5), "max_tool_calls": st.integers(1, 9)}
    ),
)
def test_the_laws_hold_for_any_script_and_any_cancel(
    script: list[Script], at: set[int], parallel_tools: bool, limits: dict[str, Any]
) -> None:
    async def check() -> None:
        async with Workers(8) as workers:
            bench = Bench(workers, *script, says("End."), parallel_tools=parallel_tools, **limits)

            async def run() -> None:
                await CancelledAt(bench.agent.run(bench.state), at)

            await asyncio.wait([task := asyncio.create_task(run())], timeout=DEADLINE)
            bench.check()
            if not task.cancelled():
                error = task.exception()
                assert error is None or error is BROKEN
                assert not any(isinstance(event, ChatComplete) for event in bench.sink.events)

    asyncio.run(check())
