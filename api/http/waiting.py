"""Work for a client that waits for its answer, and none for one that has gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from errors import ClientError

_T = TypeVar("_T")


class ClientGone(ClientError):
    """Nobody reads the answer; the status is the one by which nginx logs it."""

    code = "client_gone"
    status = 499


async def while_waited_for(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what comes of some work; once the client goes away it is cancelled.

    Raises `ClientGone`. The body of the request has been read, or it has none.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("The client went away.")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
