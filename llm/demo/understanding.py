"""From what a user wrote to the tools that it asks for.

A message is cut into pieces at its commas, full stops and conjunctions; arithmetic is found
first and is a piece by itself. Each piece is read by itself (`readers`). Then the pieces help
each other:

* "weather in Oslo, Rome and Cairo": a bare name after a reading goes on with its tool;
* "Apple and Tesla stock": a bare name before a reading that ended with its keyword, likewise;
* "the weather and the time in Oslo": a reading without a place takes the next one's;
* "and what time is it there?": the place named last, in this message or the one before.

Every pattern is linear, and no more than `MAX_CHARS` of a message are read.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from llm.demo.arithmetic import LEAD_IN, find_arithmetic
from llm.demo.names import is_company, is_region, proper, symbol_of, zone_of
from llm.demo.readers import SAME, THERE, Reading, is_name, object_in, read

MAX_CHARS = 4_000
MAX_ASKS = 16

ARGUMENTS = {
    "get_weather": "city",
    "calculate": "expression",
    "get_time": "timezone",
    "search_web": "query",
    "get_stock_price": "symbol",
}
"""The tools that plain English can ask for, and the name of their one argument."""


class Ask(NamedTuple):
    """One wish for a tool. `said` is its object as the user said it; empty where it was not."""

    tool: str
    said: str

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The tool's arguments; None where the user has to be asked for them first."""
        if self.tool == "get_time":
            return {"timezone": zone_of(self.said or "UTC")}
        if self.tool == "get_stock_price" and self.said:
            return {"symbol": symbol_of(self.said)}
        return {ARGUMENTS[self.tool]: self.said} if self.said else None


class _Piece(NamedTuple):
    """A stretch of the message.

    `soft`: only a comma or a conjunction stands before it. An `expression` is soft where words
    that do not ask for a result stand directly before it.
    """

    start: int
    end: int
    soft: bool
    text: str
    expression: str = ""


_SEPARATOR = re.compile(
    r"(?:[;?\n]|,|[.!](?=\s|$)|(?<!\S)(?:and|then|also|plus|versus|vs|or|as well as)(?!\S)|&|\s)+",
    re.IGNORECASE,
)
_HARD = re.compile(r"[;?\n.!]")
_FOLLOWS = re.compile(r"\b(?:and|also|then)\b", re.IGNORECASE)
_FOLLOW_UP = re.compile(
    r"^\W*(?:(?:ok|okay|so|great|thanks)\W+)?(?:(?:and|what about|how about|same for|now)\b\s*)+",
    re.IGNORECASE,
)
_JOINS = re.compile(r"\b(?:and|or|vs|versus)\b|&", re.IGNORECASE)
_QUERY_MARKS = " \"'“”.!`"
_SPOKEN = {
    "get_weather": "weather",
    "get_time": "time",
    "get_stock_price": "stock price",
    "search_web": "search the web for",
}
_TOOL_NAMES = re.compile("|".join(_SPOKEN), re.IGNORECASE)
_PLACED = frozenset({"get_weather", "get_time"})


def asks(text: str, previous: Ask | None = None) -> list[Ask]:
    """Return the tools that `text` asks for, in order, each wish once.

    Args:
        previous: the wish before this message, which "and in Rome?" goes on with; a bare name
            is enough where its object is missing.
    """
    text = _TOOL_NAMES.sub(lambda match: _SPOKEN[match[0].lower()], text[:MAX_CHARS])
    place = previous.said if previous and previous.tool in _PLACED else ""
    follows = _FOLLOW_UP.match(text)
    walk = _Walk(text, place)
    goes_on = previous is not None and bool(follows or not previous.said)
    if previous and goes_on and previous.tool not in {"calculate", "search_web"}:
        walk.go_on_with(previous.tool)
    for piece in _pieces(text, follows.end() if follows else 0, soft=goes_on):
        walk.take(piece)
    return list(dict.fromkeys(walk.found))[:MAX_ASKS]


def last_wish(texts: Sequence[str]) -> Ask | None:
    """Return the last wish in what was said before, oldest first; None where there is none.

    One whose object is missing is over with the next message.
    """
    wish: Ask | None = None
    for text in texts:
        found = asks(text, wish)
        if found:
            wish = found[-1]
        elif wish and not wish.said:
            wish = None
    return wish


def _separates(separator: re.Match[str]) -> bool:
    """Tell a separator from a mere blank."""
    return not separator[0].isspace() or "\n" in separator[0]


def _pieces(text: str, start: int, *, soft: bool) -> Iterator[_Piece]:
    """Cut `text` from `start`; its arithmetic becomes pieces that have an expression."""
    for span in [*find_arithmetic(text), None]:
        end = span.start if span else len(text)
        for separator in filter(_separates, _SEPARATOR.finditer(text, start, end)):
            if text[start : separator.start()].strip():
                yield _Piece(start, separator.start(), soft, text[start : separator.start()])
            soft = not _HARD.search(separator[0]) or bool(_FOLLOWS.search(separator[0]))
            start = separator.end()
        rest = text[start:end].strip()
        is_wish = all(word.lower() in LEAD_IN for word in rest.split())
        if rest and not (span and is_wish):
            yield _Piece(start, end, soft, text[start:end])
        if span:
            yield _Piece(span.start, span.end, not is_wish, rest, span.expression)
            start, soft = span.end, True


class _Walk:
    """One walk over a message's pieces; `found` is what it asks for."""

    def __init__(self, text: str, place: str) -> None:
        self.found: list[Ask] = []
        self._text = text
        self._place = place
        self._open: tuple[str, ...] = ()
        self._end = 0
        self._query_start = 0
        self._loose: list[str] = []
        self._waiting: list[int] = []

    def go_on_with(self, tool: str) -> None:
        """Let a name that comes first be one for `tool`."""
        self._open = (tool,)

    def take(self, piece: _Piece) -> None:
        """Read the next piece."""
        between = self._text[self._end : piece.start]
        self._end = piece.end
        if (
            self._open == ("search_web",)
            and piece.soft
            and (piece.expression or not read(piece.text))
        ):
            self._extend_query(piece)
        elif piece.expression:
            self._open = ()
            self.found.append(Ask("calculate", piece.expression))
        elif reading := read(piece.text):
            self._take_reading(reading, piece, between)
        elif is_name(name := object_in(piece.text)):
            self._take_name(name, between, goes_on=piece.soft and bool(self._open))
        else:
            self._open = ()
            self._loose.clear()

    def _meant(self, reading: Reading, between: str) -> str:
        """Return what was said, or the earlier place that it stands for."""
        if reading.said in (THERE, SAME):
            return self._place if reading.said == THERE or between.strip() else ""
        if not reading.said and reading.tool == "get_weather" and self._has_place():
            return self._place
        return reading.said

    def _take_reading(self, reading: Reading, piece: _Piece, between: str) -> None:
        said = self._meant(reading, between)
        if reading.trails and _JOINS.search(between):
            self._add(reading.tool, *(proper(name) for name in self._loose))
        self._loose.clear()
        self._open = (reading.tool,)
        self._add(reading.tool, said)
        if reading.tool in _PLACED:
            self._share_place(said, is_open=reading.tool == "get_weather" or reading.said == SAME)
        elif reading.tool == "search_web":
            self._query_start = piece.end if not said else self._text.rfind(said, 0, piece.end)

    def _has_place(self) -> bool:
        return any(ask.tool in _PLACED and ask.said for ask in self.found)

    def _share_place(self, place: str, *, is_open: bool) -> None:
        """Give `place` to the wishes that wait for one, or let this one wait."""
        if not place:
            if is_open:
                self._waiting.append(len(self.found) - 1)
            return
        for index in self._waiting:
            self.found[index] = self.found[index]._replace(said=place)
            self._open = (self.found[index].tool, *self._open)
        self._waiting.clear()
        self._place = place

    def _take_name(self, name: str, between: str, *, goes_on: bool) -> None:
        if name.startswith("$"):
            self._add("get_stock_price", name)
        elif not goes_on:
            self._open = ()
            self._loose.append(name)
        elif "get_stock_price" in self._open:
            if is_company(name) or name[0].isupper():
                self._add("get_stock_price", name)
        elif self._open[0] in _PLACED:
            self._add_place(proper(name), between)

    def _add_place(self, place: str, between: str) -> None:
        last = self.found[-1] if self.found else Ask("", "")
        if self._waiting:
            self._share_place(place, is_open=False)
        elif last.said and between.strip() == "," and is_region(place) and not is_region(last.said):
            # "Paris, France" is one place.
            self.found[-1] = last._replace(said=f"{last.said}, {place}")
        else:
            for tool in self._open:
                self._add(tool, place)
            self._place = place

    def _extend_query(self, piece: _Piece) -> None:
        query = self._text[self._query_start : piece.end].strip(_QUERY_MARKS)
        self.found[-1] = Ask("search_web", query)

    def _add(self, tool: str, *said: str) -> None:
        self.found.extend(Ask(tool, one) for one in said)
