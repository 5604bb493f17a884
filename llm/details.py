"""OpenRouter's `reasoning_details`, put together from a stream without I/O.

What its models think, their signatures included, is a list that goes back whole and in its order
(openrouter.ai/docs, "Reasoning tokens": preserving reasoning). It comes in pieces: a text of one
`type` and `index` goes on, and its signature comes with the last piece; what is encrypted comes
whole.
"""

from typing import Any

from messages import MAX_REASONING_BYTES

_TEXTS = ("text", "summary")


class Details:
    """The list so far; nothing of it any more where it is larger than is kept."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._room = MAX_REASONING_BYTES

    def take(self, pieces: Any) -> None:
        """Take the pieces of one chunk; what is no list of objects is left out."""
        if not isinstance(pieces, list) or self._room < 0:
            return
        for piece in pieces:
            if isinstance(piece, dict):
                self._room -= len(repr(piece))
                self._take(piece)

    def whole(self) -> list[dict[str, Any]]:
        """Return the list with its texts joined."""
        if self._room < 0:
            return []
        return [
            {name: "".join(each) if name in _TEXTS else each for name, each in entry.items()}
            for entry in self._entries
        ]

    def _take(self, piece: dict[str, Any]) -> None:
        told = {name: each for name, each in piece.items() if each is not None}
        found = {name: told.pop(name, None) for name in _TEXTS}
        texts = {name: text for name, text in found.items() if isinstance(text, str)}
        last = self._entries[-1] if self._entries else {}
        goes_on = ("signature" in told or texts) and "signature" not in last
        if not goes_on or _place(told) != _place(last):
            last = {}
            self._entries.append(last)
        last |= told
        for name, text in texts.items():
            last.setdefault(name, []).append(text)


def _place(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry.get("type"), entry.get("index")
