"""The clock: every IANA name, many others, and no file but those of the list."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import ToolError
from tools.clock import LocalTime, get_time, local_time


def test_a_moment_is_told_in_figures_and_in_words() -> None:
    moment = datetime(2026, 7, 4, 15, 5, 9, 999, tzinfo=ZoneInfo("America/New_York"))
    assert local_time("America/New_York", moment) == LocalTime(
        timezone="America/New_York",
        datetime="2026-07-04T15:05:09-04:00",
        utc_offset="-04:00",
        weekday="Saturday",
        text="Saturday, 4 July 2026, 15:05 EDT",
    )


def test_an_offset_may_have_half_hours_and_a_zone_no_abbreviation() -> None:
    moment = datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Kathmandu"))
    told = local_time("Asia/Kathmandu", moment)
    assert (told.utc_offset, told.text) == ("+05:45", "Thursday, 1 January 2026, 00:00")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Kiritimati"])
def test_the_time_is_the_present_one(zone: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = get_time(zone)
    moment = datetime.fromisoformat(told.datetime)
    assert before <= moment <= datetime.now(UTC)
    assert moment.utcoffset() == moment.astimezone(ZoneInfo(zone)).utcoffset()
    assert moment.strftime("%A") == told.weekday


@pytest.fixture
def package_only() -> Iterator[None]:
    """Hide the system's time zone database: what is left is the tzdata package's."""
    zoneinfo.reset_tzpath(to=())
    ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    ZoneInfo.clear_cache()


@pytest.mark.usefixtures("package_only")
def test_every_iana_name_is_known_in_any_case_and_keeps_its_meaning() -> None:
    names = zoneinfo.available_timezones() - {"Factory"}
    assert len(names) > 400
    for name in names:
        assert get_time(name).timezone == name
        assert get_time(name.swapcase()).timezone == name


NAMES = {
    "New York": "America/New_York",
    "new_york": "America/New_York",
    "NEW YORK CITY": "America/New_York",
    "Tokyo": "Asia/Tokyo",
    "São Paulo": "America/Sao_Paulo",
    "sao paulo": "America/Sao_Paulo",
    "Istanbul": "Europe/Istanbul",
    "Louisville": "America/Kentucky/Louisville",
    "Calcutta": "Asia/Calcutta",
    "Port-au-Prince": "America/Port-au-Prince",
    "St. Petersburg": "Europe/Moscow",
    "Beijing": "Asia/Shanghai",
    "Mumbai": "Asia/Kolkata",
    "San Francisco": "America/Los_Angeles",
    "Munich": "Europe/Berlin",
    "Düsseldorf": "Europe/Berlin",
    "Washington": "America/New_York",
    "Germany": "Europe/Berlin",
    "China": "Asia/Shanghai",
    "India": "Asia/Kolkata",
    "France": "Europe/Paris",
    "Vietnam": "Asia/Ho_Chi_Minh",
    "UK": "Europe/London",
    "Paris, France": "Europe/Paris",
    "Paris, FR": "Europe/Paris",
    "London, UK": "Europe/London",
    "Mumbai, India": "Asia/Kolkata",
    "Portland, USA": "America/Los_Angeles",
    "utc": "UTC",
    "GMT": "GMT",
    "EST": "EST",
    "ET": "America/New_York",
    "IST": "Asia/Kolkata",
    "PST": "UTC-08:00",
    "CEST": "UTC+02:00",
    "ACST": "UTC+09:30",
    "UTC+2": "UTC+02:00",
    "UTC −5": "UTC-05:00",
    "gmt-3:30": "UTC-03:30",
    "+0545": "UTC+05:45",
    "UTC+14": "UTC+14:00",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_place_is_known_by_its_usual_names(name: str) -> None:
    assert get_time(name).timezone == NAMES[name]


@pytest.mark.parametrize(
    ("name", "offset"), [("EST", "-05:00"), ("PST", "-08:00"), ("UTC+2", "+02:00")]
)
def test_an_abbreviation_or_offset_means_what_it_says_all_year(name: str, offset: str) -> None:
    assert get_time(name).utc_offset == offset


@pytest.mark.parametrize("name", ["United States", "USA", "us", "Brazil"])
def test_a_country_with_several_zones_is_not_guessed(name: str) -> None:
    with pytest.raises(ToolError, match="several time zones: America/"):
        get_time(name)


@pytest.mark.parametrize("name", ["Paris, Texas", "Paris, ", "Berlin, France", "Xyzzy, France"])
def test_a_city_is_not_looked_for_in_another_country(name: str) -> None:
    with pytest.raises(ToolError, match="is unknown"):
        get_time(name)


@pytest.mark.parametrize("name", ["local", "Localtime", "here"])
def test_the_servers_zone_is_not_passed_off_as_the_users(name: str) -> None:
    with pytest.raises(ToolError, match="own time zone is not known"):
        get_time(name)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("Berln", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("Los Angelos", "America/Los_Angeles"),
        ("xyzzy", "Use an IANA name"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(ToolError, match=f"{name}' is unknown.*{close}"):
        get_time(name)


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "\u0301"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ToolError, match="between 1 and 100"):
        get_time(name)


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc/passwd", "/etc/localtime", "Europe/../UTC", "Europe", "\x00", "UTC\x00"),
        *("\ud800", "tzdata.zi", "zone.tab", "__init__.py", "Factory", "Etc/"),
        *("UTC+15", "UTC+99", "+1:99"),
    ],
)
def test_what_is_not_in_the_list_is_never_opened(name: str) -> None:
    with pytest.raises(ToolError, match="is unknown"):
        get_time(name)


@given(st.text(max_size=120) | st.text("./\\abcEurope_+-:0129UTC ,", max_size=30))
def test_any_text_gives_a_time_or_is_refused(text: str) -> None:
    try:
        told = get_time(text)
    except ToolError as error:
        msgspec.json.encode(str(error))
    else:
        offset = datetime.fromisoformat(told.datetime).utcoffset()
        assert offset is not None
        assert abs(offset) <= timedelta(hours=14)
