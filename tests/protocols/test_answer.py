"""A run as one whole answer."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given

from events import (
    AgentUpdated,
    ChatComplete,
    Event,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    RunError,
    Suspended,
    ToolCallComplete,
    ToolCallError,
    merged,
    stamped,
)
from models import ChatResponse
from protocols.answer import WholeAnswer
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried


def folded(events: Iterable[ReaderEvent]) -> ChatResponse | RunError | None:
    answer = WholeAnswer()
    for event in events:
        assert answer.result is None
        answer.add(event)
    return answer.result


def response(events: Iterable[ReaderEvent]) -> dict[str, Any]:
    result = folded(events)
    assert isinstance(result, ChatResponse)
    decoded: dict[str, Any] = msgspec.json.decode(result.model_dump_json())
    return decoded


def test_an_answer_without_tools() -> None:
    assert response(numbered([START, piece("4"), piece("2"), DONE])) == {
        "response": "42",
        "conversation_id": "conv_1",
        "run_id": "run_1",
        "agent": "chat",
        "model": "scripted-1",
        "finish_reason": "stop",
        "tool_calls": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_its_calls_stand_in_the_order_in_which_they_ended() -> None:
    names = [f"tool_call_{part}" for part in ("queued", "start", "progress", "error", "complete")]
    calls = response([stamped(START, "run_1", 1), *map(EXAMPLES.__getitem__, names), DONE])[
        "tool_calls"
    ]
    assert calls == [
        {
            "id": "c1",
            "name": "calculate",
            "arguments": "{",
            "result": None,
            "error": "No.",
            "duration_ms": 0.0,
        },
        {
            "id": "c1",
            "name": "calculate",
            "arguments": {},
            "result": 42,
            "error": None,
            "duration_ms": 0.5,
        },
    ]


def test_a_run_that_failed_is_its_error() -> None:
    assert folded(numbered([START, piece("4"), FAILED])) == stamped(FAILED, "run_1", 3)


@pytest.mark.parametrize("count", range(3))
def test_without_its_end_there_is_no_answer_yet(count: int) -> None:
    assert folded(numbered([START, piece("4"), DONE])[:count]) is None


def test_the_reasoning_is_not_part_of_it() -> None:
    thought = ReasoningChunk(message_id="msg_1", content="Hm.")
    assert response([START, thought, DONE]) == response([START, DONE])


def test_who_took_over_is_named() -> None:
    assert (
        response(
            [START, AgentUpdated(message_id="msg_1", agent="other", previous_agent="chat"), DONE]
        )["agent"]
        == "other"
    )


def test_unknown_usage_is_null() -> None:
    done = ChatComplete(final_response="", finish_reason="cancelled", usage=None)
    assert response([START, done])["usage"] is None


def test_what_came_before_a_reset_is_dropped() -> None:
    lost = [START, EXAMPLES["tool_call_complete"], EXAMPLES["agent_updated"]]
    reset = Reset(run_id="run_1", epoch=2, reason="epoch_changed")
    again: list[ReaderEvent] = [START, EXAMPLES["tool_call_error"], DONE]
    assert response([*lost, reset, *again]) == response(again)


def test_an_end_without_a_start_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="chat_start"):
        WholeAnswer().add(DONE)


def test_a_call_is_told_whatever_its_arguments_are() -> None:
    deep: Any = {}
    for _ in range(64):
        deep = {"a": deep}
    error = EXAMPLES["tool_call_error"]
    assert isinstance(error, ToolCallError)
    call = msgspec.structs.replace(error.tool_call, arguments=deep)
    event = msgspec.structs.replace(error, tool_call=call)
    assert response([START, event, DONE])["tool_calls"][0]["arguments"] == deep


def test_a_suspended_run_is_a_failure_to_who_waits_for_the_whole_answer() -> None:
    suspended = Suspended(run_id="run_1", seq=2)
    assert folded([*numbered([START, piece("so")]), suspended]) == suspended.as_error()


@unhurried
@given(logs())
def test_an_answer_tells_every_call_and_how_the_run_ended(plain: list[Event]) -> None:
    log = numbered(plain)
    result = folded(log)
    assert result == folded(merged(log))
    if isinstance(result, RunError):
        assert result == log[-1]
    else:
        assert result is not None
        ended = [event for event in log if isinstance(event, ToolCallComplete | ToolCallError)]
        assert [call.id for call in result.tool_calls] == [event.tool_call.id for event in ended]
        assert [call.error is None for call in result.tool_calls] == [
            isinstance(event, ToolCallComplete) for event in ended
        ]
        assert (result.response, result.finish_reason) == ("42", "stop")
