"""How uvicorn is run: what protects the process below the application.

* `TCP_USER_TIMEOUT` on the listening socket frees a connection whose peer is gone or never
  reads; uvicorn's own ping time-out waits for the send buffer to empty, which it never does.
* A request's head is bounded in bytes and in time; uvicorn alone holds a half-sent one open
  for ever and takes 50 MB of it.
* Compression of WebSocket messages is off: it costs 35 KiB a socket and gains nothing on
  small JSON.

This module imports `settings` only. `uvicorn app:app` works without it and without these
protections; then a reverse proxy has to give them.
"""

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("parley.server")

USER_TIMEOUT_MS = 25_000
"""How long sent data may stay unacknowledged, or unread, before the kernel gives up."""

MAX_HEAD_BYTES = 65_536
HEAD_TIMEOUT = 10.0


class BoundedHead(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on each request's head, in bytes and seconds."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def on_message_begin(self) -> None:
        """A head begins; the first one's time counts from the connection."""
        super().on_message_begin()
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Count what arrives before a head is complete."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._give_up()

    def on_headers_complete(self) -> None:
        """The head is complete: its bounds end."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = None
        self._head_bytes = 0

    def _give_up(self) -> None:
        self._stop_waiting()
        self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one.

    Raises:
        OSError: the address cannot be used.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listening = socket.create_server((host, port), family=family, backlog=2048)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return listening


def configuration(app: "FastAPI", settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=BoundedHead,
        ws="websockets-sansio",
        # A message over WEBSOCKET_MAX_BYTES gets an answer; one over this ends the connection.
        ws_max_size=4 * settings.websocket_max_bytes,
        ws_per_message_deflate=False,
        access_log=settings.debug,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + 5,
        server_header=False,
        log_config=None,
    )


def run(app: "FastAPI", settings: Settings) -> None:
    """Serve the application until a signal ends it.

    Raises:
        OSError: the address cannot be used.
    """
    with listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        uvicorn.Server(configuration(app, settings)).run(sockets=[listening])
