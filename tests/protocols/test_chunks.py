"""The `chunks` wire, as a table and as a law."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given

from events import ChatChunk, Event, ReaderEvent, Reset, RunError, stamped
from protocols.chunks import ChunksEncoder
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.protocols.eventsource import dispatched

CASES = {
    "chat_chunk": 'id: run_1:1:3\ndata: {"content":"é\u2028\\n","done":false}\n\n',
    "chat_complete": (
        'id: run_1:1:10\ndata: {"content":"","done":true,"conversation_id":null,'
        '"run_id":"run_1","finish_reason":"stop"}\n\ndata: [DONE]\n\n'
    ),
    "error": (
        'id: run_1:1:10\ndata: {"content":"","done":false,"error":{"code":"upstream_error",'
        '"message":"It broke.","retryable":true}}\n\n'
    ),
    "suspended": (
        'id: run_1:1:10\ndata: {"content":"","done":false,"error":{"code":"shutting_down",'
        '"message":"The service stops; it goes on with this run when it is back.",'
        '"retryable":true}}\n\n'
    ),
    "reset": (
        'data: {"content":"","done":false,"reset":{"run_id":"run_1","reason":"epoch_changed"}}\n\n'
    ),
}
"""What a fresh encoder makes of the examples; of all others nothing."""


class Heard(NamedTuple):
    """What a client understood that reads line by line."""

    text: str
    chunks: list[dict[str, Any]]
    is_closed: bool


def stream_of(events: Sequence[ReaderEvent]) -> bytes:
    encoder = ChunksEncoder(1)
    return b"".join(map(encoder.encode, events))


def read_by_lines(stream: bytes) -> Heard:
    """Read as this wire's clients do: each line alone, `content` of every JSON object."""
    text = ""
    chunks: list[dict[str, Any]] = []
    for line in stream.splitlines():
        if not line.startswith(b"data: "):
            continue
        data = line.decode()[6:]
        if data == "[DONE]":
            return Heard(text, chunks, True)
        chunks.append(json.loads(data))
        text += chunks[-1]["content"]
    return Heard(text, chunks, False)


@pytest.mark.parametrize("kind", get_args(ReaderEvent))
def test_an_event_is_its_frames_or_nothing(kind: type[ReaderEvent]) -> None:
    name = str(kind.__struct_config__.tag)
    assert ChunksEncoder(1).encode(EXAMPLES[name]).decode() == CASES.get(name, "")


def test_a_run_is_its_pieces_then_done_then_the_closing_mark() -> None:
    stream = stream_of(numbered([START, piece("Hi"), piece(" there"), DONE]))
    assert [message.data for message in dispatched(stream)] == [
        '{"content":"Hi","done":false}',
        '{"content":" there","done":false}',
        '{"content":"","done":true,"conversation_id":"conv_1","run_id":"run_1",'
        '"finish_reason":"stop"}',
        "[DONE]",
    ]
    assert read_by_lines(stream).text == "Hi there"


def test_a_run_that_failed_is_neither_done_nor_closed() -> None:
    heard = read_by_lines(stream_of(numbered([START, piece("Hi"), FAILED])))
    assert heard.text == "Hi"
    assert not heard.is_closed
    assert [chunk["done"] for chunk in heard.chunks] == [False, False]
    assert heard.chunks[-1]["error"]["code"] == "upstream_error"


def test_a_reset_adds_no_text_and_later_cursors_name_the_new_epoch() -> None:
    reset = Reset(run_id="run_1", epoch=7, reason="log_expired")
    stream = stream_of([reset, stamped(piece("a"), "run_1", 2)])
    assert read_by_lines(stream).text == "a"
    assert [message.id for message in dispatched(stream)] == ["", "run_1:7:2"]


@unhurried
@given(logs())
def test_any_log_is_its_text_and_exactly_one_end(plain: list[Event]) -> None:
    log = numbered(plain)
    heard = read_by_lines(stream_of(log))
    is_failed = isinstance(log[-1], RunError)
    assert heard.text == "".join(event.content for event in log if isinstance(event, ChatChunk))
    assert heard.is_closed is not is_failed
    assert [chunk["done"] for chunk in heard.chunks] == [
        *[False] * (len(heard.chunks) - 1),
        not is_failed,
    ]
    assert [chunk for chunk in heard.chunks if "error" in chunk] == heard.chunks[-1:] * is_failed


@unhurried
@given(logs())
def test_every_cursor_names_the_event_from_which_to_go_on(plain: list[Event]) -> None:
    log = numbered(plain)
    whole = [message for message in dispatched(stream_of(log)) if message.data != "[DONE]"]
    assert whole
    for at, message in enumerate(whole):
        rest = read_by_lines(stream_of(log[int(message.id.rpartition(":")[2]) :])).chunks
        expected = [json.loads(left.data) for left in whole[at + 1 :]]
        assert [chunk["content"] for chunk in rest] == [chunk["content"] for chunk in expected]
