"""The Anthropic provider against a real server that says, and does, everything wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from email.utils import formatdate
from typing import Any

import msgspec
import pytest

import tests.anthropic_upstream as claude
import tests.upstream as up
from errors import UpstreamError
from events import ReasoningBlock, Usage
from llm.anthropic import MAX_TOKENS, AnthropicProvider
from llm.anthropic_failures import AnthropicFailures
from llm.anthropic_stream import AnthropicReply
from llm.history import BLANK, NO_ANSWER
from llm.tool_calls import MAX_ARGUMENT_BYTES, MAX_CALLS
from messages import (
    AssistantMessage,
    EndPart,
    ImageContent,
    Message,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    ReasoningBlockPart,
    ReasoningPart,
    ReplyPart,
    SystemMessage,
    TextContent,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from tests.anthropic_upstream import Upstream, called, delta, event, redacted, said, thought
from tests.upstream import Reply as Scripted

KEY = "sk-ant-test-not-a-real-key"
USAGE = Usage(10, 5, 15)
QUESTION = (UserMessage("Hello?"),)
WEATHER = ToolSpec("get_weather", "Weather of a city.", {"type": "object", "properties": {}})
NEW = "2026-10-21"


def asking(*messages: Message, **more: Any) -> ModelRequest:
    fields = {name: more.pop(name) for name in ModelOptions.__struct_fields__ if name in more}
    options = ModelOptions(**fields)
    return ModelRequest(model="m", messages=messages or QUESTION, options=options, **more)


@asynccontextmanager
async def provider_for(base_url: str | None, **changes: Any) -> AsyncIterator[AnthropicProvider]:
    settings: dict[str, Any] = {
        "api_key": KEY,
        "base_url": base_url,
        "default_model": "m",
        "max_retries": 0,
        "timeout": 5.0,
        "max_tokens": None,
    }
    provider = AnthropicProvider(**{**settings, **changes})
    try:
        yield provider
    finally:
        await provider.aclose()


async def collect(
    provider: AnthropicProvider, request: ModelRequest | None = None
) -> tuple[list[ReplyPart], UpstreamError | None]:
    """Return what came, and what it failed with."""
    parts: list[ReplyPart] = []
    try:
        async with asyncio.timeout(15):
            async for batch in provider.stream(request or asking()):
                assert batch, "a batch is never empty"
                parts.extend(batch)
    except UpstreamError as error:
        return parts, error
    return parts, None


async def answer(
    reply: Scripted, request: ModelRequest | None = None, **changes: Any
) -> tuple[list[ReplyPart], UpstreamError | None]:
    async with Upstream([reply]) as upstream, provider_for(upstream.base_url, **changes) as asked:
        return await collect(asked, request)


async def failure(reply: Scripted, **changes: Any) -> UpstreamError:
    _, error = await answer(reply, **changes)
    assert error is not None
    return error


def body_of(reply: Scripted) -> bytes:
    return b"".join(step for step in reply.steps if isinstance(step, bytes))


def fed(*pieces: bytes) -> tuple[list[ReplyPart], UpstreamError | None]:
    """Decode a stream of these pieces without a server."""
    reply = AnthropicReply(AnthropicFailures(KEY))
    parts: list[ReplyPart] = []
    for piece in pieces:
        if not reply.is_over:
            parts += reply.feed(piece)
    if not reply.is_over:
        parts += reply.end()
    return parts, reply.failure


def read(reply: Scripted) -> list[ReplyPart]:
    """Decode a reply that is in order."""
    parts, error = fed(body_of(reply))
    assert error is None
    return parts


def block(**fields: str) -> ReasoningBlockPart:
    return ReasoningBlockPart(
        ReasoningBlock("anthropic", json.dumps(fields, separators=(",", ":")))
    )


# What a good server sends.


async def test_an_answer_comes_in_its_pieces_and_ends_with_reason_and_usage() -> None:
    parts, error = await answer(claude.text("Hello", " world"))
    assert error is None
    assert parts == [TextPart("Hello"), TextPart(" world"), EndPart("stop", USAGE)]


async def test_calls_come_whole_directly_before_the_end() -> None:
    tokyo, zurich = {"city": "Tokyo"}, {"city": "Zürich"}
    reply = claude.calls(
        called("toolu_a", "get_weather", tokyo),
        called("toolu_b", "get_weather", zurich),
        before="Let me see.",
    )
    parts, error = await answer(reply)
    assert error is None
    assert parts == [
        TextPart("Let me see."),
        ToolCallPart(ToolCall("toolu_a", "get_weather", json.dumps(tokyo))),
        ToolCallPart(ToolCall("toolu_b", "get_weather", json.dumps(zurich))),
        EndPart("tool_calls", USAGE),
    ]


async def test_what_arrives_together_stays_together() -> None:
    async with (
        Upstream([up.at_once(claude.text("a", "b", "c"))]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        batches = [batch async for batch in provider.stream(asking())]
    assert [len(batch) for batch in batches] == [4]


async def test_each_piece_is_given_out_before_the_next_one_is_sent() -> None:
    async with (
        Upstream([up.paced(claude.text("a", "b"))]) as upstream,
        provider_for(upstream.base_url) as provider,
        asyncio.timeout(10),
    ):
        stream = provider.stream(asking())
        following = asyncio.ensure_future(anext(stream))
        for _ in range(3):  # message_start, ping, content_block_start
            await upstream.gate.pass_one()
        for expected in ("a", "b"):
            await upstream.gate.pass_one()
            assert await following == [TextPart(expected)]
            following = asyncio.ensure_future(anext(stream))
        following.cancel()
        await upstream.closed_by_client()


async def test_a_connection_serves_one_request_after_another() -> None:
    async with (
        Upstream([claude.text("a") for _ in range(5)]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        for _ in range(5):
            await collect(provider)
        assert upstream.connections.value == 1


RICH = claude.message(
    thought("Hm… ", "東京?"),
    redacted("b3BhcXVl"),
    said("Grüße ", "😀\u2028"),
    called("toolu_a", "get_weather", {"city": "東京", "n": [1, {"x": None}]}, piece_length=3),
    called("toolu_b", "f", {}),
    stop_reason="tool_use",
)


@pytest.mark.parametrize("escaped", [True, False])
def test_a_reply_cut_at_any_byte_is_the_same_reply(escaped: bool) -> None:
    body = body_of(RICH)
    if not escaped:
        events = [each.partition(b"data: ") for each in body.split(b"\n\n")[:-1]]
        plain = [
            (name, json.dumps(json.loads(data), ensure_ascii=False)) for name, _, data in events
        ]
        body = b"".join(name + f"data: {data}\n\n".encode() for name, data in plain)
    whole, error = fed(body)
    assert error is None
    assert len(whole) == 9
    for at in range(1, len(body)):
        assert fed(body[:at], body[at:]) == (whole, None)
    assert fed(*(body[at : at + 1] for at in range(len(body)))) == (whole, None)


async def test_a_reply_in_single_bytes_is_the_same_reply() -> None:
    assert await answer(up.bytewise(claude.text("Grüße ", "😀"))) == (
        [TextPart("Grüße "), TextPart("😀"), EndPart("stop", USAGE)],
        None,
    )


def test_thinking_is_told_and_kept_with_its_signature() -> None:
    parts = read(claude.message(thought("Hm", "."), redacted("b3BhcXVl"), said("Yes.")))
    assert parts == [
        ReasoningPart("Hm"),
        ReasoningPart("."),
        block(type="thinking", thinking="Hm.", signature="c2lnbmVk"),
        block(type="redacted_thinking", data="b3BhcXVl"),
        TextPart("Yes."),
        EndPart("stop", USAGE),
    ]


def test_thinking_that_is_not_shown_is_kept_all_the_same() -> None:
    parts = read(claude.message(thought(), said("Yes.")))
    assert parts[0] == block(type="thinking", thinking="", signature="c2lnbmVk")
    assert parts[1] == TextPart("Yes.")


def test_thinking_without_a_signature_is_told_but_not_kept() -> None:
    parts = read(claude.message(thought("Hm.", signature=""), said("Yes.")))
    assert parts == [ReasoningPart("Hm."), TextPart("Yes."), EndPart("stop", USAGE)]


@pytest.mark.parametrize(("sizes", "kept"), [((100, 100), 2), ((150, 150), 1), ((300, 10), 0)])
def test_what_is_kept_of_thinking_is_bounded(sizes: tuple[int, ...], kept: int) -> None:
    parts = read(claude.message(*(redacted("x" * 1000 * size) for size in sizes), said("Ok")))
    assert [type(part) for part in parts[:-2]] == [ReasoningBlockPart] * kept


def test_text_and_thinking_that_come_with_their_blocks_start_are_not_lost() -> None:
    start = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    wanted = claude.Block(start, ({"type": "thinking_delta", "thinking": "."},))
    assert read(claude.message(wanted, claude.Block({"type": "text", "text": "Yes."}))) == [
        ReasoningPart("Hm"),
        ReasoningPart("."),
        block(type="thinking", thinking="Hm.", signature="c2ln"),
        TextPart("Yes."),
        EndPart("stop", USAGE),
    ]


@pytest.mark.parametrize(
    ("begun", "ended", "expected"),
    [
        ({}, {}, Usage(10, 5, 15)),
        (
            {"cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000},
            {},
            Usage(1110, 5, 1115),
        ),
        ({"input_tokens": 0}, {"input_tokens": 7}, Usage(7, 5, 12)),
        ({"cache_read_input_tokens": 3}, {"cache_read_input_tokens": 4}, Usage(14, 5, 19)),
        ({"cache_read_input_tokens": None}, {"input_tokens": None}, Usage(10, 5, 15)),
    ],
)
def test_tokens_are_counted_as_totals_with_the_cache(
    begun: dict[str, Any], ended: dict[str, Any], expected: Usage
) -> None:
    parts, _ = fed(claude.begin(**begun), claude.finish(**ended), claude.STOP)
    assert parts == [EndPart("stop", expected)]


@pytest.mark.parametrize("reasons", [(None, "max_tokens"), ("max_tokens", None)])
def test_a_later_count_replaces_an_earlier_one_and_the_reason_stays(
    reasons: tuple[str | None, str | None],
) -> None:
    first, second = (claude.finish(reason, output_tokens=n) for n, reason in enumerate(reasons, 8))
    parts, _ = fed(claude.begin(), first, second, claude.STOP)
    assert parts == [EndPart("length", Usage(10, 9, 19))]


def test_a_server_that_counts_nothing_has_no_usage() -> None:
    ending = event("message_delta", delta={"stop_reason": "end_turn"})
    assert fed(event("message_start"), ending, claude.STOP) == ([EndPart("stop")], None)


@pytest.mark.parametrize(
    ("sent", "has_calls", "expected"),
    [
        ("end_turn", False, "stop"),
        ("end_turn", True, "tool_calls"),
        ("stop_sequence", False, "stop"),
        ("tool_use", True, "tool_calls"),
        ("tool_use", False, "stop"),
        ("max_tokens", False, "length"),
        ("max_tokens", True, "length"),
        ("model_context_window_exceeded", False, "length"),
        ("refusal", False, "content_filter"),
        ("pause_turn", False, "stop"),
        ("of a later version", False, "stop"),
    ],
)
def test_the_reason_is_one_of_ours(sent: str, has_calls: bool, expected: str) -> None:
    blocks = [called("a", "f", {})] if has_calls else []
    end = read(claude.message(said("a"), *blocks, stop_reason=sent))[-1]
    assert isinstance(end, EndPart)
    assert end.finish_reason == expected


# Calls.


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            claude.block_events(0, called("a", "f")), [("a", "f", "{}")], id="no arguments at all"
        ),
        pytest.param(
            claude.block_events(0, called("a", "f", "")), [("a", "f", "{}")], id="empty arguments"
        ),
        pytest.param(
            claude.block_events(
                0, claude.Block({"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}})
            ),
            [("a", "f", '{"x": 1}')],
            id="arguments with the start",
        ),
        pytest.param(
            claude.block_events(0, called("a", "f", '{"x":')),
            [("a", "f", '{"x":')],
            id="broken arguments are kept for the agent to judge",
        ),
        pytest.param(
            [
                *claude.block_events(4, called("a", "f"))[:1],
                *claude.block_events(2, called("b", "g"))[:1],
                delta(4, "input_json_delta", partial_json='{"x":'),
                delta(2, "input_json_delta", partial_json='{"y":'),
                delta(4, "input_json_delta", partial_json="1}"),
                delta(2, "input_json_delta", partial_json="2}"),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
            id="interleaved",
        ),
        pytest.param(
            [
                delta(0, "input_json_delta", partial_json="lost"),
                *claude.block_events(0, called("a", "f", "{}")),
                delta(0, "input_json_delta", partial_json="late"),
            ],
            [("a", "f", "{}")],
            id="fragments outside of their block",
        ),
        pytest.param(
            [
                *claude.block_events(0, said("a")),
                *claude.block_events(
                    1, claude.Block({"type": "server_tool_use", "id": "s", "name": "web"})
                ),
                delta(1, "input_json_delta", partial_json="{}"),
            ],
            [],
            id="tools that the server itself runs",
        ),
    ],
)
def test_calls_are_put_together_however_they_come(
    events: list[bytes], expected: list[tuple[str, str, str]]
) -> None:
    parts, error = fed(claude.begin(), *events, claude.finish("tool_use"), claude.STOP)
    assert error is None
    found = [part.call for part in parts if isinstance(part, ToolCallPart)]
    assert [(call.id, call.name, call.arguments) for call in found] == expected


@pytest.mark.parametrize("id", ["", "same"])
def test_every_call_has_an_id_of_its_own(id: str) -> None:
    parts = read(claude.calls(called(id, "f", {}), called(id, "f", {})))
    ids = {part.call.id for part in parts if isinstance(part, ToolCallPart)}
    assert len(ids) == 2
    assert all(ids)


async def test_an_id_that_the_conversation_has_already_is_not_given_out_again() -> None:
    past = (
        AssistantMessage("", (ToolCall("toolu_0", "f", "{}"),)),
        ToolMessage("toolu_0", "f", "done"),
    )
    parts, error = await answer(claude.calls(called("toolu_0", "f", {})), asking(*QUESTION, *past))
    assert error is None
    assert isinstance(parts[0], ToolCallPart)
    assert parts[0].call.id != "toolu_0"


def test_arguments_past_the_limit_are_cut_and_marked() -> None:
    long = '{"x":"' + "é" * (MAX_ARGUMENT_BYTES // 2)
    parts = read(claude.calls(called("a", "f", long, piece_length=10_000), called("b", "f", {})))
    first, second = parts[:2]
    assert isinstance(first, ToolCallPart)
    assert first == ToolCallPart(ToolCall("a", "f", long[:2000]), truncated=True)
    assert second == ToolCallPart(ToolCall("b", "f", "{}"))


def test_arguments_at_the_limit_are_whole() -> None:
    arguments = '{"x":"' + "a" * (MAX_ARGUMENT_BYTES - 8) + '"}'
    parts = read(claude.calls(called("a", "f", arguments, piece_length=10_000)))
    assert parts[0] == ToolCallPart(ToolCall("a", "f", arguments))


def test_more_calls_than_the_limit_are_refused() -> None:
    def reply(count: int) -> Scripted:
        return claude.calls(*(called(f"c{at}", "f") for at in range(count)))

    assert len(read(reply(MAX_CALLS))) == MAX_CALLS + 1
    _, error = fed(body_of(reply(MAX_CALLS + 1)))
    assert error is not None
    assert error.code == "upstream_malformed"
    assert "128 tool calls" in error.message


# What later versions, and other servers, send.


@pytest.mark.parametrize(
    "odd",
    [
        event("ping"),
        event("of_a_later_version"),
        event("of_a_later_version", index="x", delta=[1], usage=5, content_block="y", error={}),
        delta(0, "citations_delta", citation={"type": "char_location"}),
        delta(0, "of_a_later_version", text={"deep": [1]}, partial_json=5, thinking=[]),
        *claude.block_events(5, claude.Block({"type": "of_a_later_version", "text": ["x"]})),
        *claude.block_events(5, claude.Block({"type": "web_search_tool_result", "content": []})),
        event("content_block_stop", index=99),
        b": comment\n\n",
        b"event: ping\ndata: \n\n",
        b'data: {"no": "type"}\n\n',
    ],
)
def test_what_is_not_known_is_ignored(odd: bytes) -> None:
    for reply in (claude.text("a", "b"), claude.message(thought("Hm"), said("a"))):
        steps = [step for step in reply.steps if isinstance(step, bytes)]
        for at in range(3, len(steps)):
            assert fed(*steps[:at], odd, *steps[at:]) == (read(reply), None)


@pytest.mark.parametrize("levels", range(900, 1100))
def test_a_call_that_came_whole_ends_the_reply_however_deep_it_is(levels: int) -> None:
    whole = b'"input":{"a":' + b"[" * levels + b"]" * levels + b"}"
    body = body_of(claude.calls(called("c1", "deep"))).replace(b'"input":{}', whole)
    for stream in (body, body.removesuffix(claude.STOP)):
        parts, failure = fed(stream)
        ended = [part for part in parts if isinstance(part, EndPart)]
        assert len(ended) + (failure is not None) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda body: body.replace(b"\n", b"\r\n"), "a"),
        (lambda body: b"\xef\xbb\xbf" + body, "a"),
        (lambda body: body.replace(b'"index":0', b'"index":"0"'), "a"),
        (lambda body: body.replace(b'"text":"a"', b'"text":"\xff"'), "\ufffd"),
        (lambda body: body.replace(b'"text":"a"', rb'"text":"\ud83d"'), "\ufffd"),
        (lambda body: body.replace(b'"text":"a"', rb'"text":"x\u0000y"'), "x\ufffdy"),
    ],
)
def test_odd_but_readable_streams_are_read(change: Callable[[bytes], bytes], expected: str) -> None:
    parts, error = fed(change(body_of(claude.text("a"))))
    assert error is None
    assert parts == [TextPart(expected), EndPart("stop", USAGE)]


# What breaks.

ORDINARY = claude.text("one", " two", " three")
REASON_AT = len(ORDINARY.steps) - 2
"""How many events come before the one with the reason."""


def error_after(n: int, reply: Scripted) -> Scripted:
    return up.raw(*reply.steps[:n], claude.error_event())


def stop_after(n: int, reply: Scripted) -> Scripted:
    return up.raw(*reply.steps[:n], claude.STOP)


def half_event_after(n: int, reply: Scripted) -> Scripted:
    return up.raw(*reply.steps[:n], b'event: content_block_delta\ndata: {"type":"cont')


def broken_eof_after(n: int, reply: Scripted) -> Scripted:
    return up.eof_after(n, reply, clean=False)


@pytest.mark.parametrize("events", range(REASON_AT + 1))
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (up.reset_after, "upstream_disconnected"),
        (up.eof_after, "upstream_truncated"),
        (broken_eof_after, "upstream_disconnected"),
        (stop_after, "upstream_truncated"),
        (half_event_after, "upstream_truncated"),
        (error_after, "upstream_error"),
        (up.bad_json_after, "upstream_malformed"),
    ],
)
async def test_a_break_before_the_reason_is_an_error_after_all_that_came(
    fault: Callable[[int, Scripted], Scripted], code: str, events: int
) -> None:
    async with Upstream([fault(events, ORDINARY)]) as upstream:
        # With retries allowed: what has begun is never asked for again.
        async with provider_for(upstream.base_url, max_retries=2) as provider:
            parts, error = await collect(provider)
        assert upstream.asked.value == 1
    came = ["one", " two", " three"][: max(0, events - 3)]
    assert parts == [TextPart(piece) for piece in came]
    assert error is not None
    assert (error.code, error.retryable) == (code, True)


@pytest.mark.parametrize("fault", [up.reset_after, up.eof_after, broken_eof_after, up.stall_after])
async def test_a_break_after_the_reason_does_not_matter(
    fault: Callable[[int, Scripted], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.sdk.END_TIMEOUT", 0.1)
    parts, error = await answer(fault(REASON_AT + 1, ORDINARY), timeout=60.0)
    assert error is None
    assert parts[-1] == EndPart("stop", USAGE)
    assert len(parts) == 4


async def test_what_stood_before_a_fault_in_the_same_read_is_given_out_first() -> None:
    parts, error = await answer(up.at_once(up.bad_json_after(5, ORDINARY)))
    assert parts == [TextPart("one"), TextPart(" two")]
    assert error is not None


def test_calls_are_not_given_out_when_the_reply_breaks() -> None:
    body = body_of(claude.calls(called("a", "f", {"x": 1})))
    parts, error = fed(body[: body.index(b"event: message_delta")])
    assert parts == []
    assert error is not None
    assert error.code == "upstream_truncated"


@pytest.mark.parametrize("events", [0, 1, 5])
async def test_silence_is_an_error_in_time(events: int) -> None:
    parts, error = await answer(up.stall_after(events, ORDINARY), timeout=0.2)
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_timeout", True)
    assert len(parts) == max(0, events - 3)


async def test_silence_before_the_first_byte_is_an_error_in_time() -> None:
    error = await failure(up.held(ORDINARY), timeout=0.2)
    assert (error.code, error.retryable) == ("upstream_timeout", True)


async def test_a_reset_before_the_first_byte_is_not_called_a_time_out() -> None:
    error = await failure(up.reset_at_once())
    assert (error.code, error.retryable) == ("upstream_unreachable", True)


async def test_a_server_that_nobody_runs_is_unreachable() -> None:
    with up.refusing() as base_url:
        async with provider_for(base_url) as provider:
            parts, error = await collect(provider)
    assert parts == []
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_unreachable", True)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"data: null\n\n",
        b"data: [1]\n\n",
        b"data: Internal error\n\n",
        b"data: [DONE]\n\n",
        b"data: " + b'{"a":' * 5000 + b"\n\n",
        b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n",
        event("content_block_delta", index="first"),
        event("content_block_delta", index=0, delta="text"),
        delta(0, "text_delta", text=["a"]),
        event("message_delta", delta={"stop_reason": 5}),
        event("content_block_start", index=0, content_block={"type": "tool_use", "id": 5}),
    ],
)
def test_nonsense_is_named(nonsense: bytes) -> None:
    parts, error = fed(claude.begin(), nonsense)
    assert parts == []
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_malformed", True)


def test_an_event_without_end_is_refused() -> None:
    piece = b"data: " + b"x" * 1024 * 1024
    parts, error = fed(*claude.block_events(0, said("a")), *(piece for _ in range(17)))
    assert parts == [TextPart("a")]
    assert error is not None
    assert error.code == "upstream_malformed"


async def test_a_web_page_is_not_an_answer() -> None:
    error = await failure(up.raw(b"<html>", content_type="text/html; charset=utf-8"))
    assert (error.code, error.retryable) == ("upstream_malformed", False)
    assert "ANTHROPIC_BASE_URL" in error.message


@pytest.mark.parametrize(
    ("kind", "message", "code", "retryable"),
    [
        ("overloaded_error", "Overloaded", "upstream_error", True),
        ("api_error", "Internal server error", "upstream_error", True),
        ("of_a_later_version", "?", "upstream_error", True),
        ("timeout_error", "Too slow.", "upstream_timeout", True),
        ("rate_limit_error", "Slow down.", "upstream_rate_limited", True),
        ("invalid_request_error", "Bad.", "upstream_rejected", False),
        ("authentication_error", "Bad key.", "upstream_unauthorized", False),
        ("permission_error", "Not yours.", "upstream_unauthorized", False),
        ("not_found_error", "model: m", "upstream_model_not_found", False),
        ("billing_error", "Pay.", "upstream_quota", False),
    ],
)
def test_an_error_in_the_stream_is_named(
    kind: str, message: str, code: str, retryable: bool
) -> None:
    parts, error = fed(*claude.block_events(0, said("a")), claude.error_event(kind, message))
    assert parts == [TextPart("a")]
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    if kind == "overloaded_error":
        assert error.message.endswith(": Overloaded")


# Refusals and retries.

NO_CREDIT = "Your credit balance is too low to access the Anthropic API."


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (claude.status(400, "Bad."), "upstream_rejected", False),
        (claude.status(400, NO_CREDIT), "upstream_quota", False),
        (claude.status(401, kind="authentication_error"), "upstream_unauthorized", False),
        (claude.status(402), "upstream_quota", False),
        (claude.status(400, kind="billing_error"), "upstream_quota", False),
        (claude.status(403, kind="permission_error"), "upstream_unauthorized", False),
        (claude.status(404, kind="not_found_error"), "upstream_model_not_found", False),
        (claude.status(408), "upstream_timeout", True),
        (claude.status(409, kind="conflict_error"), "upstream_error", True),
        (claude.status(413, kind="request_too_large"), "upstream_rejected", False),
        (claude.status(429, kind="rate_limit_error"), "upstream_rate_limited", True),
        (
            claude.status(429, "You have reached your spend limit.", kind="rate_limit_error"),
            "upstream_quota",
            False,
        ),
        (claude.status(500, kind="api_error"), "upstream_error", True),
        (claude.status(504, kind="timeout_error"), "upstream_timeout", True),
        (claude.status(529, kind="overloaded_error"), "upstream_error", True),
        (up.raw(b"<h1>Bad gateway</h1>", code=502), "upstream_error", True),
        (up.raw(b'{"detail": [{"msg": "x"}]}', code=422), "upstream_rejected", False),
        (up.raw(b'{"error": "no"}', code=400), "upstream_rejected", False),
    ],
)
async def test_a_refusal_is_named(reply: Scripted, code: str, retryable: bool) -> None:
    parts, error = await answer(reply)
    assert parts == []
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("reply", "setting"),
    [
        (claude.status(401), "ANTHROPIC_API_KEY"),
        (claude.status(404), "ANTHROPIC_MODEL"),
        (claude.status(404), "ANTHROPIC_BASE_URL"),
    ],
)
async def test_a_refusal_says_which_setting_to_check(reply: Scripted, setting: str) -> None:
    assert setting in (await failure(reply)).message


async def test_a_rate_limit_says_when_to_come_back() -> None:
    assert (await failure(claude.status(429, retry_after=7))).retry_after == 7


@pytest.mark.parametrize(
    "message",
    [
        f"Incorrect key {KEY}, sorry",
        "Incorrect key sk-ant-api03-abc*****xyz, sorry",
        "Bearer abcdef is wrong, sorry",
        "Token 0123456789abcdef0123456789abcdef0123 is wrong, sorry",
    ],
)
async def test_the_providers_words_are_passed_on_without_keys(message: str) -> None:
    error = await failure(claude.status(400, message))
    assert "[redacted]" in error.message
    assert error.message.endswith("sorry")
    for secret in (KEY, "sk-ant", "abcdef"):
        assert secret not in error.message


async def test_a_key_of_any_form_is_not_passed_on() -> None:
    error = await failure(claude.status(400, "Who is swordfish?"), api_key="swordfish")
    assert error.message.endswith("Who is [redacted]?")


async def test_the_providers_words_are_bounded() -> None:
    assert 400 < len((await failure(claude.status(400, "no " * 10_000))).message) < 600


async def test_a_key_that_cannot_be_sent_stays_out_of_the_message() -> None:
    error = await failure(claude.text("a"), api_key="schlüssel\n1")
    assert "schl" not in error.message
    assert "ANTHROPIC_API_KEY" in error.message
    assert not error.retryable
    assert error.__cause__ is None


@pytest.mark.parametrize("code", [429, 500, 529])
async def test_a_refused_request_is_repeated_and_then_answered(code: int) -> None:
    refusal = claude.status(code, retry_after=0.01)
    async with (
        Upstream([refusal, refusal, claude.text("a")]) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        parts, error = await collect(provider)
        assert upstream.asked.value == 3
    assert (parts, error) == ([TextPart("a"), EndPart("stop", USAGE)], None)


async def test_retry_after_is_waited_for() -> None:
    async with (
        Upstream([claude.status(429, retry_after=0.3), claude.text("a")]) as upstream,
        provider_for(upstream.base_url, max_retries=1) as provider,
    ):
        clock = asyncio.get_running_loop().time
        asked = asyncio.ensure_future(collect(provider))
        await upstream.asked.reach(1)
        start = clock()
        await upstream.asked.reach(2)
        assert clock() - start >= 0.25
        assert (await asked)[1] is None


@pytest.mark.parametrize("wait", [7200, formatdate(4_000_000_000, usegmt=True)])
async def test_a_request_that_would_have_to_wait_too_long_is_not_repeated(
    wait: float | str,
) -> None:
    async with (
        Upstream([claude.status(429, retry_after=wait)]) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        _, error = await collect(provider)
        assert upstream.asked.value == 1
    assert error is not None
    assert error.code == "upstream_rate_limited"
    assert error.retry_after is not None
    assert error.retry_after >= 7200


async def test_retries_have_an_end() -> None:
    async with (
        Upstream(lambda _: claude.status(529, retry_after=0.01)) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        _, error = await collect(provider)
        assert upstream.asked.value == 3
    assert error is not None


async def test_a_request_that_cannot_succeed_is_not_repeated() -> None:
    async with (
        Upstream([claude.status(400)]) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        await collect(provider)
        assert upstream.asked.value == 1


# Cancelling.


@pytest.mark.parametrize("events", [0, 4])
async def test_cancelling_closes_the_connection_at_once(events: int) -> None:
    async with (
        Upstream([up.stall_after(events, ORDINARY)]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        first = asyncio.Event()

        async def reader() -> None:
            async for _ in provider.stream(asking()):
                first.set()

        task = asyncio.create_task(reader())
        async with asyncio.timeout(10):
            await (first.wait() if events else upstream.asked.reach(1))
        task.cancel()
        await upstream.closed_by_client(within=3)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_before_the_first_byte_closes_the_connection_at_once() -> None:
    async with (
        Upstream([up.held(ORDINARY)]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        task = asyncio.create_task(collect(provider))
        await upstream.gate.reached()
        task.cancel()
        await upstream.closed_by_client(within=3)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_the_generator_closes_the_connection_at_once() -> None:
    async with (
        Upstream([up.stall_after(4, ORDINARY)]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        async with aclosing(provider.stream(asking())) as stream:
            assert await anext(stream) == [TextPart("one")]
        await upstream.closed_by_client(within=3)


async def test_a_failure_closes_the_connection_at_once() -> None:
    stuck = up.raw(b"data: nonsense\n\n", up.Action.STALL)
    async with Upstream([stuck]) as upstream, provider_for(upstream.base_url) as provider:
        await collect(provider)
        await upstream.closed_by_client(within=3)


# The request.


async def sent(request: ModelRequest, **changes: Any) -> dict[str, Any]:
    """Return the body that a request becomes; the upstream refuses what Anthropic refuses."""
    async with (
        Upstream([claude.text("ok")]) as upstream,
        provider_for(upstream.base_url, **changes) as provider,
    ):
        _, error = await collect(provider, request)
        assert error is None, error.message
        return upstream.requests[0]


async def test_the_request_says_what_is_needed_and_nothing_else() -> None:
    assert await sent(asking()) == {
        "model": "m",
        "max_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}],
        "stream": True,
    }


async def test_the_request_goes_to_the_messages_of_the_address_with_key_and_version() -> None:
    lines: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.extend((await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n"))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with provider_for(f"http://127.0.0.1:{port}/proxy/") as provider:
            await collect(provider)
    assert lines[0] == b"post /proxy/v1/messages http/1.1"
    assert f"authorization: bearer {KEY}".encode() in lines
    assert f"anthropic-version: {NEW}".encode() in lines
    assert b"accept-encoding: identity" in lines
    assert b"content-type: application/json" in lines


USER = {"role": "user"}
ASSISTANT = {"role": "assistant"}
HI = {"type": "text", "text": "Hi"}
BLANK_TEXT = {"type": "text", "text": BLANK}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(id: str, name: str = "f", input: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input or {}}


def result(id: str, content: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def turn(message: dict[str, str], *blocks: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": list(blocks)}


CALLS = AssistantMessage("", (ToolCall("a", "f", "{}"), ToolCall("b", "g", '{"x": 1}')))
DONE = (ToolMessage("a", "f", "A"), ToolMessage("b", "g", "Error: B", is_error=True))
CALLED = (
    turn(ASSISTANT, use("a"), use("b", "g", {"x": 1})),
    turn(USER, result("a", "A"), result("b", "Error: B", is_error=True)),
)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param(
            [UserMessage("Hi"), AssistantMessage("Yes?"), UserMessage("Well")],
            [turn(USER, HI), turn(ASSISTANT, text("Yes?")), turn(USER, text("Well"))],
            id="taking turns",
        ),
        pytest.param(
            [UserMessage("Hi"), UserMessage("Hello?")],
            [turn(USER, text("Hi\n\nHello?"))],
            id="users in a row are one",
        ),
        pytest.param(
            [UserMessage("Hi"), AssistantMessage("a"), AssistantMessage("b"), UserMessage("Hi")],
            [turn(USER, HI), turn(ASSISTANT, text("a\n\nb")), turn(USER, HI)],
            id="assistants in a row are one",
        ),
        pytest.param(
            [UserMessage("Hi"), CALLS, *DONE], [turn(USER, HI), *CALLED], id="results are one"
        ),
        pytest.param(
            [UserMessage("Hi"), CALLS, *DONE, UserMessage("Hi")],
            [turn(USER, HI), *CALLED, turn(ASSISTANT, text(NO_ANSWER)), turn(USER, HI)],
            id="an assistant speaks after the results",
        ),
        pytest.param(
            [UserMessage("Hi"), AssistantMessage("Wait.", CALLS.tool_calls), *DONE],
            [turn(USER, HI), turn(ASSISTANT, text("Wait."), *CALLED[0]["content"]), CALLED[1]],
            id="text stands before the calls",
        ),
        pytest.param(
            [UserMessage("Hi"), AssistantMessage(" \n"), UserMessage("Hi")],
            [turn(USER, text("Hi\n\nHi"))],
            id="an empty answer is left out",
        ),
        pytest.param(
            [AssistantMessage("Yes?"), UserMessage("Hi")],
            [turn(USER, BLANK_TEXT), turn(ASSISTANT, text("Yes?")), turn(USER, HI)],
            id="a user begins",
        ),
        pytest.param(
            [UserMessage(" ")], [turn(USER, BLANK_TEXT)], id="a blank question is still asked"
        ),
        pytest.param([SystemMessage("Be.")], [turn(USER, BLANK_TEXT)], id="nothing was said"),
        pytest.param(
            [
                UserMessage("Hi"),
                AssistantMessage("", (ToolCall("a", "f", "{}"),)),
                ToolMessage("a", "f", ""),
            ],
            [turn(USER, HI), turn(ASSISTANT, use("a")), turn(USER, result("a", BLANK))],
            id="a blank result is named so",
        ),
        pytest.param(
            [UserMessage("Hi"), SystemMessage("Be."), UserMessage("Hi")],
            [turn(USER, text("Hi\n\nHi"))],
            id="instructions part nobody",
        ),
        pytest.param(
            [
                UserMessage("Hi"),
                AssistantMessage("", (ToolCall("a", "a.b/ü" + "x" * 200, "{}"),)),
                ToolMessage("a", "a.b/ü", "A"),
            ],
            [
                turn(USER, HI),
                turn(ASSISTANT, use("a", "a_b__" + "x" * 59)),
                turn(USER, result("a", "A")),
            ],
            id="names are put into the alphabet",
        ),
        pytest.param(
            [
                UserMessage("Hi"),
                AssistantMessage("", (ToolCall("a", "", "{}"),)),
                ToolMessage("a", "", "A"),
            ],
            [turn(USER, HI), turn(ASSISTANT, use("a", "unknown")), turn(USER, result("a", "A"))],
            id="a call without a name has one",
        ),
    ],
)
async def test_a_history_is_sent_as_anthropic_wants_it(
    history: list[Message], expected: list[dict[str, Any]]
) -> None:
    assert (await sent(asking(*history)))["messages"] == expected


async def test_instructions_stand_apart() -> None:
    body = await sent(asking(SystemMessage("Be brief."), SystemMessage(" "), *QUESTION))
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user"]
    body = await sent(asking(SystemMessage("a"), *QUESTION, SystemMessage("b")))
    assert body["system"] == "a\n\nb"
    assert "system" not in await sent(asking(SystemMessage(""), *QUESTION))


@pytest.mark.parametrize("id", ["call.1", "functions.f:0", "", "ü", "\ud83d", "a b"])
async def test_an_id_outside_of_the_alphabet_is_replaced_alike_everywhere(id: str) -> None:
    history = (
        *QUESTION,
        AssistantMessage("", (ToolCall(id, "f", "{}"), ToolCall("toolu_ok-1", "f", "{}"))),
        ToolMessage(id, "f", "A"),
        ToolMessage("toolu_ok-1", "f", "B"),
    )
    first, again = [(await sent(asking(*history)))["messages"] for _ in range(2)]
    assert first == again
    assert first[1]["content"][0]["id"] == first[2]["content"][0]["tool_use_id"]
    assert first[1]["content"][1]["id"] == "toolu_ok-1"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "{",
        "[1]",
        "null",
        '"text"',
        '{"x": NaN}',
        '{"x": 1} trailing',
        '{"x": "\ud83d"}',
        r'{"x": "\ud83d"}',
        '{"x": "\x01"}',
        '{"x":' * 2000 + "1" + "}" * 2000,
        '{"x":' * 66 + "1" + "}" * 66,
        '{"x":' + "9" * 5000 + "}",
        "\0",
        "x" * 10_000,
    ],
)
async def test_broken_arguments_in_the_history_are_sent_as_an_object(arguments: str) -> None:
    call = ToolCall("a", "f", arguments)
    body = await sent(asking(*QUESTION, AssistantMessage("", (call,)), ToolMessage("a", "f", "no")))
    kept = body["messages"][1]["content"][0]["input"]
    assert list(kept) == ["_invalid_arguments"]
    assert len(kept["_invalid_arguments"]) <= 2000
    assert kept["_invalid_arguments"][:6] == arguments[:6]


async def test_half_characters_in_the_history_do_not_stop_a_request() -> None:
    history = (
        UserMessage("a\ud83d\ude00b\ud83d"),
        AssistantMessage(
            "",
            (ToolCall("a", "f", '{"x": "é"}'),),
            (ReasoningBlock("anthropic", '{"type":"redacted_thinking","data":"x"}'),),
        ),
        ToolMessage("a", "f", "A"),
    )
    messages = (await sent(asking(*history)))["messages"]
    assert messages[0]["content"] == [text("a😀b\ufffd")]
    assert messages[1]["content"] == [
        {"type": "redacted_thinking", "data": "x"},
        use("a", "f", {"x": "é"}),
    ]


async def test_thinking_is_given_back_as_it_came_before_what_it_led_to() -> None:
    thinking = thought("Let me ", "think… \ud83d\ude00\0")
    first = claude.message(
        thinking,
        redacted("b3BhcXVl"),
        said("Wait."),
        called("a", "f", {}),
        stop_reason="tool_use",
    )
    async with (
        Upstream([first, claude.text("ok")]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        parts, _ = await collect(provider)
        kept = tuple(part.block for part in parts if isinstance(part, ReasoningBlockPart))
        said_before = AssistantMessage("Wait.", (ToolCall("a", "f", "{}"),), kept)
        request = asking(*QUESTION, said_before, ToolMessage("a", "f", "A"))
        _, error = await collect(provider, request)
        assert error is None
        again = upstream.requests[1]["messages"][1]["content"]
    assert again == [
        {"type": "thinking", "thinking": "Let me think… 😀\0", "signature": "c2lnbmVk"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        text("Wait."),
        use("a"),
    ]


async def test_reasoning_of_other_providers_and_of_nothing_said_is_left_out() -> None:
    other = ReasoningBlock("openai", '{"type":"reasoning"}')
    own = ReasoningBlock("anthropic", '{"type":"thinking","thinking":"","signature":"x"}')
    messages = (
        UserMessage("Hi"),
        AssistantMessage("Yes?", (), (other,)),
        UserMessage("Hi"),
        AssistantMessage("", (), (own,)),
        UserMessage("Hi"),
    )
    assert (await sent(asking(*messages)))["messages"] == [
        turn(USER, HI),
        turn(ASSISTANT, text("Yes?")),
        turn(USER, text("Hi\n\nHi")),
    ]


async def test_tools_are_offered_with_their_schemas() -> None:
    body = await sent(asking(tools=(WEATHER,)))
    assert body["tools"] == [
        {
            "name": "get_weather",
            "description": "Weather of a city.",
            "input_schema": {"type": "object", "properties": {}},
        }
    ]
    assert "tool_choice" not in body


async def test_parallel_calls_are_forbidden_only_where_there_are_tools() -> None:
    with_tools = await sent(asking(tools=(WEATHER,), parallel_tools=False))
    assert with_tools["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "tool_choice" not in await sent(asking(parallel_tools=False))


async def test_the_requests_own_bound_wins_over_the_default() -> None:
    assert (await sent(asking(), max_tokens=100))["max_tokens"] == 100
    assert (await sent(asking(max_tokens=7), max_tokens=100))["max_tokens"] == 7


@pytest.mark.parametrize(("wanted", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.7, 1.0)])
async def test_a_temperature_asks_for_the_version_that_knows_it(
    wanted: float, expected: float
) -> None:
    # The upstream refuses a temperature under the newer version.
    body = await sent(asking(temperature=wanted))
    assert body["temperature"] == expected


async def test_a_form_is_asked_for_in_the_part_of_json_schema_that_anthropic_knows() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 1},
            "inner": {"type": "object", "properties": {"s": {"type": "string"}}},
        },
        "required": ["n"],
    }
    body = await sent(asking(output=OutputSchema("answer", schema)))
    wanted = body["output_config"]["format"]
    assert wanted["type"] == "json_schema"
    assert wanted["schema"]["required"] == ["n"]
    assert "minimum: 1" in wanted["schema"]["properties"]["n"]["description"]
    assert schema["properties"]["n"] == {"type": "integer", "minimum": 1}  # type: ignore[index]


async def test_where_any_object_will_do_the_model_is_asked_for_one_in_words() -> None:
    body = await sent(asking(SystemMessage("Be brief."), *QUESTION, output=OutputSchema("any")))
    assert body["system"] == "Be brief.\n\nAnswer with one JSON object and nothing else."
    assert "output_config" not in body


FORM = OutputSchema("plan", {"type": "object", "properties": {}, "additionalProperties": False})
NO_FORM = "output_config.format: 'claude-3-haiku-20240307' does not support output format."


def formless(body: dict[str, Any]) -> Scripted:
    return claude.status(400, NO_FORM) if "output_config" in body else claude.text("{}")


async def test_a_model_that_knows_no_form_is_asked_in_words_and_remembered() -> None:
    async with Upstream(formless) as upstream, provider_for(upstream.base_url) as provider:
        for number in (2, 3):
            _, error = await collect(provider, asking(output=FORM))
            assert error is None
            assert upstream.asked.value == number
            assert upstream.requests[-1]["system"].startswith("Answer with one JSON object of this")
        _, error = await collect(provider, asking())
        assert error is None
        assert "system" not in upstream.requests[-1]


async def test_a_form_that_the_client_demands_is_never_left_out() -> None:
    async with Upstream(formless) as upstream, provider_for(upstream.base_url) as provider:
        await collect(provider, asking(output=FORM))
        _, error = await collect(provider, asking(output=FORM, demanded=frozenset({"output"})))
        assert error is not None
        assert "does not support output format" in error.message


async def test_of_as_many_models_as_fit_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.anthropic.MAX_LEARNED", 2)
    async with Upstream(formless) as upstream, provider_for(upstream.base_url) as provider:
        for model in "abca":
            request = msgspec.structs.replace(asking(output=FORM), model=model)
            await collect(provider, request)
        assert upstream.asked.value == 8


async def test_what_a_request_says_about_its_answer_is_passed_on() -> None:
    body = await sent(asking(top_p=0.5, stop=("END", " "), seed=1))
    assert (body["top_p"], body["stop_sequences"]) == (0.5, ["END"])
    assert "seed" not in body


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", True, None),
        ("required", True, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", True, {"type": "none"}),
        ("none", False, {"type": "none"}),
    ],
)
async def test_a_choice_of_tools_is_passed_on(
    choice: str, parallel: bool, expected: dict[str, Any] | None
) -> None:
    body = await sent(asking(tools=(WEATHER,), tool_choice=choice, parallel_tools=parallel))
    assert body.get("tool_choice") == expected


async def test_pictures_stand_where_the_user_put_them() -> None:
    said = UserMessage(
        "Look.",
        (
            ImageContent("https://example.com/a.png"),
            TextContent("Look."),
            TextContent(" "),
            ImageContent("data:image/svg+xml;base64,AAAA", "low"),
        ),
    )
    [question] = (await sent(asking(said)))["messages"]
    assert question["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "text", "text": "Look."},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/svg+xml", "data": "AAAA"},
        },
    ]


async def test_a_form_that_cannot_be_translated_is_left_to_anthropic_to_judge() -> None:
    async with (
        Upstream([claude.text("ok")]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        await collect(provider, asking(output=OutputSchema("answer", {"title": "no type"})))
        assert upstream.requests[0]["output_config"]["format"]["schema"] == {"title": "no type"}


# What Anthropic refuses.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"temperature": 1.0}, "temperature: Extra inputs"),
        ({"messages": []}, "at least one message"),
        ({"messages": [turn(ASSISTANT, HI)]}, 'must use the "user" role'),
        ({"messages": [turn(USER, HI), turn(USER, HI)]}, "roles must alternate"),
        ({"messages": [turn(USER, text(""))]}, "must be non-empty"),
        ({"messages": [turn(USER, text(" "))]}, "non-whitespace"),
        ({"messages": [turn(USER)]}, "non-empty content"),
        ({"messages": [turn(USER, HI), turn(ASSISTANT, HI)]}, "prefill"),
        ({"messages": [turn(USER, HI, result("a", "A"))]}, "unexpected `tool_use_id`"),
        (
            {"messages": [turn(USER, HI), turn(ASSISTANT, use("a")), turn(USER, HI)]},
            "without `tool_result` blocks",
        ),
        (
            {
                "messages": [
                    turn(USER, HI),
                    turn(ASSISTANT, use("a")),
                    turn(USER, HI, result("a", "A")),
                ]
            },
            "must begin with",
        ),
        (
            {
                "messages": [
                    turn(USER, HI),
                    turn(ASSISTANT, use("a")),
                    turn(USER, result("a", "A"), result("a", "A")),
                ]
            },
            "single result",
        ),
        (
            {
                "messages": [
                    turn(USER, HI),
                    turn(ASSISTANT, use("a"), use("a")),
                    turn(USER, result("a", "A")),
                ]
            },
            "must be unique",
        ),
        (
            {"messages": [turn(USER, HI), turn(ASSISTANT, use("a.b")), turn(USER, HI)]},
            "should match pattern",
        ),
        (
            {"messages": [turn(USER, HI), turn(ASSISTANT, use("a", "")), turn(USER, HI)]},
            "should match pattern",
        ),
    ],
)
def test_the_scripted_server_refuses_what_anthropic_refuses(
    body: dict[str, Any], words: str
) -> None:
    whole = {"model": "m", "max_tokens": 1, "messages": [turn(USER, HI)], "stream": True, **body}
    whole = {name: value for name, value in whole.items() if value is not None}
    fault = claude.fault_of(whole, {"anthropic-version": NEW})
    assert fault is not None
    assert words in fault


# Loading.


@pytest.mark.slow
def test_the_module_is_imported_without_the_sdk() -> None:
    script = (
        "import sys, llm.anthropic; "
        "assert not {'anthropic', 'openai', 'aiohttp', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


async def test_warming_twice_makes_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = AnthropicProvider._sdk_client

    def counted(self: AnthropicProvider, *args: Any, **options: Any) -> Any:
        made.append(self)
        return make(self, *args, **options)

    monkeypatch.setattr(AnthropicProvider, "_sdk_client", counted)
    async with (
        Upstream([claude.text("a")]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        await asyncio.gather(provider.warm(), provider.warm())
        await collect(provider)
    assert len(made) == 1


async def test_a_provider_that_was_never_used_has_no_client_to_close() -> None:
    async with provider_for(None) as provider:
        assert provider._requests is None
    assert provider._requests is None
