"""The agent loop: calling tools together."""

import asyncio
import threading
import time

import msgspec
import pytest

from events import (
    Event,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallStart,
)
from messages import EndPart, ReplyPart, ToolCall, ToolCallPart
from protocols.answer import WholeAnswer
from tests.agent.support import (
    TOOLS,
    Bench,
    Held,
    add,
    fail,
)
from tests.logs import START
from tests.scripted import (
    DEADLINE,
    Recorder,
    Script,
    asks,
    says,
    types,
)
from tools.tool import ToolContext
from tools.workers import Workers

# Calling tools.


async def test_the_events_of_a_call_tell_all_of_it(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2})), says("3"))
    await bench.run()
    [start], [complete] = bench.sink.of(ToolCallStart), bench.sink.of(ToolCallComplete)
    assert (start.tool_call.id, start.tool_call.name) == ("c0", "add")
    assert start.tool_call.arguments == complete.tool_call.arguments == {"a": 1, "b": 2}
    assert (complete.tool_call.result, complete.tool_call.truncated) == (3, False)
    assert 0 <= complete.tool_call.duration_ms < DEADLINE * 1000


@pytest.mark.parametrize("arguments", ["", " ", "\n"])
async def test_no_arguments_at_all_are_an_object_without_members(
    workers: Workers, arguments: str
) -> None:
    bench = Bench(workers, asks(("count", arguments)), says("a"))
    await bench.run()
    assert [event.tool_call.arguments for event in bench.sink.of(ToolCallStart)] == [{}]


async def test_the_calls_of_a_turn_run_at_the_same_time(workers: Workers) -> None:
    barrier = threading.Barrier(5, timeout=DEADLINE)

    def meet() -> int:
        """Wait for the others."""
        return barrier.parties if barrier.wait() >= 0 else 0

    bench = Bench(workers, asks(*[("meet", {})] * 5), says("a"), tools=[meet])
    await bench.run()
    assert [result.content for result in bench.results()] == ["5"] * 5
    assert types(bench.sink.events[:5]) == ["tool_call_start"] * 5


class Crowd:
    """A tool that remembers how many of it ran at once, and lets two meet if they can."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Run a while."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1


@pytest.mark.parametrize(
    ("parallel_tools", "limit", "most"), [(True, 2, 2), (True, 1, 1), (False, 5, 1)]
)
async def test_no_more_calls_run_at_once_than_allowed(
    workers: Workers, parallel_tools: bool, limit: int, most: int
) -> None:
    crowd = Crowd()
    bench = Bench(
        workers,
        asks(*[("enter", {})] * 6),
        says("a"),
        tools=[crowd.enter],
        max_parallel_tools=limit,
        parallel_tools=parallel_tools,
    )
    await bench.run()
    assert crowd.most == most
    running = now = 0
    for event in bench.sink.of(ToolCallStart, ToolCallComplete):
        now += 1 if isinstance(event, ToolCallStart) else -1
        running = max(running, now)
    assert running == most


async def test_serial_calls_run_in_the_models_order(workers: Workers) -> None:
    calls = [("add", {"a": number, "b": 0}) for number in range(5)]
    bench = Bench(workers, asks(*calls), says("a"), parallel_tools=False)
    await bench.run()
    told = bench.sink.of(ToolCallStart, ToolCallComplete)
    assert types(told) == ["tool_call_start", "tool_call_complete"] * 5
    assert [event.tool_call.id for event in told[::2]] == ["c0", "c1", "c2", "c3", "c4"]


async def test_results_go_back_in_the_models_order_and_events_come_as_things_happen(
    workers: Workers, held: Held
) -> None:
    def release(event: Event) -> None:
        if isinstance(event, ToolCallComplete):
            held.released.set()

    bench = Bench(
        workers,
        asks(("held", {}), ("add", {"a": 1, "b": 2})),
        says("a"),
        tools=[held.held, add],
        sink=Recorder(release),
    )
    await bench.run()
    assert [event.tool_call.id for event in bench.sink.of(ToolCallComplete)] == ["c1", "c0"]
    assert [result.tool_call_id for result in bench.results()] == ["c0", "c1"]


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        ("fail", "failed", "The source cannot be reached."),
        ("crash", "failed", "ZeroDivisionError: by zero"),
        ("leave", "failed", "SystemExit"),
        ("hang", "timeout", "did not answer within its limit of 0.3 s"),
        ("held", "timeout", "did not answer within its limit of 0.3 s"),
    ],
)
async def test_a_bad_tool_leaves_its_siblings_and_the_run_alone(
    workers: Workers, held: Held, bad: str, code: str, text: str
) -> None:
    good = ("add", {"a": 1, "b": 2})
    bench = Bench(
        workers,
        asks(good, (bad, {}), good),
        says("a"),
        tools=[*TOOLS, held.held],
        tool_call_timeout=0.3,
    )
    assert (await bench.run()).finish_reason == "stop"
    assert bench.errors() == [("c1", code)]
    first, wrong, last = bench.results()
    assert (first.content, last.content) == ("3", "3")
    assert wrong.is_error
    assert wrong.content.startswith("Error: ")
    assert text in wrong.content
    [event] = bench.sink.of(ToolCallError)
    assert text in event.tool_call.error
    if code == "timeout":
        assert 300 <= event.tool_call.duration_ms < 800 + 500


async def test_the_time_of_a_call_counts_from_its_execution_not_from_its_waiting(
    workers: Workers,
) -> None:
    calls = asks(("hang", {}), ("hang", {}), ("add", {"a": 1, "b": 2}))
    bench = Bench(workers, calls, says("a"), tool_call_timeout=0.2, max_parallel_tools=1)
    await bench.run()
    assert bench.errors() == [("c0", "timeout"), ("c1", "timeout")]
    assert all(event.tool_call.duration_ms >= 200 for event in bench.sink.of(ToolCallError))
    assert bench.results()[2].content == "3"


async def test_waiting_for_a_worker_does_not_count_as_execution(held: Held) -> None:
    async with Workers(1) as workers:
        first = Bench(workers, asks(("held", {})), says("a"), tools=[held.held])
        second = Bench(workers, asks(("add", {"a": 1, "b": 2})), says("a"), tool_call_timeout=0.05)
        runs = [asyncio.create_task(first.run())]
        async with asyncio.timeout(DEADLINE):
            while not held.entered.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.001)
            runs.append(asyncio.create_task(second.run()))
            await asyncio.wait(runs, timeout=0.15)
            assert types(second.sink.events) == ["tool_call_queued"]
            held.released.set()
            await asyncio.gather(*runs)
        assert second.errors() == []


async def test_an_unknown_tool_is_answered_with_the_names_that_exist(workers: Workers) -> None:
    bench = Bench(
        workers, asks(("ad", {}), ("add", {"a": 1, "b": 2})), says("a"), tools=[add, fail]
    )
    await bench.run()
    assert bench.errors() == [("c0", "unknown_tool")]
    assert "'ad'" in bench.results()[0].content
    assert "add, fail" in bench.results()[0].content
    assert [event.tool_call.id for event in bench.sink.of(ToolCallStart)] == ["c1"]


async def test_a_tool_of_another_agent_does_not_exist_for_this_one(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2})), says("a"), tools=[])
    await bench.run()
    assert bench.errors() == [("c0", "unknown_tool")]
    assert "none" in bench.results()[0].content


def nested(depth: int) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + ', "b": 2}'


BAD_ARGUMENTS = {
    "cut off": '{"a": 1, "b": ',
    "not an object": "[1, 2]",
    "a number": "3",
    "null": "null",
    "not JSON": "a=1",
    "NaN": '{"a": NaN, "b": 1}',
    "infinite": '{"a": 1e999, "b": 1}',
    "a missing member": '{"a": 1}',
    "a strange member": '{"a": 1, "b": 2, "c": 3}',
    "a wrong type": '{"a": "one", "b": 2}',
    "a member twice": '{"a": 1, "b": 2, "a": 3}',
    "somewhat deep": nested(70),
    "deep": nested(300),
    "deeper": nested(900),
    "too deep": nested(100_000),
    "many digits": '{"a": ' + "9" * 5000 + ', "b": 2}',
    "a lone surrogate, escaped": '{"a": "\\ud800", "b": 2}',
    "a lone surrogate": '{"a": "\ud800", "b": 2}',
    "NUL": '{"a": "\0", "b": 2}',
    "huge": '{"a": "' + "x" * 2_000_000 + '", "b": 2}',
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
async def test_bad_arguments_are_told_to_the_model_and_the_run_goes_on(
    workers: Workers, arguments: str
) -> None:
    bench = Bench(workers, asks(("add", arguments), ("add", {"a": 1, "b": 2})), says("Sorry."))
    assert (await bench.run()).final_response == "Sorry."
    assert bench.errors() == [("c0", "invalid_arguments")]
    wrong, right = bench.results()
    assert right.content == "3"
    assert '"required":["a","b"]' in wrong.content
    answer = WholeAnswer()
    answer.add(START)
    for event in bench.sink.events:
        assert len(msgspec.json.encode(event)) < 2_100_000
        answer.add(event)
    assert answer.result is not None
    assert not isinstance(answer.result, msgspec.Struct)
    answer.result.model_dump_json()


async def test_arguments_that_were_too_large_to_collect_are_never_executed(
    workers: Workers,
) -> None:
    part = ToolCallPart(ToolCall("c0", "add", '{"a":1,"b":2}'), truncated=True)
    bench = Bench(workers, [[part, EndPart("tool_calls")]], says("a"))
    await bench.run()
    assert bench.errors() == [("c0", "invalid_arguments")]


async def test_call_ids_that_come_twice_or_not_at_all_are_made_unique(workers: Workers) -> None:
    def call(id: str) -> ReplyPart:
        return ToolCallPart(ToolCall(id, "add", '{"a":1,"b":2}'))

    reply: Script = [[call("x"), call("x"), call(""), call(""), EndPart("tool_calls")]]
    again: Script = [[call("x"), EndPart("tool_calls")]]
    bench = Bench(workers, reply, again, says("a"))
    await bench.run()
    ids = [result.tool_call_id for result in bench.results()]
    assert ids[0] == "x"
    assert len(set(ids)) == 5
    assert all(ids)
    told = [event.tool_call.id for event in bench.sink.of(ToolCallStart)]
    assert sorted(told) == sorted(ids)


async def test_progress_is_told_between_start_and_end(workers: Workers) -> None:
    bench = Bench(workers, asks(("count", {}), ("count", {})), says("a"))
    await bench.run()
    reports = bench.sink.of(ToolCallProgress)
    assert {report.tool_call.id for report in reports} == {"c0", "c1"}
    assert {(report.tool_call.total, report.tool_call.message) for report in reports} == {
        (5, "on the way")
    }


async def test_a_tool_that_was_cut_off_reports_nothing_more(workers: Workers, held: Held) -> None:
    reported = threading.Event()

    def stubborn(context: ToolContext) -> None:
        """Report when it is too late."""
        held.released.wait(DEADLINE)
        context.progress(1)
        reported.set()

    bench = Bench(
        workers, asks(("stubborn", {})), says("a"), tools=[stubborn], tool_call_timeout=0.05
    )
    await bench.run()
    held.released.set()
    assert await asyncio.to_thread(reported.wait, DEADLINE)
    for _ in range(3):
        await asyncio.sleep(0)
    assert bench.sink.of(ToolCallProgress) == []


async def test_a_tool_knows_in_which_call_it_is(workers: Workers) -> None:
    def whoami(context: ToolContext) -> list[str]:
        """Tell."""
        return [context.run_id, context.conversation_id, context.agent, context.tool_call_id]

    bench = Bench(workers, asks(("whoami", {})), says("a"), tools=[whoami])
    await bench.run()
    assert bench.results()[0].content == '["run_1","conv_1","chat","c0"]'


async def test_a_result_that_is_too_long_is_cut_and_says_so(workers: Workers) -> None:
    def much() -> str:
        """Return a lot."""
        return "x" * 100_000

    bench = Bench(workers, asks(("much", {})), says("a"), tools=[much])
    await bench.run()
    [event] = bench.sink.of(ToolCallComplete)
    assert event.tool_call.truncated
    assert len(event.tool_call.result) <= 32_768
    assert bench.results()[0].content == event.tool_call.result


async def test_a_lack_of_threads_is_the_calls_failure_and_not_the_runs(held: Held) -> None:
    async with Workers(4) as workers:
        pass
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), says("No."))
    assert (await bench.run()).final_response == "No."
    assert bench.errors() == [("c0", "failed")]
