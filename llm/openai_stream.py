"""The bytes of a chat completion become reply parts, without I/O.

The wire is OpenAI's (API reference, "Chat completion chunk"), and what others make of it:

* A reply is complete when a `finish_reason` has come. Several servers end a good answer with
  `[DONE]` alone (vllm-mlx, gateways before Gemini): with text or whole calls it is complete. A
  stream that just ends was cut off. After it only the usage is still of interest.
* Fragments of a tool call belong together by `index`, or by `id` where a server sends no index
  or the same one for all. A call without an id, or with the id of another call, gets one.
* Servers send arguments in pieces, as one piece, or as an object; a name whole, in pieces, or
  again with every fragment.
* Content is text or a list of parts, some of them reasoning (`llm.openai_chunks`); it may begin
  with reasoning in tags (`llm.think`).
* A character outside the basic plane may come as two escaped halves in two chunks; halves of
  one kind of text are joined, and one that stays alone becomes U+FFFD.
* A server that ignores `stream` answers with one JSON object, which is read as one chunk.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from llm.details import Details
from llm.failures import Failures
from llm.openai_chunks import (
    Choice,
    Chunk,
    Delta,
    Fragment,
    Function,
    decode_chunk,
    decode_odd_chunk,
    reasoning_in,
    texts_in,
    usage_of,
)
from llm.reply import Reason, Reply
from llm.text import whole_text
from llm.think import Piece, TagReader
from llm.tool_calls import GrowingCall, given_back
from messages import REASONING_CHARS, ReasoningBlockPart, ReasoningPart, ReplyPart, TextPart

MAX_BODY_BYTES = 16 * 1024 * 1024

_NO_FUNCTION = Function()


class OpenAIReply(Reply):
    """A reply of an OpenAI-compatible server.

    Args:
        has_tags: it may begin with reasoning in tags.
        keeps_reasoning: reasoning is wanted back also with an answer without calls.
    """

    reasons: ClassVar[Mapping[str, Reason]] = {
        "length": "length",
        "max_tokens": "length",
        "model_length": "length",
        "content_filter": "content_filter",
    }

    def __init__(
        self,
        failures: Failures,
        taken: Iterable[str] = (),
        source: str = "openai",
        *,
        has_tags: bool = True,
        keeps_reasoning: bool = False,
    ) -> None:
        super().__init__(failures, taken, source)
        self._keeps_reasoning = keeps_reasoning
        self._reasoning: list[str] = []
        self._room = REASONING_CHARS
        self._details = Details()
        self._split_events, self._split = self._split, self._split_first
        self._object = bytearray()  # a body that is one JSON object
        self._by_index: dict[Any, GrowingCall] = {}
        self._half: tuple[type[TextPart] | type[ReasoningPart], str] | None = None
        self._tags = TagReader() if has_tags else None  # while tags are possible
        self._has_text = False
        self._counts: Any = None  # the usage as it came
        self._complaint: Any = None  # what is no chunk, and may say why nothing follows

    def end(self) -> list[ReplyPart]:
        if not self._object or self.is_over:
            return super().end()
        self._split = lambda data: [data]  # what has come is one event
        parts = self.feed(bytes(self._object))
        if self._complaint is None:
            self._reason = self._reason or "stop"  # a whole object is a whole reply
        return [*parts, *super().end()]

    def _split_first(self, data: bytes) -> list[bytes]:
        """Tell events from one JSON object by the first byte that is not blank."""
        data = data.lstrip()
        if not data:
            return []
        is_json = data.startswith((b"{", b"["))
        self._split = self._split_object if is_json else self._split_events
        return self._split(data)

    def _split_object(self, data: bytes) -> list[bytes]:
        self._object += data
        if len(self._object) > MAX_BODY_BYTES:
            self._fail(self._failures.malformed("it is too large"))
        return []

    def _finish(self) -> None:
        if not self.is_over:
            self._flush_tags()
            self._flush_half()
            self._usage = usage_of(self._counts)
            if self._reason is None and self._complaint is not None:
                self._fail(self._failures.sent(self._complaint))
        super()._finish()

    def _take_event(self, event: bytes) -> None:
        try:
            chunk = decode_chunk(event)
        except (ValueError, RecursionError):
            self._take_odd_event(event.strip())
        else:
            self._take_chunk(chunk)

    def _take_odd_event(self, event: bytes) -> None:
        """Take what the strict decoder refuses: the end, a ping, half a character, nonsense."""
        if event == b"[DONE]":
            self._flush_tags()
            if self._reason is None and self._is_an_answer():
                self._reason = "stop"
            self._finish()
        elif event:
            self._take_chunk(decode_odd_chunk(event), is_odd=True)

    def _is_an_answer(self) -> bool:
        return bool(self._has_text or self._calls) and all(call.is_whole for call in self._calls)

    def _take_chunk(self, chunk: Chunk, is_odd: bool = False) -> None:
        for choice in chunk.choices or ():
            if not choice.index or choice.index == "0":  # only one is asked for
                self._take_choice(choice, is_odd)
        if chunk.usage:
            self._counts = chunk.usage
        if chunk.error or chunk.object == "error" or self._reason == "error":
            self._fail(self._failures.sent(_said(chunk)))
        elif chunk.choices is None and (chunk.message or chunk.detail):
            self._complaint = _said(chunk)

    def _take_choice(self, choice: Choice, is_odd: bool) -> None:
        if delta := choice.delta or choice.message:
            self._take_delta(delta, is_odd)
        if (reason := choice.finish_reason) and isinstance(reason, str):
            self._reason = reason

    def _take_delta(self, delta: Delta, is_odd: bool) -> None:
        if delta.reasoning_content or delta.reasoning:
            self._take_reasoning(delta, is_odd)
        if delta.reasoning_details:
            self._details.take(delta.reasoning_details)
        if delta.content:
            self._take_content(delta.content, is_odd)
        if delta.refusal and isinstance(delta.refusal, str):
            self._take_text(TextPart, delta.refusal, is_odd)
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                if fragment is not None:
                    self._take_fragment(fragment)

    def _take_reasoning(self, delta: Delta, is_odd: bool) -> None:
        reasoning = reasoning_in(delta.reasoning_content or delta.reasoning)
        self._take_text(ReasoningPart, reasoning, is_odd)
        # Under its other name it comes from a gateway, or from a server that wants none of it.
        if (delta.reasoning_content or self._keeps_reasoning) and self._room > 0:
            self._reasoning.append(reasoning[: self._room])
            self._room -= len(reasoning)

    def _take_content(self, content: str | list[Any], is_odd: bool) -> None:
        texts = ((content, False),) if isinstance(content, str) else texts_in(content)
        for text, is_reasoning in texts:
            if is_reasoning:
                self._take_text(ReasoningPart, text, is_odd)
            elif self._tags is None:
                self._take_text(TextPart, text, is_odd)
            else:
                self._take_tagged(self._tags, text, is_odd)

    def _take_tagged(self, tags: TagReader, text: str, is_odd: bool) -> None:
        """Take a text in which a tag may begin or end."""
        if tags.is_reasoning(text):
            self._take_text(ReasoningPart, text, is_odd)
            return
        self._take_pieces(tags.feed(text), is_odd)
        if tags.is_done:
            self._tags = None

    def _take_pieces(self, pieces: Iterable[Piece], is_odd: bool) -> None:
        for text, is_reasoning in pieces:
            self._take_text(ReasoningPart if is_reasoning else TextPart, text, is_odd)

    def _flush_tags(self) -> None:
        if self._tags is not None:
            tags, self._tags = self._tags, None
            self._take_pieces(tags.end(), is_odd=True)

    def _take_text(
        self, part: type[TextPart] | type[ReasoningPart], text: str, is_odd: bool
    ) -> None:
        if is_odd or self._half is not None or "\0" in text:
            text = self._whole_characters(part, text)
        if text:
            self._batch.append(part(text))
            if part is TextPart:
                self._has_text = True

    def _given_back(self) -> list[ReplyPart]:
        if not self._calls and not self._keeps_reasoning:
            return []
        members: dict[str, Any] = {
            "reasoning_content": whole_text("".join(self._reasoning)),
            "reasoning_details": self._details.whole(),
        }
        blocks = [given_back(self._source, {name: it}) for name, it in members.items() if it]
        return [ReasoningBlockPart(block) for block in blocks if block is not None]

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

    def _take_fragment(self, fragment: Fragment) -> None:
        function = fragment.function or _NO_FUNCTION
        if type(fragment.index) is not int or fragment.id is not None:
            _tidy(fragment)
        call = self._call_of(fragment)
        if call is None or _begins_another(call, fragment.id, function):
            call = self._new_call(fragment)
        call.id = call.id or fragment.id or ""
        call.extra_content = fragment.extra_content or call.extra_content
        _take_function(call, function)

    def _new_call(self, fragment: Fragment) -> GrowingCall:
        call = GrowingCall(fragment.id or "")
        self._begin_call(call)
        if fragment.index is not None:
            self._by_index[fragment.index] = call
        return call

    def _call_of(self, fragment: Fragment) -> GrowingCall | None:
        """Return the call that the fragment seems to go on with."""
        if fragment.index is not None:
            return self._by_index.get(fragment.index)
        if fragment.id:
            return next((call for call in self._calls if call.id == fragment.id), None)
        return self._calls[-1] if self._calls else None


def _take_function(call: GrowingCall, function: Function) -> None:
    name, arguments = function.name, function.arguments
    if name and not call.pieces and name != call.name:
        call.name += name
    if arguments is not None:
        call.take(arguments if isinstance(arguments, str) else json.dumps(arguments))


def _begins_another(call: GrowingCall, id: str | None, function: Function) -> bool:
    """Tell whether a fragment with the place of `call` is the first one of another call.

    It is when it has another id; or, from a server that sends no ids, a name and arguments
    although those of `call` are whole.
    """
    if id:
        return bool(call.id) and id != call.id
    return bool(function.name and function.arguments and call.name and call.has_whole_arguments())


def _tidy(fragment: Fragment) -> None:
    """Make of the id and the index what they are here: a text, and a number or text."""
    if fragment.id is not None and not isinstance(fragment.id, str):
        fragment.id = str(fragment.id) if fragment.id else None
    if not isinstance(fragment.index, (int, float, str)):
        fragment.index = None


def _said(chunk: Chunk) -> Any:
    """Return the error that an event tells."""
    if chunk.error:
        return chunk.error
    return {
        "message": chunk.message or chunk.detail,
        "type": chunk.type,
        "code": chunk.code,
    }
