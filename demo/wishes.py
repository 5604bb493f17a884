"""From what a user wrote to the tools that it asks for.

Searches and arithmetic are taken out first. What is left is cut into clauses at commas, full stops
and conjunctions; each is looked at for a tool's keyword and a name near it. What the name means is
for the tool to say. Clauses help each other:

* "weather in Oslo, Rome and Cairo": a bare name after a wish goes on with its tool;
* "Apple and Tesla stock": so does one before it, where the keyword comes last;
* "the weather and the time in Oslo": a wish without a place takes its neighbour's;
* "and what time is it there?": that follows on the messages before.

Every pattern is linear, and no more than `MAX_CHARS` characters are read.
"""

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from demo.arithmetic import replace_arithmetic

MAX_CHARS = 2_000
MAX_WISHES = 16
_HISTORY = 5
_MAX_BEFORE = 500

ARGUMENTS = {
    "get_weather": "city",
    "calculate": "expression",
    "get_time": "timezone",
    "search_web": "query",
    "get_stock_price": "symbol",
}
"""The tools that plain English can ask for, and the name of their one argument."""

_COMPANIES = """
adobe:ADBE airbnb:ABNB alphabet:GOOGL amazon:AMZN amd:AMD apple:AAPL boeing:BA cisco:CSCO disney:DIS
facebook:META google:GOOGL ibm:IBM intel:INTC meta:META microsoft:MSFT netflix:NFLX nike:NKE
nvidia:NVDA oracle:ORCL sap:SAP sony:SONY tesla:TSLA toyota:TM uber:UBER visa:V walmart:WMT
"""
_REGIONS = """
usa us canada australia california texas florida france germany italy spain portugal uk england
scotland ireland japan china india brazil mexico norway sweden ca tx ny wa dc ma
"""
_SMALL = """
what what's whats is the how how's i tell me show give get check current currently today's can
could you please want need know to about a an do and also then like would find out hey hi hello ok
okay so now let let's us compare are local latest will be does it in for at of near around on both
from with much today tomorrow tonight right this next week weekend morning evening moment there
thanks celsius fahrenheit day days looking doing going trading outside too again stock stocks share
shares price prices was worth same take use tool calculate compute
"""
_NO_NAMES = """
i'm he she we they it's my your his her our their that these those who when where why which am did
have has should not don't no say make write explain describe translate remember build create code
talk think love hate enjoy prefer learn work teach help draw read sing search look count repeat bye
if but as here something anything nothing some any all more joke story table name call just first
"""
_SYMBOLS = dict(re.findall(r"(\S+):(\S+)", _COMPANIES))
_SMALL_WORDS = frozenset(_SMALL.split())
_OTHER_WORDS = _SMALL_WORDS | frozenset(_NO_NAMES.split())
_NAME = re.compile(r"(?:(?:[^\W\d_][\w.'/+:-]*|\$[A-Za-z.]{1,6})(?: |$)){1,4}")
_MARKS = " \t\"'“”‘`*_()[]<>.!?,:"

_SEARCH = re.compile(
    r"(?i)((?:^|[.,;?!\n]|\b(?:and|then)\b) ?(?:(?:hey|hi|hello|ok|please|can|could|would|will|you"
    r"|i|want|need|to|let's|also|now|just|what's|what|is|are|the) ){0,8})"
    r"(?:(?:(?:(?:web|internet|google|online) )?search(?:ing)?"
    r"(?: (?:the )?(?:web|internet|online))?(?: (?:for|about|on))?|look up|look for"
    r"|google(?! (?:stock|share|price))(?: for)?"
    r"|find (?:me )?(?:some )?(?:information|info|news|articles?)(?: (?:on|about|for))?)(?![\w'])"
    r"|(?=(?:latest|recent) news\b)) ?:?(.*?)"
    r"(?=[?!;\n]|\.(?=\s|$)|(?:,|(?= and| then))(?: and| then| also)?(?: (?:what|how|get|tell|show"
    r"|check|calculate|weather|time|stock)| the (?:weather|time))\b|$)"
)
_SEPARATOR = re.compile(
    r"(?i)( ?(?:(?:[;?\n,&]|[.!](?=\s|$)"
    r"|(?<![^\s,;])(?:and|or|then|also|plus|vs\.?|versus)(?=[\s,])) ?)+)"
)
_GOES_ON = re.compile(r"(?i)[^;?\n.!]*$|[^a-z]*(?:and|also|then)")
_FOLLOW_UP = re.compile(
    r"(?i)\W*(?:(?:ok|okay|so|great|thanks)\b\W*)?(?:and|what about|how about|same for|now"
    r"|.{0,40} there)\b"
)
_IN = re.compile(r"(?i)\b(?:in|for|at|near|around|of) ")

_STOCK_PRICE = re.compile(r"(?i)\b(?:stock|share)s? (?:price|quote|value)s?\b")
_PLACED = {
    "get_weather": re.compile(
        r"(?i)\b(?:weather|wheather|forecast|temperatures?)\b"
        r"(?! (?:app|api|station|of|do|does|should)\b)|\bumbrella\b"
        r"|\b(?:is|will|does) it (?:be )?(?:rain|snow|sunny|hot|cold|warm|humid|windy)\w*"
        r"|\bhow (?:hot|cold|warm|humid|windy) is it\b"
    ),
    "get_time": re.compile(
        r"(?i)\b(?:what(?:'s| is)?|the) time(?= (?:is|in|at|for|now|there|right|please)\b|\W*$)"
        r"|\btime is it\b|\b(?:current|local) (?:time|date)\b|\btime (?=(?:now )?(?:in|there)\b)"
        r"|\btime\W*$|\b(?:the|today's) date\b|\bdate today\b|\bwhat day is\b"
    ),
}
_KEYWORDS = _PLACED | {
    "get_stock_price": re.compile(
        rf"{_STOCK_PRICE.pattern}|\b(?:stocks?|shares?|prices?|trading at|how(?:'s| is| are))\b"
    )
}


class Wish(NamedTuple):
    """A tool that is asked for. `said`: its argument as the user said it, "" if it was not."""

    tool: str
    said: str

    @property
    def arguments(self) -> dict[str, str] | None:
        """The tool's arguments; None where the user has to be asked for them first."""
        said = self.said
        if self.tool == "get_time":
            said = said or "UTC"
        elif self.tool == "get_stock_price":
            said = _SYMBOLS.get(said.lower(), said.removeprefix("$").upper())
        return {ARGUMENTS[self.tool]: said} if said else None


def wishes(said: Sequence[str]) -> list[Wish]:
    """Return the tools that the last of a user's messages asks for, in order, each wish once.

    A follow-up, or the answer to a wish that lacks its argument, is read with the messages before.
    """
    *before, last = [text[:_MAX_BEFORE].rstrip("?!. ") for text in said[-_HISTORY:-1]] + [said[-1]]
    lacks = any(wish.arguments is None for wish in _wishes_in(" ".join(before[-1:])))
    if not lacks and not _FOLLOW_UP.match(last):
        return _wishes_in(last)
    known = _wishes_in(", ".join(before))
    return [wish for wish in _wishes_in(", ".join([*before, last])) if wish not in known]


def _wishes_in(text: str) -> list[Wish]:
    text = re.sub(r"[^\S\n]+|\0", " ", text[:MAX_CHARS].replace("’", "'"))
    for tool in ARGUMENTS:
        text = text.replace(tool, tool.removeprefix("get_").replace("_", " "))
    taken: list[Wish] = []

    def take(tool: str, said: str) -> str:
        taken.append(Wish(tool, said))
        return f";\0{len(taken) - 1}\0;"

    text = _SEARCH.sub(lambda search: search[1] + take("search_web", search[2].strip(_MARKS)), text)
    text = replace_arithmetic(text, lambda expression: take("calculate", expression))
    walk = _Walk(taken)
    parts = ["", *_SEPARATOR.split(text)]
    for joint, clause in zip(parts[::2], parts[1::2], strict=True):
        walk.take(clause.strip(), joint)
    return list(dict.fromkeys(_with_places(walk.found)))[:MAX_WISHES]


class _Walk:
    """One walk over a message's clauses; `found` is what it asks for."""

    def __init__(self, taken: list[Wish]) -> None:
        self.found: list[Wish] = []
        self._taken = taken
        self._tool = ""  # what a bare name goes on with
        self._loose: list[str] = []  # bare names that a later keyword may take

    def take(self, clause: str, joint: str) -> None:
        """Read the next clause; `joint` parts it from the one before."""
        if not _GOES_ON.match(joint):
            self._tool = ""
        name = _object_in(clause)
        readings = (_reading(tool, clause, keyword) for tool, keyword in _KEYWORDS.items())
        if reading := next(filter(None, readings), None):
            wish, trails = reading
            if trails and re.search(r"(?i)and|or|vs|versus|&", joint):
                self.found += [Wish(wish.tool, loose) for loose in self._loose]
            self._loose.clear()
            self._tool = wish.tool
            self.found.append(wish)
        elif _is_name(name):
            self._take_name(name, joint)
        elif name:
            self._tool = ""
            self._loose.clear()
            if clause.startswith("\0"):
                self.found.append(self._taken[int(clause.strip("\0"))])

    def _take_name(self, name: str, joint: str) -> None:
        last = self.found[-1] if self.found else Wish("", "")
        is_region = name.lower() in _REGIONS.split() and last.said.lower() not in _REGIONS.split()
        if name.startswith("$"):
            self.found.append(Wish("get_stock_price", name))
        elif not self._tool:
            self._loose.append(name)
        elif joint == ", " and is_region and last.said:  # "Paris, France" is one place
            self.found[-1] = Wish(last.tool, f"{last.said}, {name}")
        elif self._tool in _PLACED or _is_company(name) or name[0].isupper():
            self.found.append(Wish(self._tool, name))


def _with_places(found: list[Wish]) -> list[Wish]:
    """Return the wishes, each that lacks a place with the next one's, or else the last one's."""
    place = next((wish.said for wish in found[::-1] if wish.tool in _PLACED and wish.said), "")
    placed: list[Wish] = []
    for wish in reversed(found):
        place = wish.said if wish.tool in _PLACED and wish.said else place
        placed.insert(0, Wish(wish.tool, place) if wish.tool in _PLACED else wish)
    return placed


def _reading(tool: str, clause: str, pattern: re.Pattern[str]) -> tuple[Wish, bool] | None:
    """Return what a clause asks for, and whether its keyword came last ("Oslo weather").

    The name stands after a preposition, before the keyword, or directly after it.
    """
    if (keyword := pattern.search(clause)) is None:
        return None
    before, after = _object_in(clause[: keyword.start()]), _object_in(clause[keyword.end() :])
    if before and not _is_name(before):
        return None  # "how do I build a weather app"
    prepositions = islice(_IN.finditer(clause, keyword.end()), 5)
    names = (_object_in(clause[preposition.end() :]) for preposition in prepositions)
    named = next(filter(_is_name, names), "")
    name, trails = named or before or after, not named and bool(before)
    # A verb could stand before the keyword; a capital letter speaks for a name.
    is_sure = not trails or name[0].isupper() or (tool == "get_weather" and not after)
    return (Wish(tool, name), trails) if _is_meant(tool, clause, name, is_sure) else None


def _is_meant(tool: str, clause: str, name: str, is_sure: bool) -> bool:
    is_firm = tool in _PLACED or bool(_STOCK_PRICE.search(clause))
    return _is_company(name) or (is_firm and (not name or (is_sure and _is_name(name))))


def _object_in(text: str) -> str:
    """Return `text` without the small words around it."""
    parts = text.strip(_MARKS).split()
    while parts and parts[0].lower() in _SMALL_WORDS:
        parts.pop(0)
    while parts and parts[-1].lower() in _SMALL_WORDS:
        parts.pop()
    return " ".join(parts).strip(_MARKS).removesuffix("'s")


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and _OTHER_WORDS.isdisjoint(text.lower().split())


def _is_company(name: str) -> bool:
    return name.lower() in _SYMBOLS or name in _SYMBOLS.values() or name.startswith("$")
