"""What the model's provider wants back, as clients of OpenAI's protocols get it and send it again.

In a chat completion it has the names under which clients know it already: `reasoning_content` of a
message (DeepSeek), its `reasoning_details` (OpenRouter) and `thinking_blocks` (LiteLLM, for
Anthropic), `extra_content` of a call (Gemini's compatible endpoint). The first call's says in
`parley` which server it came from. A client that leaves that out leaves it to the model's dialect
whether it goes back.

In a response it is the `encrypted_content` of an item of reasoning, which no client looks into.

What a client sends is checked, so that nothing else gets into a request with it.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from events import ChatComplete, ReasoningBlock, RequestedCall
from messages import MAX_REASONING_BYTES

OPENAI, ANTHROPIC = "openai", "anthropic"
"""The kinds of servers."""

_MARK = "parley"
_SOURCE = re.compile(f"({OPENAI}|{ANTHROPIC})(:[0-9a-f]{{16}})?")


class _Thinking(msgspec.Struct, forbid_unknown_fields=True, tag="thinking"):
    thinking: str
    signature: str


class _Redacted(msgspec.Struct, forbid_unknown_fields=True, tag="redacted_thinking"):
    data: str


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What belongs to the calls of one message. `calls`: what belongs to one, by its id."""

    message: tuple[ReasoningBlock, ...] = ()
    calls: dict[str, ReasoningBlock] = {}


_encode = msgspec.json.Encoder().encode
_sealed = msgspec.json.Decoder(Sealed).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_block = msgspec.json.Decoder(_Thinking | _Redacted).decode


def given(done: ChatComplete) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a message has beside its `reasoning_content`, and what each of its calls has."""
    told = [(block.kind, _object(block.data)) for block in done.reasoning]
    thinking = [data for kind, data in told if kind == ANTHROPIC]
    message = {"thinking_blocks": thinking} if thinking else {}
    for kind, data in told:
        if kind == OPENAI and "reasoning_details" in data:
            message["reasoning_details"] = data["reasoning_details"]
    calls = [_members(call) for call in done.tool_calls]
    blocks = [*done.reasoning, *(call.reasoning for call in done.tool_calls if call.reasoning)]
    if blocks and calls:
        calls[0].setdefault("extra_content", {})[_MARK] = {"provider": blocks[0].provider}
    return message, calls


def _members(call: RequestedCall) -> dict[str, Any]:
    found = _object(call.reasoning.data) if call.reasoning else {}
    return {name: found[name] for name in ("extra_content",) if name in found}


def source_in(extra_contents: Iterable[Mapping[str, Any] | None]) -> str:
    """Return the server that calls say they came from; empty where they say nothing."""
    for extra in extra_contents:
        mark = (extra or {}).get(_MARK)
        source = mark.get("provider") if isinstance(mark, dict) else None
        if isinstance(source, str) and _SOURCE.fullmatch(source):
            return source
    return ""


def unmarked(extra_content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra_content.items() if name != _MARK}


def block_of(kind: str, members: Mapping[str, Any], source: str = "") -> ReasoningBlock:
    """Return what a client sent.

    Args:
        source: the server that it says it came from.

    Raises:
        ValueError: it is none, or larger than any that was given.
    """
    of_kind = source.partition(":")[0] == kind
    block = ReasoningBlock(source if of_kind else kind, _encode(members).decode())
    _check(block)
    return block


def seal(done: ChatComplete) -> str | None:
    """Return what the provider wants back with a run's calls, as one text."""
    calls = {call.id: call.reasoning for call in done.tool_calls if call.reasoning is not None}
    if not calls and not done.reasoning:
        return None
    return urlsafe_b64encode(_encode(Sealed(done.reasoning, calls))).decode()


def unseal(text: str) -> Sealed:
    """Return what was sealed; nothing where another server, or the client, has made the text."""
    try:
        sealed = _sealed(urlsafe_b64decode(text))
        for block in (*sealed.message, *sealed.calls.values()):
            _check(block)
    except (ValueError, RecursionError):
        return Sealed()
    return sealed


def _check(block: ReasoningBlock) -> None:
    if len(block.data.encode()) > MAX_REASONING_BYTES:
        raise ValueError(f"May have at most {MAX_REASONING_BYTES} bytes.")
    if block.kind == ANTHROPIC:
        _block(block.data)
    else:
        _object(block.data)
