"""A TCP proxy that cuts: what a lost network looks like, between a client and the service.

It counts the bytes that have gone through to the client. Told so many, it cuts the connection
behind exactly that byte, in the middle of whatever is there; the next connection may have a cut
of its own.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from tests.upstream import Counter


class Proxy:
    """One address in front of another; use it as an async context manager.

    Args:
        url: where to.
        cuts: for each connection in turn, after how many bytes to the client it is cut; None, as
            all that follow, for never.
        blocks_sockets: refuse each upgrade to WebSocket with a 400, as some middleboxes do.

    Attributes:
        target: where the next connection goes.
        opened: how many connections have been opened.
        cut: how many were cut.
        passed: how many bytes have gone to the client.
    """

    def __init__(
        self, url: str, cuts: Iterable[int | None] = (), *, blocks_sockets: bool = False
    ) -> None:
        self.target = url
        self._cuts = iter(cuts)
        self._blocks = blocks_sockets
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.passed = 0
        self.opened = Counter()
        self.cut = Counter()

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> "Proxy":
        await self.listen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def listen(self) -> None:
        """Take connections, always at the same address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Listen no more, and cut what there is."""
        self._server.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut all connections with a TCP reset."""
        for writer in [*self._writers]:
            _reset(writer)

    def freeze(self) -> None:
        """Let nothing through any more, and say so to nobody: a network that is gone."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.add()
        limit = next(self._cuts, None)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if self._blocks and b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            await self._connect(head, reader, writer, limit)
        except (OSError, asyncio.IncompleteReadError):
            return  # either side is gone
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int | None,
    ) -> None:
        target = urlsplit(self.target)
        there, back = await asyncio.open_connection(target.hostname, target.port)
        self._writers.add(back)
        back.write(head)
        ways = {
            asyncio.ensure_future(self._pump(reader, back, None, counted=False)),
            asyncio.ensure_future(self._pump(there, writer, limit, counted=True)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers.discard(back)
            back.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int | None,
        *,
        counted: bool,
    ) -> None:
        left = limit
        while data := await reader.read(65_536):
            await self._flowing.wait()
            sent = data if left is None else data[:left]
            if counted:
                self.passed += len(sent)
            writer.write(sent)
            await writer.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    self.cut.add()
                    with suppress(ConnectionError):
                        writer.close()  # what was sent arrives; then nothing does
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
