"""Server-sent events in, pairs of `id` and `data` out, without I/O.

The format is that of the HTML standard, "Server-sent events", 9.2.6: lines end with LF, CR or
CRLF and nothing else, and a read may end anywhere.
"""

import re

from parley_client.errors import Lost

MAX_BYTES = 64 * 1024 * 1024
"""The bound on one event, here and on a WebSocket."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Frames:
    """The frames of one stream."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a line that has not ended
        self._after_cr = False
        self._size = 0
        self._id: str | None = None
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[tuple[str | None, bytes]]:
        """Return the frames that `chunk` completes; raises `Lost` if one exceeds the bound."""
        self._size += len(chunk)
        if self._size > MAX_BYTES:
            raise Lost
        if not (self._after_cr or _LINE_END.search(chunk)):
            self._pieces.append(chunk)
            return []
        text = b"".join([*self._pieces, chunk])
        held = b"\r" if text.endswith(b"\r") else b""  # its LF may be on the way
        self._after_cr = bool(held)
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._pieces = [rest + held]
        frames = [frame for line in lines if (frame := self._line(line)) is not None]
        if frames:
            self._size = len(rest) + sum(map(len, self._data))
        return frames

    def _line(self, line: bytes) -> tuple[str | None, bytes] | None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            frame = (self._id, b"\n".join(self._data)) if self._data else None
            self._data = []
            return frame
        if name == b"id":
            self._id = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
        elif not name:
            self._size = 0 if not self._data else self._size  # a heartbeat is no frame's part
        return None
