"""The agent loop: what it says, where it stops, how it fails."""

import asyncio
from typing import Any

import pytest

from errors import UpstreamError
from events import (
    ChatChunk,
    ReasoningChunk,
    ToolCallComplete,
    ToolCallStart,
    Usage,
)
from hub import LogFull
from loop.state import Prompt, RunState
from messages import (
    AssistantMessage,
    EndPart,
    ModelRequest,
    ReasoningPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    UserMessage,
)
from tests.agent.support import (
    BROKEN,
    Bench,
    add,
    check_history,
    timeless,
)
from tests.scripted import (
    DEADLINE,
    USAGE,
    Gate,
    Recorder,
    Script,
    asks,
    says,
    types,
)
from tools.workers import Workers

# Talking.


async def test_an_answer_is_streamed_piece_by_piece_and_kept_whole(workers: Workers) -> None:
    bench = Bench(workers, says("Hel", "lo"))
    done = await bench.run()
    assert types(bench.sink.events) == ["chat_chunk", "chat_chunk", "chat_complete"]
    assert (done.final_response, done.finish_reason, done.usage) == ("Hello", "stop", USAGE)
    assert bench.state.transcript.messages == [AssistantMessage("Hello")]
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
    assert bench.state.transcript.messages == []


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
    assert (first.model, first.options.temperature, first.options.max_tokens) == ("big-1", 0.5, 9)
    assert first.parallel_tools is False
    assert first.messages == (SystemMessage("Be brief."), UserMessage("Go."))
    call = ToolCall("c0", "add", '{"a":1,"b":2}')
    turn = (AssistantMessage("Let me see.", (call,)), ToolMessage("c0", "add", "3"))
    assert timeless(second.messages) == [*first.messages, *turn]
    assert timeless(bench.state.transcript.messages) == [*turn, AssistantMessage("3")]


async def test_the_model_is_asked_in_the_agents_dialect_unless_the_client_names_another(
    workers: Workers,
) -> None:
    changes = {"bound": "max_tokens", "stream_options": False}
    bench = Bench(workers, says("a"), says("b"), dialect=changes)
    await bench.run()
    bench.state.prompt.model = "another"
    await bench.agent.run(bench.state)
    own, another = bench.provider.requests
    assert (own.dialect, another.dialect) == (changes, {})
    assert own.conversation == "conv_1"


async def test_usage_is_unknown_where_it_is_of_any_turn(workers: Workers) -> None:
    call = asks(("add", {"a": 1, "b": 2}))
    uncounted: Script = [TextPart("3"), EndPart("stop")]
    assert (await Bench(workers, call, uncounted).run()).usage is None
    asked = ToolCallPart(ToolCall("c0", "add", '{"a":1,"b":2}'))
    blind: Script = [[asked, EndPart("tool_calls")]]
    assert (await Bench(workers, blind, says("3")).run()).usage is None


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
    bench.state = RunState("run_2", "conv_1", "msg_2", Recorder(), Prompt((UserMessage("Go."),)))
    assert (await bench.agent.run(bench.state)).usage == USAGE


async def test_each_turn_has_a_message_id_of_its_own(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), says("3"))
    await bench.run()
    first, last = [event.message_id for event in bench.sink.of(ChatChunk)]
    assert first == "msg_first" != last
    of_calls = bench.sink.of(ToolCallStart, ToolCallComplete)
    assert {event.message_id for event in of_calls} == {"msg_first"}


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
    assert bench.state.transcript.messages == ([AssistantMessage("".join(said))] if said else [])
    assert bench.state.transcript.text == "".join(said)


async def test_what_was_streamed_is_kept_where_the_stream_breaks_behind_its_end(
    workers: Workers,
) -> None:
    bench = Bench(workers, [TextPart("Hello"), EndPart("stop"), BROKEN])
    await bench.fails(UpstreamError)
    assert bench.state.transcript.messages == [AssistantMessage("Hello")]


async def test_the_turns_before_a_failure_are_kept(workers: Workers) -> None:
    bench = Bench(
        workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), [TextPart("It is"), BROKEN]
    )
    await bench.fails(UpstreamError)
    assert types(bench.sink.events)[-1] == "chat_chunk"
    assert [type(message) for message in bench.state.transcript.messages] == [
        AssistantMessage,
        ToolMessage,
        AssistantMessage,
    ]


async def test_calls_of_a_reply_that_broke_off_are_not_executed(workers: Workers) -> None:
    call = ToolCallPart(ToolCall("c0", "add", '{"a":1,"b":2}'))
    bench = Bench(workers, [TextPart("a"), call, BROKEN])
    await bench.fails(UpstreamError)
    assert types(bench.sink.events) == ["chat_chunk"]
    assert bench.state.transcript.messages == [AssistantMessage("a")]


async def test_a_provider_that_forgets_its_end_is_a_mistake_and_no_answer(
    workers: Workers,
) -> None:
    bench = Bench(workers, [TextPart("a")])
    await bench.fails(RuntimeError)
    assert types(bench.sink.events) == ["chat_chunk"]


@pytest.mark.parametrize("limit", range(1, 5))
async def test_a_log_that_is_full_loses_nothing_that_it_holds(workers: Workers, limit: int) -> None:
    full = LogFull("Full.")
    call = asks(("add", {"a": 1, "b": 2}), ("nothing", {}), text="Well:")
    bench = Bench(workers, call, says("3"), sink=Recorder(limit=limit, full=full))
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(LogFull):
            await bench.agent.run(bench.state)
    check_history(bench.state.transcript.messages)
    streamed = "".join(event.content for event in bench.sink.of(ChatChunk))
    assert "".join(message.content for message in bench.said()).startswith(streamed)
