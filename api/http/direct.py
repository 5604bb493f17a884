"""Routes that start runs, by a shorter way than FastAPI's.

FastAPI's way from a request to a route's function, through content types and dependencies, costs a
sixth of all that the service does for a chat. A `DirectRoute` is declared, described and checked as
any other route; but an ordinary request, a JSON body that fits and no query, is handed to its
function at once. Every other request takes FastAPI's way, which makes the errors, too.
"""

import inspect
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.http.services import MAX_KEY, starting


class _Irregular(Exception):
    """The request is not for the short way."""


class DirectRoute(APIRoute):
    """A POST whose function takes the body, `runs: StartRuns`, and what else has a default."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        by_fastapi, function = super().get_route_handler(), self.endpoint
        body_type = next(iter(inspect.signature(function).parameters.values())).annotation
        bodies: TypeAdapter[Any] = TypeAdapter(body_type)

        async def handle(request: Request) -> Response:
            try:
                body = bodies.validate_python(await _json(request))
            except (_Irregular, ValidationError):
                return await by_fastapi(request)
            response: Response = await function(body, starting(request, _key(request)))
            return response

        return handle


async def _json(request: Request) -> Any:
    """Return the body's JSON; `_Irregular` where anything needs a closer look."""
    headers, key = request.headers, _key(request)
    is_plain = (
        headers.get("content-type") == "application/json" and not request.scope["query_string"]
    )
    if not is_plain or not (key is None or 0 < len(key) <= MAX_KEY):
        raise _Irregular
    try:
        return json.loads(await request.body())
    except (ClientDisconnect, ValueError, RecursionError):
        raise _Irregular from None


def _key(request: Request) -> str | None:
    return request.headers.get("idempotency-key")
