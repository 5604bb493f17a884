"""Older events of a log, which are seldom read, in little memory.

A piece of text is an object of 200 bytes around a word. With thousands of runs these objects fill
the processor's caches, and every token of every other run takes longer. So adjacent pieces are kept
as one text in UTF-8 and their lengths, and become objects again when somebody reads them.

Arguments and results of tools are objects of up to forty times the size of their JSON. So an event
that has many is kept as JSON.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from events import ChatChunk, Event, ReasoningChunk

MAX_PIECES: Final = 256
"""How many pieces one text holds at most: to find one of them, those before are counted."""

_DENSE_BYTES: Final = 1024
_DENSE_OBJECTS: Final = 16
"""From how many bytes of JSON, or arrays and objects in it, an event is kept as JSON."""

_Piece: TypeAlias = ChatChunk | ReasoningChunk

_decode = msgspec.json.Decoder(Event).decode


def is_dense(encoded: bytes) -> bool:
    """Tell whether an event is to be kept as its JSON."""
    if len(encoded) >= _DENSE_BYTES:
        return True
    return encoded.count(b"[") + encoded.count(b"{") > _DENSE_OBJECTS


def unpacked(events: Iterable[Event | bytes]) -> list[Event]:
    return [_decode(event) if isinstance(event, bytes) else event for event in events]


class _Pieces(NamedTuple):
    """Adjacent pieces of one message."""

    kind: type[_Piece]
    message_id: str
    text: bytes
    lengths: "array[int]"

    def events(self, run_id: str, before: int, start: int, stop: int) -> Iterator[Event]:
        """Yield those of the events `start + 1` to `stop` that are here, after `before` others."""
        ends = [*accumulate(self.lengths, initial=0)]
        for at in range(start - before, min(stop - before, len(self.lengths))):
            yield self.kind(
                message_id=self.message_id,
                content=self.text[ends[at] : ends[at + 1]].decode(errors="surrogatepass"),
                run_id=run_id,
                seq=before + at + 1,
            )


class CompactEvents:
    """The first events of a run, which are numbered from 1."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._items: list[Event | bytes | _Pieces] = []
        self._starts: list[int] = []  # of each item: how many events are before it
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, events: Iterable[Event | bytes]) -> None:
        """Take the events that follow."""
        for text, group in groupby(events, _text_of):
            if text is None:
                for event in group:
                    self._add(event)
            else:
                contents = [_utf_8(event.content) for event in cast("Iterator[_Piece]", group)]
                for start in range(0, len(contents), MAX_PIECES):
                    some = contents[start : start + MAX_PIECES]
                    self._add(_Pieces(*text, b"".join(some), array("I", map(len, some))))

    def between(self, start: int, stop: int) -> list[Event]:
        """Return the events `start + 1` to `stop`."""
        found: list[Event] = []
        stop = min(stop, self._length)
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            item, first = self._items[at], self._starts[at]
            if isinstance(item, _Pieces):
                found += item.events(self._run_id, first, start, stop)
            else:
                found += unpacked([item])
            start = first + _count(item)
            at += 1
        return found

    def _add(self, item: Event | bytes | _Pieces) -> None:
        self._items.append(item)
        self._starts.append(self._length)
        self._length += _count(item)


def _utf_8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _count(item: Event | bytes | _Pieces) -> int:
    return len(item.lengths) if isinstance(item, _Pieces) else 1


def _text_of(event: Event | bytes) -> tuple[type[_Piece], str] | None:
    """Return what adjacent pieces of one message have in common; None for other events."""
    if isinstance(event, ChatChunk | ReasoningChunk) and not event.first_seq:
        return type(event), event.message_id
    return None
