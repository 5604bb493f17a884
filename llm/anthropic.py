"""Anthropic, and every server that speaks its Messages API.

`llm.sdk` says how it is asked. What the API demands of a request is the business of this file (API
reference, "Create a message"):

* Instructions stand apart, in `system`. `max_tokens` is mandatory.
* Users and assistants take turns, and a user begins: neighbours with one role become one message
  of several blocks.
* The results of an assistant's calls are the first blocks of the very next message.
* A text is never blank: a blank one is left out, or named so where something has to stand.
* Ids and names of calls have an alphabet; what other providers made outside of it is replaced,
  in the same way each time. A call's input is an object.
* Thinking stands before what it led to, as it came. Other providers' reasoning stays away.

Since version 2026-10-21, which the SDK asks for, the API refuses `temperature` and `top_p`. A
request that has one of them asks for the version before, whose older models, like other servers,
still know it; by itself this sends none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from llm.anthropic_failures import AnthropicFailures
from llm.anthropic_stream import PROVIDER, AnthropicReply
from llm.failures import retry_after
from llm.sdk import STREAM_HEADERS, SdkProvider
from llm.tool_calls import hashed_id, sendable_arguments, sendable_name
from messages import (
    AssistantMessage,
    Content,
    ImageContent,
    Message,
    ModelOptions,
    ModelRequest,
    SystemMessage,
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

BLANK = "(blank)"
"""Stands for a blank text that cannot be left out, and for the question before a first answer."""

_VERSION_WITH_SAMPLING = "2023-06-01"
_MAX_TEMPERATURE = 1.0

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_MAX_NAME = 128
_INLINE = re.compile(r"data:(image/[a-zA-Z0-9+.-]+);base64,")
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_ANY_OBJECT = "Answer with one JSON object and nothing else."


@dataclass(kw_only=True, eq=False, repr=False)
class AnthropicProvider(SdkProvider):
    """A provider that asks Anthropic, or a server that speaks its Messages API.

    Its `base_url` has no `/v1`; `max_tokens` is `MAX_TOKENS` where None.
    """

    name = PROVIDER
    failures_type = AnthropicFailures
    reply_type = AnthropicReply

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

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.options.max_tokens or self.max_tokens or MAX_TOKENS,
            "messages": _turns(request.messages),
            "stream": True,
        }
        if system := _system(request):
            body["system"] = system
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            if choice := _tool_choice(request):
                body["tool_choice"] = choice
        return body | self._options(request.options)

    def _options(self, options: ModelOptions) -> dict[str, Any]:
        values: dict[str, Any] = {"top_p": options.top_p}
        values["stop_sequences"] = [text for text in options.stop if text.strip()] or None
        if options.output is not None and options.output.schema is not None:
            values["output_config"] = {"format": _format(options.output.schema)}
        if options.temperature is not None:
            values["temperature"] = min(options.temperature, _MAX_TEMPERATURE)
        return {name: value for name, value in values.items() if value is not None}


async def _refuse_long_waits(response: "Response") -> None:
    """Tell the SDK, which knows no bound, not to repeat a request after too long a wait."""
    if (retry_after(response.headers) or 0.0) > MAX_RETRY_AFTER:
        response.headers["x-should-retry"] = "false"


# The request's parts.


def _system(request: ModelRequest) -> str:
    texts = [each.content for each in request.messages if isinstance(each, SystemMessage)]
    if request.options.output is not None and request.options.output.schema is None:
        texts.append(_ANY_OBJECT)  # the API knows schemas only
    return "\n\n".join(text for text in texts if text.strip())


def _tool_choice(request: ModelRequest) -> dict[str, Any] | None:
    """Return the choice of a tool, where it is not the API's own default."""
    kind = _TOOL_CHOICES[request.options.tool_choice]
    if request.parallel_tools or kind == "none":
        return None if kind == "auto" else {"type": kind}
    return {"type": kind, "disable_parallel_tool_use": True}


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the conversation as users and assistants in turn, a user first."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [_said(BLANK)]})
    return turns


def _blocks(message: Message) -> list[Any]:
    match message:
        case SystemMessage():
            return []
        case UserMessage(content, parts):
            blocks = [block for part in parts if (block := _part(part))]
            return blocks or [_said(content if content.strip() else BLANK)]
        case ToolMessage():
            return [_result(message)]
        case AssistantMessage(content):
            said = [_said(content)] if content.strip() else []
            calls = [_call(call) for call in message.tool_calls]
            # Thinking that led to nothing may not stand alone.
            thinking = _thinking(message) if said or calls else []
            return [*thinking, *said, *calls]


def _part(part: Content) -> dict[str, Any] | None:
    match part:
        case TextContent(text):
            return _said(text) if text.strip() else None
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


def _thinking(message: AssistantMessage) -> list[msgspec.Raw]:
    return [
        msgspec.Raw(block.data.encode())
        for block in message.reasoning
        if block.provider == PROVIDER
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": _call_id(call.id),
        "name": sendable_name(call.name, _MAX_NAME),
        "input": msgspec.Raw(sendable_arguments(call.arguments).encode()),
    }


def _result(message: ToolMessage) -> dict[str, Any]:
    content = message.content if message.content.strip() else BLANK
    result = {
        "type": "tool_result",
        "tool_use_id": _call_id(message.tool_call_id),
        "content": content,
    }
    return {**result, "is_error": True} if message.is_error else result


def _call_id(id: str) -> str:
    return id if _ID.fullmatch(id) else hashed_id(id)


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
