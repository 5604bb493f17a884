"""The time in a place, from the IANA time zone database.

A name is looked up in a table that is made once from the database's own lists, never on the
file system, so that only names in the list are ever opened. The table knows, in this order of
precedence and without regard to case, accents, underscores and hyphens:

1. the IANA names (`Europe/Berlin`, `UTC`), with their meaning there: `EST` is UTC-5 all year;
2. the other cities, countries and abbreviations listed in this file;
3. the city in an IANA name (`Berlin`);
4. the countries that have a single zone, and the countries' two-letter codes likewise.

`UTC+2`, `GMT-03:30` and `+05:30` are offsets. `City, Country` is the city if it is in that
country. Nobody's own zone is known here: `local` is refused rather than answered with the
server's.
"""

import difflib
import functools
import re
import unicodedata
from collections import defaultdict
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as fixed_zone
from importlib import resources
from zoneinfo import ZoneInfo

import msgspec

from errors import ToolError
from tools.tool import idempotent

MAX_CHARS = 100

_OTHER_NAMES = """
America/New_York: New York City, NYC, Washington, Washington DC, Boston, Philadelphia, Miami,
  Atlanta, Orlando, Baltimore, Pittsburgh, Charlotte, Cleveland, ET, Eastern Time
America/Chicago: Houston, Dallas, Austin, San Antonio, Minneapolis, New Orleans, Milwaukee,
  Nashville, Kansas City, Memphis, CT, Central Time
America/Denver: Salt Lake City, Albuquerque, Colorado Springs, MT, Mountain Time
America/Los_Angeles: LA, San Francisco, Seattle, San Diego, Las Vegas, Portland, San Jose,
  Sacramento, Oakland, Silicon Valley, PT, Pacific Time
Pacific/Honolulu: Hawaii
America/Toronto: Ottawa, Quebec, Quebec City
America/Edmonton: Calgary
America/Sao_Paulo: Rio de Janeiro, Brasilia, Belo Horizonte
America/Argentina/Buenos_Aires: Argentina
America/Santiago: Chile
America/Guayaquil: Ecuador, Quito
America/Mexico_City: Guadalajara
Europe/London: England, Scotland, Wales, Great Britain, Britain, UK, Edinburgh, Glasgow,
  Manchester, Birmingham, Liverpool, Cardiff, Oxford, Cambridge
Europe/Berlin: Germany, Munich, Hamburg, Frankfurt, Cologne, Stuttgart, Dusseldorf, Leipzig,
  Dresden, Hanover, Nuremberg
Europe/Paris: Lyon, Marseille, Toulouse, Nice, Bordeaux
Europe/Madrid: Spain, Barcelona, Valencia, Seville
Europe/Lisbon: Portugal, Porto
Europe/Rome: Milan, Naples, Turin, Florence, Venice
Europe/Amsterdam: Holland, Rotterdam, The Hague
Europe/Brussels: Antwerp, Bruges
Europe/Zurich: Geneva, Basel, Bern, Lausanne
Europe/Vienna: Salzburg, Graz
Europe/Prague: Czech Republic, Brno
Europe/Warsaw: Krakow, Gdansk
Europe/Stockholm: Gothenburg
Europe/Kyiv: Ukraine, Lviv, Odesa
Europe/Moscow: Saint Petersburg, St Petersburg
Europe/Istanbul: Ankara
Asia/Nicosia: Cyprus
Asia/Shanghai: China, Beijing, Peking, Shenzhen, Guangzhou, Chengdu, Wuhan, Hangzhou, Nanjing
Asia/Kolkata: India, Mumbai, Bombay, Delhi, New Delhi, Bangalore, Bengaluru, Chennai, Madras,
  Hyderabad, Pune, Ahmedabad, IST
Asia/Tokyo: Osaka, Kyoto, Yokohama, Sapporo, Nagoya
Asia/Seoul: South Korea, Korea, Busan
Asia/Pyongyang: North Korea
Asia/Dubai: UAE, Abu Dhabi
Asia/Riyadh: Mecca, Jeddah
Asia/Jerusalem: Tel Aviv, Haifa
Asia/Kuala_Lumpur: Malaysia
Asia/Ho_Chi_Minh: Hanoi, Vietnam
Asia/Tashkent: Uzbekistan
Asia/Karachi: Islamabad, Lahore
Africa/Lagos: Abuja
Africa/Johannesburg: Cape Town, Pretoria, Durban
Africa/Cairo: Alexandria
Africa/Casablanca: Rabat, Marrakesh
Australia/Sydney: Canberra
Pacific/Auckland: New Zealand, Wellington, Christchurch
UTC-10: HST
UTC-09: AKST
UTC-08: PST, AKDT
UTC-07: PDT
UTC-06: CST, MDT
UTC-05: CDT
UTC-04: EDT
UTC+01: BST
UTC+02: CEST
UTC+03: EEST, MSK
UTC+08: SGT, HKT, AWST
UTC+09: JST, KST
UTC+09:30: ACST
UTC+10: AEST
UTC+11: AEDT
UTC+12: NZST
UTC+13: NZDT
"""
"""Zone or offset: what else it is called. Abbreviations mean what they do by the letter."""

_OFFSET = re.compile(r"(?:utc|gmt)? ?([+-]) ?([0-9]{1,2})(?::?([0-5][0-9]))?")
_AREAS = re.findall(
    r"\w+", "Africa America Antarctica Arctic Asia Atlantic Australia Europe Indian Pacific"
)  # the other first parts of IANA names are not of places
_NOT_CITIES = {"north", "south", "west"}  # Australia/North and its like
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = re.findall(
    r"\w+",
    "January February March April May June July August September October November December",
)


class LocalTime(msgspec.Struct, frozen=True):
    """A moment in a zone. `datetime` is ISO 8601 with its offset; `utc_offset` is `+HH:MM`."""

    timezone: str
    datetime: str
    utc_offset: str
    weekday: str
    text: str


@idempotent
def get_time(timezone: str) -> LocalTime:
    """Return the current date and time in a time zone, city or country.

    Args:
        timezone: An IANA name such as "Europe/Berlin" (best), a large city such as "Tokyo",
            a country with one time zone, or an offset such as "UTC+2".
    """
    name, zone = _find(timezone)
    return local_time(name, datetime.now(zone))


def local_time(name: str, moment: datetime) -> LocalTime:
    """Describe `moment`, which knows its zone, of that `name`. Months and days are English."""
    day, abbreviation = _DAYS[moment.weekday()], moment.tzname() or ""
    date = f"{day}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    suffix = f" {abbreviation}" if abbreviation[:1].isalpha() else ""
    return LocalTime(
        timezone=name,
        datetime=moment.isoformat(timespec="seconds"),
        utc_offset=f"{moment:%z}"[:3] + ":" + f"{moment:%z}"[3:5],
        weekday=day,
        text=f"{date}, {moment:%H:%M}{suffix}",
    )


def _find(text: str) -> tuple[str, tzinfo]:
    wanted = _plain(text)
    if not wanted or len(text) > MAX_CHARS:
        raise ToolError(f"A time zone's name has between 1 and {MAX_CHARS} characters.")
    if wanted in ("local", "localtime", "local time", "here", "now"):
        raise ToolError("The user's own time zone is not known here: name a city or a zone.")
    found = _names().get(wanted) or _in_country(wanted) or wanted
    if found in _zone_names():
        return found, ZoneInfo(found)
    if offset := _offset(found):
        return offset
    if several := _countries().get(wanted):
        raise ToolError(f"{text.strip()!r} has several time zones: {', '.join(several)}.")
    raise ToolError(f"The time zone {text.strip()!r} is unknown.{_suggestion(wanted)}")


def _plain(text: str) -> str:
    """Return a name as the table spells it."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", letters.replace("_", " ").replace(".", ""))
    return " ".join(letters.replace("\u2212", "-").split())


def _offset(text: str) -> tuple[str, tzinfo] | None:
    match = _OFFSET.fullmatch(text.casefold())
    if match is None:
        return None
    sign, hours, minutes = match[1], int(match[2]), int(match[3] or 0)
    if hours * 60 + minutes > 14 * 60:  # no place is further from UTC
        return None
    name = f"UTC{sign}{hours:02}:{minutes:02}"
    delta = timedelta(hours=hours, minutes=minutes)
    return name, fixed_zone(delta if sign == "+" else -delta, name)


def _in_country(wanted: str) -> str | None:
    """Return the zone of "city, country", if the database puts it in that country."""
    city, _, country = wanted.partition(", ")
    zone = _names().get(city)
    zones = _countries().get(country) or [_names().get(country, "")]
    return zone if zone in zones else None


def _suggestion(wanted: str) -> str:
    close = difflib.get_close_matches(wanted, _names(), n=5, cutoff=0.7)
    zones = dict.fromkeys(_names()[name] for name in close)
    if not zones:
        return " Use an IANA name such as Europe/Berlin."
    return f" Close names: {', '.join(list(zones)[:3])}."


# The table, made at the first question.


def _lines(*path: str) -> list[str]:
    """Return the lines of a file of the database that are not comments."""
    text = resources.files("tzdata").joinpath(*path).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@functools.cache
def _zone_names() -> frozenset[str]:
    return frozenset(_lines("zones")) - {"Factory"}


@functools.cache
def _names() -> dict[str, str]:
    """Return the zone, or the offset, of every name that is known."""
    names = {plain: zones[0] for plain, zones in _countries().items() if len(zones) == 1}
    current = {zone for zones in _countries().values() for zone in zones}
    # Names in use come last, and so win over old ones.
    for zone in sorted(_zone_names(), key=lambda zone: (zone in current, zone)):
        area, _, rest = zone.partition("/")
        city = _plain(rest.rpartition("/")[2])
        if area in _AREAS and city not in _NOT_CITIES:
            names[city] = zone
    for entry in re.sub(r"\n\s+", " ", _OTHER_NAMES).strip().splitlines():
        zone, _, others = entry.partition(": ")
        names |= {_plain(other): zone for other in others.split(",")}
    return names | {_plain(zone): zone for zone in _zone_names()}


@functools.cache
def _countries() -> dict[str, list[str]]:
    """Return the zones of each country, by its name and by its code."""
    zones = defaultdict(list)
    for line in _lines("zoneinfo", "zone.tab"):
        code, _, zone, *_ = line.split("\t")
        zones[code].append(zone)
    countries = {code.casefold(): of_country for code, of_country in zones.items()}
    for line in _lines("zoneinfo", "iso3166.tab"):
        code, name = line.split("\t")
        if code in zones:
            countries[_plain(name)] = zones[code]
    return countries | dict.fromkeys(("usa", "united states of america"), zones["US"])
