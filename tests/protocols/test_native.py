"""The service's own wire, as a table and as a law."""

import itertools
import re
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sse
from events import Event, ReaderEvent, Reset, Suspended, stamped
from protocols import ENCODERS
from protocols.native import EventsEncoder, NativeEvent, WebSocketEncoder
from tests.logs import EXAMPLES, logs, numbered, piece, unhurried

SIMPLE_CASES = [
    (
        "chat_start",
        "chat_start",
        "run_1:1:1",
        '{"event_type":"chat_start","run_id":"run_1","seq":1,"conversation_id":"conv_1",'
        '"agent":"chat","model":"scripted-1","message_id":"msg_1"}',
    ),
    (
        "chat_chunk",
        "chat_chunk",
        "run_1:1:3",
        '{"event_type":"chat_chunk","run_id":"run_1","seq":3,"message_id":"msg_1",'
        '"content":"é\u2028\\n","first_seq":2}',
    ),
    (
        "reasoning_chunk",
        "reasoning_chunk",
        "run_1:1:4",
        '{"event_type":"reasoning_chunk","run_id":"run_1","seq":4,"message_id":"msg_1",'
        '"content":"\\"so\\""}',
    ),
    (
        "tool_call_queued",
        "tool_call_queued",
        "run_1:1:5",
        '{"event_type":"tool_call_queued","run_id":"run_1","seq":5,"message_id":"msg_1",'
        '"tool_call":{"id":"c1","name":"calculate","arguments":{"expression":"6*7"}}}',
    ),
    (
        "tool_call_start",
        "tool_call",
        "run_1:1:5",
        '{"event_type":"tool_call_start","run_id":"run_1","seq":5,"message_id":"msg_1",'
        '"tool_call":{"id":"c1","name":"calculate","arguments":{"expression":"6*7"},'
        '"started_at":"2026-01-02T12:00:00.250000Z"}}',
    ),
    (
        "tool_call_progress",
        "tool_call_progress",
        "run_1:1:6",
        '{"event_type":"tool_call_progress","run_id":"run_1","seq":6,"message_id":"msg_1",'
        '"tool_call":{"id":"c1","name":"calculate","progress":1,"total":null,"message":null}}',
    ),
    (
        "tool_call_complete",
        "tool_call",
        "run_1:1:7",
        '{"event_type":"tool_call_complete","run_id":"run_1","seq":7,"message_id":"msg_1",'
        '"tool_call":{"id":"c1","name":"calculate","arguments":{},"result":42,'
        '"duration_ms":0.5,"truncated":false,"started_at":"2026-01-02T12:00:00.250000Z"}}',
    ),
    (
        "tool_call_error",
        "tool_call",
        "run_1:1:8",
        '{"event_type":"tool_call_error","run_id":"run_1","seq":8,"message_id":"msg_1",'
        '"tool_call":{"id":"c1","name":"calculate","arguments":"{",'
        '"code":"invalid_arguments","error":"No.","duration_ms":0.0,"started_at":null}}',
    ),
    (
        "agent_updated",
        "agent_updated",
        "run_1:1:9",
        '{"event_type":"agent_updated","run_id":"run_1","seq":9,"message_id":"msg_1",'
        '"agent":"other","previous_agent":"chat"}',
    ),
    (
        "run_progress",
        "run_progress",
        "run_1:1:9",
        '{"event_type":"run_progress","run_id":"run_1","seq":9,"stage":"search",'
        '"message":"Two of 3","done":2,"total":3}',
    ),
    (
        "chat_complete",
        "chat_complete",
        "run_1:1:10",
        '{"event_type":"chat_complete","run_id":"run_1","seq":10,"final_response":"42",'
        '"finish_reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":2,'
        '"total_tokens":5}}',
    ),
    (
        "error",
        "error",
        "run_1:1:10",
        '{"event_type":"error","run_id":"run_1","seq":10,"code":"upstream_error",'
        '"message":"It broke.","retryable":true}',
    ),
    (
        "reset",
        "reset",
        None,
        '{"event_type":"reset","run_id":"run_1","epoch":2,"reason":"epoch_changed"}',
    ),
]
"""An example's name, its type on a WebSocket, its cursor, and its JSON."""

table = pytest.mark.parametrize(
    ("name", "kind", "place", "data"), SIMPLE_CASES, ids=[case[0] for case in SIMPLE_CASES]
)


def native(name: str) -> NativeEvent:
    event = EXAMPLES[name]
    assert not isinstance(event, Suspended)
    return event


def test_the_table_has_every_event() -> None:
    names = [str(kind.__struct_config__.tag) for kind in get_args(NativeEvent)]
    assert sorted(names) == sorted(case[0] for case in SIMPLE_CASES)


@table
def test_an_event_over_sse_is_one_frame(name: str, kind: str, place: str | None, data: str) -> None:
    id_line = f"id: {place}\n" if place else ""
    assert EventsEncoder(1).encode(EXAMPLES[name]) == f"{id_line}data: {data}\n\n".encode()


@table
def test_an_event_over_a_web_socket_is_one_message(
    name: str, kind: str, place: str | None, data: str
) -> None:
    id_member = f'"id":"{place}",' if place else ""
    expected = f'{{"type":"{kind}",{id_member}"data":{data}}}'
    assert WebSocketEncoder(1, None).encode(native(name)) == expected.encode()


@table
def test_a_request_id_stands_beside_the_type(
    name: str, kind: str, place: str | None, data: str
) -> None:
    id_member = f'"id":"{place}",' if place else ""
    expected = f'{{"type":"{kind}","request_id":"q.1-_Z",{id_member}"data":{data}}}'
    assert WebSocketEncoder(1, "q.1-_Z").encode(native(name)) == expected.encode()


def test_a_cursor_names_the_epoch_of_the_log_and_after_a_reset_the_new_one() -> None:
    event = stamped(piece("a"), "run_1", 3)
    reset = Reset(run_id="run_1", epoch=7, reason="epoch_changed")
    over_sse = EventsEncoder(4)
    assert over_sse.encode(event).startswith(b"id: run_1:4:3\n")
    assert b"id:" not in over_sse.encode(reset)
    assert over_sse.encode(event).startswith(b"id: run_1:7:3\n")
    over_socket = WebSocketEncoder(4, None)
    assert msgspec.json.decode(over_socket.encode(event))["id"] == "run_1:4:3"
    assert "id" not in msgspec.json.decode(over_socket.encode(reset))
    assert msgspec.json.decode(over_socket.encode(event))["id"] == "run_1:7:3"


def test_the_terminal_event_is_the_end_of_the_stream() -> None:
    assert EventsEncoder(1).encode(EXAMPLES["chat_complete"]).count(b"\n\n") == 1


def test_that_a_run_is_suspended_is_no_event_of_this_wire() -> None:
    assert EventsEncoder(1).encode(Suspended(run_id="run_1", seq=3)) == b""


def test_a_heartbeat_is_no_event() -> None:
    assert sse.Decoder().feed(EventsEncoder.heartbeat) == []
    assert EventsEncoder.heartbeat.endswith(b"\n\n")


def test_the_table_of_encoders_makes_one_for_an_epoch() -> None:
    frames = {name: make(2).encode(EXAMPLES["agent_updated"]) for name, make in ENCODERS.items()}
    assert frames["events"].startswith(b"id: run_1:2:9\n")
    assert ENCODERS["events"](2).media_type == "text/event-stream"


@unhurried
@given(logs(), st.integers(1, 9), st.lists(st.floats(0, 1), max_size=6))
def test_any_log_is_a_well_formed_stream_however_it_is_cut(
    plain: list[Event], epoch: int, cuts: list[float]
) -> None:
    log = numbered(plain)
    encoder = EventsEncoder(epoch)
    stream = b"".join(encoder.encode(event) + encoder.heartbeat for event in log)
    places = sorted({0, len(stream), *(int(cut * len(stream)) for cut in cuts)})
    decoder = sse.Decoder()
    got = [
        msgspec.json.decode(data, type=ReaderEvent)
        for start, end in itertools.pairwise(places)
        for data in decoder.feed(stream[start:end])
    ]
    assert got == log
    ids = re.findall(rb"^id: (.*)$", stream, re.MULTILINE)
    assert ids == [f"run_1:{epoch}:{event.seq}".encode() for event in log]


@unhurried
@given(logs())
def test_a_stream_cut_off_anywhere_holds_whole_events_only(plain: list[Event]) -> None:
    log = numbered(plain)
    encoder = EventsEncoder(1)
    stream = b"".join(map(encoder.encode, log))
    for end in range(0, len(stream), max(1, len(stream) // 40)):
        got = [
            msgspec.json.decode(data, type=ReaderEvent) for data in sse.Decoder().feed(stream[:end])
        ]
        assert got == log[: stream[:end].count(b"\n\n")]


@unhurried
@given(logs(), st.none() | st.from_regex(r"\A[A-Za-z0-9_.-]{1,20}\Z"))
def test_a_web_socket_says_the_same_as_sse(plain: list[Event], request_id: str | None) -> None:
    over_sse, over_socket = EventsEncoder(3), WebSocketEncoder(3, request_id)
    for event in numbered(plain):
        message: dict[str, Any] = msgspec.json.decode(over_socket.encode(event))
        assert message.get("request_id") == request_id
        assert set(message) - {"request_id"} == {"type", "id", "data"}
        [data] = sse.Decoder().feed(over_sse.encode(event))
        assert message["data"] == msgspec.json.decode(data)
        assert message["id"] == f"run_1:3:{event.seq}"
