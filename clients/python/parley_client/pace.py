"""How long this client waits for what: time-outs, and pauses between attempts."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds, all of them; the defaults suit the service's.

    Attributes:
        ping_every: how often an open WebSocket is asked whether it lives.
        pong_within: so long it may be silent then.
        silence: so long an event stream may say nothing; the service says something each 15.
        connect_within: for one attempt to connect, and for a short question.
        backoff_first, backoff_most: the n-th attempt in a row waits a random time of at most
            `backoff_first * 2**n`, and never more than `backoff_most`.
    """

    ping_every: float = 20.0
    pong_within: float = 10.0
    silence: float = 40.0
    connect_within: float = 10.0
    backoff_first: float = 0.5
    backoff_most: float = 10.0

    def delay(self, attempt: int) -> float:
        """Return how long to wait before the next attempt; the first one is 0."""
        most = min(self.backoff_most, self.backoff_first * 2 ** min(attempt, 30))
        return random.uniform(0, most)  # noqa: S311 - spreads clients, guards nothing


class Pauses:
    """Pauses that all end when somebody wants to try at once."""

    def __init__(self) -> None:
        self._nudged = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return after so many seconds, or when nudged."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()

    def nudge(self) -> None:
        """End all pauses."""
        self._nudged.set()
        self._nudged = asyncio.Event()
