"""Which hosts and origins are let in."""

import asyncio
from urllib.parse import urlsplit

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from api.http.guard import Guard
from tests.api.support import Answer, assert_problem, request, send
from tests.service import DEADLINE, Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")


async def ask(service: Service, host: str, path: str = "/health") -> Answer:
    return await send(service, request("GET", path, host=host))


LOCAL = [
    "localhost",
    "localhost:8000",
    "LOCALHOST",
    "app.localhost:3000",
    "127.0.0.1",
    "127.0.0.1:8000",
    "[::1]",
    "[::1]:8000",
    "192.168.1.5:8000",
]


async def test_addresses_and_localhost_are_served() -> None:
    async with running() as service:
        for host in LOCAL:
            assert (await ask(service, host)).status == 200, host


STRANGE = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "notlocalhost",
    "user@evil.example",
    "localhost@evil.example",
    "",
    "a" * 5000,
]


async def test_a_name_that_somebody_pointed_here_is_refused() -> None:
    async with running() as service:
        for host in STRANGE:
            for path in ("/health", "/docs", "/nothing"):
                problem = assert_problem(await ask(service, host, path), 421, "host_not_allowed")
                assert "ALLOWED_HOSTS" in problem["detail"]
                assert "evil" not in problem["detail"]


NO_HOSTS = ["[::1", "[", "]", "[zz]", ":", "//", "\xff"]


async def test_a_host_that_is_none_is_refused() -> None:
    async with running() as service:
        for host in NO_HOSTS:
            answer = await ask(service, host)
            assert answer.status in (400, 421), answer
            assert (await ask(service, "localhost")).status == 200


async def test_a_request_without_a_host_is_refused() -> None:
    async with running() as service:
        answer = await send(service, b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert_problem(answer, 421, "host_not_allowed")


async def test_a_refused_host_starts_no_run() -> None:
    async with running() as service:
        data = request("POST", "/chat", b'{"message":"hi"}', host="evil.example")
        assert (await send(service, data)).status == 421
        created = request("POST", "/agents/x", b"{}", host="evil.example")
        assert (await send(service, created)).status == 421
        agents = await service.json("GET", "/agents")
        assert "x" not in [agent["agent_name"] for agent in agents["agents"]]


async def test_an_allowed_name_is_served_and_only_that_one() -> None:
    async with running(allowed_hosts=("chat.example",)) as service:
        assert (await ask(service, "chat.example")).status == 200
        assert (await ask(service, "chat.example:8000")).status == 200
        assert (await ask(service, "other.chat.example")).status == 421


async def test_a_service_for_everybody_does_not_look_at_names_unless_told_to() -> None:
    async with running(host="0.0.0.0") as service:
        assert (await ask(service, "chat.example")).status == 200
    async with running(host="0.0.0.0", allowed_hosts=("chat.example",)) as service:
        assert (await ask(service, "chat.example")).status == 200
        assert (await ask(service, "evil.example")).status == 421


def handshake(origin: str | None, host: str = "localhost:8000") -> bytes:
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Origin: {origin}"] if origin is not None else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def opened(service: Service, origin: str | None, host: str = "localhost:8000") -> int:
    """Try to open a WebSocket and return the status."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(DEADLINE):
            writer.write(handshake(origin, host))
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_websocket_is_opened_by_its_own_pages_and_by_programs() -> None:
    async with running() as service:
        assert await opened(service, None) == 101
        assert await opened(service, "http://localhost:8000") == 101
        assert await opened(service, "http://[::1]:8000", host="[::1]:8000") == 101


STRANGERS = [
    "https://evil.example",
    "http://localhost:9999",
    "http://localhost",
    "null",
    "",
    "http://localhost:8000.evil.example",
    "http://[",
    "http://[::1",
]


async def test_a_strangers_page_opens_no_websocket() -> None:
    async with running() as service:
        for origin in STRANGERS:
            assert await opened(service, origin) == 403, origin
            assert await opened(service, None) == 101


async def test_a_rebinding_name_opens_no_websocket() -> None:
    async with running() as service:
        origin = "http://evil.example:8000"
        assert await opened(service, origin, host="evil.example:8000") == 421


async def test_allowed_origins_open_a_websocket() -> None:
    async with running(websocket_origins=("https://app.example",)) as service:
        assert await opened(service, "https://app.example") == 101
        assert await opened(service, "http://app.example") == 403
    async with running(websocket_origins=("*",)) as service:
        assert await opened(service, "https://any.example") == 101


async def test_pages_of_an_allowed_origin_may_call_and_read() -> None:
    async with running(cors_origins=("https://app.example",)) as service:
        preflight = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,idempotency-key",
        }
        async with service.session.options(service.url + "/chat", headers=preflight) as response:
            assert response.status == 200
            assert response.headers["access-control-allow-origin"] == "https://app.example"
        async with service.session.post(
            service.url + "/chat", json={"message": "hi"}, headers={"Origin": "https://app.example"}
        ) as response:
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            assert "X-Run-Id" in response.headers["access-control-expose-headers"]
        stranger = preflight | {"Origin": "https://evil.example"}
        async with service.session.options(service.url + "/chat", headers=stranger) as response:
            assert "access-control-allow-origin" not in response.headers


async def test_without_allowed_origins_no_page_may_read() -> None:
    async with (
        running() as service,
        service.session.get(
            service.url + "/health", headers={"Origin": "https://app.example"}
        ) as response,
    ):
        assert "access-control-allow-origin" not in response.headers


async def taken(*pieces: bytes, limit: int) -> int:
    """Let an application read a body that comes in pieces; return how many bytes it got."""
    left, got = list(pieces), 0

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal got
        message: Message = {"more_body": True}
        while message["more_body"]:
            message = await receive()
            got += len(message["body"])

    async def receive() -> Message:
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    nobody = {"http": (), "websocket": ()}
    guard = Guard(application, max_body_bytes=limit, hosts=None, origins=nobody)
    await guard({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
    return got


async def test_a_body_that_comes_in_pieces_is_bounded_as_a_whole() -> None:
    assert await taken(b"1234", b"567", b"", b"890", limit=10) == 10
    for pieces in ((b"123456", b"78901"), (b"1",) * 11, (b"12345678901",)):
        with pytest.raises(HTTPException) as refusal:
            await taken(*pieces, limit=10)
        assert refusal.value.status_code == 413
