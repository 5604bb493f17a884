"""HTTP for the official SDKs: httpx2 as they know it, over aiohttp, with streams read by hand.

An SDK is given `client(...)`; requests, redirects, retries and errors stay its business. The
stream of a response is then read from `body_of(response)`, past the layers in between: these,
and a timer a read, cost a paced stream more than decoding its tokens. One timer a stream tells
that it has fallen silent. A request that an SDK has made once can be sent again without it, with
another body: `Pattern`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, cast
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from multidict import CIMultiDict

MAX_CONNECTIONS = 10_000
CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept for the next request."""

_BODY = "parley.body"


class Readable(Protocol):
    """The body of a response."""

    @property
    def content_type(self) -> str: ...

    async def read(self) -> bytes:
        """Return the bytes that have come, waiting while there are none; at the end b"".

        Raises:
            httpx2.TransportError: the server fell silent, or the connection broke.
            httpx2.DecodingError: the bytes are compressed in a way that cannot be undone.
        """

    async def aclose(self) -> None:
        """Give the connection back, or close it where the body is not at its end."""


class Body(httpx2.AsyncByteStream):
    """The body of a response as it comes; given up after `timeout` seconds without a byte."""

    def __init__(self, response: aiohttp.ClientResponse, timeout: float) -> None:
        self._response = response
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._is_reading = self._is_silent = False
        self._since = 0.0
        self._timer = self._loop.call_later(timeout, self._check)

    @property
    def content_type(self) -> str:
        return self._response.headers.get("content-type", "")

    @property
    def is_plain(self) -> bool:
        """Whether this is what was asked for: a success, not compressed."""
        encoding = self._response.headers.get("content-encoding", "")
        return self._response.status == 200 and _is_identity(encoding)

    def response(self) -> httpx2.Response:
        """Return the response as an SDK knows it."""
        return httpx2.Response(
            self._response.status,
            headers=[*self._response.raw_headers],
            stream=self,
            extensions={_BODY: self},
        )

    async def read(self) -> bytes:
        self._since = self._loop.time()
        self._is_reading = True
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            if self._is_silent:
                raise httpx2.ReadTimeout("The server fell silent.") from error
            raise httpx2.ReadError(str(error)) from error
        finally:
            self._is_reading = False

    def _check(self) -> None:
        """Give up a read that has waited too long, or look again when it would have."""
        waited = self._loop.time() - self._since if self._is_reading else 0.0
        if waited >= self._timeout:
            self._is_silent = True
            self._response.close()
        else:
            self._timer = self._loop.call_later(self._timeout - waited, self._check)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def aclose(self) -> None:
        self._timer.cancel()
        self._response.release()


class _Decoded:
    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    @property
    def content_type(self) -> str:
        return self._response.headers.get("content-type", "")

    async def read(self) -> bytes:
        return await anext(self._chunks, b"")

    async def aclose(self) -> None:
        await self._response.aclose()


class Pattern:
    """A request without its body, which may be sent any number of times."""

    def __init__(self, request: httpx2.Request) -> None:
        timeout = request.extensions["timeout"]
        self.method = request.method
        self.url = str(request.url)
        self.place = request.url.scheme, request.url.host
        self.headers = CIMultiDict(request.headers)  # aiohttp would make one each time
        self.headers.pop("content-length", None)
        self.timeout: float = timeout["read"]
        self.client_timeout = aiohttp.ClientTimeout(sock_connect=timeout["connect"])


class FirstAttempt:
    """Stands for the first attempt at a request that an SDK makes.

    `outcome`: what it came to. `request`: what the SDK sent; None before that.
    """

    def __init__(self, outcome: httpx2.Response | httpx2.TransportError) -> None:
        self.request: httpx2.Request | None = None
        self._outcome = outcome

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.request = request
        if isinstance(self._outcome, httpx2.TransportError):
            raise self._outcome
        return self._outcome


_first: ContextVar[FirstAttempt | None] = ContextVar("first attempt", default=None)


@contextmanager
def first_attempt(outcome: httpx2.Response | httpx2.TransportError) -> Iterator[FirstAttempt]:
    """Within the block, a request of this task is not sent the first time: this is its outcome."""
    attempt = FirstAttempt(outcome)
    token = _first.set(attempt)
    try:
        yield attempt
    finally:
        _first.reset(token)


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests through one aiohttp session, made at the first of them.

    The environment's proxies hold (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), as they are when a
    host is first asked. aiohttp would look for them, and for a `.netrc`, in two threads at each
    request, which costs more than the request; and would refuse a host that the `.netrc` names.
    """

    def __init__(self) -> None:
        self._context = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], str | None] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response once its head has come; raises `httpx2.TransportError`."""
        first = _first.get()
        if first is not None and first.request is None:
            return first.answer(request)
        return (await self.send(Pattern(request), await request.aread())).response()

    async def send(self, pattern: Pattern, content: bytes) -> Body:
        """Send a request, and return its answer's body once the head has come.

        Raises `httpx2.TransportError`.
        """
        try:
            async with asyncio.timeout(pattern.timeout):
                response = await self._connected().request(
                    pattern.method,
                    pattern.url,
                    headers=pattern.headers,
                    data=content or None,
                    allow_redirects=False,
                    proxy=self._proxy(pattern.place),
                    timeout=pattern.client_timeout,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout("The server did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ConnectError(str(error)) from error
        return Body(response, pattern.timeout)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._context, limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE
            )
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    def _proxy(self, place: tuple[str, str]) -> str | None:
        if place not in self._proxies:
            scheme, host = place
            is_direct = proxy_bypass(host)
            self._proxies[place] = None if is_direct else getproxies().get(scheme)
        return self._proxies[place]


def client(transport: AiohttpTransport, timeout: float) -> httpx2.AsyncClient:
    """Return an HTTP client for an SDK.

    `timeout`: seconds for the head of a response, and between any two bytes of its body.
    """
    return httpx2.AsyncClient(
        transport=transport,
        timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        follow_redirects=True,
    )


def body_of(response: httpx2.Response) -> Readable:
    """Return what is to be read of a response that `client` got, by the shortest way."""
    if _is_identity(response.headers.get("content-encoding", "")):
        return cast("Body", response.extensions[_BODY])
    return _Decoded(response)


def _is_identity(encoding: str) -> bool:
    return encoding.strip().lower() in ("", "identity")
