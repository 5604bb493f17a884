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
        self._texts: list[str] | None = None  # of the last entry, while plain pieces go on with it
        self._place: tuple[Any, Any] = (None, None)

    def take(self, pieces: Any) -> None:
        """Take the pieces of one chunk; what is no list of objects is left out."""
        if not isinstance(pieces, list) or self._room < 0:
            return
        for piece in pieces:
            if not isinstance(piece, dict):
                continue
            get = piece.get
            text = get("text")
            if (
                self._texts is not None
                and isinstance(text, str)
                and not get("signature")
                and (get("type"), get("index")) == self._place
            ):
                self._texts.append(text)
                self._room -= len(text)
            else:
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
        self._room -= len(repr(piece))
        told = {name: each for name, each in piece.items() if each is not None}
        found = {name: told.pop(name, None) for name in _TEXTS}
        texts = {name: text for name, text in found.items() if isinstance(text, str)}
        last = self._entries[-1] if self._entries else {}
        goes_on = ("signature" in told or texts) and "signature" not in last
        place = (piece.get("type"), piece.get("index"))
        if not goes_on or place != self._place:
            last = {}
            self._entries.append(last)
        last |= told
        for name, text in texts.items():
            last.setdefault(name, []).append(text)
        self._place = place
        self._texts = None if "signature" in last else last.get("text")
