"""The scripted model of Anthropic's wire: a real Messages API server on loopback.

    async with Upstream([text("Hello", " world")]) as upstream:
        provider = AnthropicProvider(base_url=upstream.base_url, ...)

It is the server of `tests.upstream`, whose gates, faults and ways to write a reply work here
too (`up.reset_after(2, text("a"))`), with Anthropic's events, its shape of errors, and its rules:
what the API refuses is refused with 400 and the API's words. The rules are those of version
2026-10-21, and of 2023-06-01 for what concerns `temperature`; one is stricter than the API, which
by now joins neighbours with one role by itself: here roles must alternate.

A reply is made of blocks: `said`, `thought`, `redacted`, `called`; `message` puts events around
them. The first three events of `text` are `message_start`, a `ping` and `content_block_start`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import tests.upstream as up
from tests.upstream import Reply

# Replies.


class Block(NamedTuple):
    """A content block: what it begins with, and the deltas that follow."""

    start: dict[str, Any]
    deltas: tuple[dict[str, Any], ...] = ()


def event(type: str, **fields: Any) -> bytes:
    """Return one event as Anthropic frames it: with its type as the event's name."""
    return f"event: {type}\n".encode() + up.sse({"type": type, **fields})


def delta(index: int, type: str, **fields: Any) -> bytes:
    """Return a delta of the block at `index`."""
    return event("content_block_delta", index=index, delta={"type": type, **fields})


def said(*pieces: str) -> Block:
    """Return a block of text."""
    deltas = ({"type": "text_delta", "text": piece} for piece in pieces)
    return Block({"type": "text", "text": ""}, tuple(deltas))


def thought(*pieces: str, signature: str = "c2lnbmVk") -> Block:
    """Return a block of thinking; its signature comes last, where there is one."""
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    if signature:
        deltas.append({"type": "signature_delta", "signature": signature})
    return Block({"type": "thinking", "thinking": "", "signature": ""}, tuple(deltas))


def redacted(data: str) -> Block:
    """Return a block of thinking that only the API can read."""
    return Block({"type": "redacted_thinking", "data": data})


def called(id: str, name: str, arguments: Any = None, *, piece_length: int = 8) -> Block:
    """Return a call; arguments that are a `str` are sent as they are, None as no deltas."""
    whole = arguments if isinstance(arguments, str) else json.dumps(arguments)
    pieces = [whole[at : at + piece_length] for at in range(0, len(whole), piece_length)]
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    start = {"type": "tool_use", "id": id, "name": name, "input": {}}
    return Block(start, () if arguments is None else tuple(deltas))


def block_events(index: int, block: Block) -> list[bytes]:
    """Return the events of a block."""
    return [
        event("content_block_start", index=index, content_block=block.start),
        *(event("content_block_delta", index=index, delta=each) for each in block.deltas),
        event("content_block_stop", index=index),
    ]


def begin(**usage: int) -> bytes:
    """Return the event that begins a message."""
    message: dict[str, Any] = {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1, **usage},
    }
    return event("message_start", message=message)


def finish(stop_reason: str | None = "end_turn", **usage: int) -> bytes:
    """Return the event that says why the message ends."""
    why = {"stop_reason": stop_reason, "stop_sequence": None}
    return event("message_delta", delta=why, usage={"output_tokens": 5, **usage})


PING = event("ping")
STOP = event("message_stop")


def message(*blocks: Block, stop_reason: str | None = "end_turn") -> Reply:
    """Return a streamed message of these blocks."""
    events = [each for at, block in enumerate(blocks) for each in block_events(at, block)]
    return Reply((begin(), PING, *events, finish(stop_reason), STOP))


def text(*pieces: str, stop_reason: str | None = "end_turn") -> Reply:
    """Return an answer of so many pieces."""
    return message(said(*pieces), stop_reason=stop_reason)


def calls(*wanted: Block, before: str = "") -> Reply:
    """Return a reply that asks for tools, with text `before`."""
    blocks = [said(before), *wanted] if before else wanted
    return message(*blocks, stop_reason="tool_use")


def error_body(kind: str, message: str, **details: Any) -> dict[str, Any]:
    """Return an error in Anthropic's shape."""
    error = {"type": kind, "message": message, **details}
    return {"type": "error", "error": error, "request_id": "req_scripted"}


def status(
    code: int,
    message: str = "The scripted upstream says no.",
    *,
    kind: str = "invalid_request_error",
    retry_after: float | str | None = None,
) -> Reply:
    """Return a refusal; `retry_after` is in seconds, or a date."""
    headers = {"content-type": "application/json"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return Reply((json.dumps(error_body(kind, message)).encode(),), code, headers)


def error_event(kind: str = "overloaded_error", message: str = "Overloaded") -> bytes:
    """Return an error as an event of a stream."""
    return b"event: error\n" + up.sse(error_body(kind, message))


# The server.


class Upstream(up.Upstream):
    """The server; see `tests.upstream.Upstream`. `script` may be a function of a body, not async.

    A refused request takes no reply off the list.
    """

    def __init__(self, script: Iterable[Reply] | Callable[[dict[str, Any]], Reply]) -> None:
        replies = None if callable(script) else iter(script)

        def answer(body: dict[str, Any]) -> Reply:
            if fault := fault_of(body, self.headers[-1]):
                return status(400, fault)
            if replies is None:
                assert callable(script)
                return script(body)
            return next(replies, status(400, "The script has no reply left."))

        super().__init__(answer, check=False)

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"http://127.0.0.1:{self.port}"


# What the API refuses.


class Refusal(Exception):
    """The API would answer 400 to this request, and say this."""


_FIELDS = {
    "stop_sequences",
    "top_p",
    "model",
    "max_tokens",
    "messages",
    "system",
    "stream",
    "tools",
    "tool_choice",
    "output_config",
    "temperature",
}
_BLOCKS: dict[str, tuple[str, set[str]]] = {
    "text": ("either", {"text"}),
    "thinking": ("assistant", {"thinking", "signature"}),
    "redacted_thinking": ("assistant", {"data"}),
    "image": ("user", {"source"}),
    "tool_use": ("assistant", {"id", "name", "input"}),
    "tool_result": ("user", {"tool_use_id", "content", "is_error"}),
}
"""Whose blocks there are, and what they may hold beside their type."""

_ID = re.compile("[a-zA-Z0-9_-]+")
_NAME = re.compile("[a-zA-Z0-9_-]{1,128}")


def fault_of(body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Return why the API refuses a request, or None."""
    try:
        _check_fields(body, headers.get("anthropic-version"))
        _check_tools(body)
        _check_messages(body["messages"])
    except Refusal as refusal:
        return str(refusal)
    return None


def _require(is_met: Any, words: str) -> None:
    if not is_met:
        raise Refusal(words)


def _check_fields(body: Mapping[str, Any], version: str | None) -> None:
    _require(version, "anthropic-version: header is required")
    known = _FIELDS if version == "2023-06-01" else _FIELDS - {"temperature", "top_p"}
    for name in body:
        _require(name in known, f"{name}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        _require(name in body, f"{name}: Field required")
    _require(body["max_tokens"] >= 1, "max_tokens: Input should be greater than or equal to 1")
    _require(0 <= body.get("temperature", 0) <= 1, "temperature: range: 0..1")
    _require(body.get("stream") is True, "stream: this server only streams")
    if "system" in body:
        _check_text("system", body["system"])
    if "output_config" in body:
        _check_schema(body["output_config"]["format"]["schema"])


def _check_schema(schema: Any) -> None:
    if schema.get("type") == "object":
        words = "For 'object' type, 'additionalProperties' must be explicitly set to false"
        _require(schema.get("additionalProperties") is False, f"output_config.format: {words}")
    for name in ("minimum", "maximum", "maxLength"):
        words = f"property '{name}' is not supported"
        _require(name not in schema, f"output_config.format.schema: {words}")
    for child in schema.get("properties", {}).values():
        _check_schema(child)


def _check_tools(body: Mapping[str, Any]) -> None:
    words = "tool_choice may only be specified while providing tools"
    _require("tool_choice" not in body or body.get("tools"), words)
    names = [tool["name"] for tool in body.get("tools", ())]
    _require(len({*names}) == len(names), "tools: Tool names must be unique.")
    for at, tool in enumerate(body.get("tools", ())):
        _require(_NAME.fullmatch(tool["name"]), f"tools.{at}.custom.name: {_pattern(_NAME)}")
        is_object = tool["input_schema"].get("type") == "object"
        _require(is_object, f"tools.{at}.custom.input_schema.type: Input should be 'object'")


def _pattern(pattern: re.Pattern[str]) -> str:
    return f"String should match pattern '^{pattern.pattern}$'"


def _check_messages(messages: Any) -> None:
    _require(messages, "messages: at least one message is required")
    _require(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    open_calls: list[str] = []
    taken: set[str] = set()
    for at, message in enumerate(messages):
        role = message["role"]
        _require(role in ("user", "assistant"), f"messages.{at}.role: Input should be 'user'")
        found = f'found multiple "{role}" roles in a row'
        words = f'messages: roles must alternate between "user" and "assistant", but {found}'
        _require(at == 0 or messages[at - 1]["role"] != role, words)
        _require(message["content"], f"messages.{at}: all messages must have non-empty content")
        for index, block in enumerate(message["content"]):
            _check_block(f"messages.{at}.content.{index}", role, block)
        _check_results(at, message["content"], open_calls)
        open_calls = _calls_of(at, message["content"], taken)
    _require(
        messages[-1]["role"] == "user", "This model does not support assistant message prefill."
    )


def _check_block(where: str, role: str, block: Mapping[str, Any]) -> None:
    type = block.get("type", "")
    whose, fields = _BLOCKS.get(type, ("nobody", set()))
    _require(whose in ("either", role), f"{where}: Input tag '{type}' is not expected here")
    extra = set(block) - fields - {"type"}
    _require(not extra, f"{where}.{type}: Extra inputs are not permitted: {extra}")
    missing = fields - set(block) - {"is_error"}
    _require(not missing, f"{where}.{type}: Field required: {missing}")
    match type:
        case "text":
            _check_text(where, block["text"])
        case "image":
            kinds = {"base64": {"type", "media_type", "data"}, "url": {"type", "url"}}
            is_whole = kinds.get(block["source"]["type"]) == set(block["source"])
            _require(is_whole, f"{where}.image.source: Input should be a valid source")
        case "tool_use":
            _require(_ID.fullmatch(block["id"]), f"{where}.tool_use.id: {_pattern(_ID)}")
            _require(_NAME.fullmatch(block["name"]), f"{where}.tool_use.name: {_pattern(_NAME)}")
            is_object = isinstance(block["input"], dict)
            _require(is_object, f"{where}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            _check_text(f"{where}.tool_result.content", block["content"])
        case "thinking":
            _require(block["signature"], f"{where}: Invalid `signature` in `thinking` block")


def _check_text(where: str, text: Any) -> None:
    _require(isinstance(text, str), f"{where}: Input should be a valid string")
    _require(text, f"{where}: text content blocks must be non-empty")
    _require(text.strip(), f"{where}: text content blocks must contain non-whitespace text")


def _check_results(at: int, blocks: list[dict[str, Any]], open_calls: list[str]) -> None:
    """Check that a message begins with the results of the calls before it, one for each."""
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    for id in results:
        words = f"unexpected `tool_use_id` found in `tool_result` blocks: {id}"
        _require(id in open_calls, f"messages.{at}: {words}")
        words = f"each tool_use must have a single result. Found multiple with id: {id}"
        _require(results.count(id) == 1, f"messages.{at}: {words}")
    ahead = [block["type"] for block in blocks[: len(open_calls)]]
    missing = [id for id in open_calls if id not in results]
    words = f"without `tool_result` blocks immediately after: {', '.join(missing)}"
    _require(not missing, f"messages.{at - 1}: `tool_use` ids were found {words}")
    words = "messages following `tool_use` blocks must begin with their `tool_result` blocks"
    _require(set(ahead) <= {"tool_result"}, f"messages.{at}: {words}")


def _calls_of(at: int, blocks: list[dict[str, Any]], taken: set[str]) -> list[str]:
    """Return the ids of a message's calls, and check that nobody has one of them."""
    ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
    for id in ids:
        _require(id not in taken, f"messages.{at}: `tool_use` ids must be unique")
        taken.add(id)
    words = "The final block in an assistant message cannot be `thinking`"
    _require(not blocks[-1]["type"].endswith("thinking"), f"messages.{at}: {words}")
    return ids
