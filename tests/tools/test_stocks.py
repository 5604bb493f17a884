"""The stock tool, against a server that answers as Yahoo's chart API does."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from errors import ToolError
from tests.tools.loopback import refusing, serving
from tools.stocks import MAX_BODY, StockPrice, Stocks

META: dict[str, Any] = {
    "currency": "USD",
    "symbol": "AAPL",
    "exchangeName": "NMS",
    "fullExchangeName": "NasdaqGS",
    "instrumentType": "EQUITY",
    "firstTradeDate": 345479400,
    "regularMarketTime": 1_770_152_402,
    "gmtoffset": -18000,
    "timezone": "EST",
    "exchangeTimezoneName": "America/New_York",
    "regularMarketPrice": 220.5,
    "longName": "Apple Inc.",
    "shortName": "Apple Inc.",
    "chartPreviousClose": 210.0,
    "priceHint": 2,
    "dataGranularity": "1d",
    "range": "1d",
}
UNKNOWN = {
    "chart": {
        "result": None,
        "error": {
            "code": "Not Found",
            "description": "No data found, symbol may be delisted",
        },
    }
}


def chart(**changes: Any) -> dict[str, Any]:
    """Return Yahoo's answer with some of its head changed; None takes a field out."""
    meta = {name: value for name, value in (META | changes).items() if value is not None}
    result = {"meta": meta, "timestamp": [META["regularMarketTime"]], "indicators": {}}
    return {"chart": {"result": [result], "error": None}}


async def ask(
    symbol: str = "AAPL",
    answer: Any = None,
    *,
    status: int = 200,
    timeout: float = 5.0,
    seen: list[web.Request] | None = None,
) -> StockPrice:
    """Ask at a server that answers with this JSON, text or bytes."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if seen is not None:
            seen.append(request)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, str | bytes):
            return web.Response(body=answer, status=status, headers={"Location": "/elsewhere"})
        return web.json_response(answer or chart(), status=status)

    async with asyncio.timeout(20), serving(handler) as url:
        return await asyncio.to_thread(Stocks(url, timeout).get_stock_price, symbol)


async def test_a_price_comes_with_its_currency_its_exchange_and_how_it_moved() -> None:
    assert await ask() == StockPrice(
        symbol="AAPL",
        name="Apple Inc.",
        price=220.5,
        currency="USD",
        exchange="NasdaqGS",
        previous_close=210.0,
        change=10.5,
        change_percent=5.0,
        market_time="2026-02-03T21:00:02+00:00",
    )


async def test_one_question_goes_to_the_chart_api_and_to_no_other_address() -> None:
    seen: list[web.Request] = []
    await ask("^gspc", seen=seen)
    assert [request.path for request in seen] == ["/v8/finance/chart/^GSPC"]
    assert dict(seen[0].query) == {"range": "1d", "interval": "1d"}
    assert "Chrome" in seen[0].headers["User-Agent"]


@pytest.mark.parametrize("symbol", ["BRK-B", "SAP.DE", "EURUSD=X", "BTC-USD", " aapl "])
async def test_a_symbol_reaches_yahoo_in_capitals_and_as_it_is_written(symbol: str) -> None:
    seen: list[web.Request] = []
    await ask(symbol, seen=seen)
    assert seen[0].path == "/v8/finance/chart/" + symbol.strip().upper()


async def test_the_previous_close_is_preferred_to_the_close_before_the_chart() -> None:
    price = await ask(answer=chart(previousClose=200.0))
    assert (price.previous_close, price.change, price.change_percent) == (200.0, 20.5, 10.25)


async def test_without_a_previous_close_there_is_no_change_rather_than_a_made_up_one() -> None:
    price = await ask(answer=chart(chartPreviousClose=None))
    assert (price.previous_close, price.change, price.change_percent) == (None, None, None)


@pytest.mark.parametrize("field", ["regularMarketPrice", "regularMarketTime", "symbol"])
async def test_an_answer_without_a_price_is_said_to_be_unexpected(field: str) -> None:
    with pytest.raises(ToolError, match="Yahoo Finance sent an unexpected answer"):
        await ask(answer=chart(**{field: None}))


async def test_an_unknown_symbol_is_said_to_be_unknown() -> None:
    with pytest.raises(ToolError, match="does not know the symbol XYZZY"):
        await ask("xyzzy", UNKNOWN, status=404)


@pytest.mark.parametrize(
    "symbol", ["", " ", "..", ".", "A B", "../x", "A/B", "A?b=1", "A%2e", "Ä", "\ud800", "A" * 21]
)
def test_what_is_no_symbol_is_refused_without_a_question(symbol: str) -> None:
    with pytest.raises(ToolError, match="A stock symbol has 1 to 20"):
        Stocks(refusing()).get_stock_price(symbol)


@pytest.mark.parametrize(
    "answer", ["<html>busy</html>", " ", b'{"chart": "\xff"}', "[]", '{"chart": {"result": []}}']
)
async def test_an_answer_that_is_not_yahoos_is_said_to_be_unexpected(answer: str | bytes) -> None:
    with pytest.raises(ToolError, match="Yahoo Finance sent an unexpected answer"):
        await ask(answer=answer)


@pytest.mark.parametrize("status", [302, 404, 500, 503])
async def test_a_refusal_is_named_with_its_status(status: int) -> None:
    with pytest.raises(ToolError, match=f"Yahoo Finance answered with status {status}"):
        await ask(answer="<html>no</html>", status=status)


async def test_too_many_requests_are_named_as_such() -> None:
    seen: list[web.Request] = []
    with pytest.raises(ToolError, match="too many requests"):
        await ask(answer="Too Many Requests\r\n", status=429, seen=seen)
    assert len(seen) == 2


async def test_an_answer_without_end_is_cut_off() -> None:
    with pytest.raises(ToolError, match="Yahoo Finance sent too long an answer"):
        await ask(answer=b" " * (MAX_BODY + 1))


async def test_a_source_that_never_answers_is_given_up_at_the_deadline() -> None:
    with pytest.raises(ToolError, match=r"Yahoo Finance did not answer within 0\.1 s"):
        await ask(answer=asyncio.Event(), timeout=0.1)


def test_a_source_that_is_not_there_is_said_to_be_unreachable() -> None:
    with pytest.raises(ToolError, match="Yahoo Finance could not be reached"):
        Stocks(refusing()).get_stock_price("AAPL")


async def test_several_calls_at_once_each_get_their_own_answer() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(chart(symbol=request.path.rpartition("/")[2]))

    symbols = [f"S{number}" for number in range(8)]
    async with asyncio.timeout(20), serving(handler) as url:
        stocks = Stocks(url)
        prices = await asyncio.gather(
            *(asyncio.to_thread(stocks.get_stock_price, symbol) for symbol in symbols)
        )
    assert [price.symbol for price in prices] == symbols


def test_nothing_is_written_to_the_cache_folder_the_log_or_the_terminal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.INFO), pytest.raises(ToolError):
        asyncio.run(ask("XYZZY", UNKNOWN, status=404))
    assert list(tmp_path.iterdir()) == []
    assert [record.name for record in caplog.records if record.name != "aiohttp.access"] == []
    assert capfd.readouterr() == ("", "")
