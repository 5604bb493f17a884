"""The price of a stock, from Yahoo Finance.

One question to Yahoo's chart API: the head of its answer has all that is wanted. It takes no client
without a browser's TLS fingerprint, which curl_cffi has; it needs neither a cookie nor a crumb.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from errors import ToolError
from tools.tool import idempotent

URL = "https://query2.finance.yahoo.com"

MAX_BODY = 1024 * 1024

_SYMBOL = re.compile(r"[A-Za-z0-9.^=-]{1,20}")

_ONE_DAY = {"range": "1d", "interval": "1d"}


class StockPrice(msgspec.Struct, frozen=True):
    """A price and how it moved since the previous close; `market_time` is ISO 8601, UTC."""

    symbol: str
    name: str | None
    price: float
    currency: str | None
    exchange: str | None
    previous_close: float | None
    change: float | None
    change_percent: float | None
    market_time: str


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    symbol: str
    regular_market_price: float
    regular_market_time: Annotated[int, msgspec.Meta(ge=0, le=2**33)]
    currency: str | None = None
    exchange_name: str | None = None
    full_exchange_name: str | None = None
    long_name: str | None = None
    short_name: str | None = None
    previous_close: float | None = None
    chart_previous_close: float | None = None


class _Result(msgspec.Struct, frozen=True):
    meta: _Meta


class _Failure(msgspec.Struct, frozen=True):
    code: str


class _Chart(msgspec.Struct, frozen=True):
    result: list[_Result] | None = None
    error: _Failure | None = None


class _Answer(msgspec.Struct, frozen=True):
    chart: _Chart


class Stocks:
    """The tool; asks `url` instead of Yahoo, for `timeout` seconds, and once more if refused."""

    def __init__(self, url: str | None = None, timeout: float = 6.0) -> None:
        self._url = url
        self._timeout = timeout

    @idempotent
    def get_stock_price(self, symbol: str) -> StockPrice:
        """Return the latest price of a stock, index, currency pair or cryptocurrency.

        Args:
            symbol: The symbol as Yahoo Finance writes it, for example "AAPL", "SAP.DE",
                "^GSPC", "EURUSD=X" or "BTC-USD".
        """
        wanted = symbol.strip().upper()
        if not _SYMBOL.fullmatch(wanted) or not wanted.strip("."):
            raise ToolError(
                "A stock symbol has 1 to 20 letters, digits and . ^ = - as in AAPL or SAP.DE."
            )
        status, body = self._ask(wanted)
        try:
            chart = msgspec.json.decode(body, type=_Answer).chart
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _unexpected(status) from None
        if chart.error and chart.error.code == "Not Found":
            raise ToolError(f"Yahoo Finance does not know the symbol {wanted}.")
        if status != 200 or not chart.result:
            raise _unexpected(status)
        return _price(chart.result[0].meta)

    def _ask(self, symbol: str) -> tuple[int, bytes]:
        """Return the status and the body of Yahoo's answer, the second one after a refusal."""
        from curl_cffi import CurlECode, CurlOpt, requests

        url = f"{(self._url or URL).rstrip('/')}/v8/finance/chart/{symbol}"
        limit: dict[CurlOpt, Any] = {CurlOpt.MAXFILESIZE_LARGE: MAX_BODY}
        with requests.Session(
            impersonate="chrome", curl_options=limit, allow_redirects=False, timeout=self._timeout
        ) as session:
            try:
                response = session.get(url, params=_ONE_DAY)
                if response.status_code >= 400:
                    response = session.get(url, params=_ONE_DAY)
            except requests.exceptions.Timeout:
                raise ToolError(
                    f"Yahoo Finance did not answer within {self._timeout:g} s."
                ) from None
            except requests.exceptions.RequestException as error:
                if error.code == CurlECode.FILESIZE_EXCEEDED:
                    raise ToolError("Yahoo Finance sent too long an answer.") from None
                raise ToolError("Yahoo Finance could not be reached.") from None
        if response.status_code == 429:
            raise ToolError("Yahoo Finance refuses for now: too many requests.")
        return response.status_code, response.content


def _unexpected(status: int) -> ToolError:
    if status != 200:
        return ToolError(f"Yahoo Finance answered with status {status}.")
    return ToolError("Yahoo Finance sent an unexpected answer.")


def _price(meta: _Meta) -> StockPrice:
    price = meta.regular_market_price
    # Over a range of one day, the close before the chart is the previous close.
    before = meta.previous_close or meta.chart_previous_close
    moment = datetime.fromtimestamp(meta.regular_market_time, UTC)
    return StockPrice(
        symbol=meta.symbol,
        name=meta.long_name or meta.short_name,
        price=price,
        currency=meta.currency,
        exchange=meta.full_exchange_name or meta.exchange_name,
        previous_close=before,
        change=round(price - before, 6) if before else None,
        change_percent=round((price - before) / before * 100, 4) if before else None,
        market_time=moment.isoformat(),
    )
