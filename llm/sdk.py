"""What providers behind an official SDK share: the way from a request to a reply.

The SDK makes the request: keys, retries with Retry-After, time-outs and base URLs are
its business. Three things are not left to it, because each costs more than the rest of the service:
a request's body is bytes (a typed `create` walks the whole history to transform it: 4 ms for
twenty messages and five tools, against 0.4), what the SDK makes of one call is used for the next
ones (`llm.requests`), and the stream is read as bytes and decoded into small structs (2 us a token,
against 160).

An SDK takes most of a second to import and reads certificates, so both happen in a thread, at
`warm()` or else at the first request.

With each request the SDKs look at `httpx`, where anybody has imported it, and break while another
thread is in the middle of that. mem0 imports it late; so it is imported here, before all threads.
"""

import asyncio
import contextlib
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import httpx  # noqa: F401 - see above

from errors import UpstreamError
from llm.dialects import Dialect
from llm.failures import Failures
from llm.reply import Reply
from llm.text import encode_json
from llm.tool_calls import ids_in
from messages import ModelRequest, ReplyPart

if TYPE_CHECKING:
    from httpx2 import AsyncClient

    from llm.requests import Client, Requests
    from llm.transport import Readable

END_TIMEOUT = 2.0
"""Seconds to wait for what may follow after the reply itself is complete, such as the usage."""
DRAIN_TIMEOUT = 0.1
"""Seconds to wait for the body's end, so that the connection can serve another request."""
STREAM_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
"""Of every request: a compressed stream would come late, in blocks."""


@dataclass(kw_only=True, eq=False, repr=False)
class SdkProvider(ABC):
    """A provider behind an official SDK.

    Args:
        api_key: the credential.
        base_url: the server's address, as in the SDK; the SDK's own where it is None.
        default_model: the model of requests that name none.
        max_retries: how often a request is repeated that got no stream.
        timeout: seconds without a byte after which a request or a stream is given up.
        max_tokens: of a reply, for requests that have no bound.

    Attributes:
        failures_type: names what goes wrong.
        reply_type: decodes a stream.
        kind: of the server, whose reasoning no other kind can read.
        source: names the server in what it gives to be given back to it.
    """

    api_key: str
    base_url: str | None
    default_model: str
    max_retries: int
    timeout: float
    max_tokens: int | None

    kind: ClassVar[str]
    failures_type: ClassVar[type[Failures]]
    reply_type: ClassVar[type[Reply]]

    def __post_init__(self) -> None:
        self._failures = self.failures_type(self.api_key)
        self.source = source_of(self.kind, self.base_url)
        self._requests: Requests | None = None
        self._loading = asyncio.Lock()

    @property
    def is_available(self) -> bool:
        """Nothing is known against it: the router remembers who has failed."""
        return True

    @abstractmethod
    def _sdk_client(self, http_client: "AsyncClient", **options: Any) -> "Client":
        """Import the SDK and make its client; in a thread."""

    @abstractmethod
    def _call(self, request: ModelRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Return a request's path, its JSON, and its options as the SDK has them."""

    def _reply(self, request: ModelRequest) -> Reply:
        return self.reply_type(self._failures, ids_in(request.messages), self.source)

    def answering(self, wanted: str | None) -> str:
        return wanted or self.default_model

    def dialect_for(self, model: str) -> Dialect | None:
        return None

    async def warm(self) -> None:
        try:
            await self._connected()
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None

    async def aclose(self) -> None:
        if self._requests is not None:
            await self._requests.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[ReplyPart], None]:
        asked = request
        for number in itertools.count(1):
            has_begun = False
            try:
                body = await self._ask(asked)
                reply = self._reply(asked)
                try:
                    while not reply.is_over:
                        try:
                            data = await (_rest(body) if reply.is_complete else body.read())
                        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
                            raise self._failures.in_stream(error) from None
                        batch = reply.feed(data) if data else reply.end()
                        if batch:
                            has_begun = True
                            yield batch
                    if reply.failure is not None:
                        raise reply.failure
                    await _drain(body)
                finally:
                    with contextlib.suppress(Exception):  # whatever is found wrong, it is over
                        await body.aclose()
            except UpstreamError as error:
                if has_begun:
                    raise
                asked = self._otherwise(request, asked, error, number)
            else:
                self._accepted(request, asked)
                return

    def _otherwise(
        self, request: ModelRequest, asked: ModelRequest, error: UpstreamError, number: int
    ) -> ModelRequest:
        """Return what to ask after a request has failed for the `number`th time, or raise why.

        `asked`: the request as it was asked this time.
        """
        raise error

    def _accepted(self, request: ModelRequest, asked: ModelRequest) -> None:  # noqa: B027 - optional
        """Take notice that a request was answered as it was `asked`."""

    async def _connected(self) -> "Requests":
        if self._requests is None:
            async with self._loading:
                if self._requests is None:
                    self._requests = await asyncio.to_thread(self._make_requests)
        return self._requests

    def _make_requests(self) -> "Requests":
        from llm.requests import Requests
        from llm.transport import AiohttpTransport, client

        transport = AiohttpTransport()
        http_client = client(transport, self.timeout)
        sdk_client = self._sdk_client(
            http_client,
            api_key=self.api_key,
            base_url=self.base_url,
            max_retries=self.max_retries,
            timeout=http_client.timeout,
        )
        return Requests(sdk_client, transport)

    async def _ask(self, request: ModelRequest) -> "Readable":
        """Return the body of the answer to a request."""
        try:
            requests = await self._connected()
            path, body, options = self._call(request)
            answer = await requests.post(path, encode_json(body), options)
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            raise self._failures.before_stream(error) from None
        if answer.content_type.startswith("text/html"):
            await answer.aclose()
            raise self._failures.not_a_stream()
        return answer


def source_of(kind: str, base_url: str | None) -> str:
    """Return a name for the server at an address, which does not tell the address."""
    if base_url is None:
        return kind
    return f"{kind}:{hashlib.sha256(base_url.rstrip('/').encode()).hexdigest()[:16]}"


async def _rest(body: "Readable") -> bytes:
    """Return the next bytes after a complete reply, or none: nothing there is worth an error."""
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
