"""The `openai` wire, read as OpenAI's SDK reads it."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from events import (
    ChatChunk,
    ChatComplete,
    Event,
    FinishReason,
    ReaderEvent,
    ReasoningChunk,
    RequestedCall,
    Reset,
    RunError,
    Suspended,
    Usage,
    stamped,
)
from protocols.completions import CANCELLED, LOST, CompletionsEncoder, WholeCompletion
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.protocols.eventsource import dispatched

CREATED = 1_700_000_000
RESET = Reset(run_id="run_1", epoch=2, reason="epoch_changed")
CALLS = (
    RequestedCall(id="call_1", name="note", arguments='{"text":"a\u2028"}'),
    RequestedCall(id="call_2", name="look", arguments="{}"),
)


def frames_of(events: Sequence[ReaderEvent], **options: Any) -> list[str]:
    encoder = CompletionsEncoder(1, created=CREATED, **options)
    stream = b"".join(map(encoder.encode, events))
    return [message.data for message in dispatched(stream)]


def chunks_of(events: Sequence[ReaderEvent], **options: Any) -> list[ChatCompletionChunk]:
    """Return the chunks of a stream that ended in order."""
    *chunks, end = frames_of(events, **options)
    assert end == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in chunks]


def whole(events: Sequence[ReaderEvent]) -> dict[str, Any] | RunError | None:
    answer = WholeCompletion(CREATED)
    for event in events:
        answer.add(event)
    return answer.result


def said(chunks: Sequence[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    chunks = chunks_of(numbered([START, piece("Hi"), piece(" \u2028there"), DONE]))
    assert [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {"content": " \u2028there"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        ("chatcmpl-1", CREATED, "scripted-1")
    }
    assert "usage" not in json.loads(frames_of(numbered([START, DONE]))[0])


def test_the_usage_comes_alone_behind_the_last_choice_where_it_is_wanted() -> None:
    log = numbered([START, piece("Hi"), DONE])
    last = chunks_of(log, tell_usage=True)[-1]
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 5)
    frames = frames_of(log, tell_usage=True)
    assert all('"usage":null' in frame for frame in frames[:-2])
    unknown = ChatComplete(final_response="Hi", finish_reason="stop", usage=None)
    assert len(chunks_of(numbered([START, unknown]), tell_usage=True)) == 2


def test_several_messages_of_a_run_are_one_with_an_empty_line_between() -> None:
    log = numbered([START, piece("Let me see."), piece("42", "msg_2"), piece("!", "msg_2"), DONE])
    assert said(chunks_of(log)) == "Let me see.\n\n42!"
    answer = whole(log)
    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"] == "Let me see.\n\n42!"


def test_the_calls_of_the_client_are_told_in_fragments() -> None:
    done = ChatComplete(final_response="", finish_reason="tool_calls", usage=None, tool_calls=CALLS)
    log = numbered([START, done])
    deltas = [chunk.choices[0].delta.tool_calls for chunk in chunks_of(log)[1:-1]]
    told = [delta[0].model_dump(exclude_unset=True) for delta in deltas if delta]
    assert told == [
        {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "note", "arguments": ""},
        },
        {"index": 0, "function": {"arguments": CALLS[0].arguments}},
        {
            "index": 1,
            "id": "call_2",
            "type": "function",
            "function": {"name": "look", "arguments": ""},
        },
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert chunks_of(log)[-1].choices[0].finish_reason == "tool_calls"
    answer = ChatCompletion.model_validate(whole(log), strict=True)
    assert answer.choices[0].message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [
        call.function.arguments
        for call in answer.choices[0].message.tool_calls or ()
        if call.type == "function"
    ] == [CALLS[0].arguments, "{}"]


@pytest.mark.parametrize("reason", get_args(FinishReason))
def test_every_end_of_a_run_is_one_that_openai_knows(reason: FinishReason) -> None:
    log = numbered([START, ChatComplete(final_response="", finish_reason=reason, usage=None)])
    if reason == "cancelled":
        assert json.loads(frames_of(log)[-1])["error"]["code"] == "cancelled"
        assert isinstance(whole(log), RunError)
        return
    assert chunks_of(log)[-1].choices[0].finish_reason in (
        {reason} if reason in ("stop", "length", "content_filter", "tool_calls") else {"length"}
    )
    ChatCompletion.model_validate(whole(log), strict=True)


def test_a_failure_is_the_last_frame_and_nothing_closes_the_stream() -> None:
    frames = frames_of(numbered([START, piece("Hi"), FAILED]))
    assert json.loads(frames[-1]) == {
        "error": {
            "message": "It broke.",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
        }
    }
    assert whole(numbered([START, piece("Hi"), FAILED])) == stamped(FAILED, "run_1", 3)


def test_reasoning_is_told_beside_the_answer() -> None:
    thought = ReasoningChunk(message_id="msg_1", content="So?")
    log = numbered([START, thought, thought, piece("Hi"), DONE])
    deltas = [json.loads(frame)["choices"][0]["delta"] for frame in frames_of(log)[:-1]]
    assert [delta.get("reasoning_content") for delta in deltas] == [None, "So?", "So?", None, None]
    assert said(chunks_of(log)) == "Hi"
    answer = whole(log)
    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["reasoning_content"] == "So?So?"


def test_the_agents_own_calls_are_told_only_where_they_are_wanted() -> None:
    names = [f"tool_call_{part}" for part in ("queued", "start", "progress", "complete", "error")]
    log = [stamped(START, "run_1", 1), *(EXAMPLES[name] for name in names)]
    silent = CompletionsEncoder(1, created=CREATED)
    assert [bool(silent.encode(event)) for event in log] == [True, *[False] * 5]
    frames = frames_of(log, tool_events=True)[1:]
    told = [json.loads(frame) for frame in frames]
    assert [chunk["tool_event"]["event_type"] for chunk in told] == names
    assert {ChatCompletionChunk.model_validate(chunk).choices == [] for chunk in told} == {True}


def test_what_was_told_and_is_no_longer_true_ends_the_stream() -> None:
    begun = numbered([START, piece("Hi")])
    frames = frames_of([*begun, RESET, *numbered([START, piece("Ho"), DONE])])
    assert json.loads(frames[-1])["error"]["code"] == "stream_lost"
    assert len(frames) == 3
    answer = whole([*begun, RESET, *numbered([START, piece("Ho"), DONE])])
    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"] == "Ho"


def test_a_reset_before_any_text_is_none_to_the_client() -> None:
    fresh = numbered([START, piece("Hi"), DONE])
    assert said(chunks_of([*numbered([START]), RESET, *fresh])) == "Hi"


def test_a_suspended_run_is_a_failure() -> None:
    suspended = Suspended(run_id="run_1", seq=2)
    events = [*numbered([START, piece("so")]), suspended]
    assert json.loads(frames_of(events)[-1])["error"]["code"] == "shutting_down"
    assert whole(events) == suspended.as_error()


UNTOLD = ("agent_updated", "run_progress", "reset")
"""Events that this wire has no chunk for; a reset only where a text was sent before it."""


@pytest.mark.parametrize("kind", get_args(ReaderEvent))
def test_a_reader_that_comes_in_the_middle_gets_whole_chunks(kind: type[ReaderEvent]) -> None:
    name = str(kind.__struct_config__.tag)
    frames = frames_of([EXAMPLES[name]], tell_usage=True, tool_events=True)
    assert bool(frames) is (name not in UNTOLD)
    for frame in frames:
        if frame != "[DONE]" and "error" not in json.loads(frame):
            assert ChatCompletionChunk.model_validate_json(frame).id == "chatcmpl-1"


@unhurried
@given(logs(), st.booleans(), st.booleans())
def test_any_log_is_a_stream_and_an_answer_of_the_same_text(
    plain: list[Event], tell_usage: bool, tool_events: bool
) -> None:
    log = numbered(plain)
    frames = frames_of(log, tell_usage=tell_usage, tool_events=tool_events)
    answer = whole(log)
    if isinstance(answer, RunError):
        assert "error" in json.loads(frames[-1])
        return
    chunks = chunks_of(log, tell_usage=tell_usage, tool_events=tool_events)
    completion = ChatCompletion.model_validate(answer, strict=True)
    assert said(chunks) == (completion.choices[0].message.content or "")
    pieces = [event.content for event in log if isinstance(event, ChatChunk)]
    assert said(chunks).replace("\n\n", "") == "".join(pieces).replace("\n\n", "")
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes.count(None) == len(finishes) - 1
    assert finishes[-1] == completion.choices[0].finish_reason
    assert completion.usage is None or isinstance(DONE.usage, Usage)


def test_an_answer_without_a_text_has_none_only_beside_calls() -> None:
    empty = ChatComplete(final_response="", finish_reason="stop", usage=None)
    completion = whole(numbered([START, empty]))
    assert isinstance(completion, dict)
    message = {"role": "assistant", "content": "", "refusal": None}
    assert completion["choices"][0]["message"] == message
    assert "usage" not in completion
    calls = ChatComplete(
        final_response="", finish_reason="tool_calls", usage=None, tool_calls=CALLS
    )
    for pieces, content in (([], None), ([piece("So:")], "So:")):
        completion = whole(numbered([START, *pieces, calls]))
        assert isinstance(completion, dict)
        assert completion["choices"][0]["message"]["content"] == content


def test_what_can_be_asked_again_is_said_to_be_so() -> None:
    assert (CANCELLED.retryable, LOST.retryable) == (False, True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("upstream_rate_limited", "rate_limit_error"), ("upstream_error", "server_error")],
)
def test_a_failure_says_of_which_kind_it_is(code: str, kind: str) -> None:
    failed = RunError(code=code, message="No.", retryable=True)
    frames = frames_of(numbered([START, failed]))
    error = {"message": "No.", "type": kind, "param": None, "code": code}
    assert json.loads(frames[-1]) == {"error": error}
