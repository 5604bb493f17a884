"""The encoder of responses: its frames, and numbers that are the same for every reader."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from events import (
    ChatComplete,
    Event,
    ReaderEvent,
    RequestedCall,
    Reset,
    RunError,
    Suspended,
    Usage,
    merged,
)
from protocols.responses import (
    EPOCH,
    Head,
    ResponsesEncoder,
    WholeResponse,
    end_frame,
    lost_frame,
    response_id,
    run_id_of,
)
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried

HEAD = Head(
    run_id="run_1",
    created_at=1,
    model="scripted-1",
    echo={"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
)
CALLS = ChatComplete(
    final_response="",
    finish_reason="tool_calls",
    usage=Usage(3, 2, 5),
    tool_calls=(
        RequestedCall(id="call_1", name="note", arguments='{"a":1}'),
        RequestedCall(id="call_2", name="note", arguments="{}"),
    ),
)

_strict: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def frames(data: bytes) -> list[dict[str, Any]]:
    """Return decoded frames, each checked against OpenAI's own types and its name."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        frame = msgspec.json.decode(line.removeprefix("data: "))
        assert name == f"event: {frame['type']}"
        _strict.validate_python(frame)
        found.append(frame)
    return found


def told(events: Iterable[ReaderEvent], epoch: int = 1, after: int = -1) -> list[dict[str, Any]]:
    encoder = ResponsesEncoder(epoch, HEAD, after)
    data = b"".join(map(encoder.encode, events))
    return frames(data)


def short(frame: dict[str, Any]) -> tuple[str, Any]:
    """Return a frame's name without the prefix, and what it is about."""
    about = ("delta", "text", "arguments")
    what = next((frame[name] for name in about if name in frame), frame.get("output_index"))
    return frame["type"].removeprefix("response."), what


def test_an_answer_of_two_messages() -> None:
    log = numbered([START, piece("Let"), piece(" me."), piece("42", "msg_2"), DONE])
    assert [short(frame) for frame in told(log)] == [
        ("created", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("output_text.delta", "Let"),
        ("output_text.delta", " me."),
        ("output_text.done", "Let me."),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", "42"),
        ("output_text.done", "42"),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("completed", None),
    ]


def test_the_calls_of_the_client_come_last_each_in_four_frames() -> None:
    found = told(numbered([START, piece("So:"), CALLS]))
    assert [short(frame) for frame in found[-9:]] == [
        ("output_item.added", 1),
        ("function_call_arguments.delta", '{"a":1}'),
        ("function_call_arguments.done", '{"a":1}'),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", "{}"),
        ("function_call_arguments.done", "{}"),
        ("output_item.done", 2),
        ("completed", None),
    ]
    whole = Response.model_validate(found[-1]["response"])
    assert [item.type for item in whole.output] == ["message", "function_call", "function_call"]


@pytest.mark.parametrize(
    ("end", "kind", "status", "why", "item"),
    [
        (DONE, "completed", "completed", None, "completed"),
        (FAILED, "failed", "failed", None, "incomplete"),
        ("length", "incomplete", "incomplete", "max_output_tokens", "incomplete"),
        ("max_turns", "incomplete", "incomplete", "max_output_tokens", "incomplete"),
        ("content_filter", "incomplete", "incomplete", "content_filter", "incomplete"),
        ("cancelled", "failed", "cancelled", None, "incomplete"),
    ],
)
def test_how_a_run_ended_is_its_last_frame_and_its_status(
    end: Any, kind: str, status: str, why: str | None, item: str
) -> None:
    if isinstance(end, str):
        end = msgspec.structs.replace(DONE, finish_reason=end)
    found = told(numbered([START, piece("4"), end]))
    last = found[-1]
    assert last["type"] == f"response.{kind}"
    assert last["response"]["status"] == status
    assert (last["response"]["incomplete_details"] or {}).get("reason") == why
    assert last["response"]["output"][0]["status"] == item
    assert found[-2]["item"] == last["response"]["output"][0]


@pytest.mark.parametrize(
    ("code", "wire"), [("upstream_rate_limited", "rate_limit_exceeded"), ("other", "server_error")]
)
def test_a_failure_has_one_of_openai_s_codes(code: str, wire: str) -> None:
    error = RunError(code=code, message="It broke.", retryable=False)
    body = told(numbered([START, error]))[-1]["response"]
    assert body["error"] == {"code": wire, "message": "It broke."}
    assert body["usage"] is None


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_what_the_agent_does_by_itself_is_not_told(name: str) -> None:
    seen = {"chat_start", "chat_chunk", "chat_complete", "error", "suspended", "reset"}
    encoder = ResponsesEncoder(1, HEAD)
    assert bool(encoder.encode(EXAMPLES[name])) == (name in seen)


def test_a_stream_that_cannot_go_on_ends_in_an_error_and_nothing_behind_it() -> None:
    reset = Reset(run_id="run_1", epoch=2, reason="epoch_changed")
    found = told([reset, *numbered([START, DONE])], after=7)
    assert [(frame["type"], frame["sequence_number"]) for frame in found] == [("error", 8)]
    assert frames(lost_frame(8)) == found


def test_a_suspended_run_ends_in_an_error_and_is_still_in_progress() -> None:
    events = [*numbered([START, piece("so")]), Suspended(run_id="run_1", seq=2)]
    *before, last = told(events)
    assert (last["type"], last["code"]) == ("error", "shutting_down")
    assert last["sequence_number"] == len(before)
    assert told(events, after=len(before) + 7)[-1]["sequence_number"] == len(before) + 8
    whole = WholeResponse(HEAD)
    for event in events:
        whole.add(event)
    assert (whole.end, whole.suspended) == (None, events[-1])
    assert whole.body("in_progress")["status"] == "in_progress"


def test_nothing_comes_behind_the_last_frame() -> None:
    encoder = ResponsesEncoder(1, HEAD)
    for event in numbered([START, DONE]):
        assert encoder.encode(event)
    assert encoder.encode(numbered([piece("more")])[0]) == b""


def test_an_id_names_a_run_and_back() -> None:
    assert response_id("run_12") == "resp_12"
    assert run_id_of("resp_12") == "run_12"
    assert [*map(run_id_of, ("run_12", "resp_", "resp_1\0", "resp_é", "resp_1\n"))] == [None] * 5


@given(plain=logs(), epoch=st.integers(1, 5))
@unhurried
def test_the_numbers_of_a_log_count_each_frame_from_the_beginning_of_its_epoch(
    plain: list[Event], epoch: int
) -> None:
    found = told(numbered(plain), epoch)
    begin = (epoch - 1) * EPOCH
    assert [frame["sequence_number"] for frame in found] == [*range(begin, begin + len(found))]


@given(plain=logs(), data=st.data())
@unhurried
def test_behind_each_number_comes_the_tail(plain: list[Event], data: st.DataObject) -> None:
    log = numbered(plain)
    whole = told(log)
    after = data.draw(st.integers(-1, len(whole) - 1))
    assert told(log, after=after) == whole[after + 1 :]


@given(plain=logs(), data=st.data())
@unhurried
def test_text_that_comes_as_one_piece_has_the_last_one_s_number(
    plain: list[Event], data: st.DataObject
) -> None:
    log = numbered(plain)
    cut = data.draw(st.integers(0, len(log)))
    lagging = told([*merged(log[:cut]), *merged(log[cut:])])
    whole = {frame["sequence_number"]: frame for frame in told(log)}
    said = ""
    for frame in lagging:
        exact = whole[frame["sequence_number"]]
        said += frame.get("delta", "")
        assert frame | {"delta": ""} == exact | {"delta": ""}
        assert "delta" not in exact or frame["delta"].endswith(exact["delta"])
    assert said == "".join(frame.get("delta", "") for frame in whole.values())


@given(plain=logs())
@unhurried
def test_the_whole_response_is_the_one_of_the_last_frame(plain: list[Event]) -> None:
    log = numbered(plain)
    whole = WholeResponse(HEAD)
    for event in log:
        whole.add(event)
    last = told(log)[-1]
    assert whole.body("in_progress") == last["response"]
    assert frames(end_frame(last["response"], last["sequence_number"])) == [last]


def test_a_response_under_way_shows_the_messages_so_far() -> None:
    whole = WholeResponse(HEAD)
    assert whole.body("queued")["status"] == "queued"
    for event in numbered([START, piece("a"), piece("b"), piece("c", "msg_2")]):
        whole.add(event)
    body = Response.model_validate(whole.body("in_progress"))
    assert (body.status, body.output_text) == ("in_progress", "abc")
    assert [item.status for item in body.output if item.type == "message"] == [
        "completed",
        "in_progress",
    ]


def test_a_message_that_comes_back_is_another_item_for_whoever_reads() -> None:
    log = numbered([START, piece("a"), piece("b", "msg_2"), piece("c"), DONE])
    whole = WholeResponse(HEAD)
    for event in log:
        whole.add(event)
    assert whole.body("in_progress") == told(log)[-1]["response"]


def test_what_was_told_before_a_reset_is_forgotten() -> None:
    whole = WholeResponse(HEAD)
    whole.add(numbered([piece("old")])[0])
    whole.add(Reset(run_id="run_1", epoch=1, reason="log_expired"))
    for event in numbered([START, piece("new"), DONE]):
        whole.add(event)
    assert Response.model_validate(whole.body("in_progress")).output_text == "new"


def test_every_frame_of_an_answer_in_full() -> None:
    *_, added, part, delta, said, closed, done, end = told(numbered([START, piece("Hi"), DONE]))
    item: dict[str, Any] = {"id": "msg_1_0", "type": "message", "role": "assistant"}
    content = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    whole = item | {"status": "completed", "content": [content]}
    place = {"item_id": "msg_1_0", "output_index": 0, "content_index": 0}
    assert [
        {name: value for name, value in frame.items() if name not in ("type", "sequence_number")}
        for frame in (added, part, delta, said, closed, done)
    ] == [
        {"output_index": 0, "item": item | {"status": "in_progress", "content": []}},
        place | {"part": content | {"text": ""}},
        place | {"delta": "Hi", "logprobs": []},
        place | {"text": "Hi", "logprobs": []},
        place | {"part": content},
        {"output_index": 0, "item": whole},
    ]
    response = end["response"]
    assert (response["status"], response["output"]) == ("completed", [whole])
    assert (response["error"], response["incomplete_details"]) == (None, None)
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }
    assert (response["id"], response["created_at"], response["model"]) == (
        "resp_1",
        1,
        "scripted-1",
    )
