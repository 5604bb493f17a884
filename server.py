"""How uvicorn is run: what protects the process below the application.

* `TCP_USER_TIMEOUT` on the listening socket frees a connection whose peer is gone or never
  reads; uvicorn's own ping time-out waits for the send buffer to empty, which it never does.
* A request's head is bounded in bytes and in time, its body in time; uvicorn alone holds a
  half-sent one open for ever and takes 50 MB of head.
* Pings are answered only while the client reads; uvicorn alone piles the answers up.
* Compression of WebSocket messages is off: it costs 35 KiB a socket and gains nothing on
  small JSON.

This module imports `settings` only. `uvicorn app:app` works without it and without these
protections; then a reverse proxy has to give them.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("parley.server")

T = TypeVar("T")

USER_TIMEOUT_MS = 25_000
"""How long sent data may stay unacknowledged, or unread, before the kernel gives up."""

MAX_HEAD_BYTES = 65_536
MAX_UNREAD_BYTES = 1_048_576
HEAD_TIMEOUT = 10.0
BODY_TIMEOUT = 60.0

ABORT = "parley.abort"
"""The scope's extension that drops a connection with all that is unsent, at once."""

OFFER = "parley.offer"
"""The scope's extension `offer(encode, values)`: where the connection has room, write what `send`
would of each encoded value, pieces of a body or the texts of messages, and return True."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a bound on unread pongs, `abort` and `offer`."""

    def handle_ping(self) -> None:
        """Answer a ping, or end a connection that sends pings and does not read."""
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()
        else:
            super().handle_ping()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions = {ABORT: self.transport.abort, OFFER: self.offer}
            self.scope["extensions"] |= cast(Any, extensions)

    def offer(self, encode: Callable[[T], bytes], values: Iterable[T]) -> bool:
        """Send messages if that needs no waiting; see `OFFER`."""
        has_room = self.handshake_complete and not (self.close_sent or self.disconnected)
        if not has_room or not self.writable.is_set() or self.conn.state is not State.OPEN:
            return False
        self.transport.write(b"".join(map(_text_frame, map(encode, values))))
        return True

    async def send(self, message: Any) -> None:
        """Send a message; a refusal with a body ends the handshake too, which uvicorn forgets."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.request.headers.clear()  # `websockets` holds it while the socket is open
            del self.request, self.response
        elif message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True


def _text_frame(payload: bytes) -> bytes:
    """Return a whole, unmasked text message as one frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with bounds on what a request may keep waiting; `abort`, `offer`."""

    # Beside uvicorn's 28 attributes: an object with more than 30 has a table of 1.5 KiB of its own.
    __slots__ = ("_head_bytes", "_in_head", "_timer")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; the first one's time counts from here."""
        super().connection_made(transport)
        self._wait_for_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Count what arrives before a head is complete."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._give_up()

    def on_headers_complete(self) -> None:
        """The head is complete; the body has its own time."""
        self._stop_waiting()
        self._in_head = False
        self._timer = self.loop.call_later(BODY_TIMEOUT, self._give_up)
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:  # no upgrade
            offer = partial(self._offer, self.cycle)
            self.scope["extensions"] = cast(Any, {ABORT: self.transport.abort, OFFER: offer})

    def _offer(
        self, cycle: RequestResponseCycle, encode: Callable[[T], bytes], values: Iterable[T]
    ) -> bool:
        """Send a piece of a response if that needs no waiting; see `OFFER`."""
        is_open = cycle.chunked_encoding and not (cycle.response_complete or cycle.disconnected)
        if not is_open or self.flow.write_paused:
            return False
        if body := b"".join(map(encode, values)):
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from here."""
        self._stop_waiting()
        super().handle_websocket_upgrade()
        self.parser = self.scope = cast(Any, None)  # the parser holds this protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _give_up(self) -> None:
        self._stop_waiting()
        self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 picks a free one. `OSError` if it cannot be used."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listening = socket.create_server((host, port), family=family, backlog=2048)
    # Connections inherit it. Without it a kept-alive client waits 40 ms for the end of an answer:
    # asyncio sets it only where a socket knows its protocol by number, which this one does not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return listening


def configuration(app: "FastAPI", settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpConnection,
        ws=WebSocketConnection,
        # A message over WEBSOCKET_MAX_BYTES gets an answer; one over this ends the connection.
        ws_max_size=4 * settings.websocket_max_bytes,
        ws_per_message_deflate=False,
        access_log=settings.debug,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + 5,
        server_header=False,
        log_config=None,
    )


class _Server(uvicorn.Server):
    """Shuts down in order at a second signal, too; a third signal ends the process at once.

    At the second signal the application suspends the active runs, so that there is nothing left to
    wait for.
    """

    _signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals != 2:
            super().handle_exit(sig, frame)


def run(app: "FastAPI", settings: Settings) -> None:
    """Serve the application until a signal ends it; `OSError` if its address cannot be used."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn raises the signal again when all is done; then it is an ordinary end.
        signal.signal(number, lambda *_: None)
    with listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        _Server(configuration(app, settings)).run(sockets=[listening])
