"""What is sent without the SDK is what it would send; what goes wrong is the SDK's business."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, RateLimitError

import tests.upstream as up
from llm.requests import Client, Requests
from llm.sdk import STREAM_HEADERS
from llm.transport import AiohttpTransport, client
from tests.upstream import Reply, Upstream

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 2\r\n\r\nok"
OPTIONS = {"headers": STREAM_HEADERS, "security": {"bearer_auth": True}}


def openai(transport: AiohttpTransport, base_url: str, **options: Any) -> Client:
    http = client(transport, 5.0)
    return AsyncOpenAI(http_client=http, api_key="key", base_url=base_url, **options)


def anthropic(transport: AiohttpTransport, base_url: str, **options: Any) -> Client:
    http = client(transport, 5.0)
    return AsyncAnthropic(http_client=http, api_key="key", base_url=base_url, **options)


@asynccontextmanager
async def asking(base_url: str, **options: Any) -> AsyncIterator[Callable[[], Any]]:
    """Yield a function that asks for a completion and returns the whole answer."""
    transport = AiohttpTransport()
    requests = Requests(openai(transport, base_url, **options), transport)

    async def ask() -> bytes:
        async with asyncio.timeout(10):
            body = await requests.post("/chat/completions", b'{"messages": []}', OPTIONS)
            pieces = []
            while piece := await body.read():
                pieces.append(piece)
            await body.aclose()
        return b"".join(pieces)

    try:
        yield ask
    finally:
        await requests.aclose()


@asynccontextmanager
async def hearing() -> AsyncIterator[tuple[str, list[list[str]]]]:
    """Serve anything; yield the address, and the heads of the requests, sorted by their lines."""
    heads: list[list[str]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                lines = [line for line in head.split("\r\n") if "content-length" not in line]
                heads.append(sorted(lines))
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


@pytest.mark.parametrize(
    ("sdk", "path", "headers"),
    [
        (openai, "/chat/completions", {}),
        (anthropic, "/v1/messages", {}),
        (anthropic, "/v1/messages", {"anthropic-version": "2023-06-01"}),
    ],
)
async def test_a_request_is_the_one_that_the_sdk_makes(
    monkeypatch: pytest.MonkeyPatch, sdk: Callable[..., Client], path: str, headers: dict[str, str]
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organization")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-gateway: mine")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-gateway: mine")
    options = OPTIONS | {"headers": STREAM_HEADERS | headers}
    if sdk is anthropic:
        del options["security"]
    transport = AiohttpTransport()
    async with hearing() as (address, heads), asyncio.timeout(10):
        made = sdk(transport, f"{address}/gateway/v1?version=2", max_retries=0)
        requests = Requests(made, transport)
        response = await made.post(
            path, cast_to=httpx2.Response, content=b"{}", options=options, stream=True
        )
        await response.aclose()
        for content in (b'{"a": 1}', b'{"b": [2, 3]}'):
            body = await requests.post(path, content, options)
            assert await body.read() == b"ok"
            await body.aclose()
        await requests.aclose()
    assert len(heads) == 3
    assert heads[1] == heads[2] == heads[0]
    assert "x-gateway: mine" in heads[0]


async def test_two_calls_with_other_headers_are_two_patterns() -> None:
    transport = AiohttpTransport()
    async with hearing() as (address, heads), asyncio.timeout(10):
        requests = Requests(anthropic(transport, address), transport)
        for version in ("2023-06-01", "2024-01-01", "2023-06-01"):
            headers = STREAM_HEADERS | {"anthropic-version": version}
            await (await requests.post("/v1/messages", b"{}", {"headers": headers})).aclose()
        await requests.aclose()
    versions = [line for head in heads for line in head if "anthropic-version" in line]
    assert [line[-10:] for line in versions] == ["2023-06-01", "2024-01-01", "2023-06-01"]


async def test_retries_are_the_sdks_and_the_first_attempt_counts() -> None:
    refused = up.status(429, retry_after=0.01)
    script = [up.text("a"), refused, refused, up.text("b")]
    async with (
        Upstream(script, check=False) as upstream,
        asking(upstream.base_url, max_retries=2) as ask,
    ):
        await ask()
        assert b'"b"' in await ask()
    counts = [headers["x-stainless-retry-count"] for headers in upstream.headers]
    assert counts == ["0", "0", "1", "2"]
    assert upstream.requests[0] == upstream.requests[3]


@pytest.mark.parametrize("retries", [0, 1])
async def test_no_request_is_made_that_the_sdk_would_not_make(retries: int) -> None:
    async with (
        Upstream(lambda _: up.status(429, retry_after=0.01), check=False) as upstream,
        asking(upstream.base_url, max_retries=retries) as ask,
    ):
        with pytest.raises(RateLimitError):
            await ask()
        assert upstream.asked.value == retries + 1


async def test_a_broken_connection_is_the_sdks_to_repeat() -> None:
    script = [up.text("a"), up.reset_at_once(), up.text("b")]
    async with (
        Upstream(script, check=False) as upstream,
        asking(upstream.base_url, max_retries=1) as ask,
    ):
        await ask()
        assert b'"b"' in await ask()
        assert upstream.asked.value == 3


async def test_a_redirect_is_followed() -> None:
    moved = Reply((b"moved",), 307, {"location": "/v1/chat/completions"})
    async with (
        Upstream([up.text("a"), moved, up.text("b")], check=False) as upstream,
        asking(upstream.base_url, max_retries=0) as ask,
    ):
        await ask()
        assert b'"b"' in await ask()
    assert upstream.requests[2] == upstream.requests[0]


async def test_an_answer_that_is_compressed_all_the_same_is_read() -> None:
    packed = Reply((gzip.compress(b"data: x"),), 200, {"content-encoding": "gzip"})
    async with (
        Upstream([packed, packed], check=False) as upstream,
        asking(upstream.base_url) as ask,
    ):
        assert [await ask(), await ask()] == [b"data: x", b"data: x"]
        assert upstream.asked.value == 2


async def test_an_answer_that_the_sdk_does_not_take_is_closed() -> None:
    class Failing:
        """A client that is asked only once before it fails."""

        def __init__(self, client: Client) -> None:
            self._client = client
            self.asked = 0

        async def post(self, *args: Any, **options: Any) -> Any:
            self.asked += 1
            if self.asked > 1:
                raise asyncio.CancelledError
            return await self._client.post(*args, **options)

        async def close(self) -> None:
            await self._client.close()

    refusal = up.raw(b"x", up.Action.STALL, code=500)
    async with Upstream([refusal], check=False) as upstream:
        transport = AiohttpTransport()
        requests = Requests(Failing(openai(transport, upstream.base_url)), transport)
        with pytest.raises(asyncio.CancelledError):
            await requests.post("/chat/completions", b'{"messages": []}', OPTIONS)
        await upstream.closed_by_client()
        await requests.aclose()
