"""The trial: twenty clients, a service that is killed again and again, and the laws.

A life ends at an event that a client gets, or at a time, which may lie in the service's start.
What a killed service left on the disk is copied and looked at while the next one, on the same
data, takes up the runs; the copy leaves it to the service to recover its own file. Clients go on
with what was cut off, and look again at some of what had ended.

A signal ends a process and not the machine: what was written and not synchronised is there all
the same. So nothing here can tell whether a commit waits for the disk.
"""

import asyncio
import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.killing.checks import Data
from tests.killing.clients import Clients, Order, together
from tests.killing.lives import Lives
from tests.killing.model import Model
from tests.service import Event

CLIENTS = 20

SHARED = 2
"""How many conversations are shared, each by a quarter of the clients."""

LIFE = 60.0
"""Seconds after which a life must have ended."""


class Outcome(NamedTuple):
    """What came of it: the data, how often runs ended so, why readers had to begin anew."""

    data: Data
    ends: Counter[str]
    resets: Counter[str]


def seeded() -> Random:
    """Return a generator whose seed is printed; `KILLING_SEED` sets it."""
    seed = os.environ.get("KILLING_SEED") or str(time.time_ns())
    print(f"KILLING_SEED={seed}")
    return Random(seed)


def orders(random: Random, kinds: tuple[str, ...]) -> list[Iterator[Order]]:
    """Return what each client wants: half of them have a conversation of their own."""
    numbers = itertools.count(1)

    def of_client(place: str) -> Iterator[Order]:
        for number in numbers:
            yield Order(f"key-{number}", place, f"{random.choice(kinds)} {number}")

    half = CLIENTS // 2
    own = [f"own-{client}" for client in range(half)]
    shared = [f"shared-{client % SHARED}" for client in range(CLIENTS - half)]
    return [of_client(place) for place in (*own, *shared)]


def moment(random: Random) -> Callable[[Event], bool]:
    """Return what tells the event at which the service is to be killed."""
    kind = random.choice(
        ["any", "any", "chat_start", "chat_chunk", "tool_call_start", "chat_complete"]
    )
    left = random.randint(1, 400 if kind in ("any", "chat_chunk") else 30)

    def is_it(event: Event) -> bool:
        nonlocal left
        if kind in ("any", event["event_type"]):
            left -= 1
        return left <= 0

    return is_it


class Trial:
    """Kills a service under its clients, then lets them all come to their end.

    Args:
        model: what the service asks.
        folder: for the copies of the data.
        kinds: of messages.
    """

    def __init__(self, lives: Lives, model: Model, folder: Path, kinds: tuple[str, ...]) -> None:
        self._lives = lives
        self._model = model
        self._folder = folder
        self._random = seeded()
        self._orders = orders(self._random, kinds)
        self._clients = Clients(lives, self._random)

    async def run(self, kills: int) -> Outcome:
        """Do it, and check everything on the way and in the end."""
        async with self._clients:
            workers = map(self._clients.work, self._orders)
            await together(self._kill(kills), *workers)
            await self._look_at(self._clients.placed)
        self._lives.kill()
        await self._lives.gone()
        placed = self._clients.placed
        data = Data(self._lives.remains(self._folder / "end"))
        data.check(placed)
        ends = Counter(run.status for run in data.runs)
        assert set(ends) <= {"completed", "failed"}
        assert len(data.runs) == len(placed)
        assert self._model.faults == []
        assert self._lives.said == []
        return Outcome(data, ends, Counter(why for order in placed for why in order.resets))

    async def _kill(self, kills: int) -> None:
        async with asyncio.TaskGroup() as checks:
            await self._lives.begin()
            for number in range(kills):
                async with asyncio.timeout(LIFE):
                    await self._live(checks)
                    await self._lives.gone()
                left = self._lives.remains(self._folder / str(number))
                placed = [replace(order) for order in self._clients.placed]
                await self._lives.begin()
                checks.create_task(asyncio.to_thread(_check, left, placed))
        self._clients.closing = True

    async def _live(self, checks: asyncio.TaskGroup) -> None:
        """Let a life come to its end: at an event, or at a time, which may be in its start."""
        ended = [order for order in self._clients.placed if order.outcome is not None]
        some = self._random.sample(ended, min(3, len(ended)))
        checks.create_task(self._look_at(some))
        if self._random.random() < 0.2:
            await asyncio.sleep(self._random.uniform(0, 1))
            self._lives.kill()
        else:
            self._lives.will_die(moment(self._random))
            await self._lives.dead.wait()

    async def _look_at(self, orders: list[Order]) -> None:
        gate = asyncio.Semaphore(4)

        async def look_at(order: Order) -> None:
            async with gate:
                await self._clients.look_again(order)

        await together(*map(look_at, orders))


def _check(path: Path, placed: list[Order]) -> None:
    Data(path).check(placed)
    shutil.rmtree(path.parent)
