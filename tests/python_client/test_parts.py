"""The parts of the client that need no service."""

import random
from typing import Any

import msgspec
import pytest

from parley_client import (
    Answer,
    ChatStart,
    Conversation,
    Reset,
    Timings,
    UnknownEvent,
    exchanges,
)
from parley_client.answer import Call, Stage, Words
from parley_client.course import Course
from parley_client.errors import Lost, ParleyError, refusal_over_http
from parley_client.events import decode_event
from parley_client.frames import Frames
from protocols.native import NativeEvent

FRAMES = [
    (b"id: a:1:1\ndata: {}\n\n", [("a:1:1", b"{}")]),
    (b"id: a:1:1\r\ndata: {}\r\n\r\n", [("a:1:1", b"{}")]),
    (b"id: a:1:1\rdata: {}\r\rdata: x\r\r.", [("a:1:1", b"{}"), ("a:1:1", b"x")]),
    (b": keep-alive\n\ndata: x\n\n", [(None, b"x")]),
    (b"data: x\ndata:  y\ndata\n\n", [(None, b"x\n y\n")]),
    (b"retry: 5\nother: x\n\n", []),
    ("data: \u2028é\u0085\n\n".encode(), [(None, "\u2028é\u0085".encode())]),
    (b"data: cut off", []),
]


@pytest.mark.parametrize(("stream", "expected"), FRAMES)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_frames_come_out_whole_however_the_stream_is_cut(
    stream: bytes, expected: list[Any], size: int
) -> None:
    frames = Frames()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [frame for piece in pieces for frame in frames.feed(piece)] == expected


def test_a_frame_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley_client.frames.MAX_BYTES", 1000)
    frames = Frames()
    for _ in range(100):
        frames.feed(b": keep-alive\n\n")
        assert frames.feed(b"data: " + b"x" * 100 + b"\n\n")
    for _ in range(9):
        frames.feed(b"x" * 100)
    with pytest.raises(Lost):
        frames.feed(b"x" * 101)


def test_every_event_of_the_service_is_known_with_all_its_fields() -> None:
    for kind in msgspec.inspect.type_info(NativeEvent).types:  # type: ignore[attr-defined]
        given = {field.name: field.encode_name for field in kind.fields}
        name = kind.cls.__struct_config__.tag
        ours = next(
            own
            for own in msgspec.inspect.type_info(parley_known()).types  # type: ignore[attr-defined]
            if own.cls.__struct_config__.tag == name
        )
        assert {field.name for field in ours.fields} >= set(given), name


def parley_known() -> Any:
    import parley_client.events

    return parley_client.events._Known


def test_an_event_of_a_newer_service_is_kept_as_it_is() -> None:
    data = b'{"event_type":"applause","run_id":"r","seq":7,"loud":true}'
    event = decode_event(data)
    assert isinstance(event, UnknownEvent)
    assert (event.event_type, event.seq, event.fields["loud"]) == ("applause", 7, True)
    start = b'{"event_type":"chat_start","run_id":"r","seq":1,"conversation_id":"c","agent":"a"'
    more = decode_event(start + b',"model":"m","message_id":"x","new":1}')
    assert isinstance(more, ChatStart)


def test_pauses_grow_are_random_and_have_a_bound() -> None:
    random.seed(3)
    timings = Timings()
    for attempt, most in [(0, 0.5), (1, 1.0), (3, 4.0), (9, 10.0), (5000, 10.0)]:
        delays = [timings.delay(attempt) for _ in range(300)]
        assert 0 <= min(delays) < most * 0.1
        assert most * 0.9 < max(delays) <= most


def test_an_event_that_comes_twice_goes_out_once() -> None:
    course = Course(None, lambda _: None)
    for seq in (1, 2, 2, 1, 3):
        data = msgspec.json.encode({"event_type": "x", "run_id": "r", "seq": seq})
        course.put(f"r:1:{seq}", decode_event(data), len(data))
    assert [event.seq for event, _ in course._buffer] == [1, 2, 3]
    assert course.cursor == "r:1:3"


def test_a_gateway_that_has_lost_the_service_is_no_refusal() -> None:
    gone = refusal_over_http(502, b"<html>Bad Gateway</html>", None)
    assert isinstance(gone, Lost)
    busy = refusal_over_http(503, b"", "7")
    assert isinstance(busy, Lost)
    assert busy.retry_after == 7
    problem = b'{"detail":"No.","code":"conflict","status":409,"retryable":false}'
    refused = refusal_over_http(409, problem, None)
    assert isinstance(refused, ParleyError)
    assert (refused.code, refused.status, refused.message) == ("conflict", 409, "No.")


def test_stored_messages_become_answers_and_what_is_under_way_has_its_place() -> None:
    def message(role: str, content: str, run_id: str, **more: Any) -> dict[str, Any]:
        fixed = {"id": f"msg_{role}", "created_at": "2026-01-01T00:00:00Z"}
        return {"role": role, "content": content, "run_id": run_id} | fixed | more

    asked = [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}, {"id": "c2", "name": "fail"}]
    messages = [
        message("assistant", "Cut off.", "run_0"),
        message("user", "Add!", "run_1"),
        message("assistant", "", "run_1", tool_calls=asked),
        message("tool", "[3]", "run_1", tool_call_id="c1", is_error=False, duration_ms=5.0),
        message("tool", "Error: no", "run_1", tool_call_id="c2", is_error=True),
        message("assistant", "Three.", "run_1"),
        message("user", "Again!", "run_2"),
        message("assistant", "It comes from the log.", "run_2"),
    ]
    stored = {
        "conversation_id": "conv_1",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "active_run_id": "run_2",
        "messages": messages,
        "waiting": [{"run_id": "run_3", "message": "And again!"}, {"run_id": "run_4"}],
    }
    found = exchanges(msgspec.convert(stored, Conversation))
    assert [(each.question, each.run_id, each.is_under_way) for each in found] == [
        (None, "run_0", False),
        ("Add!", "run_1", False),
        ("Again!", "run_2", True),
        ("And again!", "run_3", True),
        (None, "run_4", True),
    ]
    assert [each.answer.parts for each in found] == [
        [Words("Cut off.", message_id="msg_assistant")],
        [
            Call("c1", "add", {"a": 1}, "done", result=[3], duration_ms=5.0),
            Call("c2", "fail", None, "failed", error="no"),
            Words("Three.", message_id="msg_assistant"),
        ],
        [],
        [],
        [],
    ]
    # Another answer is being made, and the one before is still there.
    stored |= {"active_run_id": "run_5", "messages": messages[1:6], "waiting": []}
    first, second = exchanges(msgspec.convert(stored, Conversation))
    assert (first.run_id, first.is_under_way) == ("run_1", False)
    assert (second.question, second.run_id, second.is_under_way) == (None, "run_5", True)


def test_an_answer_has_its_parts_in_order_and_begins_again_with_a_reset() -> None:
    stage = {"event_type": "run_progress", "stage": "plan", "message": "-", "total": 2}
    call = {"id": "c1", "name": "add", "arguments": {"a": 1}}
    then = {"started_at": "2026-01-01T00:00:00Z"}
    told: list[dict[str, Any]] = [
        stage | {"done": 1},
        {"event_type": "reasoning_chunk", "message_id": "m1", "content": "Hm."},
        {"event_type": "chat_chunk", "message_id": "m1", "content": "Let "},
        {"event_type": "chat_chunk", "message_id": "m1", "content": "me."},
        {"event_type": "tool_call_queued", "message_id": "m1", "tool_call": call},
        {"event_type": "tool_call_start", "message_id": "m1", "tool_call": call | then},
        stage | {"done": 2},
        {"event_type": "chat_chunk", "message_id": "m2", "content": "Done."},
    ]
    answer = Answer()
    for event in told:
        answer.add(decode_event(msgspec.json.encode(event)))
    assert answer.parts == [
        Stage("plan", "-", 2, 2, is_over=True),
        Words("Hm.", is_reasoning=True, message_id="m1"),
        Words("Let me.", message_id="m1"),
        Call("c1", "add", {"a": 1}, "running", started=1767225600.0),
        Words("Done.", message_id="m2"),
    ]
    answer.add(Reset(epoch=2, reason="epoch_changed"))
    assert (answer.parts, answer.resets) == ([], 1)
