"""No state of a connection is without a deadline, whatever its client still sends."""

import asyncio
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

import server
from tests.api.support import streaming
from tests.hostile import frame
from tests.service import DEADLINE, running
from tests.upstream import Upstream, held, text


class State(NamedTuple):
    """What a client sends: at first, then behind the answer if that is to come, then in drips."""

    first: bytes = b""
    after_answer: bytes | None = None
    drip: bytes = b""


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LARGE = b"GET /docs/assets/redoc.standalone.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

STATES: dict[str, dict[str, State]] = {
    "HEAD_TIMEOUT": {
        "nothing has come": State(),
        "empty lines": State(drip=b"\r\n"),
        "half of a line": State(b"GET /hea"),
        "half of a head": State(GET),
        "a head that drips": State(GET + b"X: ", drip=b"x"),
        "an empty line behind an answer": State(GET + b"\r\n", b"\r\n"),
        "empty lines behind an answer": State(GET + b"\r\n", b"", drip=b"\r\n"),
        "an empty line behind a request": State(GET + b"\r\n\r\n", b"", drip=b"\r\n"),
        "half of a head behind an answer": State(GET + b"\r\n", GET),
        "a head that drips behind an answer": State(GET + b"\r\n", GET + b"X: ", drip=b"x"),
        "all of a body that was refused": State(
            POST + b"Content-Length: 5000\r\n\r\n", b" " * 5000, drip=b"\r\n"
        ),
        "half of an upgrade": State(UPGRADE),
        "an upgrade that is refused": State(UPGRADE + b"Content-Length: 1\r\n\r\nx"),
        "an upgrade with a line too long": State(UPGRADE + b"X: " + b"x" * 9000 + b"\r\n\r\n"),
    },
    "BODY_TIMEOUT": {
        "half of a body": State(POST + b"Content-Length: 10\r\n\r\n{"),
        "a body that drips": State(POST + b"Content-Length: 1000\r\n\r\n", drip=b" "),
        "half of a chunk": State(CHUNKS + b"9\r\n{"),
        "chunks that drip": State(CHUNKS, drip=b"1\r\n \r\n"),
        "trailers that drip": State(CHUNKS + b"2\r\n{}\r\n0\r\n", drip=b"X: y\r\n"),
        "an expectation": State(POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"),
        "half of a body that was refused": State(POST + b"Content-Length: 5000\r\n\r\n{", b" "),
        "an upgrade that waits for a body": State(UPGRADE + b"Content-Length: 5\r\n\r\n"),
    },
    "KEEP_ALIVE": {
        "between requests": State(GET + b"\r\n", b""),
        "half of a request behind a request": State(GET + b"\r\n" + GET, b""),
    },
    "PING_TIMEOUT": {
        "a socket that sends nothing": State(UPGRADE + b"\r\n", b""),
        "a socket that sends half of a frame": State(UPGRADE + b"\r\n", frame(b"half")[:7]),
        "a frame that drips": State(UPGRADE + b"\r\n", frame(b"x" * 9000)[:10], drip=b"x"),
        "messages and no pong": State(UPGRADE + b"\r\n", b"", drip=frame(b'{"type":"ping"}')),
    },
}
"""The states by the deadline that ends them; the last ones of the first are refused at once."""

LONG = 60.0
SHORT = 0.15


async def closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes) -> None:
    """Return when the service has closed the connection; send `drip` again and again until then."""
    while True:
        try:
            async with asyncio.timeout(0.02):
                if not await reader.read(65_536):
                    return
        except TimeoutError:
            writer.write(drip)
        except ConnectionError:
            return


@pytest.mark.parametrize(
    ("deadline", "name"), [(deadline, name) for deadline in STATES for name in STATES[deadline]]
)
async def test_every_state_of_a_connection_has_an_end(
    monkeypatch: pytest.MonkeyPatch, deadline: str, name: str
) -> None:
    monkeypatch.setattr(server, deadline, SHORT)
    monkeypatch.setattr(server, "PING_INTERVAL", SHORT)
    for other in STATES.keys() - {deadline}:
        monkeypatch.setattr(server, other, LONG)
    state = STATES[deadline][name]
    async with running(max_body_bytes=1024) as service:
        address = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        async with asyncio.timeout(DEADLINE):
            writer.write(state.first)
            if state.after_answer is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(state.after_answer)
            await closed(reader, writer, state.drip)
        writer.close()
        assert (await service.json("GET", "/health"))["status"] == "healthy"


async def test_an_answer_that_is_never_read_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = asyncio.Event()
    told = server.HttpConnection.connection_lost

    def connection_lost(self: server.HttpConnection, exc: Exception | None) -> None:
        told(self, exc)
        lost.set()

    monkeypatch.setattr(server.HttpConnection, "connection_lost", connection_lost)
    async with running(slow_reader_timeout=0.1) as service:
        address = urlsplit(service.url)
        with socket.socket() as narrow:
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect((address.hostname, address.port))
            narrow.sendall(LARGE * 16)  # more than the kernel takes
            async with asyncio.timeout(DEADLINE):
                await lost.wait()


async def test_a_socket_whose_close_is_not_answered_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CLOSE_TIMEOUT", SHORT)
    async with (
        Upstream([held(text("late"))]) as upstream,
        running(upstream=upstream.base_url) as service,
    ):
        address = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(UPGRADE + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(b'{"type":"chat","data":{"message":"hi"}}'))
        await reader.readuntil(b"chat_start")
        service.registry.stop_all()  # closes with 1012
        async with asyncio.timeout(DEADLINE / 2):
            await closed(reader, writer, drip=b"")
        writer.close()


async def test_what_is_half_sent_behind_a_stream_does_not_end_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HEAD_TIMEOUT", "KEEP_ALIVE"):
        monkeypatch.setattr(server, name, 0.3)
    async with (
        Upstream([held(text("late"))]) as upstream,
        running(upstream=upstream.base_url, heartbeat_interval=0.1) as service,
        streaming(service, message="hi") as (run_id, _),
    ):
        address = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET /runs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % run_id.encode())
        writer.write(b"\r\nGET /hea")
        async with asyncio.timeout(DEADLINE):
            for _ in range(6):
                await reader.readuntil(b": keep-alive")
            upstream.gate.open()
            await reader.readuntil(b'"final_response":"late"')
        writer.close()
