"""The OpenAI provider against a real server that says, and does, everything wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.upstream as up
from errors import UpstreamError
from events import ReasoningBlock, Usage
from llm.openai import OpenAIProvider
from llm.openai_failures import OpenAIFailures
from llm.openai_stream import OpenAIReply
from llm.sdk import source_of
from llm.tool_calls import MAX_ARGUMENT_BYTES, MAX_CALLS
from messages import (
    MAX_REASONING_BYTES,
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
from tests.upstream import Reply as Scripted
from tests.upstream import Upstream, chunk, sse

KEY = "sk-test-not-a-real-key"
USAGE = Usage(10, 5, 15)
QUESTION = (UserMessage("Hello?"),)
WEATHER = ToolSpec("get_weather", "Weather of a city.", {"type": "object", "properties": {}})


def asking(*messages: Message, **more: Any) -> ModelRequest:
    fields = {name: more.pop(name) for name in ModelOptions.__struct_fields__ if name in more}
    options = ModelOptions(**fields)
    return ModelRequest(model="m", messages=messages or QUESTION, options=options, **more)


@asynccontextmanager
async def provider_for(base_url: str | None, **changes: Any) -> AsyncIterator[OpenAIProvider]:
    settings: dict[str, Any] = {
        "api_key": KEY,
        "base_url": base_url,
        "default_model": "m",
        "max_retries": 0,
        "timeout": 5.0,
        "temperature": None,
        "max_tokens": None,
    }
    provider = OpenAIProvider(**{**settings, **changes})
    try:
        yield provider
    finally:
        await provider.aclose()


async def collect(
    provider: OpenAIProvider, request: ModelRequest | None = None
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


async def code_of(reply: Scripted, **changes: Any) -> str:
    _, error = await answer(reply, **changes)
    assert error is not None
    return error.code


def texts(parts: list[ReplyPart]) -> list[str]:
    return [part.content for part in parts if isinstance(part, TextPart)]


def calls(parts: list[ReplyPart]) -> list[tuple[str, str, str]]:
    found = [part.call for part in parts if isinstance(part, ToolCallPart)]
    return [(call.id, call.name, call.arguments) for call in found]


def read(*deltas: dict[str, Any], reason: str | None = "stop") -> list[ReplyPart]:
    """Decode a reply of these deltas without a server."""
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts = [part for delta in deltas for part in reply.feed(chunk(delta))]
    parts += reply.feed(chunk({}, reason) + up.DONE)
    if reply.failure:
        raise reply.failure
    return parts


def fragment(**fields: Any) -> dict[str, Any]:
    """Return the delta of one fragment of a call; `name` and `arguments` are its function's."""
    names = ("name", "arguments")
    function = {name: fields.pop(name) for name in names if name in fields}
    return {"tool_calls": [{**fields, "function": function}]}


# What a good server sends.


async def test_an_answer_comes_in_its_pieces_and_ends_with_reason_and_usage() -> None:
    parts, error = await answer(up.text("Hello", " world"))
    assert error is None
    assert parts == [TextPart("Hello"), TextPart(" world"), EndPart("stop", USAGE)]


async def test_calls_come_whole_directly_before_the_end() -> None:
    wanted = [("get_weather", {"city": "Tokyo"}), ("get_weather", {"city": "Zürich"})]
    parts, error = await answer(up.calls(*wanted, ids=["call_a", "call_b"], before="Let me see."))
    assert error is None
    assert parts == [
        TextPart("Let me see."),
        ToolCallPart(ToolCall("call_a", "get_weather", json.dumps({"city": "Tokyo"}))),
        ToolCallPart(ToolCall("call_b", "get_weather", json.dumps({"city": "Zürich"}))),
        EndPart("tool_calls", USAGE),
    ]


async def test_what_arrives_together_stays_together() -> None:
    async with (
        Upstream([up.at_once(up.text("a", "b", "c"))]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        batches = [batch async for batch in provider.stream(asking())]
    assert [len(batch) for batch in batches] == [4]


async def test_each_piece_is_given_out_before_the_next_one_is_sent() -> None:
    async with (
        Upstream([up.paced(up.text("a", "b"))]) as upstream,
        provider_for(upstream.base_url) as provider,
        asyncio.timeout(10),
    ):
        stream = provider.stream(asking())
        following = asyncio.ensure_future(anext(stream))
        await upstream.gate.pass_one()  # the empty delta with the role
        for expected in ("a", "b"):
            await upstream.gate.pass_one()
            assert await following == [TextPart(expected)]
            following = asyncio.ensure_future(anext(stream))
        following.cancel()
        await upstream.closed_by_client()


async def test_a_connection_serves_one_request_after_another() -> None:
    async with (
        Upstream([up.text("a") for _ in range(5)]) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        for _ in range(5):
            await collect(provider)
        assert upstream.connections.value == 1


async def test_hundreds_of_streams_run_at_once() -> None:
    async with (
        Upstream(lambda _: up.held(up.text("a"))) as upstream,
        provider_for(upstream.base_url, timeout=30) as provider,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(collect(provider)) for _ in range(300)]
        await upstream.gate.arrivals.reach(300, within=20)
        upstream.gate.open()
        assert {len(parts) for parts, _ in [await task for task in tasks]} == {2}


GREETING = up.text("Grüße ", "😀", " 東京\u2028", "end")


@pytest.mark.parametrize("escaped", [True, False])
async def test_a_reply_cut_at_any_byte_is_the_same_reply(escaped: bool) -> None:
    body = b"".join(step for step in GREETING.steps if isinstance(step, bytes))
    if not escaped:
        events = body.split(b"\n\n")[:-2]
        plain = [json.dumps(json.loads(event[6:]), ensure_ascii=False) for event in events]
        body = "".join(f"data: {event}\n\n" for event in plain).encode() + up.DONE
    replies = [up.cut(up.raw(body), at) for at in range(1, len(body), 3)]
    replies.append(up.bytewise(up.raw(body)))
    async with Upstream(replies) as upstream, provider_for(upstream.base_url) as provider:
        for _ in replies:
            parts, error = await collect(provider)
            assert error is None
            assert "".join(texts(parts)) == "Grüße 😀 東京\u2028end"


@given(
    pieces=st.lists(st.text(min_size=1)),
    cuts=st.lists(st.integers(0, 100_000)),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_any_text_comes_back_from_any_partition(
    pieces: list[str], cuts: list[int], line_end: bytes
) -> None:
    steps = up.text(*pieces).steps
    body = b"".join(step for step in steps if isinstance(step, bytes)).replace(b"\n", line_end)
    bounds = sorted({0, *(cut % (len(body) + 1) for cut in cuts), len(body)})
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts: list[ReplyPart] = []
    for at, bound in enumerate(bounds[1:]):
        parts += reply.feed(body[bounds[at] : bound])
    assert reply.is_over or reply.end()
    assert reply.failure is None
    assert "".join(texts(parts)) == "".join(pieces).replace("\0", "\ufffd")


# What other servers send.


@pytest.mark.parametrize("levels", range(900, 1100))
def test_arguments_that_came_as_an_object_end_the_reply_however_deep_it_is(levels: int) -> None:
    whole = b'{"a":' + b"[" * levels + b"]" * levels + b"}"
    deep = chunk(fragment(index=0, id="c1", name="deep", arguments={})).replace(b"{}", whole)
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts = reply.feed(deep) + reply.feed(chunk({}, "stop") + up.DONE)
    ended = [part for part in parts if isinstance(part, EndPart)]
    assert len(ended) + (reply.failure is not None) == 1


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b": ping\n\n" + chunk({"content": "a"}), ["a"]),
        (b"event: message\n" + chunk({"content": "a"}), ["a"]),
        (chunk({"content": "a"}).replace(b"\n", b"\r\n"), ["a"]),
        (chunk(None) + chunk({"content": "a"}), ["a"]),
        (sse({"choices": None}) + chunk({"content": "a"}), ["a"]),
        (b"data: \n\n" + chunk({"content": "a"}), ["a"]),
        (sse({"choices": [{"index": 0, "delta": None}]}) + chunk({"content": "a"}), ["a"]),
        (chunk({"content": None}) + chunk({"content": ""}) + chunk({"content": "a"}), ["a"]),
        (chunk({"refusal": "I can't."}), ["I can't."]),
        (chunk({"content": [{"type": "text", "text": "a"}, {"type": "image"}]}), ["a"]),
        (chunk({"content": "a"}, unknown={"deep": [1]}), ["a"]),
        (sse({"choices": [{"index": 1, "delta": {"content": "other"}}]}), []),
        (b"\xef\xbb\xbf" + chunk({"content": "a"}), ["a"]),
        (chunk({"content": "a\0b"}), ["a\ufffdb"]),
        (b'data: {"choices":[{"index":"0","delta":{"content":"a"}}]}\n\n', ["a"]),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', ["\ufffd"]),
    ],
)
def test_odd_but_readable_streams_are_read(stream: bytes, expected: list[str]) -> None:
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts = reply.feed(stream) + reply.feed(chunk({}, "stop") + up.DONE)
    assert reply.failure is None
    assert [*texts(parts)] == expected
    assert parts[-1] == EndPart("stop")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([r"\ud83d", r"\ude00"], "😀"),
        ([r"a\ud83d", r"\ude00b"], "a😀b"),
        ([r"\ud83d", "x"], "\ufffdx"),
        ([r"\ud83d", r"\ud83d", r"\ude00"], "\ufffd😀"),
        ([r"\ude00x"], "\ufffdx"),
        ([r"x\ud83d"], "x\ufffd"),
        ([r"\ud83dx\ude00"], "\ufffdx\ufffd"),
        ([r"é\ud83d", "", r"\ude00"], "é😀"),
    ],
)
def test_half_characters_are_joined_or_replaced(pieces: list[str], expected: str) -> None:
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts = []
    for piece in pieces:
        parts += reply.feed(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % piece.encode())
    parts += reply.feed(chunk({}, "stop") + up.DONE)
    assert "".join(texts(parts)) == expected


def test_half_a_character_of_the_reasoning_is_not_joined_with_the_answer() -> None:
    reply = OpenAIReply(OpenAIFailures(KEY))
    first = reply.feed(b'data: {"choices":[{"delta":{"reasoning":"\\ud83d"}}]}\n\n')
    second = reply.feed(b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n')
    assert first + second == [ReasoningPart("\ufffd"), TextPart("\ufffd")]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_told_from_the_answer(name: str) -> None:
    parts = read({name: "Hm."}, {"content": "Yes."})
    assert parts == [ReasoningPart("Hm."), TextPart("Yes."), EndPart("stop")]


def test_reasoning_under_both_names_is_not_doubled() -> None:
    parts = read({"reasoning": "Hm.", "reasoning_content": "Hm."})
    assert parts == [ReasoningPart("Hm."), EndPart("stop")]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [
                fragment(index=0, id="a", name="f", arguments='{"x":1}'),
                fragment(index=0, id="b", name="f", arguments='{"x":2}'),
            ],
            [("a", "f", '{"x":1}'), ("b", "f", '{"x":2}')],
            id="one index, two ids",
        ),
        pytest.param(
            [
                fragment(id="a", name="f", arguments=""),
                fragment(arguments='{"x"'),
                fragment(arguments=":1}"),
                fragment(id="b", name="g", arguments="{}"),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", "{}")],
            id="no index",
        ),
        pytest.param(
            [
                {
                    "tool_calls": [
                        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
                        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
                    ]
                }
            ],
            [("a", "f", "{}"), ("b", "g", "{}")],
            id="two calls in one chunk",
        ),
        pytest.param(
            [
                fragment(index=0, id="a", name="f", arguments='{"x"'),
                fragment(index=0, id="a", name="f", arguments=":1}"),
            ],
            [("a", "f", '{"x":1}')],
            id="id and name with every fragment",
        ),
        pytest.param(
            [
                fragment(index=0, id="a", name="f"),
                fragment(index=0, id="a", name="f"),
                fragment(index=0, id="a", arguments="{}"),
            ],
            [("a", "f", "{}")],
            id="name again before the arguments",
        ),
        pytest.param(
            [
                fragment(index=0, id="a", name="get_"),
                fragment(index=0, name="weather"),
                fragment(index=0, arguments="{}"),
            ],
            [("a", "get_weather", "{}")],
            id="name in pieces",
        ),
        pytest.param(
            [
                fragment(index=0, id="a", name="f"),
                fragment(index=1, id="b", name="g"),
                fragment(index=0, arguments='{"x":1}'),
                fragment(index=1, arguments='{"y":1}'),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":1}')],
            id="interleaved",
        ),
        pytest.param(
            [fragment(index=0, id="a", name="f", arguments={"x": 1})],
            [("a", "f", '{"x": 1}')],
            id="arguments as an object",
        ),
        pytest.param(
            [fragment(index=0, id="a", name="f")],
            [("a", "f", "{}")],
            id="no arguments at all",
        ),
        pytest.param(
            [fragment(index=0, id="a", name="f", arguments='{"x":')],
            [("a", "f", '{"x":')],
            id="broken arguments are kept for the agent to judge",
        ),
        pytest.param(
            [{"tool_calls": [{"index": 0, "id": "a", "function": None}]}, {"tool_calls": []}],
            [("a", "", "{}")],
            id="no function",
        ),
    ],
)
def test_calls_are_put_together_however_they_come(
    deltas: list[dict[str, Any]], expected: list[tuple[str, str, str]]
) -> None:
    parts = read(*deltas)
    assert calls(parts) == expected
    assert parts[-1] == EndPart("tool_calls")


@pytest.mark.parametrize("ids", [(None, None), ("", ""), ("same", "same")])
def test_every_call_has_an_id_of_its_own(ids: tuple[str | None, str | None]) -> None:
    first, second = ids
    parts = read(
        fragment(index=0, id=first, name="f", arguments="{}"),
        fragment(index=1, id=second, name="f", arguments="{}"),
    )
    found = [id for id, _, _ in calls(parts)]
    assert len(set(found)) == 2
    assert all(found)


def test_whole_calls_without_ids_under_one_index_are_told_apart() -> None:
    parts = read(
        fragment(index=0, id="", name="f", arguments='{"x":1}'),
        fragment(index=0, id="", name="f", arguments='{"x":2}'),
    )
    assert [arguments for _, _, arguments in calls(parts)] == ['{"x":1}', '{"x":2}']


async def test_an_id_that_the_conversation_has_already_is_not_given_out_again() -> None:
    past = (
        AssistantMessage("", (ToolCall("call_0", "f", "{}"),)),
        ToolMessage("call_0", "f", "done"),
    )
    request = asking(*QUESTION, *past)
    parts, _ = await answer(up.calls(("f", {}), ids=["call_0"]), request)
    assert calls(parts)[0][0] != "call_0"


def test_reasoning_comes_whole_before_the_calls_to_be_given_back() -> None:
    call = fragment(index=0, id="a", name="f", arguments="{}")
    parts = read({"reasoning_content": "Hm, "}, {"reasoning_content": "well\ud83d"}, call)
    kept = ReasoningBlock("openai", '{"reasoning_content":"Hm, well\ufffd"}')
    assert parts[-3:-1] == [ReasoningBlockPart(kept), ToolCallPart(ToolCall("a", "f", "{}"))]


def test_reasoning_that_led_to_no_call_is_kept_only_where_the_server_wants_it() -> None:
    for keeps in (False, True):
        reply = OpenAIReply(OpenAIFailures(KEY), (), "openai:x", keeps_reasoning=keeps)
        parts = reply.feed(chunk({"reasoning_content": "Hm."}) + chunk({"content": "a"}, "stop"))
        parts += reply.feed(up.DONE)
        kept = [part.block for part in parts if isinstance(part, ReasoningBlockPart)]
        block = ReasoningBlock("openai:x", '{"reasoning_content":"Hm."}')
        assert kept == [block] * keeps


def test_reasoning_of_another_name_is_kept_only_where_the_server_wants_it() -> None:
    parts = read({"reasoning": "Hm."}, fragment(index=0, id="a", name="f", arguments="{}"))
    assert [type(part) for part in parts] == [ReasoningPart, ToolCallPart, EndPart]
    reply = OpenAIReply(OpenAIFailures(KEY), keeps_reasoning=True)
    parts = reply.feed(chunk({"reasoning": "Hm.", "content": "a"}, "stop") + up.DONE)
    kept = ReasoningBlock("openai", '{"reasoning_content":"Hm."}')
    assert parts[-2] == ReasoningBlockPart(kept)


def test_details_of_reasoning_are_kept_beside_calls() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x", "id": "a"}]
    call = fragment(index=0, id="a", name="f", arguments="{}")
    parts = read({"reasoning": "Hm.", "reasoning_details": details}, call)
    [kept] = [part.block for part in parts if isinstance(part, ReasoningBlockPart)]
    assert json.loads(kept.data) == {"reasoning_details": details}


def test_what_is_kept_of_reasoning_is_bounded() -> None:
    text = "\x01\U0001f600" * 5_000
    call = fragment(index=0, id="a", name="f", arguments="{}")
    parts = read(*({"reasoning_content": text} for _ in range(20)), call)
    [kept] = [part.block for part in parts if isinstance(part, ReasoningBlockPart)]
    assert 200_000 < len(kept.data.encode()) <= MAX_REASONING_BYTES
    assert sum(len(part.content) for part in parts if isinstance(part, ReasoningPart)) == 200_000


def test_a_signature_is_kept_with_its_call() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    head = fragment(index=0, id="a", name="f", arguments="{}")
    head["tool_calls"][0]["extra_content"] = extra
    parts = read(head, fragment(index=1, id="b", name="f", arguments="{}"))
    first, second = (part.call for part in parts if isinstance(part, ToolCallPart))
    assert first.reasoning == ReasoningBlock(
        "openai", json.dumps({"extra_content": extra}, separators=(",", ":"))
    )
    assert second.reasoning is None


@pytest.mark.parametrize("extra", [None, {}, {"google": {"thought_signature": "x" * 300_000}}])
def test_a_call_without_a_signature_or_with_one_of_no_size_is_a_call(extra: Any) -> None:
    head = fragment(index=0, id="a", name="f", arguments="{}")
    head["tool_calls"][0]["extra_content"] = extra
    assert read(head)[0] == ToolCallPart(ToolCall("a", "f", "{}"))


def test_a_server_is_named_by_its_address_without_telling_it() -> None:
    one, same, other = (
        source_of("openai", url)
        for url in ("http://10.0.0.1/v1", "http://10.0.0.1/v1/", "http://10.0.0.2/v1")
    )
    assert one == same != other
    assert "10.0.0.1" not in one
    assert source_of("openai", None) == "openai"


async def test_what_a_server_gave_comes_back_to_it_and_to_no_other() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    head = fragment(index=0, id="a", name="f", arguments="{}")
    head["tool_calls"][0]["extra_content"] = extra
    first = up.completion([{"reasoning_content": "Hm."}, head], finish_reason="tool_calls")
    knows = ("reasoning_content", "extra_content")
    async with (
        Upstream([first, up.text("ok")], knows=knows) as upstream,
        Upstream([up.text("ok")]) as stranger,
        provider_for(upstream.base_url) as provider,
        provider_for(stranger.base_url) as another,
    ):
        parts, _ = await collect(provider)
        [call] = [part.call for part in parts if isinstance(part, ToolCallPart)]
        blocks = tuple(part.block for part in parts if isinstance(part, ReasoningBlockPart))
        said = (AssistantMessage("", (call,), blocks), ToolMessage("a", "f", "done"))
        for asked in (provider, another):
            assert (await collect(asked, asking(*QUESTION, *said)))[1] is None
        _, answer, _ = upstream.requests[1]["messages"]
    assert answer["reasoning_content"] == "Hm."
    assert answer["tool_calls"][0]["extra_content"] == extra


@pytest.mark.parametrize(
    ("sent", "has_calls", "expected"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("tool_calls", False, "stop"),
        ("function_call", True, "tool_calls"),
        ("length", False, "length"),
        ("length", True, "length"),
        ("max_tokens", False, "length"),
        ("content_filter", False, "content_filter"),
        ("eos_token", False, "stop"),
    ],
)
def test_the_reason_is_one_of_ours(sent: str, has_calls: bool, expected: str) -> None:
    deltas = [fragment(index=0, id="a", name="f", arguments="{}")] if has_calls else []
    end = read(*deltas, reason=sent)[-1]
    assert isinstance(end, EndPart)
    assert end.finish_reason == expected


def test_arguments_past_the_limit_are_cut_and_marked() -> None:
    piece = "é" * 1000
    deltas = [fragment(index=0, arguments=piece) for _ in range(MAX_ARGUMENT_BYTES // 2000 + 10)]
    parts = read(fragment(index=0, id="a", name="f", arguments='{"x":"'), *deltas)
    (part,) = [part for part in parts if isinstance(part, ToolCallPart)]
    assert part.truncated
    assert len(part.call.arguments) == 2000
    assert part.call.arguments.startswith('{"x":"éé')


def test_arguments_at_the_limit_are_whole() -> None:
    arguments = '{"x":"' + "a" * (MAX_ARGUMENT_BYTES - 8) + '"}'
    parts = read(fragment(index=0, id="a", name="f", arguments=arguments))
    assert parts[0] == ToolCallPart(ToolCall("a", "f", arguments))


def test_more_calls_than_the_limit_are_refused() -> None:
    def deltas(count: int) -> list[dict[str, Any]]:
        return [fragment(index=at, id=f"c{at}", name="f") for at in range(count)]

    assert len(calls(read(*deltas(MAX_CALLS)))) == MAX_CALLS
    with pytest.raises(UpstreamError, match="128 tool calls") as caught:
        read(*deltas(MAX_CALLS + 1))
    assert caught.value.code == "upstream_malformed"


async def test_a_server_that_does_not_stream_is_understood() -> None:
    message = {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = json.dumps(
        {"object": "chat.completion", "choices": [choice], "usage": up.USAGE}, indent=1
    )
    parts, error = await answer(up.raw(b"\n", body[:30].encode(), body[30:].encode()))
    assert error is None
    assert parts == [
        TextPart("Let me see."),
        ToolCallPart(ToolCall("a", "f", "{}")),
        EndPart("tool_calls", USAGE),
    ]


# What breaks.

ORDINARY = up.text("one", " two", " three")


@pytest.mark.parametrize("events", range(5))
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (up.reset_after, "upstream_disconnected"),
        (up.eof_after, "upstream_truncated"),
        (lambda n, reply: up.eof_after(n, reply, clean=False), "upstream_disconnected"),
        (up.error_event_after, "upstream_error"),
        (lambda n, reply: up.error_event_after(n, reply, named=True), "upstream_error"),
        (up.bad_json_after, "upstream_malformed"),
        (lambda n, reply: up.raw(*reply.steps[:n], b'data: {"cho'), "upstream_truncated"),
    ],
)
async def test_a_break_before_the_reason_is_an_error_after_all_that_came(
    fault: Callable[[int, Scripted], Scripted], code: str, events: int
) -> None:
    if events == 4 and fault is up.bad_json_after:
        return
    async with Upstream([fault(events, ORDINARY)]) as upstream:
        # With retries allowed: what has begun is never asked for again.
        async with provider_for(upstream.base_url, max_retries=2) as provider:
            parts, error = await collect(provider)
        assert upstream.asked.value == 1
    came = ["one", " two", " three"][: max(0, events - 1)]
    assert parts == [TextPart(piece) for piece in came]
    assert error is not None
    assert (error.code, error.retryable) == (code, True)


@pytest.mark.parametrize("events", range(5))
async def test_done_without_a_reason_ends_what_has_text_and_nothing_else(events: int) -> None:
    parts, error = await answer(up.raw(*ORDINARY.steps[:events], up.DONE))
    came = ["one", " two", " three"][: max(0, events - 1)]
    assert texts(parts) == came
    if came:
        assert error is None
        assert parts[-1] == EndPart("stop")
    else:
        assert error is not None
        assert error.code == "upstream_truncated"


async def test_what_stood_before_a_fault_in_the_same_read_is_given_out_first() -> None:
    broken = up.at_once(up.bad_json_after(3, ORDINARY))
    parts, error = await answer(broken)
    assert texts(parts) == ["one", " two"]
    assert error is not None


@pytest.mark.parametrize(
    "fault",
    [
        up.reset_after,
        up.eof_after,
        lambda n, reply: up.eof_after(n, reply, clean=False),
        up.stall_after,
    ],
)
async def test_a_break_after_the_reason_does_not_matter(
    fault: Callable[[int, Scripted], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.sdk.END_TIMEOUT", 0.1)
    parts, error = await answer(fault(5, ORDINARY), timeout=60.0)
    assert error is None
    assert parts[-1] == EndPart("stop", None)
    assert len(texts(parts)) == 3


async def test_calls_are_not_given_out_when_the_reply_breaks() -> None:
    wanted = up.calls(("f", {"x": 1}))
    parts, error = await answer(up.eof_after(len(wanted.steps) - 3, wanted))
    assert (parts, error and error.code) == ([], "upstream_truncated")


@pytest.mark.parametrize("events", [0, 1, 2])
async def test_silence_is_an_error_in_time(events: int) -> None:
    parts, error = await answer(up.stall_after(events, ORDINARY), timeout=0.2)
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_timeout", True)
    assert len(parts) == max(0, events - 1)


async def test_silence_before_the_first_byte_is_an_error_in_time() -> None:
    assert await code_of(up.held(ORDINARY), timeout=0.2) == "upstream_timeout"


async def test_a_reset_before_the_first_byte_is_not_called_a_time_out() -> None:
    assert await code_of(up.reset_at_once()) == "upstream_unreachable"


async def test_a_server_that_nobody_runs_is_unreachable() -> None:
    with up.refusing() as base_url:
        async with provider_for(base_url) as provider:
            parts, error = await collect(provider)
    assert parts == []
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_unreachable", True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"data: {}\n\n", "upstream_truncated"),
        (b"", "upstream_truncated"),
        (b"data: null\n\n", "upstream_malformed"),
        (b"data: [1]\n\n", "upstream_malformed"),
        (b"data: Internal error\n\n", "upstream_malformed"),
        (b'data: {"choices": 5}\n\n', "upstream_malformed"),
        (b"data: " + b'{"a":' * 5000 + b"\n\n", "upstream_malformed"),
        (b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n", "upstream_malformed"),
        (b"data: " + b"9" * 5000 + b"\n\n", "upstream_malformed"),
        (b'{"choices": [', "upstream_malformed"),
        (b'{"error": {"message": "no"}}', "upstream_error"),
        (b'data: {"error": "no"}\n\n', "upstream_error"),
        (b'data: {"object": "error", "message": "no", "code": 500}\n\n', "upstream_error"),
        (b'data: {"error": {"message": "slow down", "code": 429}}\n\n', "upstream_rate_limited"),
        (b'data: {"error": {"code": "rate_limit_exceeded"}}\n\n', "upstream_rate_limited"),
        (b'data: {"error": {"code": "insufficient_quota"}}\n\n', "upstream_quota"),
        (b'data: {"error": {"type": "invalid_request_error"}}\n\n', "upstream_rejected"),
        (chunk({}, "error"), "upstream_error"),
    ],
)
async def test_nonsense_is_named(body: bytes, code: str) -> None:
    assert await code_of(up.raw(body)) == code


async def test_a_web_page_is_not_an_answer() -> None:
    _, error = await answer(up.raw(b"<html>", content_type="text/html; charset=utf-8"))
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_malformed", False)
    assert "OPENAI_BASE_URL" in error.message


async def test_an_answer_that_is_not_http_is_an_error_of_ours() -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with provider_for(f"http://127.0.0.1:{port}/v1") as provider:
            _, error = await collect(provider)
    assert error is not None
    assert error.code in ("upstream_unreachable", "upstream_error")


def test_an_event_without_end_is_refused() -> None:
    reply = OpenAIReply(OpenAIFailures(KEY))
    parts = reply.feed(chunk({"content": "a"}))
    for _ in range(17):
        parts += reply.feed(b"data: " + b"x" * 1024 * 1024)
    assert texts(parts) == ["a"]
    assert reply.failure is not None
    assert reply.failure.code == "upstream_malformed"


# Refusals and retries.


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (up.status(400, "Bad."), "upstream_rejected", False),
        (up.status(422, "Bad."), "upstream_rejected", False),
        (up.status(401, "Incorrect API key provided."), "upstream_unauthorized", False),
        (up.status(403), "upstream_unauthorized", False),
        (up.status(404, "No such model."), "upstream_model_not_found", False),
        (up.status(408), "upstream_timeout", True),
        (up.status(409), "upstream_error", True),
        (up.status(429), "upstream_rate_limited", True),
        (up.status(429, error_code="insufficient_quota"), "upstream_quota", False),
        (up.status(429, error_type="insufficient_quota"), "upstream_quota", False),
        (up.status(500), "upstream_error", True),
        (up.status(503), "upstream_error", True),
        (up.raw(b"<h1>Bad gateway</h1>", code=502), "upstream_error", True),
        (up.raw(b'{"detail": [{"msg": "x"}]}', code=422), "upstream_rejected", False),
    ],
)
async def test_a_refusal_is_named(reply: Scripted, code: str, retryable: bool) -> None:
    parts, error = await answer(reply)
    assert parts == []
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)


async def test_a_rate_limit_says_when_to_come_back() -> None:
    _, error = await answer(up.status(429, retry_after=7))
    assert error is not None
    assert error.retry_after == 7


@pytest.mark.parametrize(
    "message",
    [
        f"Incorrect key {KEY}, sorry",
        "Incorrect key sk-proj-abc*****xyz, sorry",
        "Bearer abcdef is wrong, sorry",
        "Key flp_A1b2C3d4E5f6 is wrong, sorry",
        "Token 0123456789abcdef0123456789abcdef0123 is wrong, sorry",
    ],
)
async def test_the_providers_words_are_passed_on_without_keys(message: str) -> None:
    _, error = await answer(up.status(400, message))
    assert error is not None
    assert "[redacted]" in error.message
    assert error.message.endswith("sorry")
    for secret in (KEY, "sk-proj", "abcdef", "flp_A1"):
        assert secret not in error.message


async def test_a_key_of_any_form_is_not_passed_on() -> None:
    _, error = await answer(up.status(400, "Who is swordfish?"), api_key="swordfish")
    assert error is not None
    assert error.message.endswith("Who is [redacted]?")


async def test_the_providers_words_are_bounded() -> None:
    _, error = await answer(up.status(400, "no " * 10_000))
    assert error is not None
    assert 400 < len(error.message) < 600


async def test_a_key_that_cannot_be_sent_stays_out_of_the_message() -> None:
    async with provider_for("http://127.0.0.1:9/v1", api_key="schlüssel\n1") as provider:
        _, error = await collect(provider)
    assert error is not None
    assert "schl" not in error.message
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "refusal",
    [up.status(429, retry_after=0.01), up.status(500, retry_after=0.01)],
)
async def test_a_refused_request_is_repeated_and_then_answered(refusal: Scripted) -> None:
    async with (
        Upstream([refusal, refusal, up.text("a")]) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        parts, error = await collect(provider)
        assert upstream.asked.value == 3
    assert (texts(parts), error) == (["a"], None)


async def test_retry_after_is_waited_for() -> None:
    async with (
        Upstream([up.status(429, retry_after=0.3), up.text("a")]) as upstream,
        provider_for(upstream.base_url, max_retries=1) as provider,
    ):
        clock = asyncio.get_running_loop().time
        asked = asyncio.ensure_future(collect(provider))
        await upstream.asked.reach(1)
        start = clock()
        await upstream.asked.reach(2)
        assert clock() - start >= 0.25
        assert texts((await asked)[0]) == ["a"]


async def test_without_retry_after_the_wait_is_short() -> None:
    async with (
        Upstream([up.status(503), up.text("a")]) as upstream,
        provider_for(upstream.base_url, max_retries=1) as provider,
    ):
        assert texts((await collect(provider))[0]) == ["a"]


async def test_retries_have_an_end() -> None:
    async with (
        Upstream(lambda _: up.status(429, retry_after=0.01)) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        _, error = await collect(provider)
        assert upstream.asked.value == 3
    assert error is not None
    assert error.code == "upstream_rate_limited"


async def test_a_request_that_cannot_succeed_is_not_repeated() -> None:
    async with (
        Upstream([up.status(400)]) as upstream,
        provider_for(upstream.base_url, max_retries=2) as provider,
    ):
        await collect(provider)
        assert upstream.asked.value == 1


# Cancelling.


@pytest.mark.parametrize("events", [0, 2])
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
        Upstream([up.stall_after(2, ORDINARY)]) as upstream,
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
    """Return the body that a request becomes; the upstream refuses what OpenAI refuses."""
    async with (
        Upstream([up.text("ok")]) as upstream,
        provider_for(upstream.base_url, **changes) as provider,
    ):
        _, error = await collect(provider, request)
        assert error is None
        return upstream.requests[0]


async def test_the_request_says_what_is_needed_and_nothing_else() -> None:
    assert await sent(asking()) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_key_travels_as_a_bearer_token() -> None:
    async with Upstream([up.text("ok")]) as upstream, provider_for(upstream.base_url) as provider:
        await collect(provider)
    assert upstream.headers[0]["authorization"] == f"Bearer {KEY}"
    assert upstream.headers[0]["accept-encoding"] == "identity"


async def test_every_kind_of_message_is_sent_as_openai_wants_it() -> None:
    long_id = "chatcmpl-tool-" + "0123456789abcdef" * 2
    body = await sent(
        asking(
            SystemMessage("Be brief."),
            UserMessage("Weather?"),
            AssistantMessage("", (ToolCall("aB3456789", "get_weather", '{"city":"Tokyo"}'),)),
            ToolMessage("aB3456789", "get_weather", "sunny"),
            AssistantMessage("Sunny.", (ToolCall(long_id, "a.b/ü", "{}"),)),
            ToolMessage(long_id, "a.b/ü", "failed", is_error=True),
            AssistantMessage(""),
        )
    )
    messages = body["messages"]
    short_id = messages[4]["tool_calls"][0]["id"]
    assert short_id.isalnum()
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "aB3456789",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Tokyo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "aB3456789", "content": "sunny"},
        {
            "role": "assistant",
            "content": "Sunny.",
            "tool_calls": [
                {
                    "id": short_id,
                    "type": "function",
                    "function": {"name": "a_b__", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": short_id, "content": "failed"},
    ]


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
        '{"x":' + "9" * 5000 + "}",
        "\0",
        "x" * 10_000,
    ],
)
async def test_broken_arguments_in_the_history_are_sent_as_an_object(arguments: str) -> None:
    call = ToolCall("a", "f", arguments)
    body = await sent(asking(AssistantMessage("", (call,)), ToolMessage("a", "f", "no")))
    kept = json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert list(kept) == ["_invalid_arguments"]
    assert len(kept["_invalid_arguments"]) <= 2000
    assert kept["_invalid_arguments"][:6] == arguments[:6]


async def test_half_characters_in_the_history_do_not_stop_a_request() -> None:
    body = await sent(asking(UserMessage("a\ud83d\ude00b\ud83d")))
    assert body["messages"][0]["content"] == "a😀b\ufffd"


async def test_tools_are_offered_as_functions() -> None:
    body = await sent(asking(tools=(WEATHER,)))
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a city.",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
    assert "parallel_tool_calls" not in body


async def test_parallel_calls_are_forbidden_only_where_there_are_tools() -> None:
    with_tools = await sent(asking(tools=(WEATHER,), parallel_tools=False))
    assert with_tools["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in await sent(asking(parallel_tools=False))


async def test_the_form_of_an_answer_is_asked_for() -> None:
    form = OutputSchema("plan", {"type": "object", "properties": {}})
    assert (await sent(asking(output=form)))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "plan", "schema": form.schema},
    }


async def test_any_object_is_a_form_and_a_schema_may_be_enforced() -> None:
    assert (await sent(asking(output=OutputSchema("any"))))["response_format"] == {
        "type": "json_object"
    }
    strict = asking(output=OutputSchema("plan", {"type": "object"}, strict=True))
    assert (await sent(strict))["response_format"]["json_schema"]["strict"] is True


async def test_what_a_request_says_about_its_answer_is_passed_on() -> None:
    body = await sent(asking(top_p=0.5, stop=("END", "."), seed=0))
    assert (body["top_p"], body["stop"], body["seed"]) == (0.5, ["END", "."], 0)
    assert {"top_p", "stop", "seed", "response_format"} & set(await sent(asking())) == set()


@pytest.mark.parametrize("choice", ["none", "required"])
async def test_a_choice_of_tools_is_passed_on_where_there_are_tools(choice: str) -> None:
    assert (await sent(asking(tools=(WEATHER,), tool_choice=choice)))["tool_choice"] == choice
    assert "tool_choice" not in await sent(asking(tool_choice=choice))
    assert "tool_choice" not in await sent(asking(tools=(WEATHER,)))


async def test_a_tool_may_be_strict() -> None:
    strict = ToolSpec("a", "", {"type": "object"}, strict=True)
    body = await sent(asking(tools=(strict, WEATHER)))
    assert [tool["function"].get("strict") for tool in body["tools"]] == [True, None]


async def test_pictures_stand_where_the_user_put_them() -> None:
    said = UserMessage(
        "What is it?And this?",
        (
            TextContent("What is it?"),
            ImageContent("https://example.com/a.png"),
            TextContent("And this?"),
            ImageContent("data:image/png;base64,AAAA", "low"),
        ),
    )
    [question] = (await sent(asking(said)))["messages"]
    assert question["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "And this?"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"},
        },
    ]


async def test_the_requests_own_numbers_win_over_the_defaults() -> None:
    defaults = {"temperature": 0.5, "max_tokens": 100}
    body = await sent(asking(), **defaults)
    assert (body["temperature"], body["max_tokens"]) == (0.5, 100)
    body = await sent(asking(temperature=0.0, max_tokens=7), **defaults)
    assert (body["temperature"], body["max_tokens"]) == (0.0, 7)


async def test_openai_itself_is_told_the_new_name_of_the_limit() -> None:
    async with provider_for(None, max_tokens=7) as provider:
        _, body, _ = provider._call(asking())
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


# Loading.


@pytest.mark.slow
def test_the_module_is_imported_without_the_sdk() -> None:
    script = "import sys, llm.openai; assert not {'openai', 'aiohttp', 'httpx2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


async def test_warming_twice_makes_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = OpenAIProvider._sdk_client

    def counted(self: OpenAIProvider, *args: Any, **options: Any) -> Any:
        made.append(self)
        return make(self, *args, **options)

    monkeypatch.setattr(OpenAIProvider, "_sdk_client", counted)
    async with Upstream([up.text("a")]) as upstream, provider_for(upstream.base_url) as provider:
        await asyncio.gather(provider.warm(), provider.warm())
        await collect(provider)
    assert len(made) == 1


async def test_a_provider_that_was_never_used_has_no_client_to_close() -> None:
    async with provider_for(None) as provider:
        assert provider._requests is None
    assert provider._requests is None
