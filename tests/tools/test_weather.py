"""The weather tool, against a server that answers as Open-Meteo does."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from errors import ToolError
from tests.tools.loopback import refusing, serving
from tools.weather import MAX_BODY, CurrentWeather, Weather

PARIS = {
    "id": 2988507,
    "name": "Paris",
    "latitude": 48.85341,
    "longitude": 2.3488,
    "elevation": 42.0,
    "feature_code": "PPLC",
    "country_code": "FR",
    "timezone": "Europe/Paris",
    "population": 2138551,
    "country": "France",
    "admin1": "Île-de-France",
}
PARIS_TEXAS = {
    "id": 4717560,
    "name": "Paris",
    "latitude": 33.66094,
    "longitude": -95.55551,
    "country_code": "US",
    "timezone": "America/Chicago",
    "country": "United States",
    "admin1": "Texas",
}
CURRENT = {
    "time": "2026-02-03T14:15",
    "interval": 900,
    "temperature_2m": 8.4,
    "apparent_temperature": 5.1,
    "relative_humidity_2m": 71,
    "weather_code": 61,
    "wind_speed_10m": 14.8,
}
FORECAST: dict[str, Any] = {
    "latitude": 48.86,
    "longitude": 2.3399997,
    "generationtime_ms": 0.05,
    "utc_offset_seconds": 3600,
    "timezone": "Europe/Paris",
    "timezone_abbreviation": "CET",
    "current_units": {"time": "iso8601", "temperature_2m": "°C", "wind_speed_10m": "km/h"},
    "current": CURRENT,
}
NOWHERE = {"generationtime_ms": 0.4}

Answer = Callable[[web.Request], Any]


async def ask(
    city: str,
    *,
    places: Any = None,
    forecast: Any = FORECAST,
    timeout: float = 5.0,
    seen: list[web.Request] | None = None,
) -> CurrentWeather:
    """Ask for a city at a server that gives these answers: JSON, or a whole response."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if seen is not None:
            seen.append(request)
        if request.path == "/v1/search":
            answer = places if places is not None else {"results": [PARIS, PARIS_TEXAS]}
        else:
            assert request.path == "/v1/forecast"
            answer = forecast
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    async with asyncio.timeout(10), serving(handler) as url:
        return await Weather(url, url + "/", timeout).get_weather(city)


async def test_the_current_weather_of_a_city_comes_with_its_units_and_its_place() -> None:
    assert await ask("Paris") == CurrentWeather(
        city="Paris",
        region="Île-de-France",
        country="France",
        latitude=48.85,
        longitude=2.35,
        condition="slight rain",
        temperature_c=8.4,
        feels_like_c=5.1,
        humidity_percent=71.0,
        wind_kmh=14.8,
        observed_at="2026-02-03T14:15",
        timezone="Europe/Paris",
    )


async def test_the_questions_are_those_that_open_meteo_documents() -> None:
    seen: list[web.Request] = []
    await ask("  São Paulo ", seen=seen)
    assert dict(seen[0].query) == {"name": "São Paulo", "count": "1", "language": "en"}
    assert seen[1].query["latitude"] == "48.8534"
    assert seen[1].query["timezone"] == "auto"
    assert set(seen[1].query["current"].split(",")) <= CURRENT.keys()


@pytest.mark.parametrize(
    ("city", "region"),
    [
        ("Paris, Texas", "Texas"),
        ("Paris, TX", "Texas"),
        ("paris, texas, usa", "Texas"),
        ("Paris, US", "Texas"),
        ("Paris, United States", "Texas"),
        ("Paris, France", "Île-de-France"),
        ("Paris, FR", "Île-de-France"),
        ("Paris,", "Île-de-France"),
    ],
)
async def test_a_country_or_region_chooses_among_places_of_one_name(city: str, region: str) -> None:
    seen: list[web.Request] = []
    assert (await ask(city, seen=seen)).region == region
    assert int(seen[0].query["count"]) > 1 or city == "Paris,"


@pytest.mark.parametrize("city", ["Paris, Ontario", "Paris, TX, France", "Paris, CA"])
async def test_a_place_that_fits_no_region_asked_for_is_not_replaced_by_another(city: str) -> None:
    with pytest.raises(ToolError, match=f"No city called '{city}'"):
        await ask(city)


@pytest.mark.parametrize("places", [NOWHERE, {"results": []}])
async def test_an_unknown_city_is_said_to_be_unknown(places: Any) -> None:
    with pytest.raises(ToolError, match="No city called 'Xyzzy' is known"):
        await ask("Xyzzy", places=places)


@pytest.mark.parametrize("city", ["", "  ", ",", ", France", "x" * 101])
async def test_a_name_that_is_none_is_refused_without_a_question(city: str) -> None:
    with pytest.raises(ToolError, match="between 1 and 100"):
        await Weather(refusing(), refusing()).get_weather(city)


async def test_a_name_that_is_not_text_is_unknown_and_not_a_crash() -> None:
    seen: list[web.Request] = []
    with pytest.raises(ToolError, match="No city called"):
        await ask("\ud800\x00", places=NOWHERE, seen=seen)
    assert seen[0].query["name"] == "?\x00"


async def test_an_abbreviated_state_is_one_of_the_usa() -> None:
    bulgarian = PARIS | {"country_code": "BG", "country": "Bulgaria", "admin1": "Montana"}
    assert (await ask("X, Montana", places={"results": [bulgarian]})).country == "Bulgaria"
    with pytest.raises(ToolError, match="No city called 'X, MT'"):
        await ask("X, MT", places={"results": [bulgarian]})


async def test_a_condition_without_a_name_is_given_by_its_code() -> None:
    forecast = FORECAST | {"current": CURRENT | {"weather_code": 42}}
    assert (await ask("Paris", forecast=forecast)).condition == "WMO code 42"


BAD_ANSWERS = {
    "garbage": web.Response,
    "html": lambda: web.Response(text="<html>busy</html>", content_type="text/html"),
    "not UTF-8": lambda: web.Response(body=b'{"results": "\xff"}'),
    "an array": lambda: web.json_response([1, 2]),
    "nulls": lambda: web.json_response({"results": [{"name": None}], "current": None}),
    "off the globe": lambda: web.json_response(
        {"results": [PARIS | {"latitude": 1e300}], "timezone": "UTC", "current": 3}
    ),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_an_answer_that_is_not_open_meteos_is_said_to_be_unexpected(
    answer: Callable[[], web.Response],
) -> None:
    with pytest.raises(ToolError, match=r"Open-Meteo.* sent an unexpected answer"):
        await ask("Paris", places=answer())
    with pytest.raises(ToolError, match=r"Open-Meteo.* sent an unexpected answer"):
        await ask("Paris", forecast=answer())


@pytest.mark.parametrize("field", sorted(CURRENT.keys() - {"interval"}))
async def test_a_missing_measurement_is_never_made_up(field: str) -> None:
    current = {name: value for name, value in CURRENT.items() if name != field}
    with pytest.raises(ToolError, match="unexpected answer"):
        await ask("Paris", forecast=FORECAST | {"current": current})


@pytest.mark.parametrize("status", [302, 400, 429, 500, 503])
async def test_a_refusal_is_named_with_its_status(status: int) -> None:
    refusal = web.Response(status=status, headers={"Location": "/v1/forecast"})
    with pytest.raises(ToolError, match=f"Open-Meteo.* answered with status {status}"):
        await ask("Paris", places=refusal)


async def test_an_answer_without_end_is_cut_off() -> None:
    body = web.Response(body=b" " * (MAX_BODY + 1))
    with pytest.raises(ToolError, match="too long an answer"):
        await ask("Paris", forecast=body)


async def test_a_source_that_never_answers_is_given_up_at_the_deadline() -> None:
    with pytest.raises(ToolError, match=r"Open-Meteo.* did not answer within 0\.05 s"):
        await ask("Paris", places=asyncio.Event(), timeout=0.05)


async def test_a_source_that_is_not_there_is_said_to_be_unreachable() -> None:
    with pytest.raises(ToolError, match=r"Open-Meteo.* could not be reached"):
        await Weather(refusing(), refusing()).get_weather("Paris")


async def test_a_connection_that_breaks_off_is_said_to_be_unreachable() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"results": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with asyncio.timeout(10), serving(handler) as url:
        with pytest.raises(ToolError, match="could not be reached"):
            await Weather(url, url).get_weather("Paris")


async def test_the_result_is_json_in_a_few_hundred_bytes() -> None:
    assert len(msgspec.json.encode(await ask("Paris"))) < 400


def test_each_call_can_have_an_event_loop_of_its_own() -> None:
    weather = Weather(refusing(), refusing())
    for _ in range(2):
        with pytest.raises(ToolError):
            asyncio.run(weather.get_weather("Paris"))
