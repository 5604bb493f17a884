"""Nothing that a client sends makes a mistake of the service, and its log stays clean."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests import hostile
from tests.api.support import rest
from tests.service import DEADLINE
from tests.test_server import PYTHON, Process, process

pytestmark = pytest.mark.slow

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MISTAKES = {
    "INFO": ("WARNING", "ERROR", "CRITICAL", "Exception"),
    "DEBUG": ("ERROR", "CRITICAL", "Exception"),
}
"""How a line of the log begins that no client may cause."""

AT_ONCE = 16
FRAMES = 20_000


@asynccontextmanager
async def reading(up: Process) -> AsyncIterator[asyncio.Task[bytes]]:
    """Read what the process says, to its end."""
    assert up.child.stderr is not None
    task = asyncio.create_task(up.child.stderr.read())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def observed(level: str) -> AsyncIterator[Process]:
    """Run the service; it has to answer in the end, and to have logged no mistake."""
    async with (
        process(*PYTHON, LOG_LEVEL=level, DEMO_TOKENS_PER_SECOND="0") as up,
        reading(up) as log,
    ):
        yield up
        async with up.stream() as incoming:
            assert (await rest(incoming))[-1]["event_type"] == "chat_complete"
        up.child.terminate()
        async with asyncio.timeout(DEADLINE):
            text = (await log).decode()
    assert "Traceback" not in text, text[-3000:]
    assert [line for line in text.splitlines() if line.startswith(MISTAKES[level])] == []


async def sent(up: Process, data: bytes, frames: bytes = hostile.closing(1000)) -> bytes:
    """Write a request, and frames if it opens a socket; return what came until it was closed."""
    address = urlsplit(up.url)
    got = b""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(data)
            got = await reader.readuntil(b"\r\n\r\n")
            if got.startswith(b"HTTP/1.1 101 "):
                writer.write(frames)
            while more := await reader.read(65_536):
                got += more
        except ConnectionError:
            pass  # closed before all of it was sent
        finally:
            writer.close()
    return got


async def test_no_frame_makes_a_traceback() -> None:
    async with observed("INFO") as up:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(frames: tuple[bytes, ...]) -> None:
            async with places:
                got = await sent(up, HANDSHAKE, b"".join(frames))
            assert got.startswith(b"HTTP/1.1 101 "), got

        async with asyncio.TaskGroup() as tasks:
            for frames in hostile.sockets(seed=12, count=FRAMES):
                tasks.create_task(one(frames))


@pytest.mark.parametrize("level", MISTAKES)
async def test_no_request_makes_a_traceback(level: str) -> None:
    async with observed(level) as up:
        for name, data in hostile.REQUESTS.items():
            got = await sent(up, data)
            assert re.match(rb"HTTP/1\.1 [1-4]\d\d ", got), (name, got)


async def test_text_that_is_not_utf8_is_one_line_and_the_code_1007() -> None:
    bad, close, ping = hostile.frame(b"\xff"), hostile.closing(1000), hostile.frame(b"p", 9)
    async with process(*PYTHON, LOG_LEVEL="INFO") as up:
        for frames, pong, code in (
            (bad, b"", 1007),
            (bad + close, b"", 1007),
            (ping + bad, b"\x8a\x01p", 1007),
            (ping + bad + close, b"", 1007),
            (close + bad, b"", 1000),
            (ping + close, b"\x8a\x01p", 1000),
        ):
            got = (await sent(up, HANDSHAKE, frames)).partition(b"\r\n\r\n")[2]
            assert got.startswith(pong + b"\x88"), (frames, got)
            assert got[len(pong) + 2 :].startswith(code.to_bytes(2, "big")), (frames, got)
        async with reading(up) as log:
            up.child.terminate()
            async with asyncio.timeout(DEADLINE):
                lines = (await log).decode().splitlines()
    line = "INFO parley.server: A WebSocket message that is not UTF-8 ended its connection"
    assert [told for told in lines if "UTF-8" in told] == [line] * 4
