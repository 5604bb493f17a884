"""The `tokens` wire, as a table and as a law."""

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given

from events import ChatChunk, Event, ReaderEvent, Reset, RunError, stamped
from protocols.tokens import TokensEncoder
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.protocols.eventsource import Message, dispatched

CASES = {
    "chat_chunk": "id: run_1:1:3\nevent: token\ndata: é\u2028\ndata: \n\n",
    "chat_complete": (
        "id: run_1:1:10\nevent: done\n"
        'data: {"conversation_id":null,"run_id":"run_1","finish_reason":"stop"}\n\n'
    ),
    "error": (
        "id: run_1:1:10\nevent: error\n"
        'data: {"code":"upstream_error","message":"It broke.","retryable":true}\n\n'
    ),
    "suspended": (
        "id: run_1:1:10\nevent: error\n"
        'data: {"code":"shutting_down",'
        '"message":"The service stops; it goes on with this run when it is back.",'
        '"retryable":true}\n\n'
    ),
    "reset": 'event: reset\ndata: {"run_id":"run_1","reason":"epoch_changed"}\n\n',
}
"""What a fresh encoder makes of the examples; of all others nothing."""


def heard(events: list[Event]) -> list[Message]:
    """Return what a client of a whole log dispatches."""
    encoder = TokensEncoder(1)
    return dispatched(b"".join(map(encoder.encode, events)))


def text_of(messages: list[Message]) -> str:
    return "".join(message.data for message in messages if message.event == "token")


@pytest.mark.parametrize("kind", get_args(ReaderEvent))
def test_an_event_is_its_frame_or_nothing(kind: type[ReaderEvent]) -> None:
    name = str(kind.__struct_config__.tag)
    assert TokensEncoder(1).encode(EXAMPLES[name]).decode() == CASES.get(name, "")


def test_a_run_is_its_tokens_and_then_done_with_the_conversation() -> None:
    *tokens, done = heard(numbered([START, piece("Hi"), piece(" there"), DONE]))
    assert tokens == [
        Message("run_1:1:2", "token", "Hi"),
        Message("run_1:1:3", "token", " there"),
    ]
    assert done.event == "done"
    assert json.loads(done.data)["conversation_id"] == "conv_1"


def test_a_run_that_failed_has_its_error_and_no_done() -> None:
    messages = heard(numbered([START, piece("Hi"), FAILED]))
    assert [message.event for message in messages] == ["token", "error"]
    assert json.loads(messages[-1].data) == {
        "code": "upstream_error",
        "message": "It broke.",
        "retryable": True,
    }


@pytest.mark.parametrize(
    "text",
    ["{", '{"a": 1}', " ", "  two", "\n", "\n\n", "a\nb\n", ": no comment", "data: x", "\ufeff"],
)
def test_a_token_survives_whatever_it_looks_like(text: str) -> None:
    assert heard(numbered([START, piece(text), DONE]))[0].data == text


def test_line_ends_within_a_token_arrive_as_line_feeds() -> None:
    assert heard(numbered([START, piece("a\r\nb\rc"), DONE]))[0].data == "a\nb\nc"


def test_after_a_reset_cursors_name_the_new_epoch() -> None:
    encoder = TokensEncoder(1)
    reset = encoder.encode(Reset(run_id="run_1", epoch=7, reason="log_expired"))
    assert b"id:" not in reset
    assert encoder.encode(stamped(piece("a"), "run_1", 2)).startswith(b"id: run_1:7:2\n")


@unhurried
@given(logs())
def test_any_log_is_its_text_and_exactly_one_end(plain: list[Event]) -> None:
    log = numbered(plain)
    messages = heard(log)
    said = [event.content for event in log if isinstance(event, ChatChunk)]
    assert text_of(messages) == "".join(
        text.replace("\r\n", "\n").replace("\r", "\n") for text in said
    )
    ends = [message.event for message in messages if message.event != "token"]
    assert ends == ["error" if isinstance(log[-1], RunError) else "done"]
    assert messages[-1].event == ends[0]
    msgspec.json.decode(messages[-1].data)


@unhurried
@given(logs())
def test_every_cursor_names_the_event_from_which_to_go_on(plain: list[Event]) -> None:
    log = numbered(plain)
    whole = heard(log)
    assert whole
    for at, message in enumerate(whole):
        seq = int(message.id.rpartition(":")[2])
        rest = heard(log[seq:])
        assert [left.data for left in rest if left.event == "token"] == [
            left.data for left in whole[at + 1 :] if left.event == "token"
        ]
