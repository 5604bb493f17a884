"""The checks before a request reaches a route: a pure ASGI middleware.

* A body over the limit is refused: at once if its length is declared, else as soon as too many
  bytes have arrived.
* While the service listens on loopback without credentials, its only protection is that pages of
  other web sites cannot reach it from the user's browser. So the Host must be an IP address,
  `localhost` or an allowed name (a web site can point its own name at 127.0.0.1: DNS rebinding).
* A browser lets any page send a form or an empty POST to any server, and open a WebSocket to it,
  without CORS. So whatever may change something, which is each request but GET, HEAD and OPTIONS,
  and each WebSocket before it is accepted, must come from a page of this host or of an allowed
  origin: by its `Origin`, and by `Sec-Fetch-Site` (W3C Fetch Metadata), which browsers send also
  where they send no Origin. A client that is not a browser sends neither.
* No request becomes another one by its slashes. A path with an empty part, which is what an empty
  id makes of an address, is nobody's. A slash that is quoted (`%2F`) is a part of a name: routes
  see it as it was sent, and not as the beginning of the next part.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import refusal

SAFE = ("GET", "HEAD", "OPTIONS")
"""The methods that change nothing (RFC 9110, 9.2.1); a WebSocket has none."""

_STRANGER = {
    "http": "Pages of this Origin may change nothing; add it to CORS_ORIGINS. A proxy in front "
    "has to pass the Host on.",
    "websocket": "Pages of this Origin may not connect; add it to WEBSOCKET_ORIGINS. A proxy in "
    "front has to pass the Host on.",
}
_QUOTED_SLASH = re.compile("%2f", re.IGNORECASE)


class Guard:
    """The middleware.

    Args:
        max_body_bytes: the bound on a request's body.
        hosts: names that a request may be for, or None for any.
        origins: by the type of a scope, the origins besides the request's own host whose pages
            may change something (`http`) or open a WebSocket (`websocket`); `*`: any.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        hosts: Collection[str] | None,
        origins: Mapping[str, Collection[str]],
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
        scope = _with_names_whole(scope)
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
        if scope.get("method") not in SAFE and not self._may_act(scope["type"], headers, host):
            return refusal(scope, 403, _STRANGER[scope["type"]], "origin_not_allowed")
        if _has_empty_part(scope):
            detail = "There is nothing here: the path ends with a slash, or has two in a row."
            return refusal(scope, 404, detail, "not_found")
        if _declared_length(headers) > self._max_body_bytes:
            return refusal(scope, 413, self._too_large, "too_large")
        return None

    def _may_act(self, kind: str, headers: dict[bytes, str], host: str) -> bool:
        """Tell whether this comes from a page that may send it, or from no page."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
        if "*" in self._origins[kind] or origin in self._origins[kind]:
            return True
        is_own = origin is not None and host != "" and origin.partition("://")[2] == host
        if kind == "websocket" and is_own:
            return True  # some browsers take `ws:` for another site than `http:`
        return (is_own or origin is None) and site in ("same-origin", "none")


def _with_names_whole(scope: Scope) -> Scope:
    """Return the scope with `%2F` in its path where a slash was quoted.

    Servers decode a path before it is split, after which nobody can tell the two.
    """
    raw = scope.get("raw_path", b"").decode("latin-1")
    parts = _QUOTED_SLASH.split(raw)
    return scope if len(parts) == 1 else {**scope, "path": "%2F".join(map(unquote, parts))}


def _has_empty_part(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path != "/" and (path.endswith("/") or "//" in path)


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
