"""Streams of servers that are not OpenAI, without a server; each kind has its source."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.upstream as up
from events import Usage
from llm.openai_failures import OpenAIFailures
from llm.openai_stream import OpenAIReply
from llm.think import TagReader
from messages import EndPart, ReasoningPart, ReplyPart, TextPart, ToolCall, ToolCallPart
from tests.upstream import chunk, sse


def read(stream: bytes, *, has_tags: bool = True) -> list[ReplyPart]:
    """Decode a whole body; raise what it fails with."""
    reply = OpenAIReply(OpenAIFailures("none"), has_tags=has_tags)
    parts = reply.feed(stream)
    if not reply.is_over:
        parts += reply.end()
    if reply.failure:
        raise reply.failure
    return parts


def failure(stream: bytes) -> tuple[str, str]:
    """Return the code and the message with which a body fails."""
    reply = OpenAIReply(OpenAIFailures("none"))
    reply.feed(stream)
    if not reply.is_over:
        reply.end()
    assert reply.failure is not None
    return reply.failure.code, reply.failure.message


def said(parts: Iterable[ReplyPart]) -> tuple[str, str]:
    """Return the reasoning and the answer."""
    parts = list(parts)
    return (
        "".join(part.content for part in parts if isinstance(part, ReasoningPart)),
        "".join(part.content for part in parts if isinstance(part, TextPart)),
    )


def told(*deltas: dict[str, Any], end: bytes = chunk({}, "stop") + up.DONE) -> bytes:
    return b"".join(chunk(delta) for delta in deltas) + end


def called(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", **fields}}]}


# Odd members.

GOOD = chunk({"content": "Yes."})


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": []},
        {"usage": {}},
        {"usage": False},
        {"usage": "none"},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "refusal": False}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "refusal": {}}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "reasoning": {}}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "reasoning_content": False}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "reasoning": 5}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "tool_calls": [None]}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "tool_calls": {}}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes.", "tool_calls": False}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": False}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": ""}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": {}}]},
        {"choices": [{"index": 0, "delta": {"content": "Yes."}, "message": []}]},
        {"choices": [{"index": 0.0, "delta": {"content": "Yes."}}]},
        {"choices": [{"index": "0", "delta": {"content": "Yes."}}]},
        {"object": 5},
        {"object": None, "error": {}},
        {"error": False},
        {"id": 17, "created": "now", "model": ["m"], "type": {}, "code": []},
    ],
    ids=json.dumps,
)
def test_odd_but_harmless_members_never_cost_an_answer(odd: dict[str, Any]) -> None:
    event = {"object": "chat.completion.chunk", **json.loads(GOOD[6:]), **odd}
    parts = read(sse(event) + chunk({}, "stop") + up.DONE)
    assert parts == [TextPart("Yes."), EndPart("stop", None)]


@pytest.mark.parametrize(
    "needed",
    [
        {"content": 5},
        {"content": {"a": 1}},
        {"tool_calls": "x"},
        {"tool_calls": [5]},
        {"tool_calls": [{"function": {"name": {"a": 1}}}]},
    ],
    ids=json.dumps,
)
def test_what_an_answer_is_made_of_is_read_strictly(needed: dict[str, Any]) -> None:
    code, _ = failure(told({"content": "Yes."}, needed))
    assert code == "upstream_malformed"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_tokens": 1.5, "completion_tokens": 2}, Usage(1, 2, 3)),
        ({"prompt_tokens": "7", "completion_tokens": None}, Usage(7, 0, 7)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, Usage(10, 5, 15)),
        ({"prompt_tokens": 3, "completion_tokens": -1}, Usage(3, 0, 3)),
        ({"prompt_tokens": 1e300}, None),
        ({"prompt_tokens": [], "completion_tokens": {}}, None),
        ({"prompt_tokens": True}, None),
        ([], None),
        ([{"prompt_tokens": 1}], None),
    ],
)
def test_usage_is_what_can_be_counted_of_it(counts: Any, expected: Usage | None) -> None:
    parts = read(told({"content": "Yes."}, end=chunk({}, "stop") + chunk(None, usage=counts)))
    assert parts[-1] == EndPart("stop", expected)


@pytest.mark.parametrize("index", [0, "0", None, [], {}, 0.0])
@pytest.mark.parametrize("id", [17, "17"])
def test_ids_that_are_numbers_are_texts(id: Any, index: Any) -> None:
    first = {"index": index, "id": id, "function": {"name": "f", "arguments": '{"x"'}}
    second = {"index": index, "id": id, "function": {"arguments": ":1}"}}
    parts = read(told({"tool_calls": [first]}, {"tool_calls": [None, second]}))
    assert parts[:-1] == [ToolCallPart(ToolCall("17", "f", '{"x":1}'))]


# The end.


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        ([{"content": "Yes."}], "stop"),
        ([called(arguments='{"x":1}')], "tool_calls"),
        ([called()], "tool_calls"),
        ([{"content": "See:"}, called(arguments="{}")], "tool_calls"),
        ([{"content": "<think>Hm.</think>Yes."}], "stop"),
        ([{"content": "<"}], "stop"),
        ([], None),
        ([{"content": ""}], None),
        ([{"reasoning_content": "Hm."}], None),
        ([{"content": "<think>Hm."}], None),
        ([called(arguments='{"x":')], None),
        ([{"content": "See:"}, called(arguments='{"x":')], None),
        ([called(name="")], None),
    ],
    ids=repr,
)
def test_done_alone_ends_text_and_whole_calls(
    deltas: list[dict[str, Any]], reason: str | None
) -> None:
    """mvmories in waybarrios/vllm-mlx#628; proxies before Gemini, coderabbit in planet#10281."""
    stream = told(*deltas, end=up.DONE)
    if reason is None:
        assert failure(stream)[0] == "upstream_truncated"
    else:
        end = read(stream)[-1]
        assert isinstance(end, EndPart)
        assert end.finish_reason == reason
    assert failure(told(*deltas, end=b""))[0] == "upstream_truncated"


# Content as a list of parts.


def test_thinking_parts_of_magistral_are_reasoning() -> None:
    """docs.mistral.ai/capabilities/reasoning; mistralai/client-ts, ThinkChunk."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    again = {"type": "thinking", "thinking": [{"type": "text", "text": " So."}], "closed": True}
    parts = read(
        told(
            {"content": [thinking]},
            {"content": [again, {"type": "text", "text": "Ye"}]},
            {"content": "s."},
        )
    )
    assert said(parts) == ("Hm. So.", "Yes.")


@pytest.mark.parametrize(
    "delta",
    [
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}]},
        {"content": [{"type": "reasoning", "text": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": "Hm."}]},
        {"reasoning_content": {"text": "Hm."}},
        {"reasoning_content": [{"text": "H"}, {"text": "m."}]},
        {"reasoning": "Hm.", "reasoning_content": ""},
    ],
    ids=json.dumps,
)
def test_reasoning_of_other_shapes_is_reasoning(delta: dict[str, Any]) -> None:
    """Databricks, "Query reasoning models"; Bedrock in envoyproxy/ai-gateway#1222."""
    text = [{"type": "text", "text": "Yes."}, "!", {"type": "image_url"}, None, 5]
    assert said(read(told(delta, {"content": text}))) == ("Hm.", "Yes.!")


# Reasoning in tags.

TAGGED = [
    ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
    ("\n<think>\nHm.\n</think>\n\nYes.\n", "Hm.\n", "Yes.\n"),
    ("<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("<think></think>Yes.", "", "Yes."),
    ("<think>a</think> <think>b</think>Yes.", "ab", "Yes."),
    (
        "<think>a < b </thin </think>Yes. <think>no</think>",
        "a < b </thin ",
        "Yes. <think>no</think>",
    ),
    ("<think>never closed", "never closed", ""),
    ("<think>never closed</thi", "never closed</thi", ""),
    ("<think>only</think>", "only", ""),
    ("<think>only</think>\n", "only", ""),
    ("[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    ("<thought>Hm.</thought>Yes.", "Hm.", "Yes."),
    ("<seed:think>Hm.</seed:think>Yes.", "Hm.", "Yes."),
    ("Yes. <think>Hm.</think>", "", "Yes. <think>Hm.</think>"),
    ("<thinly veiled>", "", "<thinly veiled>"),
    ("<thin", "", "<thin"),
    ("[1] is odd", "", "[1] is odd"),
    ("  Yes.", "", "  Yes."),
    ("  ", "", "  "),
    ("</think>Yes.", "", "</think>Yes."),
    ("<think>a</think>" + "\n" * 2000 + "Yes.", "a", "Yes."),
    ("<think>a</think>\n<thin", "a", "<thin"),
    (" " * 2000 + "<think>x</think>", "", " " * 2000 + "<think>x</think>"),
]


@pytest.mark.parametrize(("content", "reasoning", "answer"), TAGGED)
def test_tags_at_the_beginning_are_reasoning_cut_at_any_place(
    content: str, reasoning: str, answer: str
) -> None:
    """Qwen3, DeepSeek-R1 and MiniMax through servers without a reasoning parser."""
    wholes = [[content], list(content)]
    cuts = [[content[:at], content[at:]] for at in range(1, min(len(content), 80))]
    for pieces in (*wholes, *cuts):
        deltas = [{"content": piece} for piece in pieces]
        assert said(read(told(*deltas))) == (reasoning, answer), pieces
        parts = [{"content": [{"type": "text", "text": piece}]} for piece in pieces]
        assert said(read(told(*parts))) == (reasoning, answer), pieces
        assert said(read(told(*deltas), has_tags=False)) == ("", content)


_TEXTS = st.text(st.sampled_from("<think>/[THINK] \nab"), max_size=40)


@given(st.lists(_TEXTS, max_size=6), st.sampled_from(["", "<think>", "[THINK]", "<thought>"]))
def test_no_character_is_lost_or_told_twice_however_it_is_cut(pieces: list[str], tag: str) -> None:
    whole = tag + "".join(pieces)
    found = [_through([tag, *pieces]), _through([whole]), _through(list(whole))]
    assert found[0] == found[1] == found[2]
    if not found[0][0] and not whole.lstrip().startswith(("<think>", "[THINK]", "<thought>")):
        assert found[0][1] == whole


def _through(pieces: list[str]) -> tuple[str, str]:
    reader = TagReader()
    told = [piece for text in pieces for piece in reader.feed(text)] + reader.end()
    assert all(piece.text for piece in told)
    return (
        "".join(piece.text for piece in told if piece.is_reasoning),
        "".join(piece.text for piece in told if not piece.is_reasoning),
    )


def test_an_answer_without_tags_is_given_out_piece_by_piece() -> None:
    reply = OpenAIReply(OpenAIFailures("none"))
    assert reply.feed(chunk({"content": "Y"})) == [TextPart("Y")]
    assert reply.feed(chunk({"content": "<think>"})) == [TextPart("<think>")]


def test_reasoning_in_tags_is_given_out_piece_by_piece() -> None:
    reply = OpenAIReply(OpenAIFailures("none"))
    assert reply.feed(chunk({"content": "<think>H"})) == [ReasoningPart("H")]
    assert reply.feed(chunk({"content": "m<"})) == [ReasoningPart("m")]
    assert reply.feed(chunk({"content": "b</think>Y"})) == [ReasoningPart("<b"), TextPart("Y")]


# Errors.


@pytest.mark.parametrize(
    ("stream", "code", "words"),
    [
        (sse([{"error": {"code": 503, "message": "Busy."}}]), "upstream_error", "Busy."),
        (b'[{"error": {"code": 429, "message": "Slow."}}]', "upstream_rate_limited", "Slow."),
        (sse({"detail": "Not here."}), "upstream_error", "Not here."),
        (b'{"detail": "Not here."}', "upstream_error", "Not here."),
        (b'{"message": "Not here.", "code": 404}', "upstream_model_not_found", "Not here."),
        (sse({"message": {"detail": [{"msg": "No."}]}}) + up.DONE, "upstream_error", "No."),
        (sse({"error": "no"}), "upstream_error", "no"),
        (
            sse({"error": {"code": 500, "message": "Jinja Exception: roles must alternate"}}),
            "upstream_unsupported",
            "roles must alternate",
        ),
    ],
)
def test_an_error_in_a_stream_keeps_its_reason(stream: bytes, code: str, words: str) -> None:
    assert failure(stream)[0] == code
    assert words in failure(stream)[1]


def test_what_is_no_chunk_does_no_harm_to_an_answer() -> None:
    parts = read(sse({"message": "queued", "type": "info"}) + told({"content": "Yes."}))
    assert parts == [TextPart("Yes."), EndPart("stop")]


# Cuts.

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1.0,"completion_tokens":"2"}}\n\n'
CORPUS = [
    told({"content": "Grüße 😀"}, {"content": " 東京\u2028"}, end=chunk({}, "stop") + USAGE),
    told({"content": "<think>Hm… 😀</think>\n\nYes."}, end=up.DONE),
    told({"content": [{"type": "thinking", "thinking": [{"text": "Hm."}]}]}, {"content": "Yes."}),
    told({"reasoning": {}, "content": "A"}, called(arguments='{"x":"ü"}'), end=up.DONE),
    told({"content": "A", "refusal": False, "tool_calls": [None]}),
    b": OPENROUTER PROCESSING\r\n\r\n" + told({"content": "A"}).replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf" + told({"content": "A\ud83d"}, {"content": "\ude00B"}),
    json.dumps({"choices": [{"message": {"content": "<think>a</think>b"}}]}).encode(),
    sse([{"error": {"code": 503, "message": "Busy."}}]),
    sse({"detail": "Not here."}) + up.DONE,
    told({"content": "A"}, end=b""),
]


@pytest.mark.parametrize("stream", CORPUS, ids=range(len(CORPUS)))
@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_bytes_cut_anywhere_are_the_same_reply(stream: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[one:other] for one, other in pairwise(bounds)]
    assert _outcome(pieces) == _outcome([stream])


def _outcome(pieces: Iterable[bytes]) -> tuple[list[ReplyPart], str | None]:
    reply = OpenAIReply(OpenAIFailures("none"))
    parts: list[ReplyPart] = []
    for piece in pieces:
        if not reply.is_over:
            parts += reply.feed(piece)
    if not reply.is_over:
        parts += reply.end()
    return parts, reply.failure.message if reply.failure else None
