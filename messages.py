"""Messages and the parts of a reply, as frozen values that belong to no provider.

A conversation is a sequence of `Message`s. What a provider streams becomes `ReplyPart`s.
"""

import re
import secrets
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from events import ReasoningBlock, Usage

MAX_REASONING_BYTES = 262_144
"""The bound on what a message or a call has to give back; more is not kept, or, as text, cut."""

REASONING_CHARS = MAX_REASONING_BYTES // 6 - 16
"""How much of a text of reasoning is kept: a character is at most six bytes of JSON."""

_SLICE = 65_536  # characters that one call into the regular expression engine looks at

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def new_id(prefix: str) -> str:
    """Return `<prefix>_` and 24 random hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def is_text(text: str) -> bool:
    """Tell whether every store and every wire can carry a text: no NUL, no lone surrogate."""
    return _NOT_TEXT.search(text) is None


def clean_text(text: str) -> str:
    """Return `text` with U+FFFD in the place of NUL and lone surrogates."""
    if len(text) <= _SLICE:
        return _NOT_TEXT.sub("\ufffd", text)
    slices = range(0, len(text), _SLICE)
    return "".join(_NOT_TEXT.sub("\ufffd", text[start : start + _SLICE]) for start in slices)


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that the model asked for. `arguments` is JSON text, not necessarily valid.

    `reasoning`: what the provider wants back with the call.
    """

    id: str
    name: str
    arguments: str
    reasoning: ReasoningBlock | None = None


class SystemMessage(msgspec.Struct, frozen=True, tag="system", tag_field="role"):
    content: str


class TextContent(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ImageContent(msgspec.Struct, frozen=True, tag="image", omit_defaults=True):
    """A picture, at an address or in the `url` itself (`data:image/…;base64,…`).

    `detail` is how closely the model is to look, in OpenAI's words.
    """

    url: str
    detail: str | None = None


Content: TypeAlias = TextContent | ImageContent


class UserMessage(msgspec.Struct, frozen=True, tag="user", tag_field="role", omit_defaults=True):
    """What the user said. `parts`: all of it, where it is more than the text `content`.

    `name` distinguishes several who speak as the user.
    """

    content: str
    parts: tuple[Content, ...] = ()
    name: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, tag="assistant", tag_field="role"):
    """What the model said in one turn, and the calls that it asked for."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: tuple[ReasoningBlock, ...] = ()


class ToolMessage(msgspec.Struct, frozen=True, tag="tool", tag_field="role", omit_defaults=True):
    """The result of one call, as text for the model. `is_error`: the text says what failed.

    `successor`: the agent to which the call handed the conversation over. `started_at` and
    `duration_ms`, in milliseconds: of a call that was executed.
    """

    tool_call_id: str
    name: str
    content: str
    is_error: bool = False
    successor: str | None = None
    started_at: datetime | None = None
    duration_ms: float = 0.0


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class ToolSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool as the model gets to know it. `parameters` is a JSON Schema of type object.

    `strict`: whether the provider is to hold the model to it, where it can.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None


class OutputSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form that an answer has to have. `schema` is a JSON Schema of type object.

    Without one, any JSON object will do. `strict`: whether the provider is to enforce it, where
    it can; None: as it does by itself.
    """

    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


ToolChoice: TypeAlias = Literal["auto", "none", "required"]


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the model is to answer; what is None is as the agent or the provider has it.

    Args:
        temperature, top_p: as the provider understands them.
        max_tokens: of one reply.
        stop: texts before which a reply ends.
        seed: for providers that can repeat an answer.
        output: the form of the answer.
        tool_choice: whether it may, must not or must call a tool.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    output: OutputSchema | None = None
    tool_choice: ToolChoice = "auto"


AS_CONFIGURED = ModelOptions()


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question to a model: everything a provider needs to answer it.

    `fallbacks` are asked in their order while the one before has streamed nothing and failed.

    Args:
        demanded: what the client itself asked for, by the names of `ModelOptions`, and `tools`
            and `parallel_tools`: where the model does not take it, the request fails.
        dialect: what is set of the model's dialect, by the names of `llm.dialects.Dialect`.
        conversation: its id; empty where there is none.
    """

    model: str
    fallbacks: tuple[str, ...] = ()
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    parallel_tools: bool = True
    options: ModelOptions = AS_CONFIGURED
    demanded: frozenset[str] = frozenset()
    dialect: dict[str, Any] = {}
    conversation: str = ""


# What a provider's stream becomes.


class TextPart(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer, never empty."""

    content: str


class ReasoningPart(msgspec.Struct, frozen=True, gc=False):
    """A piece of the model's reasoning, never empty."""

    content: str


class ToolCallPart(msgspec.Struct, frozen=True):
    """One whole call, its fragments assembled. `truncated`: the arguments exceeded the limit."""

    call: ToolCall
    truncated: bool = False


class ReasoningBlockPart(msgspec.Struct, frozen=True):
    """Reasoning to keep with the message, of which `ReasoningPart`s may have had the text."""

    block: ReasoningBlock


class EndPart(msgspec.Struct, frozen=True):
    """The reply is complete; exactly one, last. A stream that breaks raises instead."""

    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]
    usage: Usage | None = None


ReplyPart: TypeAlias = TextPart | ReasoningPart | ReasoningBlockPart | ToolCallPart | EndPart
