"""The bytes of a streamed message become reply parts, without I/O.

The wire is Anthropic's (API reference, "Streaming messages"):

* A message is `message_start`, its content blocks, `message_delta` with the `stop_reason` and
  the usage, `message_stop`. A block is `content_block_start`, deltas, `content_block_stop`;
  all three name the block by its `index`.
* A reply is complete when a `stop_reason` has come. A stream that ends without one,
  `message_stop` or not, was cut off. After it nothing but `message_stop` is expected.
* Events, blocks and deltas of unknown types may come at any time and are ignored (API
  reference, "Versions"), whatever their fields hold; so are `ping`s.
* Counts of tokens are totals; a later one replaces an earlier one. What was read from a cache
  or written into it is not in `input_tokens`.
* A block of thinking is given back unchanged in later requests, which needs its `signature`;
  one without is of no use. Its text may be empty where the model does not show it.
"""

import json
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from errors import UpstreamError
from events import Usage
from llm.anthropic_errors import AnthropicFailures
from llm.openai_stream import KEPT_CHARS, MAX_ARGUMENT_BYTES, MAX_CALLS, joined_halves
from messages import (
    EndPart,
    ReasoningBlock,
    ReasoningBlockPart,
    ReasoningPart,
    ReplyPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    clean_text,
    new_id,
)
from sse import Decoder, FrameTooLarge

PROVIDER = "anthropic"
"""The name of the provider, and of the reasoning that only it can read."""

Reason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]

_REASONS: dict[str, Reason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
"""Reasons by their wire names; every other one is a plain stop, or that of the tool calls."""

_EVENTS = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
)
_COUNTS = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)


class _Delta(msgspec.Struct, gc=False):
    """A delta of any type: what a field holds is known only where the type is."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class _Start(msgspec.Struct, gc=False):
    """A block as it begins."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Start | None = None
    message: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_NOTHING = _Delta()

_decode = msgspec.json.Decoder(_Event).decode


class _Thinking:
    """A block of thinking as it grows."""

    __slots__ = ("pieces", "signature")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.signature = ""


class _Call:
    """A tool call as it grows. `input`: arguments that came with its start."""

    __slots__ = ("id", "input", "is_truncated", "name", "pieces", "size")

    def __init__(self, id: str, name: str, input: Any) -> None:
        self.id = id
        self.name = name
        self.input = input
        self.pieces: list[str] = []
        self.size = 0
        self.is_truncated = False

    def take(self, piece: str) -> None:
        """Add a fragment of the arguments."""
        self.pieces.append(piece)
        self.size += len(piece) if piece.isascii() else len(piece.encode(errors="replace"))
        if self.size > MAX_ARGUMENT_BYTES:
            self.pieces = ["".join(self.pieces)[:KEPT_CHARS]]
            self.is_truncated = True

    def part(self, taken: set[str]) -> ToolCallPart:
        """Return the whole call, under an id that is not `taken`.

        Raises:
            RecursionError: arguments that came with its start are nested too deep.
        """
        id = clean_text(joined_halves(self.id))
        if not id or id in taken:
            id = new_id("call")
        taken.add(id)
        arguments = clean_text(joined_halves("".join(self.pieces)))
        if not arguments.strip():
            arguments = json.dumps(self.input) if self.input else "{}"
        return ToolCallPart(
            ToolCall(id, clean_text(joined_halves(self.name)), arguments), self.is_truncated
        )


class Reply:
    """One reply as it arrives. Feed it bytes until it `is_over`.

    Args:
        failures: makes the errors.
        taken: ids of calls that exist already; a new call never gets one of them.

    Attributes:
        failure: what broke the reply; raise it after the parts that came before it.
        is_over: nothing more is expected.
    """

    def __init__(self, failures: AnthropicFailures, taken: Iterable[str] = ()) -> None:
        self.failure: UpstreamError | None = None
        self.is_over = False
        self._failures = failures
        self._taken = set(taken)
        self._decoder = Decoder()
        self._batch: list[ReplyPart] = []
        self._calls: list[_Call] = []
        self._open: dict[int, _Call | _Thinking] = {}
        self._reason: str | None = None
        self._counts: dict[str, int] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the model has said that it is done; a break no longer matters."""
        return self._reason is not None

    def feed(self, data: bytes) -> list[ReplyPart]:
        """Return the parts that `data` completes; often none."""
        try:
            events = self._decoder.feed(data)
        except FrameTooLarge:
            self._fail(self._failures.malformed("an event is too large"))
            return []
        for event in events:
            try:
                self._take(_decode(event))
            except (ValueError, RecursionError):
                self._take_odd(event)
            if self.is_over:
                break
        return self._taken_batch()

    def end(self) -> list[ReplyPart]:
        """Return the last parts, the stream being at its end."""
        self._finish()
        return self._taken_batch()

    def _taken_batch(self) -> list[ReplyPart]:
        batch, self._batch = self._batch, []
        return batch

    def _fail(self, failure: UpstreamError) -> None:
        self.failure = failure
        self.is_over = True

    def _finish(self) -> None:
        if self.is_over:
            return
        if self._reason is None:
            self._fail(self._failures.truncated())
            return
        try:
            calls = [call.part(self._taken) for call in self._calls]
        except RecursionError:
            self._fail(self._failures.malformed("a call's arguments are nested too deep"))
            return
        self.is_over = True
        self._batch.extend(calls)
        reason = _REASONS.get(self._reason, "tool_calls" if calls else "stop")
        self._batch.append(EndPart(reason, self._usage()))

    def _take_odd(self, event: bytes) -> None:
        """Take what the strict decoder refuses: an unknown event, half a character, nonsense."""
        if not event.strip():
            return
        try:
            wanted = json.loads(event.decode(errors="replace"))
            if isinstance(wanted, dict) and wanted.get("type") not in _EVENTS:
                return
            self._take(msgspec.convert(_without_halves(wanted), _Event, strict=False))
        except (ValueError, RecursionError):
            self._fail(self._failures.malformed("an event is not valid JSON of its type"))

    def _take(self, event: _Event) -> None:
        """Take an event.

        Raises:
            ValueError: a field is not of the type that it has to have.
        """
        delta = event.delta or _NOTHING
        match event.type:
            case "content_block_delta":
                self._take_delta(event.index, delta)
            case "content_block_start":
                self._begin(event.index, event.content_block or _Start())
            case "content_block_stop":
                self._close(event.index)
            case "message_start":
                self._count((event.message or {}).get("usage"))
            case "message_delta":
                self._count(event.usage)
                self._reason = _text(delta.stop_reason) or self._reason
            case "message_stop":
                self._finish()
            case "error":
                self._fail(self._failures.sent(event.error))

    def _begin(self, index: int, block: _Start) -> None:
        match block.type:
            case "text":
                self._say(TextPart, _text(block.text))
            case "thinking":
                thinking = self._open[index] = _Thinking()
                thinking.signature = _text(block.signature)
                self._think(thinking, _text(block.thinking))
            case "redacted_thinking":
                self._keep({"type": "redacted_thinking", "data": _text(block.data)})
            case "tool_use":
                call = self._open[index] = _Call(_text(block.id), _text(block.name), block.input)
                self._calls.append(call)
                if len(self._calls) > MAX_CALLS:
                    self._fail(self._failures.malformed(f"it has more than {MAX_CALLS} tool calls"))

    def _take_delta(self, index: int, delta: _Delta) -> None:
        if delta.type == "text_delta":
            self._say(TextPart, _text(delta.text))
            return
        block = self._open.get(index)
        match delta.type, block:
            case "input_json_delta", _Call():
                block.take(_text(delta.partial_json))
            case "thinking_delta", _Thinking():
                self._think(block, _text(delta.thinking))
            case "signature_delta", _Thinking():
                block.signature = _text(delta.signature)

    def _close(self, index: int) -> None:
        block = self._open.pop(index, None)
        if isinstance(block, _Thinking) and block.signature:
            text = joined_halves("".join(block.pieces))
            self._keep({"type": "thinking", "thinking": text, "signature": block.signature})

    def _think(self, block: _Thinking, text: str) -> None:
        block.pieces.append(text)
        self._say(ReasoningPart, text)

    def _say(self, part: type[TextPart] | type[ReasoningPart], text: str) -> None:
        if "\0" in text:
            text = clean_text(text)
        if text:
            self._batch.append(part(text))

    def _keep(self, block: dict[str, str]) -> None:
        data = msgspec.json.encode(block).decode()
        self._batch.append(ReasoningBlockPart(ReasoningBlock(PROVIDER, data)))

    def _count(self, usage: Any) -> None:
        """Take counts of tokens; what is absent keeps its count."""
        if isinstance(usage, dict):
            found = {name: usage.get(name) for name in _COUNTS}
            self._counts |= {name: n for name, n in found.items() if isinstance(n, int)}

    def _usage(self) -> Usage | None:
        if not self._counts:
            return None
        asked = sum(self._counts.get(name, 0) for name in _COUNTS[:3])
        answered = self._counts.get("output_tokens", 0)
        return Usage(asked, answered, asked + answered)


def _text(value: Any) -> str:
    """Return a field's text, which is empty where the field is absent.

    Raises:
        ValueError: it is no text.
    """
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError("a field that is no text")


def _without_halves(value: Any) -> Any:
    """Return JSON with its half characters replaced by U+FFFD."""
    return json.loads(joined_halves(json.dumps(value, ensure_ascii=False)))
