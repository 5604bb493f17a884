"""Bodies of requests, so that they fill no memory, and large ones do not stall the event loop.

* A body may hold `MAX_CONTAINERS` arrays and objects: to decode and check more would take too long.
  They are counted before the body is decoded.
* Of large bodies one is decoded and checked in a turn of the loop, however many arrive together.
* All bodies that are still arriving, or wait for their turn, may have `MAX_ARRIVING` bytes; a body
  that was taken counts as its run.
"""

import asyncio
import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offload import offload

MAX_CONTAINERS: Final = 15_000
"""Arrays and objects that a body may hold."""

LARGE: Final = 2 * MAX_CONTAINERS
"""Bytes of a body that cannot hold more."""

MAX_ARRIVING: Final = 67_108_864
"""Bytes of all bodies that are not taken yet."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""A text of JSON; one without an end is the rest, else each quote in it would be looked at anew."""


class Bodies:
    """The middleware. `arriving`: bytes of bodies that are not taken yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.arriving = 0
        self._app = app
        self._one_in_a_turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.is_taken()

    async def turn(self, body: bytes) -> None:
        """Wait for a turn of the loop; `HTTPException` where the body holds too much."""
        await self._one_in_a_turn.acquire()
        try:
            # In the thread, also to wait for what the body before this one left to do there.
            many = await offload(_containers, body)
        finally:
            asyncio.get_running_loop().call_soon(self._one_in_a_turn.release)
        if many > MAX_CONTAINERS:
            text = f"A body may hold at most {MAX_CONTAINERS:,} arrays and objects."
            raise HTTPException(413, text)


class _Body:
    """The body of one request, as it arrives."""

    def __init__(self, bodies: Bodies, receive: Receive) -> None:
        self._bodies = bodies
        self._receive = receive
        self._pieces: list[bytes] = []
        self._size = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        piece = message.get("body", b"")
        if self._bodies.arriving + len(piece) > MAX_ARRIVING:
            text = "The service receives as much as it can; try again later."
            raise HTTPException(503, text, {"Retry-After": "1"})
        self._pieces.append(piece)
        self._size += len(piece)
        self._bodies.arriving += len(piece)
        if not message.get("more_body"):
            if self._size > LARGE:
                await self._bodies.turn(b"".join(self._pieces))
            self.is_taken()
        return message

    def is_taken(self) -> None:
        self._bodies.arriving -= self._size
        self._size = 0
        self._pieces.clear()


def _containers(body: bytes) -> int:
    """Count the arrays and objects of JSON, or somewhat more where there are few."""
    many = body.count(b"{") + body.count(b"[")
    if many <= MAX_CONTAINERS:
        return many
    bare = _STRING.sub(b"", body)
    return bare.count(b"{") + bare.count(b"[")
