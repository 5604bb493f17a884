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
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from events import Usage
from llm.failures import Failures
from llm.reply import Reason, Reply
from llm.text import join_surrogates
from llm.tool_calls import GrowingCall, given_back
from messages import MAX_REASONING_BYTES, ReasoningBlockPart, ReasoningPart, TextPart, clean_text

PROVIDER = "anthropic"
"""The name of the provider, and of the reasoning that only it can read."""

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
    __slots__ = ("pieces", "signature")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.signature = ""


class AnthropicReply(Reply):
    reasons: ClassVar[Mapping[str, Reason]] = {
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "refusal": "content_filter",
    }

    def __init__(
        self, failures: Failures, taken: Iterable[str] = (), source: str = PROVIDER
    ) -> None:
        super().__init__(failures, taken, source)
        self._open: dict[int, GrowingCall | _Thinking] = {}
        self._counts: dict[str, int] = {}
        self._room = MAX_REASONING_BYTES  # of all blocks of the message together

    def _take_event(self, event: bytes) -> None:
        try:
            self._take(_decode(event))
        except (ValueError, RecursionError):
            self._take_odd(event)

    def _take_odd(self, event: bytes) -> None:
        """Take what the strict decoder refuses: an unknown event, half a character, nonsense."""
        if not event.strip():
            return
        wanted = json.loads(event.decode(errors="replace"))
        if isinstance(wanted, dict) and wanted.get("type") not in _EVENTS:
            return
        whole = json.loads(join_surrogates(json.dumps(wanted, ensure_ascii=False)))
        self._take(msgspec.convert(whole, _Event, strict=False))

    def _take(self, event: _Event) -> None:
        """Take an event; raises `ValueError` where a field has another type than it should."""
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
                arguments = json.dumps(block.input or {})
                call = GrowingCall(_text(block.id), _text(block.name), arguments)
                self._open[index] = call
                self._begin_call(call)

    def _take_delta(self, index: int, delta: _Delta) -> None:
        if delta.type == "text_delta":
            self._say(TextPart, _text(delta.text))
            return
        block = self._open.get(index)
        match delta.type, block:
            case "input_json_delta", GrowingCall():
                block.take(_text(delta.partial_json))
            case "thinking_delta", _Thinking():
                self._think(block, _text(delta.thinking))
            case "signature_delta", _Thinking():
                block.signature = _text(delta.signature)

    def _close(self, index: int) -> None:
        block = self._open.pop(index, None)
        if isinstance(block, _Thinking) and block.signature:
            text = join_surrogates("".join(block.pieces))
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
        kept = given_back(self._source, block)
        self._room -= len(kept.data) if kept else MAX_REASONING_BYTES
        if kept is not None and self._room >= 0:
            self._batch.append(ReasoningBlockPart(kept))

    def _count(self, usage: Any) -> None:
        """Take counts of tokens; what is absent keeps its count."""
        if not isinstance(usage, dict):
            return
        found = {name: usage.get(name) for name in _COUNTS}
        self._counts |= {name: n for name, n in found.items() if isinstance(n, int)}
        if self._counts:
            asked = sum(self._counts.get(name, 0) for name in _COUNTS[:3])
            answered = self._counts.get("output_tokens", 0)
            self._usage = Usage(asked, answered, asked + answered)


def _text(value: Any) -> str:
    """Return a field's text, empty where it is absent; raises `ValueError` where it is no text."""
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError("a field that is no text")
