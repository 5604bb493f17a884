"""The vocabulary: its names are for ever, and its values survive the wire."""

import itertools
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import (
    TERMINAL,
    ChatChunk,
    Event,
    FinishReason,
    ReaderEvent,
    ReasoningChunk,
    Suspended,
    ToolErrorCode,
    Usage,
    merged,
    stamped,
)
from tests.logs import DONE, EXAMPLES, START, logs, numbered, piece, unhurried

EVERY = {"event_type", "run_id", "seq"}
FIELDS = {
    "chat_start": {"conversation_id", "agent", "model", "message_id"},
    "chat_chunk": {"message_id", "content", "first_seq"},
    "reasoning_chunk": {"message_id", "content"},
    "tool_call_queued": {"message_id", "tool_call"},
    "tool_call_start": {"message_id", "tool_call"},
    "tool_call_progress": {"message_id", "tool_call"},
    "tool_call_complete": {"message_id", "tool_call"},
    "tool_call_error": {"message_id", "tool_call"},
    "agent_updated": {"message_id", "agent", "previous_agent"},
    "run_progress": {"stage", "message", "done", "total"},
    "chat_complete": {"final_response", "finish_reason", "usage"},
    "error": {"code", "message", "retryable"},
    "reset": {"epoch", "reason"},
}
CALL_FIELDS = {
    "tool_call_queued": {"id", "name", "arguments"},
    "tool_call_start": {"id", "name", "arguments", "started_at"},
    "tool_call_progress": {"id", "name", "progress", "total", "message"},
    "tool_call_complete": {
        "id",
        "name",
        "arguments",
        "result",
        "duration_ms",
        "truncated",
        "started_at",
    },
    "tool_call_error": {"id", "name", "arguments", "code", "error", "duration_ms", "started_at"},
}

Text = ChatChunk | ReasoningChunk


def test_every_event_has_its_name_and_an_example() -> None:
    names = {str(kind.__struct_config__.tag) for kind in get_args(ReaderEvent)}
    assert names == {*FIELDS, "suspended"} == set(EXAMPLES)


@pytest.mark.parametrize("name", FIELDS)
def test_the_names_on_the_wire_are_for_ever(name: str) -> None:
    event = EXAMPLES[name]
    wire = msgspec.json.decode(msgspec.json.encode(event))
    stamps = EVERY - {"seq"} if name == "reset" else EVERY
    assert set(wire) == FIELDS[name] | stamps
    assert wire["event_type"] == event.event_type == name
    assert set(wire.get("tool_call", ())) == CALL_FIELDS.get(name, set())


def test_the_reasons_and_codes_are_for_ever() -> None:
    assert set(get_args(FinishReason)) == {
        "stop",
        "length",
        "content_filter",
        "tool_calls",
        "cancelled",
        "max_turns",
        "max_tool_calls",
        "repeated_tool_calls",
    }
    assert set(get_args(ToolErrorCode)) == {
        "unknown_tool",
        "invalid_arguments",
        "failed",
        "timeout",
        "cancelled",
        "limit",
        "interrupted",
    }
    assert {str(kind.__struct_config__.tag) for kind in TERMINAL} == {"chat_complete", "error"}


def test_to_who_cannot_come_back_a_suspension_is_an_error_of_the_same_place() -> None:
    error = Suspended(run_id="run_1", seq=3).as_error()
    assert (error.run_id, error.seq) == ("run_1", 3)
    assert (error.code, error.retryable, error.retry_after) == ("shutting_down", True, None)
    assert "goes on with this run" in error.message


def test_first_seq_is_absent_from_a_piece_that_was_not_merged() -> None:
    assert "first_seq" not in msgspec.json.decode(msgspec.json.encode(stamped(piece("a"), "r", 2)))


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        START.agent = "other"  # type: ignore[misc]


def test_usages_add_up_field_by_field() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)


def test_a_stamp_changes_the_place_and_nothing_else() -> None:
    event = stamped(DONE, "run_1", 7)
    assert (event.run_id, event.seq) == ("run_1", 7)
    assert stamped(event, "", 0) == DONE


@unhurried
@given(logs())
def test_every_event_comes_back_from_json_as_it_was(log: list[Event]) -> None:
    for event in numbered(log):
        assert msgspec.json.decode(msgspec.json.encode(event), type=ReaderEvent) == event


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_comes_back_from_json_as_it_was(name: str) -> None:
    event = EXAMPLES[name]
    assert msgspec.json.decode(msgspec.json.encode(event), type=ReaderEvent) == event


def joins(left: Event, right: Event) -> bool:
    return (
        isinstance(left, Text)
        and type(left) is type(right)
        and left.message_id == getattr(right, "message_id", None)
    )


def expanded(event: Event, log: list[Event]) -> list[Event]:
    """Return the events of `log` that a merged one says it stands for."""
    first = getattr(event, "first_seq", 0) or event.seq
    return log[first - 1 : event.seq]


@unhurried
@given(logs())
def test_merging_joins_adjacent_pieces_of_one_message_and_touches_nothing_else(
    plain: list[Event],
) -> None:
    log = numbered(plain)
    got = list(merged(log))
    assert [event for one in got for event in expanded(one, log)] == log
    for one in got:
        sources = expanded(one, log)
        if len(sources) == 1:
            assert one == sources[0]
            continue
        assert isinstance(one, Text)
        assert all(type(source) is type(one) for source in sources)
        texts = [source for source in sources if isinstance(source, Text)]
        assert one.content == "".join(source.content for source in texts)
        assert {source.message_id for source in texts} == {one.message_id}
    assert not any(joins(left, right) for left, right in itertools.pairwise(got))


@unhurried
@given(logs(), st.integers(0, 30))
def test_merging_in_two_steps_is_merging_at_once(plain: list[Event], cut: int) -> None:
    log = numbered(plain)
    assert list(merged([*merged(log[:cut]), *merged(log[cut:])])) == list(merged(log))


def test_what_was_merged_is_merged_on_with_its_whole_range() -> None:
    log = numbered([piece("a"), piece("b"), piece("c")])
    [one] = merged([*merged(log[:2]), log[2]])
    assert isinstance(one, ChatChunk)
    assert (one.content, one.first_seq, one.seq) == ("abc", 1, 3)
