"""The checks before a request reaches a route: a pure ASGI middleware.

* A body over the limit is refused: at once if its length is declared, else as soon as too many
  bytes have arrived.
* While the service listens on loopback without credentials, its only protection is that pages of
  other web sites cannot reach it from the user's browser. So the Host must be an IP address,
  `localhost` or an allowed name (a web site can point its own name at 127.0.0.1: DNS rebinding).
* A browser lets any page open a WebSocket to any server, without CORS. So the Origin must be this
  host or an allowed one, and is checked before the WebSocket is accepted. A client that is not a
  browser sends no Origin.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import refusal


class Guard:
    """The middleware.

    Args:
        max_body_bytes: the bound on a request's body.
        hosts: names that a request may be for, or None for any.
        origins: origins, besides the request's own host, that may open a WebSocket; `*`: any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        hosts: Collection[str] | None,
        origins: Collection[str],
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._too_large = f"A body may have at most {max_body_bytes} bytes."
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # Nothing of this stays while a stream or a socket is open.
        refused = self._refusal(
            scope, {name: value.decode("latin-1") for name, value in scope["headers"]}
        )
        if refused is not None:
            await refused(scope, receive, send)
        elif scope["type"] == "http":
            await self._app(scope, self._bounded(receive), send)
        else:
            await self._app(scope, receive, send)

    def _bounded(self, receive: Receive) -> Receive:
        """Return `receive` with the bound on the body that it delivers."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_body_bytes:
                    raise HTTPException(413, self._too_large)
            return message

        return bounded

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> Response | None:
        host = headers.get(b"host", "")
        if self._hosts is not None and not _may_be_asked_for(host, self._hosts):
            detail = (
                "The service does not answer for this Host. Use localhost or an IP address, or "
                "add the name to ALLOWED_HOSTS."
            )
            return refusal(scope, 421, detail, "host_not_allowed")
        if scope["type"] == "websocket" and not self._may_open(headers.get(b"origin"), host):
            detail = "Pages of this Origin may not connect; add it to WEBSOCKET_ORIGINS."
            return refusal(scope, 403, detail, "origin_not_allowed")
        if _declared_length(headers) > self._max_body_bytes:
            return refusal(scope, 413, self._too_large, "too_large")
        return None

    def _may_open(self, origin: str | None, host: str) -> bool:
        if origin is None or "*" in self._origins or origin in self._origins:
            return True
        return origin.partition("://")[2] == host


def _declared_length(headers: dict[bytes, str]) -> int:
    length = headers.get(b"content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0


def _name_of(host: str) -> str:
    """Return a Host header without its port; empty if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _may_be_asked_for(host: str, allowed: Collection[str]) -> bool:
    name = _name_of(host)
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
