"""What one piece of a message asks for: which tool, and with what.

A reader looks for its tool's keyword, then for the object: after a preposition ("weather in
Oslo"), before the keyword ("Oslo weather"), or after it ("weather Oslo"). It says no where the
words around the keyword make it something else ("how do I build a weather app"). The readers
stand in a table, and the first that knows wins, so that "search for the weather" is a search.
"""

import re
from itertools import islice
from typing import NamedTuple

from llm.demo.names import ZONES, is_company, proper
from llm.demo.words import words

THERE = "\0there"
"""Said in place of a name: the place that was named last."""

SAME = "\0same"
"""Nothing said, and a neighbour's place is meant: "the time and the weather in Oslo"."""


class Reading(NamedTuple):
    """What one piece asks for. `trails`: the keyword came after its object ("Oslo weather").

    `said` is the object, empty where none was said, or `THERE` or `SAME`.
    """

    tool: str
    said: str
    trails: bool = False


_LEAD_WORDS = frozenset(
    words(
        "what what's whats what’s is the how how's hows tell me show give get check "
        "current currently today's can could you please i want need know to about a an do "
        "and also then like would i'd find out hey hi hello ok okay so now let let's us "
        "compare are local latest will be does it's in for at of near around on both "
        "between from with regarding city right well my quick much today actual live yes"
    )
)
_TRAIL_WORDS = frozenset(
    words(
        "today tomorrow now currently tonight please right this next week weekend morning "
        "evening afternoon like moment the at in on be there me thanks celsius fahrenheit "
        "is it days day looking doing going trading year month monday tuesday wednesday "
        "thursday friday saturday sunday outside too again stock stocks share shares "
        "price prices compared instead for exactly was worth over respectively"
    )
)
_NOT_NAMES = frozenset(
    words(
        "i i'm you he she we they it me my your his her our their this that these those "
        "who whom what when where why how which is are am was were be been do does did "
        "have has had can could will would should may might must not don't no yes thanks "
        "thank please tell say show give get make write explain describe build create "
        "code talk think love like hate use know learn work teach help draw read sing "
        "search look find google count repeat hello hi hey bye if because but with as a "
        "an the there here something anything everything nothing some any all more joke "
        "story table name named called want need about so just also really very good bad "
        "great nice them both each another same it's that's i'll i'd let let's it’s i’m"
    )
)
_NAME = re.compile(r"[^\W\d_][\w.'’-]*|\$[A-Za-z.]{1,6}")
_MAX_NAME_WORDS = 4
_MAX_PREPOSITIONS = 5


def object_in(text: str) -> str:
    """Return the object in `text`, without the small words around it."""
    parts = text.strip(" \t\"'“”‘’`*_()[]<>.!?,:").split()
    while parts and parts[0].lower().replace("’", "'") in _LEAD_WORDS:
        parts.pop(0)
    while parts and parts[-1].lower().strip(".") in _TRAIL_WORDS:
        parts.pop()
    return re.sub(r"['’]s$", "", " ".join(parts).strip("\"'“”‘’`*_()[]"))


def is_name(text: str) -> bool:
    """Whether `text` could be the name of a place or a company."""
    parts = text.split()
    return 0 < len(parts) <= _MAX_NAME_WORDS and all(
        _NAME.fullmatch(word) and word.lower() not in _NOT_NAMES for word in parts
    )


def _is_surely_name(text: str) -> bool:
    """Whether `text` is a name even where a verb could stand: known, or with a capital."""
    return is_name(text) and (text[0].isupper() or text.lower() in ZONES or is_company(text))


# Readers: a piece's text to a reading, or None.

_WEATHER = re.compile(
    r"\b(?:weather|wheather|wether|weater|wheater|forecast|temperatures?|temprature)\b(?:['’]s)?",
    re.IGNORECASE,
)
_NOT_WEATHER = re.compile(
    r"\b(?:boiling|melting|freezing|body|room|oven|water|model|sampling) temp|\btemperature of\b"
    r"|\bweather (?:app|api|station|balloon)"
    r"|\btemperature (?:do|does|should)\b",
    re.IGNORECASE,
)
_WEATHER_HINT = re.compile(
    r"\b(?:rain(?:ing|y)?|snow(?:ing|y)?|sunny|hot|cold|warm|humid|windy|cloudy|umbrella|degrees)\b",
    re.IGNORECASE,
)
_WEATHER_QUESTION = re.compile(
    r"\b(?:is it|will it|does it|was it|it (?:is|will)|how (?:hot|cold|warm|humid|windy)"
    r"|how many degrees|(?:need|take|bring) an umbrella|chance of)\b",
    re.IGNORECASE,
)
_IN = re.compile(r"\b(?:in|for|at|near|around|of)\s+", re.IGNORECASE)
_TIME = re.compile(
    r"\b(?:what(?:['’]s| is)? time|time is it|(?:current|local|exact) (?:time|date)"
    r"|the time(?= (?:in|at|for|now|there|right|is|please)\b|\W*$)|time(?: now| zone)? in\b"
    r"|time (?:now|there)\b|time\W*$"
    r"|(?:the|today['’]s) date\b|date today|date in\b|what day\b|clock in\b)",
    re.IGNORECASE,
)
_NOT_TIME = re.compile(
    r"\b(?:first|last|second|next|long|good|great|every|this|any|no|some|much|more|free|hard|same"
    r"|my|your|have|had|spend|save|real|run|it['’]s|a|of|all|upon|release|due|birth)"
    r"[ -](?:time|date)"
    r"|\b(?:what|which) time (?:did|do|does|should|shall|will|would|can|was)\b",
    re.IGNORECASE,
)
_IANA = re.compile(r"\b[A-Z][A-Za-z]+(?:/[A-Z][A-Za-z_]+){1,2}\b|\b(?:UTC|GMT)[+-][0-9:]{1,5}")
_STOCK = re.compile(
    r"\b(?:stock|share)s? (?:price|quote|value)s?\b|\b(?:stocks?|shares?|ticker|quotes?)\b"
    r"|\bpric(?:e|es)\b|\btrading at\b",
    re.IGNORECASE,
)
_FIRM_STOCK = re.compile(r"\b(?:stock|share)s? (?:price|quote|value)s?\b", re.IGNORECASE)
_HOW_IS = re.compile(
    r"\bhow(?:['’]s| is| are| much is)\s+(\S+(?: \S+)??)"
    r"(?:\s+(?:doing|trading|performing|worth)\b|\W*$)",
    re.IGNORECASE,
)
_OF = re.compile(r"\b(?:of|for|in)\s+|:\s*", re.IGNORECASE)
_SEARCH = re.compile(
    r"^\W*(?:(?:hey|hi|hello|ok|okay|please|can|could|would|will|you|i|want|need|to|let's|and|also"
    r"|then|now|try|go|quickly|quick|just|do|a|me)\s+)*"
    r"(?:(?:(?:web|internet|google|online) )?search(?:ing)?"
    r"(?: (?:the )?(?:web|internet|net|online|google))?(?: (?:for|about|on))?"
    r"|look up|look for|google(?! (?:stock|share|price))(?: for)?"
    r"|find (?:me )?(?:some )?(?:information|info|news|articles?|something|pages?)"
    r"(?: (?:on|about|for))?"
    r"|(?:what(?:['’]s| is| are) )?(?:the )?(?=(?:latest|recent) news\b))"
    r"\s*:?\s*(?=\S|$)",
    re.IGNORECASE,
)


def _read_search(text: str) -> Reading | None:
    match = _SEARCH.match(text)
    if match is None or (match.end() < len(text) and match[0][-1:].isalnum()):
        return None
    return Reading("search_web", text[match.end() :].strip(" \"'“”.!`"))


def _read_stock(text: str) -> Reading | None:
    asked = _HOW_IS.search(text)
    if asked and is_company(object_in(asked[1])):
        return Reading("get_stock_price", object_in(asked[1]))
    match = _STOCK.search(text)
    if match is None:
        return None
    firm = bool(_FIRM_STOCK.search(text))
    company, trails = _company_around(text, match)
    is_sure = _is_surely_name(company) if trails else is_name(company)
    if is_company(company) or (firm and is_sure):
        return Reading("get_stock_price", company, trails)
    return Reading("get_stock_price", "") if firm and not company else None


def _company_around(text: str, keyword: re.Match[str]) -> tuple[str, bool]:
    """Return what is named after "of", before the keyword (then True), or directly after it."""
    after = _OF.search(text, keyword.end())
    company = object_in(text[after.end() :]) if after else ""
    before = "" if company else object_in(text[: keyword.start()])
    company = company or before or object_in(text[keyword.end() :])
    ticker = next((word for word in company.split() if word.startswith("$")), company)
    return ticker, bool(before)


def _read_weather(text: str) -> Reading | None:
    if _NOT_WEATHER.search(text):
        return None
    match = _WEATHER.search(text)
    if match is None:
        hint = _WEATHER_HINT.search(text)
        if hint is None or not _WEATHER_QUESTION.search(text):
            return None
        return Reading("get_weather", _place_after(text, hint.end()) or _there(text))
    return _read_place("get_weather", text, match)


def _read_time(text: str) -> Reading | None:
    zone = _IANA.search(text)
    match = _TIME.search(text)
    if match is None or _NOT_TIME.search(text):
        return None
    if zone:
        return Reading("get_time", zone[0])
    return _read_place("get_time", text, match)


def _there(text: str) -> str:
    return THERE if re.search(r"\bthere\b", text, re.IGNORECASE) else ""


def _read_place(tool: str, text: str, keyword: re.Match[str]) -> Reading | None:
    """Find the place after a preposition, before the keyword, or directly after it."""
    start = keyword.start() if keyword[0].lower().endswith((" in", "there")) else keyword.end()
    place = _place_after(text, start)
    if place:
        return Reading(tool, place)
    before = object_in(text[: keyword.start()])
    after = object_in(text[keyword.end() :])
    alone = not after and text.lower().startswith(before.lower())
    if _is_surely_name(before) or (is_name(before) and alone):
        return Reading(tool, proper(before), trails=True)
    if before:
        return None
    if is_name(after):
        return Reading(tool, proper(after))
    return _read_placeless(tool, text, start, after)


def _read_placeless(tool: str, text: str, start: int, after: str) -> Reading | None:
    """Read an ask that names no place: here, there, or the one that is asked back for."""
    if tool == "get_time" and re.fullmatch(r"\W*(?:the )?(?:local )?time\W*", text, re.IGNORECASE):
        return Reading(tool, SAME)
    is_open = not after or _IN.search(text, start) or _there(text)
    return Reading(tool, _there(text)) if is_open else None


def _place_after(text: str, start: int) -> str:
    """Return the first name that follows a preposition, in its usual capitals; else nothing."""
    for preposition in islice(_IN.finditer(text, start), _MAX_PREPOSITIONS):
        place = object_in(text[preposition.end() :])
        if is_name(place):
            return proper(place)
    return ""


_ABOUT_ELSE = re.compile(
    r"\b(?:story|joke|poem|essay|song) about\b"
    r"|^\W*(?:write|translate|explain|summari[sz]e|remember)\b"
    r"|^\W*i (?:really )?(?:love|like|hate|enjoy|prefer|adore)\b",
    re.IGNORECASE,
)
_READERS = (_read_search, _read_stock, _read_weather, _read_time)


def read(text: str) -> Reading | None:
    """Return what a piece of a message asks for, by the first reader that knows."""
    if _ABOUT_ELSE.search(text):
        return None
    return next((reading for reader in _READERS if (reading := reader(text))), None)
