"""Server-sent events, both directions, without I/O.

The format is the one of the HTML standard, "Server-sent events", 9.2.5 and 9.2.6. What it
says and others often miss:

* Lines end with LF, CR or CRLF and nothing else: U+2028 and U+0085 are text.
* An event ends with an empty line; one that the stream's end cuts off is not dispatched.
* A network read may end anywhere, inside a UTF-8 character or between the CR and the LF.

This module imports nothing of the project; framing lives nowhere else.
"""

HEARTBEAT = b": keep-alive\n\n"
"""A comment: keeps proxies from closing a silent stream; clients do not see it."""

_BOM = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """An incoming event exceeds the decoder's limit."""


def frame(data: str, *, event: str | None = None, id: str | None = None) -> bytes:
    """Return one event as bytes. A line break in `data` becomes a further `data:` line.

    Raises `ValueError` for what the format cannot carry: CR, LF or NUL in `event` or `id`, and
    lone surrogates.
    """
    lines = []
    for field, value in (("id", id), ("event", event)):
        if value is not None:
            if any(character in value for character in "\r\n\0"):
                raise ValueError(f"a server-sent event's {field} must not hold CR, LF or NUL")
            lines.append(f"{field}: {value}")
    normal = data.replace("\r\n", "\n").replace("\r", "\n")
    lines.extend(f"data: {line}" for line in normal.split("\n"))
    return ("\n".join(lines) + "\n\n").encode()


def json_frame(data: bytes, id: bytes) -> bytes:
    """Return one event around JSON that holds no raw line break: the fast path of `frame`."""
    return b"id: %b\ndata: %b\n\n" % (id, data)


class Decoder:
    """Bytes in, the `data` of whole events out. Its work is linear in the bytes it is fed.

    Args:
        max_event_bytes: the bound on what one unfinished event may occupy.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        self._tail = bytearray()  # an unfinished event, its line ends already normal
        self._after_cr = False
        self._start: bytes | None = b""  # what may become a byte order mark; None once decided

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that `chunk` completes, in order, or `FrameTooLarge`."""
        if self._start is not None:
            chunk = self._without_mark(chunk)
        if self._after_cr or b"\r" in chunk:
            chunk = self._normal(chunk)
        if not self._tail and _is_one_line(chunk):
            return [chunk[6:-2]]
        blocks = chunk.split(b"\n\n")
        if self._tail:
            self._join_tail(blocks)
        rest = blocks.pop()
        if rest:
            self._tail += rest
            if len(self._tail) > self._max:
                raise FrameTooLarge(f"an event exceeds {self._max} bytes")
        return [event for block in blocks if (event := _data_of(block)) is not None]

    def _without_mark(self, chunk: bytes) -> bytes:
        """Return the stream's first bytes without a byte order mark; none while undecided."""
        begun = (self._start or b"") + chunk
        if len(begun) < len(_BOM) and _BOM.startswith(begun):
            self._start = begun
            return b""
        self._start = None
        return begun.removeprefix(_BOM)

    def _normal(self, chunk: bytes) -> bytes:
        """Return `chunk` with each line end as LF. A CR ends its line before the LF is here."""
        if not chunk:
            return chunk
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _join_tail(self, blocks: list[bytes]) -> None:
        """Put the unfinished event before the first of `blocks`, if that one is finished."""
        first = blocks[0]
        if first.startswith(b"\n") and self._tail.endswith(b"\n"):
            blocks[:1] = [b"", first[1:]]  # the empty line lies across the two reads
        if len(blocks) > 1:
            blocks[0] = bytes(self._tail) + blocks[0]
            self._tail.clear()


def _is_one_line(chunk: bytes) -> bool:
    """Tell whether bytes are one event of one `data` line, as most models send them."""
    return chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2


def _data_of(block: bytes) -> bytes | None:
    """Return the joined `data` lines of one event without its final empty line."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
