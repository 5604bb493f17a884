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
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from events import Usage
from llm.failures import Failures
from llm.reply import Reason, Reply
from llm.text import whole_text
from llm.tool_calls import GrowingCall, given_back
from messages import (
    REASONING_CHARS,
    ReasoningBlockPart,
    ReasoningPart,
    ReplyPart,
    TextPart,
)

MAX_BODY_BYTES = 16 * 1024 * 1024


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Fragment(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


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


_NO_FUNCTION = _Function()

_decode = msgspec.json.Decoder(_Chunk).decode


class OpenAIReply(Reply):
    """See `Reply`.

    Attributes:
        keeps_reasoning: the server wants its reasoning back also with an answer without calls.
    """

    reasons: ClassVar[Mapping[str, Reason]] = {
        "length": "length",
        "max_tokens": "length",
        "model_length": "length",
        "content_filter": "content_filter",
    }

    def __init__(
        self, failures: Failures, taken: Iterable[str] = (), source: str = "openai"
    ) -> None:
        super().__init__(failures, taken, source)
        self.keeps_reasoning = False
        self._reasoning: list[str] = []
        self._room = REASONING_CHARS
        self._split_events, self._split = self._split, self._split_first
        self._object = bytearray()  # a body that is one JSON object
        self._by_index: dict[int, GrowingCall] = {}
        self._half: tuple[type[TextPart] | type[ReasoningPart], str] | None = None

    def end(self) -> list[ReplyPart]:
        if not self._object or self.is_over:
            return super().end()
        self._split = lambda data: [data]  # what has come is one event
        parts = self.feed(bytes(self._object))
        self._reason = self._reason or "stop"  # a whole object is a whole reply
        return [*parts, *super().end()]

    def _split_first(self, data: bytes) -> list[bytes]:
        """Tell events from one JSON object by the first byte that is not blank."""
        data = data.lstrip()
        if not data:
            return []
        self._split = self._split_object if data.startswith(b"{") else self._split_events
        return self._split(data)

    def _split_object(self, data: bytes) -> list[bytes]:
        self._object += data
        if len(self._object) > MAX_BODY_BYTES:
            self._fail(self._failures.malformed("it is too large"))
        return []

    def _finish(self) -> None:
        if not self.is_over:
            self._flush_half()
        super()._finish()

    def _take_event(self, event: bytes) -> None:
        try:
            chunk = _decode(event)
        except (ValueError, RecursionError):
            self._take_odd_event(event.strip())
        else:
            self._take_chunk(chunk)

    def _take_odd_event(self, event: bytes) -> None:
        """Take what the strict decoder refuses: the end, a ping, half a character, nonsense."""
        if event == b"[DONE]":
            self._finish()
        elif event:
            wanted = json.loads(event.decode(errors="replace"))
            self._take_chunk(msgspec.convert(wanted, _Chunk, strict=False), is_odd=True)

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
        if reasoning := delta.reasoning_content:
            self._take_text(ReasoningPart, reasoning, is_odd)
            self._keep(reasoning)
        elif delta.reasoning:
            self._take_text(ReasoningPart, delta.reasoning, is_odd)
        if content := delta.content:
            text = content if isinstance(content, str) else _text_of(content)
            self._take_text(TextPart, text, is_odd)
        if delta.refusal:
            self._take_text(TextPart, delta.refusal, is_odd)
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                self._take_fragment(fragment)

    def _take_text(
        self, part: type[TextPart] | type[ReasoningPart], text: str, is_odd: bool
    ) -> None:
        if is_odd or self._half is not None or "\0" in text:
            text = self._whole_characters(part, text)
        if text:
            self._batch.append(part(text))

    def _keep(self, reasoning: str) -> None:
        if self._room > 0:
            self._reasoning.append(reasoning[: self._room])
            self._room -= len(reasoning)

    def _given_back(self) -> list[ReplyPart]:
        if not self._calls and not self.keeps_reasoning:
            return []
        text = whole_text("".join(self._reasoning))
        block = given_back(self._source, {"reasoning_content": text}) if text else None
        return [] if block is None else [ReasoningBlockPart(block)]

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
        return whole_text(text)

    def _flush_half(self) -> None:
        if self._half is not None:
            kind, _ = self._half
            self._half = None
            self._batch.append(kind("\ufffd"))

    def _take_fragment(self, fragment: _Fragment) -> None:
        function = fragment.function or _NO_FUNCTION
        call = self._call_of(fragment)
        if call is None or _begins_another(call, fragment.id, function):
            call = self._new_call(fragment)
        call.id = call.id or fragment.id or ""
        call.extra_content = fragment.extra_content or call.extra_content
        name, arguments = function.name, function.arguments
        if name and not call.pieces and name != call.name:
            call.name += name
        if arguments is not None:
            call.take(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def _new_call(self, fragment: _Fragment) -> GrowingCall:
        call = GrowingCall(fragment.id or "")
        self._begin_call(call)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        return call

    def _call_of(self, fragment: _Fragment) -> GrowingCall | None:
        """Return the call that the fragment seems to go on with."""
        if fragment.index is not None:
            return self._by_index.get(fragment.index)
        if fragment.id:
            return next((call for call in self._calls if call.id == fragment.id), None)
        return self._calls[-1] if self._calls else None


def _begins_another(call: GrowingCall, id: str | None, function: _Function) -> bool:
    """Tell whether a fragment with the place of `call` is the first one of another call.

    It is when it has another id; or, from a server that sends no ids, a name and arguments
    although those of `call` are whole.
    """
    if id:
        return bool(call.id) and id != call.id
    return bool(function.name and function.arguments and call.name and call.has_whole_arguments())


def _text_of(content: list[Any]) -> str:
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _counted(usage: _Usage) -> Usage:
    asked, answered = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(asked, answered, usage.total_tokens or asked + answered)
