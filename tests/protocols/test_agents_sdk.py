"""The `agents-sdk` wire: its frames against the Responses API's types, and its laws."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response_input_item import FunctionCallOutput
from pydantic import BaseModel

from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    Event,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
    Usage,
    stamped,
)
from protocols.agents_sdk import AgentsSdkEncoder
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.protocols.eventsource import dispatched
from tests.protocols.golden import CONVERSATION

RAW: dict[str, type[BaseModel]] = {
    "response.output_text.delta": ResponseTextDeltaEvent,
    "response.reasoning_summary_text.delta": ResponseReasoningSummaryTextDeltaEvent,
}

ITEMS: dict[str, tuple[str, type[BaseModel]]] = {
    "message_output_created": ("message_output_item", ResponseOutputMessage),
    "reasoning_item_created": ("reasoning_item", ResponseReasoningItem),
    "tool_called": ("tool_call_item", ResponseFunctionToolCall),
    "tool_output": ("tool_call_output_item", FunctionCallOutput),
    "handoff_requested": ("handoff_call_item", ResponseFunctionToolCall),
    "handoff_occured": ("handoff_output_item", FunctionCallOutput),
}


def told(events: Sequence[ReaderEvent]) -> list[dict[str, Any]]:
    """Return the objects of a stream."""
    encoder = AgentsSdkEncoder(1)
    stream = b"".join(map(encoder.encode, events))
    return [msgspec.json.decode(message.data) for message in dispatched(stream)]


def names(frames: Sequence[dict[str, Any]]) -> list[str]:
    """Return what each frame is, by its most telling name."""
    return [frame.get("name") or frame.get("event_type") or frame["type"] for frame in frames]


def named(frames: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame.get("name") == name]


def thought(text: str, message_id: str = "msg_1") -> ReasoningChunk:
    return ReasoningChunk(message_id=message_id, content=text)


def test_a_conversation_is_told_in_the_order_of_an_agents_sdk() -> None:
    assert names(told(CONVERSATION)) == [
        "agent_updated",
        "response.reasoning_summary_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "reasoning_item_created",
        "message_output_created",
        "tool_called",
        "tool_called",
        "tool_output",
        "tool_called",
        "tool_output",
        "tool_output",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "message_output_created",
        "stream_complete",
    ]


def test_the_last_frame_has_the_answer_the_turns_and_the_session() -> None:
    assert told(CONVERSATION)[-1] == {
        "type": "stream_complete",
        "success": True,
        "final_output": CONVERSATION[-1].final_response,  # type: ignore[union-attr]
        "finish_reason": "stop",
        "current_turn": 2,
        "usage": {"requests": 2, "input_tokens": 40, "output_tokens": 21, "total_tokens": 61},
        "session_id": "conv_1",
        "run_id": "run_1",
    }


def test_unknown_usage_is_null() -> None:
    done = ChatComplete(final_response="", finish_reason="stop", usage=None)
    assert told(numbered([START, done]))[-1]["usage"] is None


def test_a_run_that_failed_ends_in_its_error() -> None:
    assert told(numbered([START, piece("a"), FAILED]))[1:][-1] == {
        "type": "error",
        "success": False,
        "code": "upstream_error",
        "message": "It broke.",
        "retryable": True,
        "session_id": "conv_1",
        "run_id": "run_1",
    }


def test_what_front_ends_read_of_a_delta_stands_beside_the_type() -> None:
    [_, frame, *_] = told(numbered([START, piece("a"), DONE]))
    assert frame["type"] == "raw_response"
    assert frame["event_type"] == frame["data"]["type"] == "response.output_text.delta"
    assert frame["delta"] == frame["data"]["delta"] == "a"
    assert frame["sequence_number"] == 2
    assert (frame["item_id"], frame["output_index"], frame["content_index"]) == ("msg_1", 0, 0)


def test_text_stands_behind_the_reasoning_of_its_message() -> None:
    frames = told(numbered([START, thought("Hm."), piece("a"), piece("b", "msg_2"), DONE]))
    deltas = [frame["data"] for frame in frames if frame["type"] == "raw_response"]
    assert [(data["item_id"], data["output_index"]) for data in deltas] == [
        ("rs_msg_1", 0),
        ("msg_1", 1),
        ("msg_2", 0),
    ]
    assert frames[1]["reasoning"] is True


def test_the_items_of_a_message_come_once_it_is_whole() -> None:
    log = numbered([START, thought("H"), thought("m."), piece("a"), piece("b"), DONE])
    frames = told(log)
    assert names(frames)[-3:] == [
        "reasoning_item_created",
        "message_output_created",
        "stream_complete",
    ]
    reasoning, message = frames[-3], frames[-2]
    assert reasoning["reasoning_content"] == "Hm."
    assert reasoning["item"]["raw_item"]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert (message["role"], message["status"], message["message_id"]) == (
        "assistant",
        "completed",
        "msg_1",
    )
    assert message["item"]["raw_item"]["content"][0]["text"] == "ab"


@pytest.mark.parametrize(
    ("reason", "status"),
    [("stop", "completed"), ("length", "incomplete"), ("cancelled", "incomplete")],
)
def test_a_message_that_was_cut_short_is_incomplete(reason: Any, status: str) -> None:
    done = ChatComplete(final_response="a", finish_reason=reason, usage=Usage())
    [message] = named(told(numbered([START, piece("a"), done])), "message_output_created")
    assert message["status"] == message["item"]["raw_item"]["status"] == status


def test_a_call_is_told_with_its_arguments_and_its_result() -> None:
    log = [stamped(START, "run_1", 1), EXAMPLES["tool_call_start"], EXAMPLES["tool_call_complete"]]
    [_, called, output] = told(log)
    assert (called["tool_name"], called["call_id"]) == ("calculate", "c1")
    assert msgspec.json.decode(called["tool_arguments"]) == {"expression": "6*7"}
    assert (output["tool_name"], output["call_id"], output["output"]) == ("calculate", "c1", 42)
    assert output["item"]["output"] == 42
    assert output["item"]["raw_item"]["output"] == "42"
    assert "error" not in output


def test_a_failed_call_has_its_error_as_output() -> None:
    log = [stamped(START, "run_1", 1), EXAMPLES["tool_call_start"], EXAMPLES["tool_call_error"]]
    [_, _, output] = told(log)
    assert output["output"] == output["item"]["raw_item"]["output"] == "No."
    assert output["error"] == {"code": "invalid_arguments", "message": "No."}


def test_a_call_that_was_never_executed_is_called_and_answered() -> None:
    [_, called, output] = told([stamped(START, "run_1", 1), EXAMPLES["tool_call_error"]])
    assert [called["name"], output["name"]] == ["tool_called", "tool_output"]
    assert called["tool_arguments"] == "{"


def test_who_takes_over_is_told_in_three_frames_behind_what_was_said() -> None:
    update = AgentUpdated(message_id="msg_1", agent="french", previous_agent="chat")
    frames = told(numbered([START, piece("Un moment."), update, DONE]))
    assert names(frames)[2:6] == [
        "message_output_created",
        "handoff_requested",
        "handoff_occured",
        "agent_updated",
    ]
    _, requested, occurred, updated = frames[2:6]
    assert requested["target_agent"] == "french"
    assert (occurred["target_agent"], occurred["previous_agent"]) == ("french", "chat")
    assert occurred["item"]["source_agent"] == "chat"
    assert occurred["item"]["target_agent"] == "french"
    call_ids = {frame["item"]["raw_item"]["call_id"] for frame in (requested, occurred)}
    assert call_ids == {"handoff_msg_1"}
    assert updated == {"type": "agent_updated", "agent_name": "french"}


@pytest.mark.parametrize("name", ["tool_call_queued", "tool_call_progress"])
def test_how_a_call_waits_and_gets_on_is_not_told(name: str) -> None:
    assert told([EXAMPLES[name]]) == []


def test_of_several_frames_of_one_event_only_the_last_has_the_cursor() -> None:
    encoder = AgentsSdkEncoder(3)
    for event in numbered([START, piece("a")]):
        encoder.encode(event)
    first, second, end = encoder.encode(stamped(DONE, "run_1", 3)).split(b"\n\n")
    assert not first.startswith(b"id:")
    assert second.startswith(b"id: run_1:3:3\n")
    assert end == b""


def test_a_reset_is_a_frame_that_front_ends_ignore() -> None:
    encoder = AgentsSdkEncoder(1)
    reset = encoder.encode(Reset(run_id="run_1", epoch=7, reason="log_expired"))
    assert reset == b'data: {"type":"reset","run_id":"run_1","reason":"log_expired"}\n\n'
    assert encoder.encode(stamped(piece("a"), "run_1", 2)).startswith(b"id: run_1:7:2\n")


def test_after_a_reset_every_call_is_told_again() -> None:
    log = [stamped(START, "run_1", 1), EXAMPLES["tool_call_start"], EXAMPLES["tool_call_complete"]]
    again = told([*log, EXAMPLES["reset"], *log])
    assert names(again) == [*names(told(log)), "reset", *names(told(log))]


def test_a_reader_that_came_late_is_told_so() -> None:
    frames = told(numbered([START, piece("a"), piece("b"), piece("c", "msg_2"), DONE])[2:])
    first, second = named(frames, "message_output_created")
    assert (first["message_id"], first["status"]) == ("msg_1", "incomplete")
    assert (second["message_id"], second["status"]) == ("msg_2", "completed")
    end = frames[-1]
    assert (end["session_id"], end["current_turn"], end["usage"]["requests"]) == (None, None, None)


UNTOLD = ("tool_call_queued", "tool_call_progress")
"""Events that this wire has no frame for."""


@pytest.mark.parametrize("kind", get_args(ReaderEvent))
def test_every_event_has_a_place(kind: type[ReaderEvent]) -> None:
    name = str(kind.__struct_config__.tag)
    frames = told([EXAMPLES[name]])
    assert bool(frames) is (name not in UNTOLD)
    assert all(isinstance(frame["type"], str) for frame in frames)


@unhurried
@given(logs())
def test_any_log_fits_the_types_of_the_responses_api(plain: list[Event]) -> None:
    for frame in told(numbered(plain)):
        if frame["type"] == "raw_response":
            RAW[frame["event_type"]].model_validate(frame["data"], strict=True)
        elif frame["type"] == "run_item" and frame["name"] != "run_progress":
            item_type, raw_type = ITEMS[frame["name"]]
            assert frame["item_type"] == frame["item"]["type"] == item_type
            raw_type.model_validate(frame["item"]["raw_item"], strict=True)


@unhurried
@given(logs())
def test_any_log_is_its_text_its_calls_and_exactly_one_end(plain: list[Event]) -> None:
    log = numbered(plain)
    frames = told(log)
    is_failed = isinstance(log[-1], RunError)
    assert frames[0]["type"] == "agent_updated"
    ends = [frame["type"] for frame in frames if frame["type"] in ("stream_complete", "error")]
    assert ends == [frames[-1]["type"]] == ["error" if is_failed else "stream_complete"]
    said = [event.content for event in log if isinstance(event, ChatChunk)]
    assert deltas(frames, "response.output_text.delta") == said
    thoughts = [event.content for event in log if isinstance(event, ReasoningChunk)]
    assert deltas(frames, "response.reasoning_summary_text.delta") == thoughts
    if not is_failed:
        items = named(frames, "message_output_created")
        whole = "".join(item["item"]["raw_item"]["content"][0]["text"] for item in items)
        assert whole == "".join(said)
        items = named(frames, "reasoning_item_created")
        assert "".join(item["reasoning_content"] for item in items) == "".join(thoughts)


def deltas(frames: Sequence[dict[str, Any]], kind: str) -> list[str]:
    return [frame["delta"] for frame in frames if frame.get("event_type") == kind]


@unhurried
@given(logs())
def test_every_call_is_called_once_and_then_answered_once(plain: list[Event]) -> None:
    frames = told(numbered(plain))
    begun = {call.tool_call.id for call in plain if isinstance(call, ToolCallStart)}
    ended = [*_ends(plain)]
    called = [frame["call_id"] for frame in named(frames, "tool_called")]
    answered = [frame["call_id"] for frame in named(frames, "tool_output")]
    assert sorted(called) == sorted(begun | set(ended))
    assert answered == ended
    for id in ended:
        order = [
            frame["name"]
            for frame in frames
            if frame.get("name", "").startswith("tool_") and frame["call_id"] == id
        ]
        assert order == ["tool_called", "tool_output"]


def _ends(events: list[Event]) -> Iterator[str]:
    for event in events:
        if isinstance(event, ToolCallComplete | ToolCallError):
            yield event.tool_call.id


def test_the_progress_of_a_run_is_an_item_of_its_own() -> None:
    frame = told([START, EXAMPLES["run_progress"]])[1]
    assert frame["type"] == "run_item"
    assert (frame["name"], frame["item"]["type"]) == ("run_progress", "run_progress_item")
    assert (frame["stage"], frame["done"], frame["total"]) == ("search", 2, 3)
