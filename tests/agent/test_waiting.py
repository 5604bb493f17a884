"""The agent loop: calls that wait for their place, and when each was executed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events import ToolCallComplete, ToolCallError, ToolCallQueued, ToolCallStart
from tests.agent.support import Bench, Held, add, until
from tests.scripted import asks, says
from tools.workers import Workers

ADD = ("add", {"a": 1, "b": 2})
HELD: tuple[str, Any] = ("held", {})


def told(bench: Bench) -> list[tuple[str, str]]:
    """Return what was told of which call: `queued`, `start`, `complete` or `error`."""
    return [
        (event.event_type.removeprefix("tool_call_"), event.tool_call.id)
        for event in bench.sink.events
        if isinstance(event, ToolCallQueued | ToolCallStart | ToolCallComplete | ToolCallError)
    ]


def of(bench: Bench, call_id: str) -> list[str]:
    """Return what was told of one call."""
    return [what for what, about in told(bench) if about == call_id]


@pytest.mark.parametrize(
    ("parallel_tools", "limit", "at_once"), [(True, 2, 2), (True, 1, 1), (False, 5, 1)]
)
async def test_a_call_that_finds_all_places_of_its_turn_taken_says_so_before_it_starts(
    workers: Workers, held: Held, parallel_tools: bool, limit: int, at_once: int
) -> None:
    bench = Bench(
        workers,
        asks(*[HELD] * 3),
        says("a"),
        tools=[held.held],
        max_parallel_tools=limit,
        parallel_tools=parallel_tools,
    )
    run = asyncio.create_task(bench.run())
    await until(held.entered.is_set)
    assert told(bench) == [
        ("start" if number < at_once else "queued", f"c{number}") for number in range(3)
    ]
    held.released.set()
    await run
    for number in range(3):
        waited = ["queued"] if number >= at_once else []
        assert of(bench, f"c{number}") == [*waited, "start", "complete"]
    queued = bench.sink.of(ToolCallQueued)[-1]
    assert (queued.message_id, queued.tool_call.name) == ("msg_first", "held")


async def test_calls_that_all_have_a_place_do_not_wait(workers: Workers) -> None:
    bench = Bench(workers, asks(*[ADD] * 3), says("a"), max_parallel_tools=3)
    await bench.run()
    assert bench.sink.of(ToolCallQueued) == []
    assert [what for what, _ in told(bench)][:3] == ["start"] * 3


async def test_a_call_waits_once_however_much_it_waits_for(held: Held) -> None:
    async with Workers(1) as workers:
        other = Bench(workers, asks(HELD), says("a"), tools=[held.held])
        bench = Bench(workers, asks(ADD, ADD), says("b"), max_parallel_tools=1)
        runs = [asyncio.create_task(other.run())]
        await until(held.entered.is_set)
        runs.append(asyncio.create_task(bench.run()))
        await until(lambda: len(told(bench)) == 2)
        assert told(bench) == [("queued", "c0"), ("queued", "c1")]
        held.released.set()
        await asyncio.gather(*runs)
        assert of(other, "c0") == ["start", "complete"]
        for call_id in ("c0", "c1"):
            assert of(bench, call_id) == ["queued", "start", "complete"]


async def test_the_arguments_of_a_call_that_waits_are_those_of_its_start(
    workers: Workers,
) -> None:
    calls = [("add", {"a": number, "b": 0}) for number in range(3)]
    bench = Bench(workers, asks(*calls), says("a"), parallel_tools=False)
    await bench.run()
    assert [event.tool_call.arguments for event in bench.sink.of(ToolCallQueued)] == [
        {"a": 1, "b": 0},
        {"a": 2, "b": 0},
    ]


@pytest.mark.parametrize("bad", [("nothing", {}), ("add", "{"), ("add", {"a": "x", "b": 1})])
async def test_a_call_that_is_never_executed_does_not_wait_for_a_place(
    workers: Workers, held: Held, bad: tuple[str, Any]
) -> None:
    bench = Bench(
        workers,
        asks(HELD, bad),
        says("a"),
        tools=[held.held, add],
        max_parallel_tools=1,
    )
    run = asyncio.create_task(bench.run())
    await until(bench.errors)
    held.released.set()
    await run
    assert of(bench, "c1") == ["error"]
    [error] = bench.sink.of(ToolCallError)
    assert (error.tool_call.started_at, error.tool_call.duration_ms) == (None, 0)


async def test_a_call_that_was_cancelled_while_it_waited_was_never_executed(
    workers: Workers, held: Held
) -> None:
    bench = Bench(
        workers,
        asks(HELD, ADD),
        says("a"),
        tools=[held.held, add],
        max_parallel_tools=1,
    )
    run = asyncio.create_task(bench.run())
    await until(lambda: of(bench, "c1"))
    bench.state.calls["c1"].cancel()
    await until(bench.errors)
    held.released.set()
    await run
    assert of(bench, "c1") == ["queued", "error"]
    [error] = bench.sink.of(ToolCallError)
    assert error.tool_call.code == "cancelled"
    assert (error.tool_call.started_at, error.tool_call.duration_ms) == (None, 0)
    _, result = bench.results()
    assert (result.started_at, result.duration_ms) == (None, 0)


async def test_the_calls_that_wait_end_with_their_run(workers: Workers, held: Held) -> None:
    bench = Bench(
        workers, asks(HELD, ADD, ADD), says("a"), tools=[held.held, add], max_parallel_tools=1
    )
    run = asyncio.create_task(bench.agent.run(bench.state))
    await until(held.entered.is_set)
    run.cancel()
    held.released.set()
    await asyncio.wait([run])
    bench.check()
    assert of(bench, "c1") == of(bench, "c2") == ["queued", "error"]


async def test_started_at_is_the_time_at_which_the_execution_began(
    workers: Workers, held: Held
) -> None:
    before = datetime.now(UTC)
    bench = Bench(
        workers,
        asks(HELD, ADD),
        says("a"),
        tools=[held.held, add],
        max_parallel_tools=1,
    )
    run = asyncio.create_task(bench.run())
    await until(held.entered.is_set)
    between = datetime.now(UTC)
    held.released.set()
    await run
    after = datetime.now(UTC)
    first, second = bench.sink.of(ToolCallStart)
    assert first.tool_call.started_at is not None
    assert second.tool_call.started_at is not None
    assert before <= first.tool_call.started_at <= between
    assert between <= second.tool_call.started_at <= after
    assert first.tool_call.started_at.utcoffset() == timedelta(0)
    ends = bench.sink.of(ToolCallComplete)
    assert [end.tool_call.started_at for end in ends] == [
        first.tool_call.started_at,
        second.tool_call.started_at,
    ]


async def test_a_call_that_failed_was_executed_and_says_when(workers: Workers) -> None:
    bench = Bench(workers, asks(("fail", {}), ("hang", {})), says("a"), tool_call_timeout=0.05)
    await bench.run()
    starts = {each.tool_call.id: each.tool_call for each in bench.sink.of(ToolCallStart)}
    errors = {each.tool_call.id: each.tool_call for each in bench.sink.of(ToolCallError)}
    assert [result.tool_call_id for result in bench.results()] == ["c0", "c1"]
    for result in bench.results():
        start, error = starts[result.tool_call_id], errors[result.tool_call_id]
        assert start.started_at is not None
        assert start.started_at == error.started_at == result.started_at
        assert error.duration_ms == result.duration_ms > 0


async def test_the_result_that_is_kept_has_the_times_of_its_event(workers: Workers) -> None:
    bench = Bench(workers, asks(ADD), says("a"))
    await bench.run()
    [complete], [result] = bench.sink.of(ToolCallComplete), bench.results()
    assert result.started_at == complete.tool_call.started_at is not None
    assert result.duration_ms == complete.tool_call.duration_ms > 0


async def test_a_call_for_which_there_is_no_worker_any_more_was_never_executed() -> None:
    async with Workers(4) as workers:
        pass
    bench = Bench(workers, asks(ADD), says("No."))
    await bench.run()
    assert told(bench) == [("error", "c0")]
    [error] = bench.sink.of(ToolCallError)
    assert error.tool_call.started_at is None
    [result] = bench.results()
    assert (result.started_at, result.is_error) == (None, True)
