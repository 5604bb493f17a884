"""The agent loop with a scripted model and real tools on real threads."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import StreamingAgent, Turns
from errors import ToolError, UpstreamError
from events import (
    ChatChunk,
    ChatComplete,
    Event,
    ReasoningChunk,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallStart,
    Usage,
)
from hub import LogFull
from models import (
    AgentConfig,
    AssistantMessage,
    EndPart,
    Message,
    ModelRequest,
    ReasoningPart,
    ReplyPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    UserMessage,
)
from protocols.answer import WholeAnswer
from tests.logs import START, unhurried
from tests.scripted import (
    DEADLINE,
    USAGE,
    Gate,
    Output,
    Recorder,
    Script,
    ScriptedProvider,
    asks,
    says,
    types,
)
from tools.tool import ToolContext, tool_from
from tools.workers import Workers

BROKEN = UpstreamError("The stream broke off.", code="upstream_truncated")


class Held:
    """A tool that blocks its thread until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def held(self) -> str:
        """Wait."""
        self.entered.set()
        self.released.wait(DEADLINE)
        return "released"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def hang() -> None:
    """Never end."""
    await asyncio.Event().wait()


def fail() -> None:
    """Fail."""
    raise ToolError("The source cannot be reached.")


def crash() -> None:
    """Raise."""
    raise ZeroDivisionError("by zero")


def leave() -> None:
    """Exit."""
    sys.exit(3)


async def count(context: ToolContext) -> str:
    """Report progress."""
    for number in range(5):
        context.progress(number, 5, "on the way")
        await asyncio.sleep(0)
    return "counted"


TOOLS: tuple[Callable[..., Any], ...] = (add, hang, fail, crash, leave, count)


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers(16) as workers:
        yield workers


@pytest.fixture
def held() -> Generator[Held, None, None]:
    held = Held()
    yield held
    held.released.set()


class Bench:
    """An agent, one run of it, and what came of it."""

    def __init__(
        self,
        workers: Workers,
        *replies: Script,
        tools: Iterable[Callable[..., Any]] = TOOLS,
        parallel_tools: bool = True,
        sink: Recorder | None = None,
        reply_to: Callable[[ModelRequest], Script] | None = None,
        **config: Any,
    ) -> None:
        self.provider = ScriptedProvider(*replies, reply_to=reply_to)
        config = {"instructions": "Be brief."} | config
        self.agent = StreamingAgent(
            "chat", AgentConfig(**config), self.provider, map(tool_from, tools), workers
        )
        self.sink = sink or Recorder()
        self.turns = Turns(
            run_id="run_1",
            conversation_id="conv_1",
            context=(UserMessage("Go."),),
            sink=self.sink,
            message_id="msg_first",
            parallel_tools=parallel_tools,
        )

    async def run(self) -> ChatComplete:
        """Run to the end and check the laws."""
        async with asyncio.timeout(DEADLINE):
            done = await self.agent.run(self.turns)
        assert self.sink.events[-1].event_type == "chat_complete"
        self.check()
        return done

    async def fails(self, kind: type[BaseException]) -> None:
        """Run to its failure and check the laws."""
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(kind):
                await self.agent.run(self.turns)
        self.check()

    def check(self) -> None:
        """Check what holds however a run ended."""
        check_history(self.turns.kept)
        check_calls(self.sink.events)
        streamed = "".join(event.content for event in self.sink.of(ChatChunk))
        assert "".join(kept.content for kept in self.said()) == streamed
        assert self.provider.open_streams == 0
        assert self.turns.calls == {}

    def said(self) -> list[AssistantMessage]:
        return [message for message in self.turns.kept if isinstance(message, AssistantMessage)]

    def results(self) -> list[ToolMessage]:
        return [message for message in self.turns.kept if isinstance(message, ToolMessage)]

    def errors(self) -> list[tuple[str, str]]:
        """Return id and code of each call that failed, in the order of events."""
        return [(event.tool_call.id, event.tool_call.code) for event in self.sink.of(ToolCallError)]


def check_history(messages: Sequence[Message]) -> None:
    """Every call has exactly one result, directly behind it and in the same order."""
    due: list[str] = []
    seen: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            assert due, f"a result without a call: {message}"
            assert message.tool_call_id == due.pop(0)
            continue
        assert not due, f"calls without a result: {due}"
        if isinstance(message, AssistantMessage):
            due = [call.id for call in message.tool_calls]
            assert not seen & set(due)
            seen |= set(due)
    assert not due, f"calls without a result: {due}"


def check_calls(events: Iterable[Event]) -> None:
    """A started call has one end, and its progress lies between; no call is told of twice."""
    running: set[str] = set()
    ended: set[str] = set()
    for event in events:
        if isinstance(event, ToolCallStart):
            assert event.tool_call.id not in running | ended
            running.add(event.tool_call.id)
        elif isinstance(event, ToolCallProgress):
            assert event.tool_call.id in running
        elif isinstance(event, ToolCallComplete | ToolCallError):
            assert event.tool_call.id not in ended
            assert event.tool_call.id in running or isinstance(event, ToolCallError)
            running.discard(event.tool_call.id)
            ended.add(event.tool_call.id)
    assert not running, f"started and never ended: {running}"


# Talking.


async def test_an_answer_is_streamed_piece_by_piece_and_kept_whole(workers: Workers) -> None:
    bench = Bench(workers, says("Hel", "lo"))
    done = await bench.run()
    assert types(bench.sink.events) == ["chat_chunk", "chat_chunk", "chat_complete"]
    assert (done.final_response, done.finish_reason, done.usage) == ("Hello", "stop", USAGE)
    assert bench.turns.kept == [AssistantMessage("Hello")]
    assert {event.message_id for event in bench.sink.of(ChatChunk)} == {"msg_first"}


async def test_a_piece_is_visible_before_the_next_one_arrives(workers: Workers) -> None:
    gate = Gate()
    bench = Bench(workers, [TextPart("a"), gate, TextPart("b"), EndPart("stop")])
    run = asyncio.create_task(bench.run())
    await gate.reached()
    assert types(bench.sink.events) == ["chat_chunk"]
    gate.open()
    assert (await run).final_response == "ab"


async def test_reasoning_is_told_but_not_kept(workers: Workers) -> None:
    bench = Bench(workers, [ReasoningPart("Hm."), TextPart("Yes."), EndPart("stop")])
    done = await bench.run()
    assert types(bench.sink.events) == ["reasoning_chunk", "chat_chunk", "chat_complete"]
    assert [event.content for event in bench.sink.of(ReasoningChunk)] == ["Hm."]
    assert (done.final_response, done.usage) == ("Yes.", None)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
async def test_the_models_reason_to_stop_is_passed_on(workers: Workers, reason: Any) -> None:
    bench = Bench(workers, [TextPart("a"), EndPart(reason)])
    assert (await bench.run()).finish_reason == reason


async def test_a_reply_that_says_tool_calls_and_has_none_is_a_stop(workers: Workers) -> None:
    assert (await Bench(workers, [EndPart("tool_calls")]).run()).finish_reason == "stop"


async def test_an_empty_reply_is_an_answer_and_keeps_nothing(workers: Workers) -> None:
    bench = Bench(workers, [EndPart("stop")])
    assert (await bench.run()).final_response == ""
    assert bench.turns.kept == []


async def test_the_model_is_asked_with_everything_it_needs(workers: Workers) -> None:
    bench = Bench(
        workers,
        asks(("add", {"a": 1, "b": 2}), text="Let me see."),
        says("3"),
        model="big-1",
        temperature=0.5,
        max_tokens=9,
        parallel_tools=False,
    )
    await bench.run()
    first, second = bench.provider.requests
    assert (first.model, first.temperature, first.max_tokens) == ("big-1", 0.5, 9)
    assert first.parallel_tools is False
    assert first.messages == (SystemMessage("Be brief."), UserMessage("Go."))
    call = ToolCall("c0", "add", '{"a":1,"b":2}')
    turn = (AssistantMessage("Let me see.", (call,)), ToolMessage("c0", "add", "3"))
    assert second.messages == (*first.messages, *turn)
    assert bench.turns.kept == [*turn, AssistantMessage("3")]


async def test_only_the_agents_own_tools_are_offered(workers: Workers) -> None:
    bench = Bench(workers, says("a"), tools=[add])
    await bench.run()
    assert [spec.name for spec in bench.provider.requests[0].tools] == ["add"]
    assert bench.agent.model == "scripted-1"
    bare = Bench(workers, says("a"), tools=[])
    await bare.run()
    assert bare.provider.requests[0].tools == ()


async def test_a_tool_that_was_added_is_offered_and_called(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2})), says("a"), tools=[])
    bench.agent.add_tool(add)
    await bench.run()
    assert [spec.name for spec in bench.provider.requests[0].tools] == ["add"]
    assert [result.content for result in bench.results()] == ["3"]


async def test_usage_is_summed_over_the_turns_of_one_run_only(workers: Workers) -> None:
    call = asks(("add", {"a": 1, "b": 2}))
    bench = Bench(workers, call, says("3"), says("again"))
    assert (await bench.run()).usage == Usage(6, 4, 10)
    bench.turns = Turns("run_2", "conv_1", (UserMessage("Go."),), Recorder(), "msg_2")
    assert (await bench.agent.run(bench.turns)).usage == USAGE


async def test_each_turn_has_a_message_id_of_its_own(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), says("3"))
    await bench.run()
    first, last = [event.message_id for event in bench.sink.of(ChatChunk)]
    assert first == "msg_first" != last
    of_calls = bench.sink.of(ToolCallStart, ToolCallComplete)
    assert {event.message_id for event in of_calls} == {"msg_first"}


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
            assert types(second.sink.events) == []
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


# Limits.


def different(request: ModelRequest) -> Script:
    return asks(*[("add", {"a": len(request.messages), "b": at}) for at in range(3)], text="More.")


@pytest.mark.parametrize(
    ("limits", "reason", "turns", "executed"),
    [
        ({"max_turns": 1}, "max_turns", 1, 0),
        ({"max_turns": 4}, "max_turns", 4, 9),
        ({"max_tool_calls": 2}, "max_tool_calls", 1, 0),
        ({"max_tool_calls": 3}, "max_tool_calls", 2, 3),
        ({"max_tool_calls": 7}, "max_tool_calls", 3, 6),
    ],
)
async def test_a_model_that_calls_for_ever_is_stopped_and_the_end_says_by_what(
    workers: Workers, limits: dict[str, Any], reason: str, turns: int, executed: int
) -> None:
    bench = Bench(workers, reply_to=different, **limits)
    done = await bench.run()
    assert (done.finish_reason, done.final_response) == (reason, "More.")
    assert len(bench.provider.requests) == turns
    assert len(bench.sink.of(ToolCallStart)) == executed
    assert len(bench.results()) == turns * 3
    assert [code for _, code in bench.errors()] == ["limit"] * 3
    assert all("limit" in result.content for result in bench.results()[-3:])


async def test_the_last_turn_that_is_allowed_may_answer(workers: Workers) -> None:
    call = asks(("add", {"a": 1, "b": 2}))
    assert (await Bench(workers, call, says("3"), max_turns=2).run()).finish_reason == "stop"


async def test_going_round_in_circles_is_noticed(workers: Workers) -> None:
    one, other = ("add", {"a": 1, "b": 2}), ("add", {"a": 2, "b": 1})
    circle = [asks(one, other), asks(other, one), asks(one, other)]
    bench = Bench(workers, *circle)
    assert (await bench.run()).finish_reason == "repeated_tool_calls"
    assert len(bench.sink.of(ToolCallStart)) == 4
    assert [code for _, code in bench.errors()] == ["limit", "limit"]


async def test_the_same_calls_with_others_between_are_no_circle(workers: Workers) -> None:
    one, other = asks(("add", {"a": 1, "b": 2})), asks(("add", {"a": 2, "b": 1}))
    bench = Bench(workers, one, one, other, one, one, other, says("a"))
    assert (await bench.run()).finish_reason == "stop"


# Failing.


@pytest.mark.parametrize("said", [[], ["Hel"], ["Hel", "lo"]])
async def test_what_was_streamed_is_kept_where_the_stream_breaks(
    workers: Workers, said: list[str]
) -> None:
    bench = Bench(workers, [*map(TextPart, said), BROKEN])
    await bench.fails(UpstreamError)
    assert bench.turns.kept == ([AssistantMessage("".join(said))] if said else [])
    assert bench.turns.text == "".join(said)


async def test_what_was_streamed_is_kept_where_the_stream_breaks_behind_its_end(
    workers: Workers,
) -> None:
    bench = Bench(workers, [TextPart("Hello"), EndPart("stop"), BROKEN])
    await bench.fails(UpstreamError)
    assert bench.turns.kept == [AssistantMessage("Hello")]


async def test_the_turns_before_a_failure_are_kept(workers: Workers) -> None:
    bench = Bench(
        workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), [TextPart("It is"), BROKEN]
    )
    await bench.fails(UpstreamError)
    assert types(bench.sink.events)[-1] == "chat_chunk"
    assert [type(message) for message in bench.turns.kept] == [
        AssistantMessage,
        ToolMessage,
        AssistantMessage,
    ]


async def test_calls_of_a_reply_that_broke_off_are_not_executed(workers: Workers) -> None:
    call = ToolCallPart(ToolCall("c0", "add", '{"a":1,"b":2}'))
    bench = Bench(workers, [TextPart("a"), call, BROKEN])
    await bench.fails(UpstreamError)
    assert types(bench.sink.events) == ["chat_chunk"]
    assert bench.turns.kept == [AssistantMessage("a")]


async def test_a_provider_that_forgets_its_end_is_a_mistake_and_no_answer(
    workers: Workers,
) -> None:
    bench = Bench(workers, [TextPart("a")])
    await bench.fails(RuntimeError)
    assert types(bench.sink.events) == ["chat_chunk"]


@pytest.mark.parametrize("limit", range(1, 6))
async def test_a_log_that_is_full_loses_nothing_that_it_holds(workers: Workers, limit: int) -> None:
    full = LogFull("Full.")
    call = asks(("add", {"a": 1, "b": 2}), ("nothing", {}), text="Well:")
    bench = Bench(workers, call, says("3"), sink=Recorder(limit=limit, full=full))
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(LogFull):
            await bench.agent.run(bench.turns)
    check_history(bench.turns.kept)
    streamed = "".join(event.content for event in bench.sink.of(ChatChunk))
    assert "".join(message.content for message in bench.said()).startswith(streamed)


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
    run = asyncio.create_task(bench.agent.run(bench.turns))
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
    coroutine = CancelledAt(bench.agent.run(bench.turns), at)

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
    run = asyncio.create_task(bench.agent.run(bench.turns))
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
    run = asyncio.create_task(bench.agent.run(bench.turns))
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
    run = asyncio.create_task(bench.agent.run(bench.turns))
    await gate.reached()
    assert bench.provider.open_streams == 1
    run.cancel()
    await cancelled(bench, run)
    assert bench.turns.kept == [AssistantMessage("a")]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - threads make it true
            await asyncio.sleep(0.001)


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
    bench.turns.calls["c0"].cancel()
    bench.turns.calls["c0"].cancel()
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
    bench.turns.calls["c1"].cancel()
    await until(bench.errors)
    held.released.set()
    await run
    assert bench.errors() == [("c1", "cancelled")]
    assert [result.content for result in bench.results()][::2] == ["released", "7"]
    assert [event.tool_call.id for event in bench.sink.of(ToolCallStart)] == ["c0", "c2"]


async def test_a_call_can_be_cancelled_before_its_first_step(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), ("add", {"a": 1, "b": 2})), says("a"))

    async def cancel_at_once() -> None:
        while not bench.turns.calls:  # noqa: ASYNC110 - every turn of the loop counts
            await asyncio.sleep(0)
        bench.turns.calls["c1"].cancel()

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
                await CancelledAt(bench.agent.run(bench.turns), at)

            await asyncio.wait([task := asyncio.create_task(run())], timeout=DEADLINE)
            bench.check()
            if not task.cancelled():
                error = task.exception()
                assert error is None or error is BROKEN
                ends = [event for event in bench.sink.events if isinstance(event, ChatComplete)]
                assert len(ends) == (0 if error else 1)

    asyncio.run(check())
