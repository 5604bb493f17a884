"""Reasoning that a model writes into its answer, in tags at the beginning.

Servers that do not part the two pass on what the model writes: `<think>` (Qwen, DeepSeek,
MiniMax), `<thought>` (Gemini's compatible endpoint, Gemma), `<seed:think>`, `[THINK]` (Magistral).
Only at the beginning is a tag one; later it is text. A tag may be cut at any character.
"""

from collections.abc import Iterator
from typing import NamedTuple

_TAGS = {
    "<think>": "</think>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}
CLOSING_TAGS = tuple(_TAGS.values())
_MAX_BLANK = 1024
"""An answer that begins with more blank characters has no tag."""


class Piece(NamedTuple):
    text: str
    is_reasoning: bool


class TagReader:
    """Tells what stands in tags at the beginning of an answer from the rest.

    Attributes:
        is_done: all that follows is the answer.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._kept = ""  # what may be a part of a tag
        self._close = ""  # the tag that ends the reasoning; empty outside of it
        self._is_first = True  # of the reasoning nothing but blanks has come
        self._was_inside = False

    def feed(self, text: str) -> list[Piece]:
        """Return what is certain by now."""
        self._kept += text if self._kept or not self._is_after else text.lstrip()
        return [*self._read()]

    def is_reasoning(self, text: str) -> bool:
        """Tell whether a text is reasoning from its first character to its last, to save `feed`."""
        close = self._close
        return close != "" and close[0] not in text and not (self._kept or self._is_first)

    def end(self) -> list[Piece]:
        """Return what was kept, the answer being at its end."""
        kept, self._kept = self._kept, ""
        self.is_done = True
        return [Piece(kept, bool(self._close))] if kept else []

    @property
    def _is_after(self) -> bool:
        """Whether reasoning has ended, so that blanks before what follows mean nothing."""
        return self._was_inside and not self._close

    def _read(self) -> Iterator[Piece]:
        while not self.is_done and self._kept:
            if self._close:
                yield from self._read_inside()
                if self._close:
                    return
            elif not self._has_opened():
                if self._may_open():
                    return
                self.is_done = True
                kept, self._kept = self._kept, ""
                yield Piece(kept, False)

    def _has_opened(self) -> bool:
        begun = self._begun
        for tag, close in _TAGS.items():
            if begun.startswith(tag):
                self._kept, self._close = begun[len(tag) :], close
                self._is_first = self._was_inside = True
                return True
        return False

    def _may_open(self) -> bool:
        return any(tag.startswith(self._begun) for tag in _TAGS)

    @property
    def _begun(self) -> str:
        """What may be a tag, without the blanks before it."""
        begun = self._kept.lstrip()
        return begun if len(self._kept) - len(begun) <= _MAX_BLANK else self._kept

    def _read_inside(self) -> Iterator[Piece]:
        if self._is_first:
            self._kept = self._kept.lstrip()
            self._is_first = not self._kept
        said, found, rest = self._kept.partition(self._close)
        if found:
            self._kept, self._close = rest.lstrip(), ""
        else:
            at = _begin_of(self._close, said)
            said, self._kept = said[:at], said[at:]
        if said:
            yield Piece(said, True)


def _begin_of(tag: str, text: str) -> int:
    """Return where the longest end of `text` begins with which the tag may begin."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-size:]):
            return len(text) - size
    return len(text)
