"""Names that people say: places with their time zones, companies with their ticker symbols.

Small on purpose: what is not here goes to the tool as it was said.

"""

import unicodedata

from llm.demo.words import words

_ZONES = """
UTC Africa/Cairo Africa/Johannesburg Africa/Lagos Africa/Nairobi America/Bogota America/Chicago
America/Denver America/Lima America/Los_Angeles America/Mexico_City America/New_York
America/Phoenix America/Sao_Paulo America/Santiago America/Toronto America/Vancouver
America/Argentina/Buenos_Aires Asia/Bangkok Asia/Dubai Asia/Hong_Kong Asia/Jakarta
Asia/Jerusalem Asia/Karachi Asia/Kathmandu Asia/Kolkata Asia/Kuala_Lumpur Asia/Manila Asia/Riyadh
Asia/Seoul Asia/Shanghai Asia/Singapore Asia/Taipei Asia/Tehran Asia/Tokyo Atlantic/Reykjavik
Australia/Brisbane Australia/Melbourne Australia/Perth Australia/Sydney Europe/Amsterdam
Europe/Athens Europe/Belgrade Europe/Berlin Europe/Brussels Europe/Bucharest Europe/Budapest
Europe/Copenhagen Europe/Dublin Europe/Helsinki Europe/Istanbul Europe/Kyiv Europe/Lisbon
Europe/London Europe/Madrid Europe/Moscow Europe/Oslo Europe/Paris Europe/Prague Europe/Rome
Europe/Sofia Europe/Stockholm Europe/Vienna Europe/Warsaw Europe/Zagreb Europe/Zurich
Pacific/Auckland Pacific/Honolulu
"""
"""Zones whose last part is the name of a city that people ask for."""

_OTHER_CITIES = {
    "gmt": "UTC",
    "barcelona": "Europe/Madrid",
    "beijing": "Asia/Shanghai",
    "boston": "America/New_York",
    "delhi": "Asia/Kolkata",
    "geneva": "Europe/Zurich",
    "hamburg": "Europe/Berlin",
    "kyoto": "Asia/Tokyo",
    "la": "America/Los_Angeles",
    "las vegas": "America/Los_Angeles",
    "miami": "America/New_York",
    "milan": "Europe/Rome",
    "mumbai": "Asia/Kolkata",
    "munich": "Europe/Berlin",
    "new york city": "America/New_York",
    "nyc": "America/New_York",
    "osaka": "Asia/Tokyo",
    "rio de janeiro": "America/Sao_Paulo",
    "san francisco": "America/Los_Angeles",
    "seattle": "America/Los_Angeles",
    "washington": "America/New_York",
}
_COMPANIES = {
    "AAPL": "apple|apple inc",
    "ABNB": "airbnb",
    "ADBE": "adobe",
    "AMD": "amd",
    "AMZN": "amazon",
    "BA": "boeing",
    "BABA": "alibaba",
    "COIN": "coinbase",
    "CRM": "salesforce",
    "CSCO": "cisco",
    "DIS": "disney|walt disney",
    "F": "ford",
    "GM": "general motors",
    "GOOGL": "google|alphabet",
    "IBM": "ibm",
    "INTC": "intel",
    "JPM": "jpmorgan|jp morgan",
    "KO": "coca cola|coca-cola|coke",
    "MCD": "mcdonald's|mcdonalds",
    "META": "meta|facebook",
    "MSFT": "microsoft",
    "NFLX": "netflix",
    "NKE": "nike",
    "NVDA": "nvidia",
    "ORCL": "oracle",
    "PEP": "pepsi|pepsico",
    "PFE": "pfizer",
    "PYPL": "paypal",
    "SAP": "sap",
    "SBUX": "starbucks",
    "SHOP": "shopify",
    "SONY": "sony",
    "SPOT": "spotify",
    "TM": "toyota",
    "TSLA": "tesla",
    "TSM": "tsmc",
    "UBER": "uber",
    "V": "visa",
    "WMT": "walmart",
}
_REGIONS = frozenset(
    words(
        "usa|us|united states|canada|australia|russia|california|texas|florida|oregon|"
        "ontario|france|germany|italy|spain|portugal|uk|united kingdom|england|scotland|"
        "ireland|japan|china|india|brazil|mexico|argentina|austria|switzerland|"
        "netherlands|belgium|poland|greece|turkey|egypt|norway|sweden|denmark|finland|ca|"
        "tx|ny|wa|dc|d.c|ma|fl|il|or",
        "|",
    )
)
_SMALL_WORDS = frozenset(words("de da do del di du of the la le el am an der den upon sur"))
_ABBREVIATIONS = frozenset({"uk", "usa", "us", "uae", "nyc", "dc", "sf", "utc", "gmt"})

ZONES = _OTHER_CITIES | {
    zone.rpartition("/")[2].replace("_", " ").lower(): zone for zone in _ZONES.split()
}
SYMBOLS = {name: symbol for symbol, names in _COMPANIES.items() for name in names.split("|")}
KNOWN_SYMBOLS = frozenset(_COMPANIES)


def zone_of(place: str) -> str:
    """Return the IANA time zone of `place`; the place itself where it is not known."""
    letters = unicodedata.normalize("NFKD", place.lower())
    return ZONES.get("".join(c for c in letters if not unicodedata.combining(c)), place)


def symbol_of(company: str) -> str:
    """Return the ticker symbol of `company`; the name in capitals where it is not known."""
    return SYMBOLS.get(company.lower(), company.removeprefix("$").upper())


def is_company(name: str) -> bool:
    """Whether `name` is surely a company or a symbol: in the table, or written "$XYZ"."""
    return name.lower() in SYMBOLS or name in KNOWN_SYMBOLS or name.startswith("$")


def is_region(name: str) -> bool:
    """Whether `name` says where a city is: "France" in "Paris, France"."""
    return name.lower().rstrip(".") in _REGIONS


def proper(name: str) -> str:
    """Return a place's name in its usual capitals, where it was typed without or with too many."""
    shouted = name.isupper() and len(name) > 3
    if not (name.islower() or shouted):
        return name
    parts = name.lower().split()
    return " ".join(
        word.upper()
        if word in _ABBREVIATIONS
        else word
        if place and word in _SMALL_WORDS
        else "-".join(part[:1].upper() + part[1:] for part in word.split("-"))
        for place, word in enumerate(parts)
    )
