"""The request of a response, and the items of its input (OpenAI, "Responses").

The input is a text or a list of items. Calls and their outputs are separate items, in any
order in which a call is before its output. The service puts the outputs directly after their calls,
as every model requires. A call without an output, and an output without a call, are refused with
OpenAI's messages.

Unknown fields are ignored. Unsupported types of items, parts and tools are refused, and so are
conversations and prompts that OpenAI would store.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from api.http.inputs import TEXT_OR_LIST
from api.openai.messages import (
    TOOL_NAME,
    AnyText,
    CallId,
    FunctionDefinition,
    Sampling,
    Text,
    chosen,
    refused,
    text_of,
    user_message,
)
from events import ChatComplete
from messages import (
    AssistantMessage,
    ImageContent,
    Message,
    ModelOptions,
    OutputSchema,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from models import TEXT, is_deep
from protocols.reasoning import Sealed, unseal
from runs.request import RunRequest

_URL = r"^(https?://|data:image/[a-z+.-]+;base64,)"
_TEXTS = ("input_text", "output_text", "text", "refusal")

_LEVELS = 100
"""How deep schemas may be nested."""


def _unknown(what: str, known: str) -> Callable[[Any], Any]:
    """Return a validator that refuses whatever it sees, by its type."""

    def refuse(value: Any) -> Any:
        kind = str(value.get("type", ""))[:64] if isinstance(value, dict) else "?"
        raise ValueError(f"{what} of the type {kind!r} are not supported; {known} are.")

    return refuse


class TextPart(AnyText):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text", "refusal"]


class ImagePart(BaseModel):
    """An image, at a URL or inside a data URL."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(pattern=_URL), TEXT]
    detail: Literal["auto", "low", "high", "original"] | None = None

    def content(self) -> ImageContent:
        detail = "high" if self.detail == "original" else self.detail
        return ImageContent(self.image_url, detail)


def _part_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "input_image":
        return "input_image"
    return "text" if kind in _TEXTS else "<message>"


_OtherPart = Annotated[
    Any, BeforeValidator(_unknown("Parts", "input_text and input_image")), Tag("<message>")
]
Part: TypeAlias = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("input_image")] | _OtherPart,
    Discriminator(_part_kind),
]


Parts: TypeAlias = Annotated[
    Annotated[Text, Tag("<message>")]
    | Annotated[list[Part], Field(fail_fast=True), Tag("<input>")],
    TEXT_OR_LIST,
]


class MessageItem(BaseModel):
    """A message; `type` may be absent."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Parts

    def message(self) -> Message:
        """Return it as the service has it.

        Raises:
            errors.Invalid: a picture that is not the user's.
        """
        if self.role == "user":
            return user_message(self.content)
        text = _only_text(self.content)
        return AssistantMessage(text) if self.role == "assistant" else SystemMessage(text)


class CallItem(BaseModel):
    """A call that the model asked for. `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: CallId
    name: Annotated[str, Field(min_length=1, max_length=256), TEXT]
    arguments: Text


class OutputItem(BaseModel):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Parts


class ReasoningItem(BaseModel):
    """The model's reasoning, which goes back to it where it came from here and led to calls."""

    type: Literal["reasoning"]
    encrypted_content: str | None = None


_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def _item_kind(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else None
    return kind if kind in _KINDS else "<message>"


_OtherItem = Annotated[
    Any,
    BeforeValidator(_unknown("Items", "message, function_call and function_call_output")),
    Tag("<message>"),
]
Item: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | _OtherItem,
    Discriminator(_item_kind),
]


class Tool(FunctionDefinition):
    """A tool that the client executes."""

    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _is_function(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") == "function":
            return value
        return _unknown("Tools", "function tools")(value)


class NamedTool(BaseModel):
    """The one tool that the model must call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=TOOL_NAME)]


class TextFormat(BaseModel):
    """The format of an answer; plain text has none."""

    model_config = {"populate_by_name": True}

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=TOOL_NAME)] | None = None
    form: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: Text | None = None

    def output(self) -> OutputSchema | None:
        """Return it as the service has it.

        Raises:
            errors.Invalid: the schema or its name is missing.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return OutputSchema("object")
        if self.form is None or self.name is None:
            raise refused("text.format", "A json_schema needs a name and a schema.")
        return OutputSchema(self.name, self.form, self.strict)


class TextConfig(BaseModel):
    """The format of the answer's text."""

    format: TextFormat | None = None


_KEY = Annotated[str, StringConstraints(min_length=1, max_length=64), TEXT]
_VALUE = Annotated[str, StringConstraints(max_length=512), TEXT]


class ResponseRequest(Sampling):
    """An input, and options for its answer. Unknown fields are ignored."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Annotated[
        Annotated[Text, Tag("<message>")]
        | Annotated[
            list[Item], Field(min_length=1, max_length=10_000, fail_fast=True), Tag("<input>")
        ],
        TEXT_OR_LIST,
    ]
    instructions: Text | None = Field(
        None, description="Added after the agent's own, for this response only."
    )
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextConfig | None = None
    metadata: Annotated[dict[_KEY, _VALUE], Field(max_length=16)] | None = None
    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    conversation: Any = Field(None, description="Not supported; use `previous_response_id`.")
    prompt: Any = Field(None, description="Not supported; use `instructions`.")

    def run_request(
        self,
        agent: str,
        model: str | None,
        *,
        follows: str | None = None,
        before: ChatComplete | None = None,
        user: str | None = None,
    ) -> RunRequest:
        """Return what is asked for.

        Args:
            follows: the conversation of the response before.
            before: how that one ended.
            user: whose it was, where it was somebody's.

        Raises:
            errors.Invalid: it cannot be done here, or the input is not whole.
        """
        self._check()
        choice = self.tool_choice
        name = choice.name if isinstance(choice, NamedTool) else choice
        tool_choice, tools = chosen(name, tuple(tool.spec() for tool in self.tools or ()))
        is_kept = self.store is not False
        said = messages_of(self._items(), before)
        return RunRequest(
            messages=said if is_kept else (),
            history=() if is_kept else said,
            instructions=(self.instructions,) if self.instructions else (),
            agent=agent,
            model=model,
            options=ModelOptions(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_output_tokens,
                output=self.text.format.output() if self.text and self.text.format else None,
                tool_choice=tool_choice,
            ),
            tools=tools,
            parallel_tools=self.parallel_tool_calls is not False,
            memory=self.remembers(self.who() or user),
            branch=(follows, None) if follows else None,
            ephemeral=True,
            is_kept=is_kept,
            is_whole=True,
            echo=_storable(self._echo()),
        )

    def _items(self) -> list[Item]:
        asked = self.input
        return [MessageItem(role="user", content=asked)] if isinstance(asked, str) else asked

    def _check(self) -> None:
        if self.conversation is not None:
            raise refused("conversation", "Not supported; use previous_response_id.")
        if self.prompt is not None:
            raise refused("prompt", "Not supported; use instructions.")
        if self.background and self.store is False:
            raise refused("background", "Only allowed for a response that is stored.")

    def _echo(self) -> dict[str, Any]:
        """Return what the response says of its request; what is ignored is said to be off."""
        choice = self.tool_choice
        form = self.text.format if self.text else None
        return {
            "instructions": self.instructions,
            "previous_response_id": self.previous_response_id,
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "tool_choice": choice.model_dump()
            if isinstance(choice, NamedTool)
            else choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_output_tokens": self.max_output_tokens,
            "text": {
                "format": form.model_dump(by_alias=True, exclude_none=True)
                if form
                else {"type": "text"}
            },
            "metadata": self.metadata or {},
            "store": self.store is not False,
            "background": bool(self.background),
            "user": self.user,
            "truncation": "disabled",
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
        }


def _storable(echo: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be stored with a response, if that is possible.

    Raises:
        errors.Invalid: a tool's or a form's schema is not JSON that every store and wire carries.
    """
    try:
        is_fit = not is_deep(echo, _LEVELS) and b"\\u0000" not in msgspec.json.encode(echo)
    except UnicodeEncodeError:
        is_fit = False
    if not is_fit:
        text = "Schemas must be JSON in UTF-8, without NUL, that is not nested too deep."
        raise refused("tools", text)
    return echo


def messages_of(items: Iterable[Item], before: ChatComplete | None = None) -> tuple[Message, ...]:
    """Return an input as the service has it.

    Args:
        before: how the response before ended, whose calls the input has to answer.

    Raises:
        errors.Invalid: a call without an output, or an output without a call.
    """
    items = list(items)
    thread = _Thread(items)
    if before is not None:
        thread.go_on(before)
    for at, item in enumerate(items):
        thread.take(at, item)
    thread.answer()
    return tuple(thread.messages)


class _Thread:
    """Builds the messages: calls are collected in a group until an item ends the group."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.messages: list[Message] = []
        self._waiting: list[ToolCall] = []
        self._reasoning = Sealed()
        self._answered: Counter[str] = Counter()
        self._outputs: dict[str, deque[str]] = defaultdict(deque)
        for item in items:
            if isinstance(item, OutputItem):
                self._outputs[item.call_id].append(_only_text(item.output))

    def go_on(self, before: ChatComplete) -> None:
        self._waiting = [
            ToolCall(call.id, call.name, call.arguments, call.reasoning)
            for call in before.tool_calls
        ]
        self._reasoning = Sealed(before.reasoning)

    def take(self, at: int, item: Item) -> None:
        match item:
            case CallItem(call_id=id):
                reasoning = self._reasoning.calls.get(id)
                self._waiting.append(ToolCall(id, item.name, item.arguments, reasoning))
            case OutputItem():
                self.answer()
                if not self._answered[item.call_id]:
                    text = "No tool call found for function call output with call_id"
                    raise refused(f"input.{at}.call_id", f"{text} {item.call_id}.")
                self._answered[item.call_id] -= 1
            case MessageItem():
                self.answer()
                self.messages.append(item.message())
            case ReasoningItem():
                self.answer()
                self._reasoning = unseal(item.encrypted_content or "")

    def answer(self) -> None:
        """End a group of calls, with the output of each."""
        if not self._waiting:
            return
        calls, self._waiting = self._waiting, []
        reasoning, self._reasoning = self._reasoning.message, Sealed()
        last = self.messages[-1] if self.messages else None
        if isinstance(last, AssistantMessage) and not last.tool_calls:
            self.messages[-1] = AssistantMessage(last.content, tuple(calls), reasoning)
        else:
            self.messages.append(AssistantMessage("", tuple(calls), reasoning))
        for call in calls:
            outputs = self._outputs[call.id]
            if not outputs:
                raise refused("input", f"No tool output found for function call {call.id}.")
            self._answered[call.id] += 1
            self.messages.append(ToolMessage(call.id, call.name, outputs.popleft()))


def _only_text(content: str | list[TextPart | ImagePart]) -> str:
    if any(isinstance(part, ImagePart) for part in content):
        raise refused("input", "Only a user message may contain an image.")
    return text_of(content)
