"""The trial: twenty clients, a service that is killed again and again, and the laws."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.killing.checks import Data
from tests.killing.clients import Clients, Order, together
from tests.killing.lives import Lives
from tests.killing.model import Model
from tests.service import Event

CLIENTS = 20

SHARED = 3
"""How many conversations are shared by several clients."""

LIFE = 60.0
"""Seconds after which a life must have ended."""


class Outcome(NamedTuple):
    """What came of it."""

    data: Data
    orders: list[Order]
    model: Model


def orders(random: Random, kinds: tuple[str, ...]) -> Iterator[Order]:
    """Yield messages: half of them into conversations that have others under way."""
    for number in itertools.count(1):
        own = random.random() < 0.5
        place = f"own-{number % CLIENTS}" if own else f"shared-{random.randrange(SHARED)}"
        yield Order(f"key-{number}", place, f"{random.choice(kinds)} {number}")


def moment(random: Random) -> Callable[[Event], bool]:
    """Return what tells the event at which the service is to be killed."""
    kind = random.choice(
        ["any", "any", "chat_start", "chat_chunk", "tool_call_start", "chat_complete"]
    )
    left = random.randint(1, 200 if kind in ("any", "chat_chunk") else 20)

    def is_it(event: Event) -> bool:
        nonlocal left
        if kind in ("any", event["event_type"]):
            left -= 1
        return left <= 0

    return is_it


class Trial:
    """Kills a service `kills` times under its clients, then lets them all come to their end.

    Args:
        folder: for the copies of the data.
        kinds: of messages.
    """

    def __init__(
        self, lives: Lives, model: Model, folder: Path, random: Random, kinds: tuple[str, ...]
    ) -> None:
        self._lives = lives
        self._model = model
        self._folder = folder
        self._random = random
        self._clients = Clients(lives, orders(random, kinds), random)

    async def run(self, kills: int) -> Outcome:
        """Do it, and check everything on the way and in the end."""
        async with self._clients:
            workers = [self._clients.work() for _ in range(CLIENTS)]
            await together(self._kill(kills), *workers)
            placed = self._clients.placed
            await self._everything_again(placed)
        await self._die()
        data = self._check(kills + 1, placed)
        assert {run.status for run in data.runs} <= {"completed", "failed"}
        assert len(data.runs) == len(placed)
        assert self._model.faults == []
        assert self._lives.said == []
        return Outcome(data, placed, self._model)

    async def _kill(self, kills: int) -> None:
        for number in range(1, kills + 1):
            async with asyncio.timeout(LIFE):
                await self._live()
                await self._lives.gone()
            await self._begin_after(number)
        self._clients.closing = True

    async def _begin_after(self, number: int) -> None:
        """Look at what was left, while the next life begins."""

    async def _live(self) -> None:
        raise NotImplementedError
