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
    """Return the functions, each typed and documented as a tool.

    Args:
        weather_geocoding_url: the base address of Open-Meteo's geocoding API.
        weather_forecast_url: the base address of Open-Meteo's forecast API.
        search_backend: "auto", or names of ddgs' text engines parted by commas.
        search_url: an address that stands in for DuckDuckGo's HTML page, or None.
        stock_url: a base address that stands in for Yahoo Finance's, or None.
    """
    return (
        Weather(weather_geocoding_url, weather_forecast_url).get_weather,
        calculate,
        get_time,
        Search(search_backend, search_url).search_web,
        Stocks(stock_url).get_stock_price,
    )
