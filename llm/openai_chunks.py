"""A chunk of a chat completion as a small struct, decoded strictly where that is needed.

What an answer is made of has its type: choices, deltas, contents, calls. All else may be anything,
and is looked at where it is used: servers send `usage: []`, `refusal: false`, ids that are
numbers. A chunk that does not fit is read once more without its empty members, as many mean
`null` by them.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from events import Usage

MAX_TOKENS = 2**53
"""Larger counts are nonsense, and no number to JavaScript."""


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class Fragment(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: Function | None = None
    extra_content: Any = None


class Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: list[Fragment | None] | None = None


class Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None
    type: Any = None
    code: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""Raises `ValueError` for what is not JSON or does not fit, and `RecursionError`."""


def decode_odd_chunk(event: bytes) -> Chunk:
    """Return a chunk that `decode_chunk` refuses, raising the same."""
    wanted = json.loads(event.decode(errors="replace"))
    if isinstance(wanted, list) and wanted:
        wanted = wanted[0]  # Google's errors
    return msgspec.convert(_without_empty(wanted), Chunk, strict=False)


def _without_empty(value: Any) -> Any:
    """Return JSON without the members that are `false`, or empty lists and objects."""
    if isinstance(value, dict):
        return {
            name: _without_empty(each)
            for name, each in value.items()
            if each is not False and each != [] and each != {}
        }
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


def usage_of(counts: Any) -> Usage | None:
    """Return the usage that a server tells, or None where it is none."""
    if not isinstance(counts, dict):
        return None
    asked, answered = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    total = _count(counts.get("total_tokens"))
    if (asked, answered, total) == (None, None, None):
        return None
    asked, answered = asked or 0, answered or 0
    return Usage(asked, answered, total or asked + answered)


def _count(value: Any) -> int | None:
    try:
        count = int(float(value)) if not isinstance(value, bool | None) else None
    except (TypeError, ValueError, OverflowError):
        return None
    return count if count is None or 0 <= count <= MAX_TOKENS else None


def texts_in(content: Any) -> Iterator[tuple[str, bool]]:
    """Yield the texts of a message's content and whether each is reasoning.

    Content is text, or parts: `text`, `thinking` (Magistral: with a list of texts in it) and
    `reasoning` (Databricks: with a `summary`). A part of another type is left out.
    """
    if isinstance(content, str):
        yield content, False
    elif isinstance(content, list):
        for part in content:
            yield from texts_in(part)
    elif isinstance(content, dict):
        for name in ("thinking", "reasoning", "summary"):
            if inner := content.get(name):
                yield from ((text, True) for text, _ in texts_in(inner))
        if isinstance(text := content.get("text"), str):
            yield text, content.get("type") in ("thinking", "reasoning")


def reasoning_in(value: Any) -> str:
    """Return reasoning as text: it is text, an object with one (Bedrock), or a list of these."""
    return value if isinstance(value, str) else "".join(text for text, _ in texts_in(value))
