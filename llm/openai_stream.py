"""The bytes of a chat completion become reply parts, without I/O.

The wire is OpenAI's (API reference, "Chat completion chunk"), and what others make of it:

* A reply is complete when a `finish_reason` has come. A stream that ends without one, `[DONE]`
  or not, was cut off. After it only the usage is still of interest.
* Fragments of a tool call belong together by `index`, or by `id` where a server sends no index
  or the same one for all. A call without an id, or with the id of another call, gets one.
* Servers send arguments in pieces, as one piece, or as an object; a name whole, in pieces, or
  again with every fragment.
* A character outside the basic plane may come as two escaped halves in two chunks; halves of
  one kind of text are joined, and one that stays alone becomes U+FFFD.
* A server that ignores `stream` answers with one JSON object, which is read as one chunk.
"""

import json
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from errors import UpstreamError
from events import Usage
from llm.openai_errors import Failures
from messages import (
    EndPart,
    ReasoningPart,
    ReplyPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    clean_text,
    new_id,
)
from sse import Decoder, FrameTooLarge

MAX_ARGUMENT_BYTES = 262_144
KEPT_CHARS = 2_000
MAX_CALLS = 128
MAX_BODY_BYTES = 16 * 1024 * 1024

Reason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]

_REASONS: dict[str, Reason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
}
"""Reasons by their wire names; every other one is a plain stop, or that of the tool calls."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Fragment(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Fragment] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    type: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Reply:
    """One reply as it arrives. Feed it bytes until it `is_over`.

    Args:
        failures: makes the errors.
        taken: ids of calls that exist already; a new call never gets one of them.

    Attributes:
        failure: what broke the reply; raise it after the parts that came before it.
        is_over: nothing more is expected.
    """

    def __init__(self, failures: Failures, taken: Iterable[str] = ()) -> None:
        self.failure: UpstreamError | None = None
        self.is_over = False
        self._failures = failures
        self._taken = set(taken)
        self._decoder = Decoder()
        self._object: bytearray | None = None  # a body that is one JSON object
        self._has_begun = False
        self._batch: list[ReplyPart] = []
        self._calls = _Calls()
        self._half: tuple[type[TextPart] | type[ReasoningPart], str] | None = None
        self._reason: str | None = None
        self._usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the model has said that it is done; a break no longer matters."""
        return self._reason is not None

    def feed(self, data: bytes) -> list[ReplyPart]:
        """Return the parts that `data` completes; often none."""
        if not self._has_begun:
            data = self._begun(data)
        if self._object is not None:
            self._object += data
            if len(self._object) > MAX_BODY_BYTES:
                self._fail(self._failures.malformed("it is too large"))
            return []
        try:
            events = self._decoder.feed(data)
        except FrameTooLarge:
            self._fail(self._failures.malformed("an event is too large"))
            return []
        for event in events:
            self._take_event(event)
            if self.is_over:
                break
        return self._taken_batch()

    def end(self) -> list[ReplyPart]:
        """Return the last parts, the stream being at its end."""
        if self._object is not None and not self.is_over:
            self._take_event(bytes(self._object))
            if self._reason is None:
                self._reason = "stop"  # a whole object is a whole reply
        self._finish()
        return self._taken_batch()

    def _begun(self, data: bytes) -> bytes:
        data = data.lstrip()
        self._has_begun = bool(data)
        if data.startswith(b"{"):
            self._object = bytearray()
        return data

    def _taken_batch(self) -> list[ReplyPart]:
        batch, self._batch = self._batch, []
        return batch

    def _fail(self, failure: UpstreamError) -> None:
        self.failure = failure
        self.is_over = True

    def _finish(self) -> None:
        if self.is_over:
            return
        self._flush_half()
        if self._reason is None:
            self._fail(self._failures.truncated())
            return
        self.is_over = True
        calls = self._calls.assembled(self._taken)
        self._batch.extend(calls)
        reason = _REASONS.get(self._reason, "tool_calls" if calls else "stop")
        self._batch.append(EndPart(reason, self._usage))

    def _take_event(self, event: bytes) -> None:
        try:
            chunk = _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._take_odd_event(event)
        else:
            self._take_chunk(chunk)

    def _take_odd_event(self, event: bytes) -> None:
        """Take what the strict decoder refuses: the end, a ping, half a character, nonsense."""
        event = event.strip()
        if event == b"[DONE]":
            self._finish()
        elif event:
            try:
                wanted = json.loads(event.decode(errors="replace"))
                chunk = msgspec.convert(wanted, _Chunk, strict=False)
            except (ValueError, RecursionError):
                self._fail(self._failures.malformed("a chunk is not valid JSON of its type"))
            else:
                self._take_chunk(chunk, is_odd=True)

    def _take_chunk(self, chunk: _Chunk, is_odd: bool = False) -> None:
        for choice in chunk.choices or ():
            if choice.index:
                continue  # only one choice is asked for
            if delta := choice.delta or choice.message:
                self._take_delta(delta, is_odd)
            if choice.finish_reason:
                self._reason = choice.finish_reason
        if chunk.usage is not None:
            self._usage = _counted(chunk.usage)
        if chunk.error or chunk.object == "error" or self._reason == "error":
            said = chunk.error or {"message": chunk.message, "type": chunk.type, "code": chunk.code}
            self._fail(self._failures.sent(said))

    def _take_delta(self, delta: _Delta, is_odd: bool) -> None:
        if reasoning := delta.reasoning_content or delta.reasoning:
            self._take_text(ReasoningPart, reasoning, is_odd)
        if content := delta.content:
            text = content if isinstance(content, str) else _text_of(content)
            self._take_text(TextPart, text, is_odd)
        if delta.refusal:
            self._take_text(TextPart, delta.refusal, is_odd)
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                self._calls.take(fragment)
            if len(self._calls) > MAX_CALLS:
                self._fail(self._failures.malformed(f"it has more than {MAX_CALLS} tool calls"))

    def _take_text(
        self, part: type[TextPart] | type[ReasoningPart], text: str, is_odd: bool
    ) -> None:
        if is_odd or self._half is not None or "\0" in text:
            text = self._whole_characters(part, text)
        if text:
            self._batch.append(part(text))

    def _whole_characters(self, part: type[TextPart] | type[ReasoningPart], text: str) -> str:
        """Return `text` with halves joined; one at its end is kept for the next piece."""
        if self._half is not None:
            kind, half = self._half
            if kind is part:
                text = half + text
                self._half = None
            else:
                self._flush_half()
        if "\ud800" <= text[-1:] <= "\udbff":
            self._half = (part, text[-1])
            text = text[:-1]
        return clean_text(joined_halves(text))

    def _flush_half(self) -> None:
        if self._half is not None:
            kind, _ = self._half
            self._half = None
            self._batch.append(kind("\ufffd"))


class _Call:
    """A tool call as it grows."""

    __slots__ = ("id", "is_truncated", "name", "pieces", "size")

    def __init__(self, id: str) -> None:
        self.id = id
        self.name = ""
        self.pieces: list[str] = []
        self.size = 0
        self.is_truncated = False

    def take(self, function: _Function, repeats_name: bool) -> None:
        """Add a fragment; `repeats_name`: this server sends the name again and again."""
        name = function.name or ""
        if not self.pieces and not (repeats_name and name == self.name):
            self.name += name
        piece = function.arguments
        if piece is None or self.is_truncated:
            return
        if not isinstance(piece, str):
            piece = json.dumps(piece)
        if piece:
            self.pieces.append(piece)
            self.size += len(piece) if piece.isascii() else len(piece.encode(errors="replace"))
        if self.size > MAX_ARGUMENT_BYTES:
            self.pieces = ["".join(self.pieces)[:KEPT_CHARS]]
            self.is_truncated = True

    def has_whole_arguments(self) -> bool:
        try:
            return isinstance(msgspec.json.decode("".join(self.pieces)), dict)
        except (ValueError, RecursionError):
            return False


class _Calls:
    """The tool calls of one reply, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, fragment: _Fragment) -> None:
        """Add a fragment to its call, or begin one."""
        function = fragment.function or _Function()
        call = self._begun_by(fragment)
        if call is None or _begins_another(call, fragment.id or "", function):
            call = _Call(fragment.id or "")
            self._calls.append(call)
            if fragment.index is not None:
                self._by_index[fragment.index] = call
        call.id = call.id or fragment.id or ""
        call.take(function, repeats_name=bool(call.name))

    def _begun_by(self, fragment: _Fragment) -> _Call | None:
        """Return the call that the fragment seems to go on with."""
        if fragment.index is not None:
            return self._by_index.get(fragment.index)
        if fragment.id:
            return next((call for call in self._calls if call.id == fragment.id), None)
        return self._calls[-1] if self._calls else None

    def assembled(self, taken: set[str]) -> list[ToolCallPart]:
        """Return the whole calls, each under an id of its own."""
        parts = []
        for call in self._calls:
            id = clean_text(joined_halves(call.id))
            if not id or id in taken:
                id = new_id("call")
            taken.add(id)
            arguments = clean_text(joined_halves("".join(call.pieces)))
            name = clean_text(joined_halves(call.name))
            whole = ToolCall(id, name, arguments if arguments.strip() else "{}")
            parts.append(ToolCallPart(whole, call.is_truncated))
        return parts


def _begins_another(call: _Call, id: str, function: _Function) -> bool:
    """Tell whether a fragment with the place of `call` is the first one of another call.

    It is when it has another id; or, from a server that sends no ids, a name and arguments
    although those of `call` are whole.
    """
    if id and call.id:
        return id != call.id
    return bool(
        not id and function.name and function.arguments and call.name and call.has_whole_arguments()
    )


def joined_halves(text: str) -> str:
    """Return `text` with halves of a surrogate pair joined; a lone one becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text_of(content: list[Any]) -> str:
    """Return the text of a content that is a list of typed parts."""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _counted(usage: _Usage) -> Usage:
    asked, answered = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(asked, answered, usage.total_tokens or asked + answered)
