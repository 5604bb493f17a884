"""What the hub counts is what it holds, whatever happens to its logs, in whatever order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hub.memory
from errors import ParleyError
from hub.memory import MemoryLog, MemoryReader
from tests.hub.test_hub import rest
from tests.hub.test_memory import Clock, kept, make
from tests.logs import DONE, START, numbered, piece, unhurried

RUNS = ("a", "b")


class Held:
    """A hub, and those who hold its logs: their writers, and readers."""

    def __init__(self, clock: Clock) -> None:
        self.hub = make(ttl=60, max_bytes=10_000, max_events=50)
        self._clock = clock
        self._logs: WeakSet[MemoryLog] = WeakSet()
        self._written: list[MemoryLog] = []
        self._readers: list[MemoryReader] = []
        self._epoch = 0

    async def create(self, run_id: str, _: int) -> None:
        """Begin an epoch of a run, whose writer may still be at the one before."""
        self._epoch += 1
        log = await self.hub.create(run_id, self._epoch)
        self._logs.add(log)
        self._written.append(log)

    async def write(self, run_id: str, number: int) -> None:
        for log in self._written[-2:]:
            try:
                log.append(piece("x" * number))
            except ParleyError:  # there is no room
                continue

    async def end(self, run_id: str, number: int) -> None:
        if self._written:
            log = self._written.pop(number % len(self._written))
            if number % 3:
                log.append(DONE)
            else:
                log.suspend()

    async def forget(self, run_id: str, _: int) -> None:
        await self.hub.forget(run_id)

    async def read(self, run_id: str, _: int) -> None:
        if await kept(self.hub, run_id):
            self._readers.append(await self.hub.read(run_id, None))

    async def leave(self, _: str, number: int) -> None:
        if self._readers:
            self._readers.pop(number % len(self._readers))

    async def wait(self, _: str, number: int) -> None:
        self._clock.now += number / 20
        await kept(self.hub, *RUNS)

    def check(self) -> None:
        assert self.hub.used == sum(log.size for log in self._logs)

    async def end_all(self) -> None:
        while self._written:
            await self.end("", 1)
        self._readers.clear()
        await self.wait("", 10_000)


Step = Callable[[Held, str, int], Coroutine[Any, Any, None]]
STEPS: tuple[Step, ...] = (
    Held.create,
    Held.write,
    Held.write,
    Held.end,
    Held.forget,
    Held.read,
    Held.leave,
    Held.wait,
)


@unhurried
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from(RUNS), st.integers(0, 3000)), max_size=40
    )
)
def test_the_bytes_that_are_counted_are_those_of_the_logs_that_there_are(
    steps: list[tuple[Step, str, int]],
) -> None:
    async def check() -> None:
        held = Held(clock)
        for step, run_id, number in steps:
            await step(held, run_id, number)
            held.check()
        await held.end_all()
        counts = held.hub.used, held.hub._finished_bytes, held.hub._dropped_bytes
        assert counts == (0, 0, 0)
        assert not held.hub._logs
        assert not held.hub._finished

    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.memory, "time", clock)
        asyncio.run(check())


async def test_the_end_of_a_lost_epoch_leaves_the_log_of_the_present_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    logs = make(ttl=60)
    lost = await logs.create("run_1", 1)
    present = await logs.create("run_1", 2)
    lost.append(DONE)
    clock.now += 61
    assert await kept(logs, "run_1") == ["run_1"]
    present.append(START)
    present.append(DONE)
    assert await rest(await logs.read("run_1", None)) == numbered([START, DONE])
