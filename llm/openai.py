"""OpenAI, and every server that speaks its chat completions.

The official SDK makes the request: keys, retries with Retry-After, time-outs, proxies and base
URLs are its business. Two things are not left to it, because each costs more than the rest of
the service: the request goes through the SDK's `post` as bytes (its typed `create` walks the
whole history to transform it: 4 ms for twenty messages and five tools, against 0.4), and the
stream is read as bytes and decoded into small structs (2 us a token, against 160).

The SDK takes most of a second to import and reads certificates, so both happen in a thread, at
`warm()` or else at the first request.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, cast

import msgspec

from llm.openai_errors import Failures
from llm.openai_stream import KEPT_CHARS, Reply, joined_halves
from models import (
    AssistantMessage,
    Message,
    ModelRequest,
    ReplyPart,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

if TYPE_CHECKING:
    from httpx2 import Response
    from openai import AsyncOpenAI

    from llm.transport import Readable

USAGE_TIMEOUT = 2.0
"""Seconds to wait for the usage after the reply itself is complete."""
DRAIN_TIMEOUT = 0.1
"""Seconds to wait for the body's end, so that the connection can serve another request."""

_MAX_DEPTH = 64

_MAX_ID = 40  # OpenAI refuses longer ids of calls, which other servers make
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class OpenAIProvider:
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
        self.default_model = default_model
        self._api_key = api_key
        self._base_url = base_url
        self._max_retries = max_retries
        self._timeout = timeout
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._failures = Failures(api_key)
        self._client: AsyncOpenAI | None = None
        self._loading = asyncio.Lock()

    def answering(self, wanted: str | None) -> str:
        """Return the model that answers where an agent wants this one, or names none."""
        return wanted or self.default_model

    async def warm(self) -> None:
        """Import the SDK and make its client, in a thread.

        Raises:
            UpstreamError: the settings do not make a client.
        """
        try:
            await self._connected()
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        """Ask the model; see `Provider.stream`."""
        response, body = await self._ask(request)
        reply = Reply(self._failures, _ids_in(request.messages))
        try:
            while not reply.is_over:
                data = await self._next(body, reply)
                batch = reply.feed(data) if data else reply.end()
                if batch:
                    yield batch
            if reply.failure is not None:
                raise reply.failure
            await _drain(body)
        finally:
            with contextlib.suppress(Exception):  # whatever the libraries find wrong, it is over
                await response.aclose()

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

    async def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            async with self._loading:
                if self._client is None:
                    self._client = await asyncio.to_thread(self._make_client)
        return self._client

    async def _ask(self, request: ModelRequest) -> "tuple[Response, Readable]":
        """Return the response to a request, and its body to read.

        Raises:
            UpstreamError: there is none, after all retries.
        """
        content = _encoded(self._body(request))
        try:
            response = await self._post(content)
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise self._failures.not_a_stream()
        from llm.transport import body_of

        return response, body_of(response)

    async def _post(self, content: bytes) -> "Response":
        client = await self._connected()
        from httpx2 import Response
        from openai import AsyncStream

        response = await client.post(
            "/chat/completions",
            cast_to=Response,
            content=content,
            options={
                # A compressed stream would come late, in blocks.
                "headers": {"content-type": "application/json", "accept-encoding": "identity"},
                "security": {"bearer_auth": True},
            },
            stream=True,
            stream_cls=AsyncStream[Any],
        )
        return cast("Response", response)

    async def _next(self, body: "Readable", reply: Reply) -> bytes:
        """Return the next bytes, or none at the end of all that is worth waiting for.

        Raises:
            UpstreamError: the connection broke before the reply was complete.
        """
        try:
            if not reply.is_complete:
                return await body.read()
            async with asyncio.timeout(USAGE_TIMEOUT):
                return await body.read()
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            if reply.is_complete:
                return b""
            raise self._failures.in_stream(error) from None

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
        if request.output is not None:
            form = {"name": request.output.name, "schema": request.output.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        temperature = _first(request.temperature, self._temperature)
        if temperature is not None:
            body["temperature"] = temperature
        max_tokens = _first(request.max_tokens, self._max_tokens)
        if max_tokens is not None:
            # OpenAI has deprecated the old name, other servers do not know the new one.
            name = "max_completion_tokens" if self._base_url is None else "max_tokens"
            body[name] = max_tokens
        return body


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


async def _drain(body: "Readable") -> None:
    """Read on to the body's end, if it is near."""
    with contextlib.suppress(Exception):  # the reply is complete: nothing matters any more
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while await body.read():
                pass


# The request's parts.


def _ids_in(messages: tuple[Message, ...]) -> list[str]:
    return [
        call.id
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


def _message(message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage(content):
            return {"role": "system", "content": content}
        case UserMessage(content):
            return {"role": "user", "content": content}
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
        if isinstance(decoded, dict) and not _is_deep(decoded):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"_invalid_arguments": joined_halves(text[:KEPT_CHARS])}, ensure_ascii=False)


def _is_deep(value: Any) -> bool:
    """Tell whether JSON is nested deeper than servers read; Pythons differ in where they stop."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # half a character somewhere in the history
        return joined_halves(json.dumps(body, ensure_ascii=False)).encode()
