"""How uvicorn is run: what protects the process below the application.

* `TCP_USER_TIMEOUT` on the listening socket frees a connection whose peer is gone or never
  reads; uvicorn's own ping time-out waits for the send buffer to empty, which it never does.
* No state of a connection is without a deadline, and a head is bounded in bytes; uvicorn alone
  holds a half-sent one open for ever and takes 50 MB of head.
* Whatever a client sends, it makes no traceback; uvicorn alone writes one for bad UTF-8.
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
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

logger = logging.getLogger("parley.server")

T = TypeVar("T")

USER_TIMEOUT_MS = 25_000
"""How long sent data may stay unacknowledged, or unread, before the kernel gives up."""

MAX_HEAD_BYTES = 65_536
MAX_UNREAD_BYTES = 1_048_576
HEAD_TIMEOUT = 10.0
BODY_TIMEOUT = 60.0
KEEP_ALIVE = 5
PING_INTERVAL = PING_TIMEOUT = 20.0
CLOSE_TIMEOUT = 10.0

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

ABORT = "parley.abort"
"""The scope's extension that drops a connection with all that is unsent, at once."""

OFFER = "parley.offer"
"""The scope's extension `offer(encode, values)`: where the connection has room, write what `send`
would of each encoded value, pieces of a body or the texts of messages, and return True."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a bound on unread pongs, `abort` and `offer`.

    Whatever its client sends ends it with the code that RFC 6455 says, and without a traceback.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn.debug = False  # it would log what people say
        self.close_timeout = CLOSE_TIMEOUT

    def data_received(self, data: bytes) -> None:
        """Take data; the first of it is the whole head, which `websockets` may refuse."""
        super().data_received(data)
        if not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Deliver a message; text that is not UTF-8 ends the connection with 1007 (8.1)."""
        is_text = self.curr_msg_data_type == "text" and not self.close_sent
        if is_text and not _is_utf8(b"".join(self.frames)):
            logger.info("A WebSocket message that is not UTF-8 ended its connection")
            self._end(Close(CloseCode.INVALID_DATA, "text has to be UTF-8"))
        else:
            super().send_receive_event_to_app()

    def _end(self, close: Close) -> None:
        """End the connection for a fault of the client; what came behind it is answered no more."""
        self.conn.data_to_send()
        self.transport.write(Frame(Opcode.CLOSE, close.serialize()).serialize(mask=False))
        event = {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        self.queue.put_nowait(cast(Any, event))
        self.close_sent = True
        self.transport.close()

    def handle_ping(self) -> None:
        """Answer a ping, or end a connection that sends pings and does not read."""
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()
        elif self.conn.close_rcvd is None and not self.transport.is_closing():
            super().handle_ping()  # else the answer goes with that to the close

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
        """Send a message; a refusal with a body ends the handshake too, which uvicorn forgets.

        `ClientDisconnected` where the client's fault has ended the connection in the meantime.
        """
        await self.writable.wait()
        if self.close_sent and message["type"] in ("websocket.send", "websocket.close"):
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.request.headers.clear()  # `websockets` holds it while the socket is open
            del self.request, self.response
        elif message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text_frame(payload: bytes) -> bytes:
    """Return a whole, unmasked text message as one frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with bounds on what a client may keep waiting; `abort`, `offer`.

    While the service works on a request the deadlines are the application's. At any other time one
    runs here: `HEAD_TIMEOUT` from the connection's begin, or from the first byte after an answer,
    even if that is only an empty line; `BODY_TIMEOUT` from the head's end; `KEEP_ALIVE` between an
    answer and the next byte (uvicorn's own). What the client sends does not renew a deadline.

    Args:
        write_timeout: seconds for which the connection may take nothing that is to be sent.
    """

    # Beside uvicorn's 28 attributes: an object with more than 30 has a table of 1.5 KiB of its own.
    __slots__ = ("_in_head", "_useless", "_waiting", "_write_timeout", "_writing")

    def __init__(self, *args: Any, write_timeout: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write_timeout = write_timeout
        self._in_head = False
        self._useless = 0
        self._waiting: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        """Take data, and count what completes no head and is no body, such as trailers."""
        self._useless += len(data)
        super().data_received(data)
        if self._useless > MAX_HEAD_BYTES:
            self._give_up()
        elif self._waiting is None and self._is_idle():
            self._wait(HEAD_TIMEOUT)

    def _is_idle(self) -> bool:
        """Tell whether there is nothing that the service could work on."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and self.transport.get_protocol() is self

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes as a trailer is none (RFC 9110, 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete; the body has its own time."""
        self._in_head, self._useless = False, 0
        self._wait(BODY_TIMEOUT)
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:  # no upgrade
            offer = partial(self._offer, self.cycle)
            self.scope["extensions"] = cast(Any, {ABORT: self.transport.abort, OFFER: offer})

    def on_body(self, body: bytes) -> None:
        self._useless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._useless = 0
        self._stop_waiting()
        super().on_message_complete()

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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._write_timeout, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_writing()

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from here."""
        self._stop_waiting()
        super().handle_websocket_upgrade()
        self.parser = self.scope = cast(Any, None)  # the parser holds this protocol

    def send_400_response(self, msg: str) -> None:
        logger.info("A request that is not valid HTTP was refused")
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._writing = None

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


def configuration(app: "FastAPI | ASGIApp", settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        # A stream that a client does not read is cut off by the application, a little earlier.
        http=cast(Any, partial(HttpConnection, write_timeout=2 * settings.slow_reader_timeout)),
        ws=WebSocketConnection,
        timeout_keep_alive=KEEP_ALIVE,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        # A message over WEBSOCKET_MAX_BYTES gets an answer; one over this ends the connection.
        ws_max_size=4 * settings.websocket_max_bytes,
        ws_per_message_deflate=False,
        access_log=settings.debug,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + 5,
        server_header=False,
        log_config=None,
    )


class _Server(uvicorn.Server):
    """Says when it is ready, and shuts down in order at a second signal, too; a third ends it.

    At the second signal the application suspends the active runs, so that there is nothing left to
    wait for.
    """

    _signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it listens as soon as it answers."""
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

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
        _Server(configuration(app, settings)).run(sockets=[listening])
