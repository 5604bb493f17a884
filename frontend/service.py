"""The service, for a script that is not asynchronous: the Python client, in a thread of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import start_blocking_portal

from parley_client import ParleyClient, ParleyError

T = TypeVar("T")

WAIT = 5.0
"""Seconds that the service may take to answer a question."""


class Service:
    """The service at an address, for all sessions.

    Attributes:
        client: its methods are called in its own thread, by `portal` or `ask`. Each run has a
            connection, because the runs that may share one are limited.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._open = ExitStack()  # as long as this object is there
        self.portal = self._open.enter_context(start_blocking_portal())
        client = ParleyClient(url, transport="sse")
        self.client = self._open.enter_context(self.portal.wrap_async_context_manager(client))

    def ask(self, question: Callable[[], Awaitable[T]], within: float = WAIT) -> T:
        """Return the answer to a question, or raise `unreachable` where it takes too long."""

        async def answer() -> T:
            async with asyncio.timeout(within):
                return await question()

        try:
            return self.portal.call(answer)
        except TimeoutError:
            text = f"The service at {self._url} cannot be reached."
            raise ParleyError(text, code="unreachable") from None
