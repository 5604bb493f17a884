"""A client of `/ws` for tests: JSON frames in order, a deadline on every wait."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.service import DEADLINE, Service

Frame = dict[str, Any]

ENDS = ("chat_complete", "error")
"""The types with which a run, or a refused request, ends."""


class Closed(Exception):
    """The service closed the socket; the argument is the close code."""


class Client:
    """One socket."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = connection

    async def send_raw(self, message: str | bytes) -> None:
        """Send a text message as it is, or a binary one."""
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def send(self, kind: str, request_id: str | None = None, **data: Any) -> None:
        """Send a message; the keywords are its `data`."""
        message: Frame = {"type": kind, "data": data}
        if request_id is not None:
            message["request_id"] = request_id
        await self.socket.send_str(json.dumps(message))

    async def receive(self) -> Frame:
        """Return the next frame.

        Raises:
            Closed: there is none, with the close code.
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(DEADLINE):
            message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            raise Closed(message.data)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Closed(self.socket.close_code)
        frame: Frame = json.loads(message.data)
        return frame

    async def until(self, *kinds: str, request_id: str | None = None) -> list[Frame]:
        """Return all frames up to the first of these types (and of this request), included."""
        frames = []
        while True:
            frame = await self.receive()
            frames.append(frame)
            if frame["type"] in kinds and request_id in (None, frame.get("request_id")):
                return frames

    async def chat(self, message: str, request_id: str | None = None, **data: Any) -> list[Frame]:
        """Send a message and return its frames, the terminal one included."""
        await self.send("chat", request_id, message=message, **data)
        return await self.until(*ENDS, request_id=request_id)

    async def refusal(self) -> Frame:
        """Return the data of the next frame, which must be an error of a request, not a run."""
        frame = await self.receive()
        assert frame["type"] == "error", frame
        assert "run_id" not in frame["data"], frame
        data: Frame = frame["data"]
        return data

    def abort(self) -> None:
        """Break the connection without a word."""
        connection = self.socket.get_extra_info("socket")
        connection.shutdown(socket.SHUT_RDWR)

    async def closed(self) -> int | None:
        """Return the close code with which the service ends the socket, whatever came before."""
        try:
            while True:
                await self.receive()
        except Closed as closed:
            code: int | None = closed.args[0]
            return code


@asynccontextmanager
async def connected(service: Service, **options: Any) -> AsyncIterator[Client]:
    """Open a socket; its session is its own, so that it outlives the service."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(service.url + "/ws", **options) as connection,
    ):
        yield Client(connection)


def text_of(frames: list[Frame]) -> str:
    """Return the answer's text in these frames."""
    return "".join(f["data"]["content"] for f in frames if f["type"] == "chat_chunk")


def as_sse(frames: list[Frame]) -> list[Frame]:
    """Return frames as `tests.service.events` gives the same events over SSE."""
    return [frame["data"] | {"id": frame["id"]} for frame in frames]
