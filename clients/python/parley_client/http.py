"""Questions over HTTP: one answer each, asked again until there is one."""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec

from parley_client.errors import Lost, ParleyError, refusal_over_http
from parley_client.pace import Pauses, Timings

T = TypeVar("T")

FAILURES = (aiohttp.ClientError, OSError, TimeoutError)
"""What a lost connection looks like."""


class Http:
    """The service's addresses; `base` has no slash at its end."""

    def __init__(
        self, base: str, session: aiohttp.ClientSession, timings: Timings, pauses: Pauses
    ) -> None:
        self.base = base
        self.session = session
        self.timings = timings
        self.pauses = pauses

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        also: tuple[int, ...] = (),
    ) -> T:
        """Return the decoded answer; what is lost on the way is asked again.

        `type(None)` is the `kind` of one that does not matter; the body of a status in `also` is
        an answer, too. Raises `ParleyError` where the service refuses.
        """
        attempt = 0
        while True:
            try:
                return await self._ask_once(method, path, kind, also, json=body, params=params)
            except ParleyError as error:
                if method == "DELETE" and attempt and error.status == 404:
                    return msgspec.convert(None, kind)  # an earlier attempt did it
                raise
            except (*FAILURES, Lost) as error:
                at_least = error.retry_after if isinstance(error, Lost) else 0.0
                await self.pauses.wait(max(at_least, self.timings.delay(attempt)))
                attempt += 1

    async def _ask_once(
        self, method: str, path: str, kind: type[T], also: tuple[int, ...], **request: Any
    ) -> T:
        async with self.session.request(method, self.base + path, **request) as response:
            content = await response.read()
            if not (response.ok or response.status in also):
                retry_after = response.headers.get("Retry-After")
                raise refusal_over_http(response.status, content, retry_after)
        if kind is type(None):
            return msgspec.convert(None, kind)
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if response.status in also:
                raise Lost from None  # that was somebody on the way
            text = "The address does not answer as a Parley service does."
            raise ParleyError(text, code="http_error", status=response.status) from None

    async def answers(self) -> bool:
        """Tell whether the service is there and takes work."""
        try:
            async with (
                asyncio.timeout(self.timings.connect_within),
                self.session.get(self.base + "/health") as response,
            ):
                return response.status == 200
        except FAILURES:
            return False
