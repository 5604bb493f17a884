"""OpenAI, and every server that speaks its chat completions; `llm.sdk` says how it is asked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm.openai_failures import OpenAIFailures
from llm.openai_stream import OpenAIReply
from llm.sdk import STREAM_HEADERS, SdkProvider
from llm.tool_calls import hashed_id, sendable_arguments, sendable_name
from messages import (
    AssistantMessage,
    Content,
    ImageContent,
    Message,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    SystemMessage,
    TextContent,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI

_MAX_ID = 40  # OpenAI refuses longer ids of calls, which other servers make
_MAX_NAME = 64


@dataclass(kw_only=True, eq=False, repr=False)
class OpenAIProvider(SdkProvider):
    """A provider that asks an OpenAI-compatible server.

    `temperature`: for requests that have none; not sent where None.
    """

    temperature: float | None

    name = "openai"
    failures_type = OpenAIFailures
    reply_type = OpenAIReply

    def _sdk_client(self, http_client: "AsyncClient", **options: Any) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        return AsyncOpenAI(http_client=http_client, **options)

    def _call(self, request: ModelRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
        options = {"headers": STREAM_HEADERS, "security": {"bearer_auth": True}}
        return "/chat/completions", self._body(request), options

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            if not request.parallel_tools:
                body["parallel_tool_calls"] = False
            if request.options.tool_choice != "auto":
                body["tool_choice"] = request.options.tool_choice
        return body | self._options(request.options)

    def _options(self, options: ModelOptions) -> dict[str, Any]:
        # OpenAI has deprecated the old name, other servers do not know the new one.
        max_tokens = "max_completion_tokens" if self.base_url is None else "max_tokens"
        values = {
            "response_format": _form(options.output),
            "temperature": _first(options.temperature, self.temperature),
            "top_p": options.top_p,
            max_tokens: _first(options.max_tokens, self.max_tokens),
            "stop": options.stop or None,
            "seed": options.seed,
        }
        return {name: value for name, value in values.items() if value is not None}


def _form(output: OutputSchema | None) -> dict[str, Any] | None:
    if output is None:
        return None
    if output.schema is None:
        return {"type": "json_object"}
    form: dict[str, Any] = {"name": output.name, "schema": output.schema}
    if output.strict is not None:
        form["strict"] = output.strict
    return {"type": "json_schema", "json_schema": form}


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


# The request's parts.


def _message(message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage(content):
            return {"role": "system", "content": content}
        case UserMessage(content, parts, name):
            said = {"role": "user", "content": [_part(part) for part in parts] or content}
            return said if name is None else {**said, "name": name}
        case ToolMessage():
            return {
                "role": "tool",
                "tool_call_id": _call_id(message.tool_call_id),
                "content": message.content,
            }
        case AssistantMessage(content, calls) if calls:
            return {
                "role": "assistant",
                "content": content or None,
                "tool_calls": [_call(call) for call in calls],
            }
        case AssistantMessage(content):
            return {"role": "assistant", "content": content}


def _part(part: Content) -> dict[str, Any]:
    match part:
        case TextContent(text):
            return {"type": "text", "text": text}
        case ImageContent(url, detail):
            image = {"url": url} if detail is None else {"url": url, "detail": detail}
            return {"type": "image_url", "image_url": image}


def _call(call: ToolCall) -> dict[str, Any]:
    name = sendable_name(call.name, _MAX_NAME)
    function = {"name": name, "arguments": sendable_arguments(call.arguments)}
    return {"id": _call_id(call.id), "type": "function", "function": function}


def _call_id(id: str) -> str:
    return id if len(id) <= _MAX_ID else hashed_id(id)


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
