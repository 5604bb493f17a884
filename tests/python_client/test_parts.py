"""The parts of the client that need no service."""

import random
from typing import Any

import msgspec
import pytest

from parley_client import ChatStart, Timings, UnknownEvent
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
