"""Tool results in sentences.

The results of the built-in tools are read into the tools' own types. What has another shape is
shown as it is, and a failure is told in its own words.
"""

from collections.abc import Sequence

import msgspec

from messages import ToolCall, ToolMessage
from tools.calculate import Calculation
from tools.clock import LocalTime
from tools.search import SearchResults
from tools.stocks import StockPrice
from tools.weather import CurrentWeather

_MAX_SHOWN = 1_500
_TOOLS: dict[str, tuple[type[msgspec.Struct], str]] = {
    "get_weather": (CurrentWeather, "get the weather for {}"),
    "calculate": (Calculation, "calculate {}"),
    "get_time": (LocalTime, "get the time in {}"),
    "search_web": (SearchResults, "search the web for “{}”"),
    "get_stock_price": (StockPrice, "get the stock price of {}"),
}
"""What a tool returns, and what was to be done with its argument."""


def phrase_results(results: Sequence[tuple[ToolCall | None, ToolMessage]]) -> str:
    """Return the results in their order, as Markdown; each comes with its call, if it is known."""
    phrases = [_phrase(call, result) for call, result in results]
    if len(phrases) == 1:
        return phrases[0]
    # The further lines of a phrase belong to the list item that its first one begins.
    return "\n".join("- " + phrase.replace("\n", "\n  ") for phrase in phrases)


def _phrase(call: ToolCall | None, result: ToolMessage) -> str:
    if result.is_error:
        why = _cut(result.content.removeprefix("Error: "), _MAX_SHOWN)
        return f"I could not {_task(call, result.name)}: {why}"
    try:
        return _sentence(msgspec.json.decode(result.content, type=_TOOLS[result.name][0]))
    except (KeyError, ValueError):  # another tool, or one of the same name with its own fields
        shown = _cut(result.content, _MAX_SHOWN) or "nothing"
        if shown.startswith(("{", "[")):
            return f"`{result.name}` answered:\n\n```json\n{shown}\n```"
        return f"`{result.name}` answered: {shown}"


def _task(call: ToolCall | None, name: str) -> str:
    try:
        arguments = msgspec.json.decode(call.arguments if call else "", type=dict[str, str])
        return _TOOLS[name][1].format(_cut(", ".join(arguments.values()), 100))
    except (KeyError, ValueError):
        return f"get a result from `{name}`"


def _sentence(result: msgspec.Struct) -> str:
    match result:
        case CurrentWeather(city=city, country=country):
            place = f"{city}, {country}" if country and country != city else city
            return (
                f"The weather in **{place}**: {result.condition.lower()}, "
                f"{result.temperature_c:g} °C; feels like {result.feels_like_c:g} °C; "
                f"humidity {result.humidity_percent:g}%; wind {result.wind_kmh:g} km/h."
            )
        case Calculation(result=value):
            # Markdown would take a "*" for emphasis.
            expression = result.expression.replace("**", "^").replace("*", "×")
            return f"{expression} = **{str(value).removesuffix('.0')}**"
        case LocalTime(timezone=zone):
            city = zone.rpartition("/")[2].replace("_", " ")
            offset = "" if zone == "UTC" else f" (UTC{result.utc_offset})"
            return f"In **{city}** it is {result.text}{offset}."
        case StockPrice():
            return _price(result)
        case SearchResults():
            return _pages(result)
    raise TypeError(result)


def _price(stock: StockPrice) -> str:
    name = f"{stock.name} ({stock.symbol})" if stock.name else stock.symbol
    text = f"**{name}** is at {stock.price:,.2f} {stock.currency or ''}".strip()
    if stock.change_percent is None:
        return f"{text}."
    return f"{text}, {stock.change_percent:+.2f}% since the previous close."


def _pages(found: SearchResults) -> str:
    if not found.results:
        return f"The search for “{found.query}” found nothing."
    lines = [f"I searched the web for “{found.query}” and found:"]
    for number, page in enumerate(found.results, start=1):
        title = page.title.replace("[", "(").replace("]", ")") or page.url
        lines.append(f"{number}. [{title}]({page.url}): {page.snippet}")
    return "\n".join(lines)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + " …"
