"""Anthropic, and every server that speaks its Messages API.

`llm.sdk` says how it is asked. What the API demands of a request is the business of this file (API
reference, "Create a message"):

* Instructions stand apart, in `system`. `max_tokens` is mandatory.
* The results of an assistant's calls are one message of the user.
* Thinking stands before what it led to, as it came. Other servers' reasoning stays away.

What it demands of the conversation itself is in `llm.history`.

Since version 2026-10-21, which the SDK asks for, the API refuses `temperature` and `top_p`. A
request that has one of them asks for the version before, whose older models, like other servers,
still know it; by itself this sends none.

Models before 4.5 do not know the form of an answer (`output_config`). Where one refuses it, it is
asked again in words, and for that model this is remembered.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from errors import UpstreamError
from llm.anthropic_failures import AnthropicFailures
from llm.anthropic_stream import PROVIDER, AnthropicReply
from llm.failures import retry_after
from llm.history import Spoken, normalized, once
from llm.lessons import MAX_LEARNED, refuses_the_form
from llm.sdk import STREAM_HEADERS, SdkProvider
from llm.text import ANY_OBJECT, form_in_words
from messages import (
    AssistantMessage,
    Content,
    ImageContent,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    TextContent,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from httpx2 import AsyncClient, Response

MAX_TOKENS = 4096
"""The bound on a reply where neither the request nor the settings have one."""
MAX_RETRY_AFTER = 120.0
"""Seconds that a refused request waits to be repeated; one that has to wait longer fails."""

_VERSION_WITH_SAMPLING = "2023-06-01"
_MAX_TEMPERATURE = 1.0

_IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_INLINE = re.compile(r"data:(image/[a-zA-Z0-9+.-]+);base64,")
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


@dataclass(kw_only=True, eq=False, repr=False)
class AnthropicProvider(SdkProvider):
    """A provider that asks Anthropic, or a server that speaks its Messages API.

    Its `base_url` has no `/v1`; `max_tokens` is `MAX_TOKENS` where None.
    """

    name = PROVIDER
    kind = PROVIDER
    failures_type = AnthropicFailures
    reply_type = AnthropicReply

    def __post_init__(self) -> None:
        super().__post_init__()
        self._without_form: OrderedDict[str, None] = OrderedDict()

    def _sdk_client(self, http_client: "AsyncClient", **options: Any) -> "AsyncAnthropic":
        from anthropic import AsyncAnthropic

        http_client.event_hooks["response"].append(_refuse_long_waits)
        return AsyncAnthropic(http_client=http_client, **options)

    def _call(self, request: ModelRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
        body = self._body(request)
        headers = dict(STREAM_HEADERS)
        if "temperature" in body or "top_p" in body:
            headers["anthropic-version"] = _VERSION_WITH_SAMPLING
        return "/v1/messages", body, {"headers": headers}

    def _otherwise(
        self, request: ModelRequest, asked: ModelRequest, error: UpstreamError, number: int
    ) -> ModelRequest:
        if self._form_of(asked) is None or not refuses_the_form(error.refusal):
            raise error
        if "output" in request.demanded:
            raise error
        return msgspec.structs.replace(request, dialect=request.dialect | {"json_schema": False})

    def _accepted(self, request: ModelRequest, asked: ModelRequest) -> None:
        if asked is not request:
            self._without_form[request.model] = None
            if len(self._without_form) > MAX_LEARNED:
                self._without_form.popitem(last=False)

    def _form_of(self, request: ModelRequest) -> dict[str, Any] | None:
        """Return the schema that is demanded of an answer; None where words have to do."""
        output = request.options.output
        is_refused = request.model in self._without_form or not request.dialect.get(
            "json_schema", True
        )
        if output is None or (is_refused and "output" not in request.demanded):
            return None
        return output.schema

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        history = normalized(request.messages, _IDS)
        form = self._form_of(request)
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.options.max_tokens or self.max_tokens or MAX_TOKENS,
            "messages": _turns(history.messages, self.source),
            "stream": True,
        }
        if system := _system(history.instructions, request.options.output, form):
            body["system"] = system
        if request.tools:
            body["tools"] = [_tool(tool) for tool in once(request.tools)]
            if choice := _tool_choice(request):
                body["tool_choice"] = choice
        return body | self._options(request.options, form)

    def _options(self, options: ModelOptions, form: dict[str, Any] | None) -> dict[str, Any]:
        values: dict[str, Any] = {"top_p": options.top_p}
        values["stop_sequences"] = [text for text in options.stop if text.strip()] or None
        if form is not None:
            values["output_config"] = {"format": _format(form)}
        if options.temperature is not None:
            values["temperature"] = min(options.temperature, _MAX_TEMPERATURE)
        return {name: value for name, value in values.items() if value is not None}


async def _refuse_long_waits(response: "Response") -> None:
    """Tell the SDK, which knows no bound, not to repeat a request after too long a wait."""
    if (retry_after(response.headers) or 0.0) > MAX_RETRY_AFTER:
        response.headers["x-should-retry"] = "false"


# The request's parts.


def _system(instructions: str, output: OutputSchema | None, form: dict[str, Any] | None) -> str:
    if output is None or form is not None:
        return instructions
    words = ANY_OBJECT if output.schema is None else form_in_words(output.schema)
    return f"{instructions}\n\n{words}".lstrip()


def _tool_choice(request: ModelRequest) -> dict[str, Any] | None:
    """Return the choice of a tool, where it is not the API's own default."""
    kind = _TOOL_CHOICES[request.options.tool_choice]
    if request.parallel_tools or kind == "none":
        return None if kind == "auto" else {"type": kind}
    return {"type": kind, "disable_parallel_tool_use": True}


def _turns(messages: Iterable[Spoken], source: str) -> list[dict[str, Any]]:
    """Return the conversation with the results of calls as one message of the user."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = _blocks(message, source)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Spoken, source: str) -> list[Any]:
    match message:
        case UserMessage(content, parts):
            return [_part(part) for part in parts] or [_said(content)]
        case ToolMessage():
            return [_result(message)]
        case AssistantMessage(content, calls):
            said = [_said(content)] if content else []
            return [*_thinking(message, source), *said, *map(_call, calls)]


def _part(part: Content) -> dict[str, Any]:
    match part:
        case TextContent(text):
            return _said(text)
        case ImageContent(url):
            inline = _INLINE.match(url)
            source = (
                {"type": "base64", "media_type": inline[1], "data": url[inline.end() :]}
                if inline
                else {"type": "url", "url": url}
            )
            return {"type": "image", "source": source}


def _said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _thinking(message: AssistantMessage, source: str) -> list[msgspec.Raw]:
    return [
        msgspec.Raw(block.data.encode())
        for block in message.reasoning
        if block.provider in (source, PROVIDER)
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": msgspec.Raw(call.arguments.encode()),
    }


def _result(message: ToolMessage) -> dict[str, Any]:
    result = {
        "type": "tool_result",
        "tool_use_id": message.tool_call_id,
        "content": message.content,
    }
    return {**result, "is_error": True} if message.is_error else result


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the form of an answer in the part of JSON Schema that the API knows."""
    from anthropic import transform_schema

    try:
        schema = transform_schema(wanted)
    except Exception:  # noqa: BLE001 - what it cannot read, the API itself shall judge
        schema = wanted
    return {"type": "json_schema", "schema": schema}
