"""The weather in a city, from Open-Meteo (https://open-meteo.com/en/docs), without a key.

Two questions: the geocoding API turns a name into places, the forecast API gives the current
conditions at one of them. Open-Meteo knows plain names only, so what follows a comma ("Paris,
Texas") chooses among the places of that name; if it fits none of them, there is no answer,
rather than the weather of somewhere else.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from errors import ToolError
from tools.tool import idempotent

if TYPE_CHECKING:
    from aiohttp import ClientSession

MAX_CHARS = 100
MAX_BODY = 1024 * 1024

_CURRENT = "temperature_2m,apparent_temperature,relative_humidity_2m,weather_code,wind_speed_10m"

_CONDITIONS = {
    0: "clear sky",
    1: "mainly clear",
    2: "partly cloudy",
    3: "overcast",
    45: "fog",
    48: "fog with rime",
    51: "light drizzle",
    53: "moderate drizzle",
    55: "dense drizzle",
    56: "light freezing drizzle",
    57: "dense freezing drizzle",
    61: "slight rain",
    63: "moderate rain",
    65: "heavy rain",
    66: "light freezing rain",
    67: "heavy freezing rain",
    71: "slight snowfall",
    73: "moderate snowfall",
    75: "heavy snowfall",
    77: "snow grains",
    80: "slight rain showers",
    81: "moderate rain showers",
    82: "violent rain showers",
    85: "slight snow showers",
    86: "heavy snow showers",
    95: "thunderstorm",
    96: "thunderstorm with slight hail",
    99: "thunderstorm with heavy hail",
}
"""WMO code 4677 as far as Open-Meteo uses it."""

_STATES = dict(
    re.findall(
        r"(\w+):(\w+)",
        """
        al:alabama ak:alaska az:arizona ar:arkansas ca:california co:colorado ct:connecticut
        de:delaware dc:district_of_columbia fl:florida ga:georgia hi:hawaii id:idaho il:illinois
        in:indiana ia:iowa ks:kansas ky:kentucky la:louisiana me:maine md:maryland
        ma:massachusetts mi:michigan mn:minnesota ms:mississippi mo:missouri mt:montana
        ne:nebraska nv:nevada nh:new_hampshire nj:new_jersey nm:new_mexico ny:new_york
        nc:north_carolina nd:north_dakota oh:ohio ok:oklahoma or:oregon pa:pennsylvania
        ri:rhode_island sc:south_carolina sd:south_dakota tn:tennessee tx:texas ut:utah
        vt:vermont va:virginia wa:washington wv:west_virginia wi:wisconsin wy:wyoming
        """,
    )
)
"""The abbreviations of the states of the USA."""
_COUNTRIES = {"usa": "us", "uk": "gb"}

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class CurrentWeather(msgspec.Struct, frozen=True):
    """The conditions at a place. `observed_at` is the place's own time, ISO 8601, no offset."""

    city: str
    region: str | None
    country: str | None
    latitude: float
    longitude: float
    condition: str
    temperature_c: float
    feels_like_c: float
    humidity_percent: float
    wind_kmh: float
    observed_at: str
    timezone: str


class _Place(msgspec.Struct, frozen=True):
    name: str
    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    country: str | None = None
    country_code: str | None = None
    admin1: str | None = None

    def is_in(self, area: str) -> bool:
        """Whether `area` names the place's country or region."""
        wanted = area.casefold()
        code = (self.country_code or "").casefold()
        region = (self.admin1 or "").casefold()
        if code == "us" and _STATES.get(wanted, "-").replace("_", " ") == region:
            return True
        own = {code, region, (self.country or "").casefold()} - {""}
        return wanted in own or _COUNTRIES.get(wanted) in own


class _Places(msgspec.Struct, frozen=True):
    results: list[_Place] = []


class _Conditions(msgspec.Struct, frozen=True):
    time: str
    temperature_2m: float
    apparent_temperature: float
    relative_humidity_2m: float
    weather_code: int
    wind_speed_10m: float


class _Forecast(msgspec.Struct, frozen=True):
    current: _Conditions
    timezone: str


class Weather:
    """The tool and where it asks; `timeout` is in seconds, for both questions together."""

    def __init__(self, geocoding_url: str, forecast_url: str, timeout: float = 10.0) -> None:
        self._geocoding = geocoding_url.rstrip("/") + "/v1/search"
        self._forecast = forecast_url.rstrip("/") + "/v1/forecast"
        self._timeout = timeout

    @idempotent
    async def get_weather(self, city: str) -> CurrentWeather:
        """Return the current weather in a city: temperature, humidity, wind and conditions.

        Args:
            city: The city's name, optionally with its country or region, for example "Paris"
                or "Portland, Oregon".
        """
        sendable = city.encode(errors="replace").decode()
        name, *areas = [part.strip() for part in sendable.split(",")]
        if not name or len(city) > MAX_CHARS:
            raise ToolError(f"A city's name has between 1 and {MAX_CHARS} characters.")
        import aiohttp

        try:
            async with (
                asyncio.timeout(self._timeout),
                aiohttp.ClientSession(trust_env=True) as session,
            ):
                place = await self._place(session, name, [area for area in areas if area])
                return await self._conditions(session, place)
        except TimeoutError:
            raise ToolError(
                f"The weather service (Open-Meteo) did not answer within {self._timeout:g} s."
            ) from None
        except aiohttp.ClientError:
            raise ToolError("The weather service (Open-Meteo) could not be reached.") from None

    async def _place(self, session: "ClientSession", name: str, areas: list[str]) -> _Place:
        query = {"name": name, "count": "20" if areas else "1", "language": "en"}
        places = await _ask(session, self._geocoding, query, _Places)
        for place in places.results:
            if all(place.is_in(area) for area in areas):
                return place
        raise ToolError(f"No city called {', '.join([name, *areas])!r} is known to Open-Meteo.")

    async def _conditions(self, session: "ClientSession", place: _Place) -> CurrentWeather:
        query = {
            "latitude": f"{place.latitude:.4f}",
            "longitude": f"{place.longitude:.4f}",
            "current": _CURRENT,
            "timezone": "auto",
        }
        forecast = await _ask(session, self._forecast, query, _Forecast)
        now = forecast.current
        return CurrentWeather(
            city=place.name,
            region=place.admin1,
            country=place.country,
            latitude=round(place.latitude, 2),
            longitude=round(place.longitude, 2),
            condition=_CONDITIONS.get(now.weather_code, f"WMO code {now.weather_code}"),
            temperature_c=now.temperature_2m,
            feels_like_c=now.apparent_temperature,
            humidity_percent=now.relative_humidity_2m,
            wind_kmh=now.wind_speed_10m,
            observed_at=now.time,
            timezone=forecast.timezone,
        )


async def _ask(
    session: "ClientSession", url: str, query: dict[str, str], answer: type[_Answer]
) -> _Answer:
    async with session.get(url, params=query, allow_redirects=False) as response:
        if response.status != 200:
            raise ToolError(
                f"The weather service (Open-Meteo) answered with status {response.status}."
            )
        body = b""
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                raise ToolError("The weather service (Open-Meteo) sent too long an answer.")
    try:
        return msgspec.json.decode(body, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ToolError("The weather service (Open-Meteo) sent an unexpected answer.") from None
