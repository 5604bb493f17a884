"""OpenAI, and every server that speaks its chat completions; `llm.sdk` says how it is asked."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec

from llm.openai_errors import Failures
from llm.openai_stream import KEPT_CHARS, Reply, joined_halves
from llm.sdk import MAX_DEPTH, SdkProvider, encoded, ids_in
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
from models import is_deep

if TYPE_CHECKING:
    from httpx2 import Response
    from openai import AsyncOpenAI

_MAX_ID = 40  # OpenAI refuses longer ids of calls, which other servers make
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class OpenAIProvider(SdkProvider["AsyncOpenAI", Failures]):
    """A provider that asks an OpenAI-compatible server.

    Args:
        api_key: the credential.
        base_url: the server's address with its path, as in the SDK; OpenAI where it is None.
        default_model: the model of requests that name none.
        max_retries: how often a request is repeated that got no stream.
        timeout: seconds without a byte after which a request or a stream is given up.
        temperature: for requests that have none; not sent where None.
        max_tokens: likewise.
    """

    name = "openai"

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        default_model: str,
        max_retries: int,
        timeout: float,
        temperature: float | None,
        max_tokens: int | None,
    ) -> None:
        super().__init__(
            Failures(api_key),
            api_key=api_key,
            base_url=base_url,
            default_model=default_model,
            max_retries=max_retries,
            timeout=timeout,
        )
        self._temperature = temperature
        self._max_tokens = max_tokens

    def _make_client(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        from llm.transport import client

        http_client = client(self._timeout)
        return AsyncOpenAI(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=http_client.timeout,
            http_client=http_client,
        )

    def _decoding(self, request: ModelRequest) -> Reply:
        return Reply(self._failures, ids_in(request.messages))

    async def _post(self, client: "AsyncOpenAI", request: ModelRequest) -> "Response":
        from httpx2 import Response
        from openai import AsyncStream

        response = await client.post(
            "/chat/completions",
            cast_to=Response,
            content=encoded(self._body(request)),
            options={
                # A compressed stream would come late, in blocks.
                "headers": {"content-type": "application/json", "accept-encoding": "identity"},
                "security": {"bearer_auth": True},
            },
            stream=True,
            stream_cls=AsyncStream[Any],
        )
        return cast("Response", response)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """Return the request's JSON; what has no value is left out."""
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
        max_tokens = "max_completion_tokens" if self._base_url is None else "max_tokens"
        values = {
            "response_format": _form(options.output),
            "temperature": _first(options.temperature, self._temperature),
            "top_p": options.top_p,
            max_tokens: _first(options.max_tokens, self._max_tokens),
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
    name = _NOT_NAME.sub("_", call.name)[:64] or "unknown"
    function = {"name": name, "arguments": _arguments(call.arguments)}
    return {"id": _call_id(call.id), "type": "function", "function": function}


def _call_id(id: str) -> str:
    if len(id) <= _MAX_ID:
        return id
    return "call_" + hashlib.sha256(id.encode(errors="replace")).hexdigest()[:32]


def _arguments(text: str) -> str:
    """Return a call's arguments as a JSON object, for servers that refuse everything else."""
    try:
        decoded = msgspec.json.decode(text)
        if isinstance(decoded, dict) and not is_deep(decoded, MAX_DEPTH):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"_invalid_arguments": joined_halves(text[:KEPT_CHARS])}, ensure_ascii=False)


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
