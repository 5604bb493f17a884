"""Tool results in sentences.

Each built-in tool has a phrase, a function of its decoded result; one that misses a field it
needs, or any other tool, gets the result itself in a compact form. A failure is told with its
own words.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from messages import ToolCall, ToolMessage

_Fields: TypeAlias = dict[str, Any]

_MAX_SHOWN = 1_500
_MAX_PAGES = 5


def phrase_results(results: Sequence[tuple[ToolCall | None, ToolMessage]]) -> str:
    """Return what the calls brought, in their order, as Markdown.

    Args:
        results: each result with the call that asked for it, if it is known.
    """
    phrases = [_phrase(call, result) for call, result in results]
    if len(phrases) == 1:
        return phrases[0]
    return "\n".join(f"- {_indented(phrase)}" for phrase in phrases)


def _phrase(call: ToolCall | None, result: ToolMessage) -> str:
    arguments = _object(call.arguments) if call else {}
    if result.is_error:
        why = _cut(result.content.removeprefix("Error: "))
        return f"I could not {_task(result.name, arguments)}: {why}"
    try:
        value = json.loads(result.content)
    except (ValueError, RecursionError):
        return f"`{result.name}` answered: {_cut(result.content)}"
    phrase = _PHRASES.get(result.name)
    if phrase is None or not isinstance(value, dict):
        return _plain(result.name, value)
    try:
        return phrase(value)
    except (KeyError, TypeError, ValueError, AttributeError):
        # Another tool of the same name, with fields of its own.
        return _plain(result.name, value)


def _object(text: str) -> _Fields:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _task(name: str, arguments: _Fields) -> str:
    said = _cut(", ".join(str(value) for value in arguments.values()), 100)
    form = _TASKS.get(name) if said else None
    return form.format(said) if form else f"get a result from `{name}`"


_TASKS = {
    "get_weather": "get the weather for {}",
    "calculate": "calculate {}",
    "get_time": "get the time in {}",
    "search_web": "search the web for “{}”",
    "get_stock_price": "get the stock price of {}",
}


def _weather(fields: _Fields) -> str:
    area = fields.get("country") or ""
    place = fields["city"] + (f", {area}" if area and area != fields["city"] else "")
    temperature = f"{float(fields['temperature_c']):g} °C"
    details = [f"{str(fields['condition']).lower()}, {temperature}"]
    if (feels := fields.get("feels_like_c")) is not None:
        details.append(f"feels like {float(feels):g} °C")
    if (humidity := fields.get("humidity_percent")) is not None:
        details.append(f"humidity {float(humidity):g}%")
    if (wind := fields.get("wind_kmh")) is not None:
        details.append(f"wind {float(wind):g} km/h")
    return f"The weather in **{place}**: {'; '.join(details)}."


def _calculation(fields: _Fields) -> str:
    value = fields["result"]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return f"{_literal(str(fields['expression']))} = **{value}**"


def _literal(expression: str) -> str:
    """Return an expression whose `*` Markdown does not take for emphasis."""
    return expression.replace("**", "^").replace(" * ", " × ").replace("*", "×")


def _time(fields: _Fields) -> str:
    zone = str(fields["timezone"])
    city = zone.rpartition("/")[2].replace("_", " ")
    offset = "" if zone == "UTC" else f" (UTC{fields['utc_offset']})"
    return f"In **{city}** it is {fields['text']}{offset}."


def _search(fields: _Fields) -> str:
    pages = fields["results"]
    if not pages:
        return f"The search for “{fields['query']}” found nothing."
    lines = [f"I searched the web for “{fields['query']}” and found:"]
    for number, page in enumerate(pages[:_MAX_PAGES], start=1):
        title = str(page["title"]).replace("[", "(").replace("]", ")") or page["url"]
        lines.append(f"{number}. [{title}]({page['url']}): {page['snippet']}")
    return "\n".join(lines)


def _stock(fields: _Fields) -> str:
    symbol = fields["symbol"]
    name = f"{fields['name']} ({symbol})" if fields.get("name") else symbol
    text = f"**{name}** is at {float(fields['price']):,.2f} {fields.get('currency') or ''}".strip()
    if (change := fields.get("change_percent")) is not None:
        text += f", {float(change):+.2f}% since the previous close"
    return text + "."


_PHRASES: dict[str, Callable[[_Fields], str]] = {
    "get_weather": _weather,
    "calculate": _calculation,
    "get_time": _time,
    "search_web": _search,
    "get_stock_price": _stock,
}


def _plain(name: str, value: Any) -> str:
    """Return any result, readable: an object as `key: value` pairs, the rest as JSON."""
    if isinstance(value, dict) and value and all(_is_scalar(item) for item in value.values()):
        pairs = "; ".join(f"{key}: {_scalar(item)}" for key, item in value.items())
        return f"`{name}` answered: {_cut(pairs)}"
    if _is_scalar(value):
        return f"`{name}` answered: {_cut(_scalar(value)) or 'nothing'}"
    shown = _cut(json.dumps(value, ensure_ascii=False, indent=2))
    return f"`{name}` answered:\n\n```json\n{shown}\n```"


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cut(text: str, limit: int = _MAX_SHOWN) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _indented(text: str) -> str:
    """Return `text` with its further lines inside the list item that its first one begins."""
    first, *others = text.split("\n")
    return "\n".join([first, *(f"  {line}" if line else "" for line in others)])
