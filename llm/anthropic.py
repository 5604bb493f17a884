"""Anthropic, and every server that speaks its Messages API.

The official SDK makes the request, and the stream is read past it; `llm.openai` says why. What
the API demands of a request is the business of this file (API reference, "Create a message"):

* Instructions stand apart, in `system`. `max_tokens` is mandatory.
* Users and assistants take turns, and a user begins: neighbours with one role become one message
  of several blocks.
* The results of an assistant's calls are the first blocks of the very next message.
* A text is never blank: a blank one is left out, or named so where something has to stand.
* Ids and names of calls have an alphabet; what other providers made outside of it is replaced,
  in the same way each time. A call's input is an object.
* Thinking stands before what it led to, as it came. Other providers' reasoning stays away.

Since version 2026-10-21, which the SDK asks for, the API refuses a `temperature`. A request that
has one asks for the version before, whose older models, like other servers, still know it.
"""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from llm.anthropic_errors import AnthropicFailures
from llm.anthropic_stream import PROVIDER, Reply
from llm.openai_errors import retry_after
from llm.openai_stream import KEPT_CHARS, joined_halves
from models import (
    AssistantMessage,
    Message,
    ModelRequest,
    OutputSchema,
    ReplyPart,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from httpx2 import Response

    from llm.transport import Readable

MAX_TOKENS = 4096
"""The bound on a reply where neither the request nor the settings have one."""
END_TIMEOUT = 2.0
"""Seconds to wait for the stream's last event after the reply itself is complete."""
DRAIN_TIMEOUT = 0.1
"""Seconds to wait for the body's end, so that the connection can serve another request."""
MAX_RETRY_AFTER = 120.0
"""Seconds that a refused request waits to be repeated; one that has to wait longer fails."""

BLANK = "(blank)"
"""Stands for a blank text that cannot be left out, and for the question before a first answer."""

_VERSION_WITH_TEMPERATURE = "2023-06-01"
_MAX_TEMPERATURE = 1.0
_MAX_DEPTH = 64

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 128


class AnthropicProvider:
    """A provider that asks Anthropic, or a server that speaks its Messages API.

    Args:
        api_key: the credential.
        base_url: the server's address without `/v1`, as in the SDK; Anthropic where it is None.
        default_model: the model of requests that name none.
        max_retries: how often a request is repeated that got no stream.
        timeout: seconds without a byte after which a request or a stream is given up.
        temperature: for requests that have none; not sent where None, at most 1.
        max_tokens: for requests that have none; `MAX_TOKENS` where None.
    """

    name = PROVIDER

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
        self._max_tokens = max_tokens or MAX_TOKENS
        self._failures = AnthropicFailures(api_key)
        self._client: AsyncAnthropic | None = None
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

    def _make_client(self) -> "AsyncAnthropic":
        from anthropic import AsyncAnthropic

        from llm.transport import client

        http_client = client(self._timeout)
        http_client.event_hooks["response"].append(_refuse_long_waits)
        return AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=http_client.timeout,
            http_client=http_client,
        )

    async def _connected(self) -> "AsyncAnthropic":
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
        try:
            response = await self._post(request)
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise self._failures.not_a_stream()
        from llm.transport import body_of

        return response, body_of(response)

    async def _post(self, request: ModelRequest) -> "Response":
        client = await self._connected()
        from anthropic import AsyncStream
        from httpx2 import Response

        body = self._body(request)
        # A compressed stream would come late, in blocks.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if "temperature" in body:
            headers["anthropic-version"] = _VERSION_WITH_TEMPERATURE
        response = await client.post(
            "/v1/messages",
            cast_to=Response,
            content=_encoded(body),
            options={"headers": headers},
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
            async with asyncio.timeout(END_TIMEOUT):
                return await body.read()
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            if reply.is_complete:
                return b""
            raise self._failures.in_stream(error) from None

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """Return the request's JSON; what has no value is left out."""
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens or self._max_tokens,
            "messages": _turns(request.messages),
            "stream": True,
        }
        if system := _system(request.messages):
            body["system"] = system
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            if not request.parallel_tools:
                body["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
        if request.output is not None:
            body["output_config"] = {"format": _format(request.output)}
        wanted = self._temperature if request.temperature is None else request.temperature
        if wanted is not None:
            body["temperature"] = min(wanted, _MAX_TEMPERATURE)
        return body


async def _refuse_long_waits(response: "Response") -> None:
    """Tell the SDK, which knows no bound, not to repeat a request after too long a wait."""
    if (retry_after(response.headers) or 0.0) > MAX_RETRY_AFTER:
        response.headers["x-should-retry"] = "false"


async def _drain(body: "Readable") -> None:
    """Read on to the body's end, if it is near."""
    with contextlib.suppress(Exception):  # the reply is complete: nothing matters any more
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while await body.read():
                pass


# The request's parts.


def _ids_in(messages: Iterable[Message]) -> list[str]:
    return [
        call.id
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


def _system(messages: Iterable[Message]) -> str:
    texts = [message.content for message in messages if isinstance(message, SystemMessage)]
    return "\n\n".join(text for text in texts if text.strip())


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
        case UserMessage(content):
            return [_said(content if content.strip() else BLANK)]
        case ToolMessage():
            return [_result(message)]
        case AssistantMessage(content):
            said = [_said(content)] if content.strip() else []
            calls = [_call(call) for call in message.tool_calls]
            # Thinking that led to nothing may not stand alone.
            thinking = _thinking(message) if said or calls else []
            return [*thinking, *said, *calls]


def _said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _thinking(message: AssistantMessage) -> list[msgspec.Raw]:
    return [
        msgspec.Raw(block.data.encode())
        for block in message.reasoning
        if block.provider == PROVIDER
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    name = _NOT_NAME.sub("_", call.name)[:_MAX_NAME] or "unknown"
    return {
        "type": "tool_use",
        "id": _call_id(call.id),
        "name": name,
        "input": _input(call.arguments),
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
    if _ID.fullmatch(id):
        return id
    return "call_" + hashlib.sha256(id.encode(errors="replace")).hexdigest()[:32]


def _input(arguments: str) -> Any:
    """Return a call's arguments as an object, for nothing else may stand there."""
    try:
        decoded = msgspec.json.decode(arguments)
        if isinstance(decoded, dict) and not _is_deeper(decoded, _MAX_DEPTH):
            return msgspec.Raw(arguments.encode())
    except (ValueError, RecursionError):
        pass
    return {"_invalid_arguments": joined_halves(arguments[:KEPT_CHARS])}


def _is_deeper(value: Any, levels: int) -> bool:
    """Tell whether JSON is nested deeper than so many levels."""
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
    }


def _format(output: OutputSchema) -> dict[str, Any]:
    """Return the form of an answer in the part of JSON Schema that the API knows."""
    from anthropic import transform_schema

    try:
        schema = transform_schema(output.schema)
    except Exception:  # noqa: BLE001 - what it cannot read, the API itself shall judge
        schema = output.schema
    return {"type": "json_schema", "schema": schema}


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # half a character somewhere in the history
        text = json.dumps(body, ensure_ascii=False, default=lambda raw: json.loads(bytes(raw)))
        return joined_halves(text).encode()
