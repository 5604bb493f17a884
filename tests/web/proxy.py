"""A way to a service that can be disturbed: it breaks off at any byte, goes silent, forbids.

What a client sees of a bad network, on loopback and without chance. A *told* connection is one that
carries events: a WebSocket, or a request for an event stream. Cuts count the bytes of these only,
from where the service begins to answer, so that nothing else that a client asks moves them.
"""

import asyncio
import contextlib
from collections import deque
from typing import Literal, TypeAlias

Blocked: TypeAlias = Literal["refused", "swallowed", "mute"]
"""What becomes of a WebSocket's handshake: a 403, no answer, or a socket that says nothing."""

_SPLIT = 65_536
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Forwards to `target`. An async context manager.

    Attributes:
        target: host and port of the service; may change.
        is_down: new connections are closed at once.
        is_silent: nothing more is forwarded, on any connection.
        blocked: what becomes of handshakes of WebSockets; None: they pass.
        cuts: after so many bytes of the service the next told connections break off.
        halves: likewise, after so many bytes of the client's requests.
        told: how many told connections there were.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.is_down = False
        self.is_silent = False
        self.blocked: Blocked | None = None
        self.cuts: deque[int] = deque()
        self.halves: deque[int] = deque()
        self.told = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512)
        self._port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        await asyncio.sleep(0)  # who was accepted last begins, and is ended with the others
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Break off all connections, with a reset."""
        for writer in [*self._open]:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            if not self.is_down:
                await _Connection(self, reader, writer).run()
        except (OSError, asyncio.CancelledError):
            return  # either side is gone, which the other one is told below; or all is over
        finally:
            self._open.discard(writer)
            writer.transport.abort()


class _Connection:
    """One client's connection, and that to the service."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._left: int | None = None
        self._is_mute = False

    async def run(self) -> None:
        """Forward until either side has ended."""
        there, back = await self._connected()
        ways = {
            asyncio.ensure_future(self._ask(back)),
            asyncio.ensure_future(self._tell(there)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            try:
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                back.transport.abort()
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the service; who is cancelled meanwhile leaves no connection behind."""
        connecting = asyncio.ensure_future(asyncio.open_connection(*self._proxy.target))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                (await connecting)[1].transport.abort()
            raise

    async def _ask(self, back: asyncio.StreamWriter) -> None:
        """Forward what the client sends, until it is cut."""
        while data := await self._reader.read(_SPLIT):
            line = data.split(b"\r\n", 1)[0]
            is_socket = line.startswith(b"GET /ws ")
            if is_socket and self._proxy.blocked in ("refused", "swallowed"):
                if self._proxy.blocked == "refused":
                    self._writer.write(_FORBIDDEN)
                    return
                await asyncio.Event().wait()
            if is_socket or b"/stream?" in line or b"/events?" in line:
                self._proxy.told += 1
                self._is_mute = is_socket and self._proxy.blocked == "mute"
                self._left = self._proxy.cuts.popleft() if self._proxy.cuts else None
                if self._proxy.halves:
                    data = data[: self._proxy.halves.popleft()]
                    back.write(data)
                    await back.drain()
                    return
            if not self._proxy.is_silent:
                back.write(data)
                await back.drain()

    async def _tell(self, there: asyncio.StreamReader) -> None:
        """Forward what the service sends, until it is cut."""
        said = False
        while data := await there.read(_SPLIT):
            if self._proxy.is_silent or (self._is_mute and said):
                continue
            said = True
            if self._is_mute:
                data = data[: data.index(b"\r\n\r\n") + 4]
            if self._left is not None:
                data, rest = data[: self._left], data[self._left :]
                self._left -= len(data)
                self._writer.write(data)
                await self._writer.drain()
                if rest or self._left == 0:
                    return
            else:
                self._writer.write(data)
                await self._writer.drain()
