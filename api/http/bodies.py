"""Large bodies of requests, so that none of them, and not many at once, stalls the event loop.

* A body may hold `MAX_CONTAINERS` arrays and objects: to decode and check more would take too long.
  They are counted before the body is decoded.
* Of large bodies one is decoded and checked in a turn of the loop, however many arrive together.
"""

import asyncio
import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offload import LARGE, offload

MAX_CONTAINERS: Final = 25_000
"""Arrays and objects that a body may hold."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class LargeBodies:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._one_in_a_turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            receive = self._in_turns(receive)
        await self._app(scope, receive, send)

    def _in_turns(self, receive: Receive) -> Receive:
        """Return `receive` that gives the end of a large body when its turn comes."""
        pieces: list[bytes] = []
        size = 0

        async def in_turns() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] != "http.request":
                return message
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if not message.get("more_body") and size >= LARGE:
                await self._turn(pieces)
            return message

        return in_turns

    async def _turn(self, pieces: list[bytes]) -> None:
        """Wait for a turn of the loop; `HTTPException` where the body holds too much."""
        body = b"".join(pieces)
        pieces.clear()
        await self._one_in_a_turn.acquire()
        try:
            # In the thread, also to wait for what the body before this one left to do there.
            many = await offload(_containers, body)
        finally:
            asyncio.get_running_loop().call_soon(self._one_in_a_turn.release)
        if many > MAX_CONTAINERS:
            text = f"A body may hold at most {MAX_CONTAINERS:,} arrays and objects."
            raise HTTPException(413, text)


def _containers(body: bytes) -> int:
    """Count the arrays and objects of JSON, or somewhat more where there are few."""
    many = body.count(b"{") + body.count(b"[")
    if many <= MAX_CONTAINERS:
        return many
    bare = _STRING.sub(b"", body)
    return bare.count(b"{") + bare.count(b"[")
