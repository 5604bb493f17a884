"""The five tools that come with the service, made with the addresses they ask."""

from collections.abc import Callable
from typing import Any

from tools.calculate import calculate
from tools.clock import get_time
from tools.search import Search
from tools.stocks import Stocks
from tools.weather import Weather


def built_in_tools(
    *,
    weather_geocoding_url: str,
    weather_forecast_url: str,
    search_backend: str,
    search_url: str | None,
    stock_url: str | None,
) -> tuple[Callable[..., Any], ...]:
    """Return the functions, each typed and documented as a tool."""
    return (
        Weather(weather_geocoding_url, weather_forecast_url).get_weather,
        calculate,
        get_time,
        Search(search_backend, search_url).search_web,
        Stocks(stock_url).get_stock_price,
    )
