"""Routes that start runs, by a shorter way than FastAPI's.

FastAPI's way from a request to a route's function, through content types, dependencies and exit
stacks, costs a sixth of what a chat costs without storage, and 5 KiB for as long as its stream is
open. A `DirectRoute` is declared, described and checked as any other route; but an ordinary
request, a small JSON body that fits and no query, is handed to its function at once. Every other
one takes FastAPI's way, which makes the errors, too.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.http.services import MAX_KEY, starting
from offload import LARGE


class DirectRoute(APIRoute):
    """A POST whose function takes the body, `runs: StartRuns`, and what else has a default."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        body = next(iter(inspect.signature(endpoint).parameters.values()))
        self.body_types: TypeAdapter[Any] = TypeAdapter(body.annotation)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if not _is_ordinary(Request(scope)):
            await super().handle(scope, receive, send)
            return
        try:
            content = await Request(scope, receive).body()
        except ClientDisconnect:
            await super().handle(scope, receive, send)
            return
        try:
            if len(content) >= LARGE:  # to check a body twice takes long where it does not fit
                raise ValueError
            body = self.body_types.validate_python(json.loads(content))
        except (ValueError, RecursionError):
            await super().handle(scope, _again(content, receive), send)
            return
        request = Request(scope)
        response: Response = await self.endpoint(body, starting(request, _key(request)))
        del content, body, request  # the response may be a long stream
        await response(scope, receive, send)


def _is_ordinary(request: Request) -> bool:
    """Tell whether the head of a request needs no closer look."""
    key = _key(request)
    return (
        request.method == "POST"
        and request.headers.get("content-type") == "application/json"
        and not request.scope["query_string"]
        and (key is None or 0 < len(key) <= MAX_KEY)
    )


def _key(request: Request) -> str | None:
    return request.headers.get("idempotency-key")


def _again(content: bytes, receive: Receive) -> Receive:
    """Return `receive` that gives the body again."""
    bodies = [content]

    async def again() -> Message:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return again
