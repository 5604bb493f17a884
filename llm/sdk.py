"""What providers behind an official SDK share: the way from a request to a reply.

The SDK makes the request: keys, retries with Retry-After, time-outs and base URLs are
its business. Two things are not left to it, because each costs more than the rest of the service:
the request goes through the SDK's `post` as bytes (a typed `create` walks the whole history to
transform it: 4 ms for twenty messages and five tools, against 0.4), and the stream is read as bytes
and decoded into small structs (2 us a token, against 160).

An SDK takes most of a second to import and reads certificates, so both happen in a thread, at
`warm()` or else at the first request.

With each request the SDKs look at `httpx`, where anybody has imported it, and break while another
thread is in the middle of that. mem0 imports it late; so it is imported here, before all threads.
"""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import httpx  # noqa: F401 - see above
import msgspec

from errors import UpstreamError
from llm.openai_errors import Failures
from llm.openai_stream import joined_halves
from messages import AssistantMessage, Message, ModelRequest, ReplyPart

if TYPE_CHECKING:
    from httpx2 import Response

    from llm.transport import Readable

END_TIMEOUT = 2.0
"""Seconds to wait for what may follow after the reply itself is complete, such as the usage."""
DRAIN_TIMEOUT = 0.1
"""Seconds to wait for the body's end, so that the connection can serve another request."""
MAX_DEPTH = 64
"""How deep a call's arguments may be nested for servers to read them."""


class Client(Protocol):
    """An SDK's client."""

    async def close(self) -> None:
        """Close all connections."""
        ...


class Decoding(Protocol):
    """A stream's bytes on their way to reply parts.

    `is_complete`: nothing that follows is worth an error. `is_over`: nothing follows, or `failure`
    says why.
    """

    failure: UpstreamError | None

    @property
    def is_complete(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    def feed(self, data: bytes) -> list[ReplyPart]: ...
    def end(self) -> list[ReplyPart]: ...


C = TypeVar("C", bound=Client)
F = TypeVar("F", bound=Failures)


class SdkProvider(ABC, Generic[C, F]):
    """A provider behind an official SDK.

    Args:
        failures: names what goes wrong.
        api_key: the credential.
        base_url: the server's address, as in the SDK; the SDK's own where it is None.
        default_model: the model of requests that name none.
        max_retries: how often a request is repeated that got no stream.
        timeout: seconds without a byte after which a request or a stream is given up.
    """

    name: str
    is_available = True
    """Nothing is known against it: the router remembers who has failed."""

    def __init__(
        self,
        failures: F,
        *,
        api_key: str,
        base_url: str | None,
        default_model: str,
        max_retries: int,
        timeout: float,
    ) -> None:
        self.default_model = default_model
        self._failures = failures
        self._api_key = api_key
        self._base_url = base_url
        self._max_retries = max_retries
        self._timeout = timeout
        self._client: C | None = None
        self._loading = asyncio.Lock()

    @abstractmethod
    def _make_client(self) -> C:
        """Import the SDK and make its client; in a thread."""

    @abstractmethod
    async def _post(self, client: C, request: ModelRequest) -> "Response":
        """Return the response to a request, its body not yet read."""

    @abstractmethod
    def _decoding(self, request: ModelRequest) -> Decoding:
        """Return what decodes the reply to a request."""

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
        reply = self._decoding(request)
        try:
            while not reply.is_over:
                try:
                    data = await (_rest(body) if reply.is_complete else body.read())
                except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
                    raise self._failures.in_stream(error) from None
                batch = reply.feed(data) if data else reply.end()
                if batch:
                    yield batch
            if reply.failure is not None:
                raise reply.failure
            await _drain(body)
        finally:
            with contextlib.suppress(Exception):  # whatever the libraries find wrong, it is over
                await response.aclose()

    async def _connected(self) -> C:
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
            response = await self._post(await self._connected(), request)
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None
        if response.headers.get("content-type", "").startswith("text/html"):
            await response.aclose()
            raise self._failures.not_a_stream()
        from llm.transport import body_of

        return response, body_of(response)


async def _rest(body: "Readable") -> bytes:
    """Return the next bytes behind a complete reply, or none: nothing there is worth an error."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(END_TIMEOUT):
            return await body.read()
    return b""


async def _drain(body: "Readable") -> None:
    """Read on to the body's end, if it is near."""
    with contextlib.suppress(Exception):  # the reply is complete: nothing matters any more
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while await body.read():
                pass


def ids_in(messages: Iterable[Message]) -> list[str]:
    """Return the ids of all calls in a history."""
    return [
        call.id
        for message in messages
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


def encoded(body: dict[str, Any]) -> bytes:
    """Return a request's JSON, in which half a character has become U+FFFD."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        text = json.dumps(body, ensure_ascii=False, default=lambda raw: json.loads(bytes(raw)))
        return joined_halves(text).encode()
