"""The load client: opens streams, notes when each piece came, and checks them afterwards.

While a stream runs, the client only splits HTTP bodies or WebSocket messages and notes the
time; it parses them after the stream's end. A stream counts only when its text is, to the
letter, the one that the upstream sent, and when it ended with `chat_complete` (or `[DONE]` on
OpenAI's wire), once, with no token after that.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import httptools
import msgspec

import sse
from bench import upstream

DEADLINE = 90.0
"""Seconds that one chat may take; beyond it the scenario is void."""

_TERMINAL_MARK = b'"chat_complete"'
_PONG = b"\x8a\x80" + bytes(4)


class Void(Exception):
    """A stream was not what the upstream sent: the scenario has no figure."""


Wire: TypeAlias = Literal["SSE", "WebSocket", "OpenAI"]


class Target(NamedTuple):
    """Whom to ask, and how: server-sent events, a WebSocket, or chat completions.

    `remembers`: as a user of whom something is remembered.
    """

    server: str
    port: int
    wire: Wire
    remembers: bool = False

    @property
    def name(self) -> str:
        return f"{self.server}, {self.wire}" + (" with memory" if self.remembers else "")


class Record(NamedTuple):
    """What happened in one chat, in seconds of the monotonic clock."""

    started: float
    ended: float
    arrivals: list[tuple[float, int]]
    """When tokens came, and how many."""
    messages: int
    """In how many events the tokens came; fewer than tokens where a server merged some."""

    @property
    def time_to_first_token(self) -> float:
        """From before the connection is opened."""
        return self.arrivals[0][0] - self.started

    def tokens_between(self, start: float, end: float) -> int:
        return sum(count for at, count in self.arrivals if start <= at < end)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Event(msgspec.Struct):
    """An event of any of the wires; in a WebSocket message it is in `data`."""

    event_type: str = ""
    content: str = ""
    choices: list[_Choice] = []
    data: "_Event | None" = None


_decode = msgspec.json.Decoder(_Event).decode


class _Stream(asyncio.Protocol):
    """One connection; `finished` resolves when its chat has ended."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[float, bytes]] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(Void(f"the connection was lost: {exc}"))

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class _HttpStream(_Stream):
    """A POST whose answer is a stream of server-sent events."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        data = msgspec.json.encode(body)
        super().__init__(
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
        )
        self._parser: Any = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.pieces.append((time.perf_counter(), body))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200 and not self.finished.done():
            self.finished.set_exception(Void(f"answered {b''.join(p for _, p in self.pieces)!r}"))
        self._finish()

    def events(self) -> Iterator[tuple[float, list[bytes]]]:
        decoder = sse.Decoder()
        for at, piece in self.pieces:
            yield at, decoder.feed(piece)


class _SocketStream(_Stream):
    """A WebSocket (RFC 6455): sends one chat.

    Without a body it is finished once it is open, and offers compression as browsers do; the
    chats do not, so that every server sends plain text.
    """

    def __init__(self, body: dict[str, Any] | None) -> None:
        offer = b"" if body else b"sec-websocket-extensions: permessage-deflate\r\n"
        super().__init__(
            b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\n"
            b"connection: Upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n" % offer
        )
        self._chat = _masked(msgspec.json.encode(body)) if body else b""
        self._buffer = b""
        self._open = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self.transport.abort()
                return
            self._buffer, self._open = rest, True
            if self._chat:
                self.transport.write(self._chat)
            else:
                self._finish()
        self._read_messages()

    def _read_messages(self) -> None:
        """Take whole frames off the buffer; a server's are unmasked, and ours unfragmented."""
        now, buffer, at = time.perf_counter(), self._buffer, 0
        while len(buffer) >= at + 2:
            size, start = buffer[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : start])
            if len(buffer) < start + size:
                break
            if buffer[at] == 0x89:
                self.transport.write(_PONG)
            elif buffer[at] == 0x81:
                self.pieces.append((now, buffer[start : start + size]))
            at = start + size
        self._buffer = buffer[at:]
        if at and self.pieces and _TERMINAL_MARK in self.pieces[-1][1][:200]:
            self._finish()

    def events(self) -> Iterator[tuple[float, list[bytes]]]:
        for at, piece in self.pieces:
            yield at, [piece]


def _masked(payload: bytes) -> bytes:
    """Return a text frame as a client must send it; the mask of zeros changes nothing."""
    assert len(payload) < 65536
    return b"\x81\xfe" + len(payload).to_bytes(2) + bytes(4) + payload


REMEMBERED = "bench"
"""The user of whom something is remembered."""


def _stream(target: Target, script: str) -> _HttpStream | _SocketStream:
    body: dict[str, Any] = {"message": "How much does a token cost?", "agent": script}
    if target.remembers:
        body |= {"memory": True, "user_id": REMEMBERED}
    match target.wire:
        case "SSE":
            return _HttpStream("/chat/stream", body)
        case "WebSocket":
            return _SocketStream({"type": "chat", "request_id": "1", "data": body})
        case "OpenAI":
            question = [{"role": "user", "content": body["message"]}]
            return _HttpStream(
                "/v1/chat/completions", {"model": script, "messages": question, "stream": True}
            )


def _checked(
    stream: _HttpStream | _SocketStream, tokens: int
) -> tuple[list[tuple[float, int]], int]:
    """Return when tokens came and how many, and in how many events, or raise `Void`."""
    texts: list[str] = []
    arrivals, ends = [], 0
    for at, events in stream.events():
        before = len(texts)
        for data in events:
            if data == b"[DONE]":
                ends += 1
                continue
            event = _decode(data)
            said = _text_of(event.data or event)
            if said and ends:
                raise Void("a token came after the end")
            if said:
                texts.append(said)
            ends += (event.data or event).event_type == "chat_complete"
        if len(texts) > before:
            arrivals.append((at, "".join(texts[before:]).count(" token")))
    if "".join(texts) != upstream.text(tokens) or ends != 1:
        raise Void(f"{sum(n for _, n in arrivals)} of {tokens} tokens, {ends} ends")
    return arrivals, len(texts)


def _text_of(event: _Event) -> str:
    if event.choices:
        return event.choices[0].delta.content or ""
    return event.content if event.event_type == "chat_chunk" else ""


async def chat(target: Target, script: str, tokens: int) -> Record:
    """Have one chat on a connection of its own; raises `Void` if it was not as it should be."""
    loop, stream, started = asyncio.get_running_loop(), _stream(target, script), time.perf_counter()
    await loop.create_connection(lambda: stream, "127.0.0.1", target.port)
    try:
        async with asyncio.timeout(DEADLINE):
            await stream.finished
    except TimeoutError:
        raise Void(f"no end after {DEADLINE:.0f} s") from None
    finally:
        stream.transport.close()
    ended = time.perf_counter()
    return Record(started, ended, *_checked(stream, tokens))


async def chats(
    target: Target, script: str, tokens: int, *, total: int, at_once: int
) -> list[Record]:
    left, records = iter(range(total)), []

    async def worker() -> None:
        for _ in left:
            records.append(await chat(target, script, tokens))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return records


async def idle_sockets(port: int, count: int) -> list[asyncio.Transport]:
    """Open WebSockets that say nothing; the caller closes them."""
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(count):
        _, stream = await loop.create_connection(lambda: _SocketStream(None), "127.0.0.1", port)
        await stream.finished
        transports.append(stream.transport)
    return transports
