"""OpenAI's messages, tools and options, as this service has them (OpenAI API, "Chat").

Unknown fields are ignored, as OpenAI's own clients expect. Known fields that are not supported are
refused, so that no client relies on them in vain.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, Tag

from api.http.identity import user_named
from api.http.inputs import TEXT_OR_LIST
from errors import Invalid
from events import ReasoningBlock
from messages import (
    REASONING_CHARS,
    AssistantMessage,
    Content,
    ImageContent,
    Message,
    OutputSchema,
    SystemMessage,
    TextContent,
    ToolCall,
    ToolChoice,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from models import TEXT, is_deep
from protocols.reasoning import ANTHROPIC, OPENAI, block_of, source_in, unmarked

TOOL_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
_URL = r"^(https?://|data:image/[a-zA-Z0-9+.-]+;base64,)"

MAX_LEVELS = 32
"""How deep a schema may be nested."""


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("must be JSON in UTF-8") from None
    if b"\\u0000" in encoded:
        raise ValueError("must not contain NUL characters")
    if is_deep(value, MAX_LEVELS):
        raise ValueError(f"may be nested at most {MAX_LEVELS} levels deep")
    return value


Text = Annotated[str, TEXT]
CallId = Annotated[str, Field(min_length=1, max_length=256), TEXT]
Schema = Annotated[dict[str, Any], AfterValidator(_schema)]


class AnyText(BaseModel):
    """A piece of text, of whichever type."""

    text: Text = ""
    refusal: Text = ""

    def content(self) -> TextContent:
        return TextContent(self.text or self.refusal)


class TextPart(AnyText):
    """A piece of text."""

    type: Literal["text", "refusal"]


class ImageUrl(BaseModel):
    """The address of an image."""

    url: Annotated[str, Field(pattern=_URL), TEXT]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(BaseModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl

    def content(self) -> ImageContent:
        return ImageContent(self.image_url.url, self.image_url.detail)


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


Texts: TypeAlias = Annotated[
    Annotated[Text, Tag("<message>")]
    | Annotated[list[TextPart], Field(fail_fast=True), Tag("<input>")],
    TEXT_OR_LIST,
]
Parts: TypeAlias = Annotated[
    Annotated[Text, Tag("<message>")]
    | Annotated[list[Part], Field(min_length=1, fail_fast=True), Tag("<input>")],
    TEXT_OR_LIST,
]


class Function(BaseModel):
    """The function of a call. `arguments` is JSON text."""

    name: Annotated[str, Field(max_length=256), TEXT]
    arguments: Text


class Call(BaseModel):
    """A call that the model asked for. `extra_content`: as it came with it."""

    id: CallId
    type: Literal["function"] = "function"
    function: Function
    extra_content: Schema | None = None

    def call(self, source: str) -> ToolCall:
        extra = unmarked(self.extra_content or {})
        reasoning = (
            _given(OPENAI, {"extra_content": extra}, source, "extra_content") if extra else None
        )
        return ToolCall(self.id, self.function.name, self.function.arguments, reasoning)


class FromSystem(BaseModel):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Texts


class FromUser(BaseModel):
    """A message of the user."""

    role: Literal["user"]
    content: Parts
    name: Annotated[str, Field(max_length=64), TEXT] | None = None


class FromAssistant(BaseModel):
    """A message of the model. What is called reasoning or thinking: as it came with it."""

    role: Literal["assistant"]
    content: Texts | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] | None = None
    reasoning_content: Text | None = None
    reasoning_details: list[Schema] | None = None
    thinking_blocks: Annotated[list[Schema], Field(max_length=128)] | None = None

    def message(self) -> AssistantMessage:
        """Return it as the service has it; reasoning is of use beside calls only.

        Raises:
            errors.Invalid: blocks that are none, or something that is too large.
        """
        asked = self.tool_calls or ()
        source = source_in(call.extra_content for call in asked)
        calls = tuple(call.call(source) for call in asked)
        text = text_of(self.content) or self.refusal or ""
        return AssistantMessage(text, calls, self._reasoning(source) if calls else ())

    def _reasoning(self, source: str) -> tuple[ReasoningBlock, ...]:
        said: dict[str, Any] = {
            "reasoning_content": (self.reasoning_content or "")[:REASONING_CHARS],
            "reasoning_details": self.reasoning_details,
        }
        thought = self.thinking_blocks or ()
        return (
            *(_given(OPENAI, {name: it}, source, name) for name, it in said.items() if it),
            *(_given(ANTHROPIC, each, source, "thinking_blocks") for each in thought),
        )


class FromTool(BaseModel):
    """The result of a call that the client executed."""

    role: Literal["tool"]
    tool_call_id: CallId
    content: Texts


WireMessage: TypeAlias = Annotated[
    FromSystem | FromUser | FromAssistant | FromTool, Field(discriminator="role")
]


class FunctionDefinition(BaseModel):
    """A tool that the client executes."""

    name: Annotated[str, Field(pattern=TOOL_NAME)]
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None

    def spec(self) -> ToolSpec:
        parameters = self.parameters or {"type": "object", "properties": {}}
        return ToolSpec(self.name, self.description or "", parameters, self.strict)


class WireTool(BaseModel):
    """A tool; functions are the only supported kind."""

    type: Literal["function"]
    function: FunctionDefinition


class JsonSchema(BaseModel):
    """The format of an answer."""

    model_config = {"populate_by_name": True}

    name: Annotated[str, Field(pattern=TOOL_NAME)]
    form: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The format of an answer; plain text has none."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def output(self) -> OutputSchema | None:
        """Return it as the service has it.

        Raises:
            errors.Invalid: the schema is missing.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return OutputSchema("object")
        if self.json_schema is None or self.json_schema.form is None:
            raise refused("response_format.json_schema", "Required.")
        form = self.json_schema
        return OutputSchema(form.name, form.form, form.strict)


class ChosenFunction(BaseModel):
    """The name of a tool."""

    name: Annotated[str, Field(pattern=TOOL_NAME)]


class NamedChoice(BaseModel):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: ChosenFunction


Stop: TypeAlias = (
    Annotated[str, StringConstraints(min_length=1), TEXT]
    | Annotated[list[Annotated[str, StringConstraints(min_length=1), TEXT]], Field(max_length=4)]
)


def refused(field: str, text: str) -> Invalid:
    return Invalid(f"{field}: {text}", errors=[{"field": field, "message": text}])


def _given(kind: str, members: dict[str, Any], source: str, field: str) -> ReasoningBlock:
    try:
        return block_of(kind, members, source)
    except ValueError as error:
        raise refused(field, str(error)) from None


class _Part(Protocol):
    def content(self) -> Content: ...


def text_of(content: str | Sequence[_Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part.content() for part in content]
    return "".join(part.text for part in parts if isinstance(part, TextContent))


def messages_of(wire: Iterable[WireMessage]) -> tuple[Message, ...]:
    """Return a conversation as the service has it.

    Raises:
        errors.Invalid: a call without a result, or a result without a call.
    """
    messages: list[Message] = []
    due: dict[str, str] = {}
    for at, each in enumerate(wire):
        if isinstance(each, FromTool):
            if each.tool_call_id not in due:
                text = "A message of the role tool must answer a call of the message before it."
                raise refused(f"messages.{at}.tool_call_id", text)
            name = due.pop(each.tool_call_id)
            messages.append(ToolMessage(each.tool_call_id, name, text_of(each.content)))
            continue
        _check_answered(due, f"messages.{at}")
        messages.append(_message(each))
        if isinstance(each, FromAssistant):
            due = {call.id: call.function.name for call in each.tool_calls or ()}
    _check_answered(due, "messages")
    return tuple(messages)


def _check_answered(due: dict[str, str], field: str) -> None:
    if due:
        ids = ", ".join(due)
        text = "Each of an assistant's tool_calls must be answered by a message of the role tool"
        raise refused(field, f"{text}; these are not: {ids[:200]}.")


def _message(wire: FromSystem | FromUser | FromAssistant) -> Message:
    match wire:
        case FromSystem():
            return SystemMessage(text_of(wire.content))
        case FromUser():
            return user_message(wire.content, wire.name)
        case FromAssistant():
            return wire.message()


def user_message(content: str | Sequence[_Part], name: str | None = None) -> UserMessage:
    parts = () if isinstance(content, str) else tuple(part.content() for part in content)
    has_pictures = any(isinstance(part, ImageContent) for part in parts)
    return UserMessage(text_of(content), parts if has_pictures else (), name)


def chosen(
    choice: Literal["auto", "none", "required"] | str | None, tools: tuple[ToolSpec, ...]
) -> tuple[ToolChoice, tuple[ToolSpec, ...]]:
    """Return whether a tool is to be called, and which there are for it.

    Args:
        choice: one of the words, or the name of a tool of the client, which is wanted alone.

    Raises:
        errors.Invalid: the client has no such tool.
    """
    if choice is None or choice == "auto":
        return "auto", tools
    if choice == "none":
        return "none", tools
    if choice == "required":
        return "required", tools
    named = tuple(tool for tool in tools if tool.name == choice)
    if not named:
        raise refused("tool_choice", "The request has no tool of this name.")
    return "required", named


class Sampling(BaseModel):
    """How the model is to answer, in the words that chat completions and responses share."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    parallel_tool_calls: bool | None = None
    user: Annotated[str, Field(min_length=1, max_length=512), TEXT] | None = None
    user_id: Annotated[str, Field(min_length=1, max_length=512), TEXT] | None = Field(
        None, description="The same as `user`."
    )
    memory: bool | None = Field(
        None,
        description="Whether the user is remembered. Default: yes if a user is named, or if the "
        "agent remembers everybody.",
    )

    def who(self) -> str | None:
        named = self.user or self.user_id
        return None if named is None else user_named(named)

    def remembers(self, user: str | None) -> bool | None:
        """Tell whether memory is used; None: as the agent is configured."""
        return True if self.memory is None and user is not None else self.memory
