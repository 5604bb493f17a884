"""What `server` writes without waiting: nothing, where the connection has no room for it."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

import server
from settings import Settings
from tests.service import DEADLINE

HTTP = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.protocol
        return protocol

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Streaming:
    """An application that begins an answer, or accepts a socket, and says what it was offered."""

    def __init__(self) -> None:
        self.offer: asyncio.Future[Callable[..., bool]] = asyncio.Future()
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        self.offer.set_result(scope["extensions"][server.OFFER])
        await self.over.wait()


@pytest.mark.parametrize(("asked", "whole"), [(HTTP, b"3\r\nabc\r\n"), (SOCKET, b"\x81\x03abc")])
async def test_nothing_is_written_to_a_connection_that_is_paused(
    tmp_path: Any, asked: bytes, whole: bytes
) -> None:
    streaming, transport, state = Streaming(), Transport(), ServerState()
    settings = Settings(_env_file=None, data_dir=tmp_path)
    config = server.configuration(cast(Any, streaming), settings)
    config.load()
    transport.protocol = config.http_protocol_class(config, state, {})  # type: ignore[call-arg]
    transport.protocol.connection_made(transport)
    transport.protocol.data_received(asked)
    async with asyncio.timeout(DEADLINE):
        offer = await streaming.offer
    before = transport.written
    transport.protocol.pause_writing()
    assert offer(str.encode, ["abc"]) is False
    assert transport.written == before
    transport.protocol.resume_writing()
    assert offer(str.encode, ["abc"]) is True
    assert transport.written == before + whole
    transport.protocol.connection_lost(None)
    streaming.over.set()
    await asyncio.wait(state.tasks)
