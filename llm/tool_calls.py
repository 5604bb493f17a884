"""Tool calls, as they come from a model in fragments and as they go back to it in a history."""

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from events import ReasoningBlock
from llm.text import encode_json, join_surrogates, whole_text
from messages import (
    MAX_REASONING_BYTES,
    AssistantMessage,
    Message,
    ToolCall,
    ToolCallPart,
    new_id,
)
from models import is_deep

MAX_CALLS = 128
"""How many calls a reply may have."""
MAX_ARGUMENT_BYTES = 262_144
"""The bound on one call's arguments; of larger ones `KEPT_CHARS` characters are kept."""
KEPT_CHARS = 2_000
MAX_DEPTH = 64
"""How deep a call's arguments may be nested for servers to read them."""

_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class GrowingCall:
    """A call whose fragments are still coming.

    Args:
        id: the server's; empty where it has sent none.
        name: what is known of it.
        arguments: JSON that holds where no fragment of it comes.

    Attributes:
        extra_content: what the server wants back with the call.
    """

    __slots__ = ("_default", "_size", "extra_content", "id", "is_truncated", "name", "pieces")

    def __init__(self, id: str, name: str = "", arguments: str = "{}") -> None:
        self.id = id
        self.name = name
        self.pieces: list[str] = []
        self.is_truncated = False
        self.extra_content: Any = None
        self._default = arguments
        self._size = 0

    def take(self, piece: str) -> None:
        if self.is_truncated or not piece:
            return
        self.pieces.append(piece)
        self._size += len(piece) if piece.isascii() else len(piece.encode(errors="replace"))
        if self._size > MAX_ARGUMENT_BYTES:
            self.pieces = ["".join(self.pieces)[:KEPT_CHARS]]
            self.is_truncated = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, as far as one can see."""
        return bool(self.name) and (
            self.is_truncated or not self.pieces or self.has_whole_arguments()
        )

    def has_whole_arguments(self) -> bool:
        return _is_object("".join(self.pieces))

    def finished(self, taken: set[str], source: str) -> ToolCallPart:
        """Return the whole call of a server, under an id that is not `taken`, and take its id."""
        id = whole_text(self.id)
        if not id or id in taken:
            id = new_id("call")
        taken.add(id)
        arguments = whole_text("".join(self.pieces))
        call = ToolCall(
            id,
            whole_text(self.name),
            arguments if arguments.strip() else self._default,
            self._reasoning(source),
        )
        return ToolCallPart(call, self.is_truncated)

    def _reasoning(self, source: str) -> ReasoningBlock | None:
        if not self.extra_content:
            return None
        return given_back(source, {"extra_content": self.extra_content})


def given_back(source: str, members: dict[str, Any]) -> ReasoningBlock | None:
    """Return what a server wants back; None where it is more than is kept."""
    data = encode_json(members)
    return ReasoningBlock(source, data.decode()) if len(data) <= MAX_REASONING_BYTES else None


def ids_in(messages: Iterable[Message]) -> set[str]:
    return {
        call.id
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    }


def sendable_name(name: str, max_length: int) -> str:
    """Return a tool's name in the alphabet that OpenAI and Anthropic accept."""
    return _NOT_NAME.sub("_", name)[:max_length] or "unknown"


def sendable_arguments(text: str) -> str:
    """Return a call's arguments as a JSON object, for servers that refuse everything else."""
    if _is_object(text, MAX_DEPTH):
        return text
    kept = join_surrogates(text[:KEPT_CHARS])
    return json.dumps({"_invalid_arguments": kept}, ensure_ascii=False)


def _is_object(text: str, max_depth: int | None = None) -> bool:
    try:
        decoded = msgspec.json.decode(text)
        return isinstance(decoded, dict) and not (max_depth and is_deep(decoded, max_depth))
    except (ValueError, RecursionError):
        return False
