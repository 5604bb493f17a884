"""What is special to logs in memory: what they may occupy, and that nothing is left behind."""

import asyncio
import gc
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hub.memory
from events import CompletedCall, Event, ToolCallComplete, ToolCallStart, merged
from hub import LogNotFound
from hub.memory import MemoryHub
from tests.hub.test_hub import read, rest, result, settle, waiting
from tests.logs import DONE, EXAMPLES, START, logs, numbered, piece, unhurried


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    return clock


def make(*, ttl: float = 600, max_events: int = 1000, max_bytes: int = 1 << 30) -> MemoryHub:
    return MemoryHub(ttl=ttl, max_events=max_events, max_bytes=max_bytes)


async def finish(hub: MemoryHub, run_id: str, *events: Event) -> None:
    log = await hub.create(run_id)
    for event in (START, *events, DONE):
        log.append(event)


async def kept(hub: MemoryHub, *run_ids: str) -> list[str]:
    """Return those runs whose logs can be read."""
    found = []
    for run_id in run_ids:
        try:
            await hub.read(run_id, None)
        except LogNotFound:
            continue
        found.append(run_id)
    return found


async def test_a_finished_log_is_kept_for_its_time_and_no_longer(clock: Clock) -> None:
    hub = make(ttl=60)
    await finish(hub, "early")
    clock.now += 30
    await finish(hub, "late")
    clock.now += 29.9
    assert await kept(hub, "early", "late") == ["early", "late"]
    clock.now += 0.2
    assert await kept(hub, "early", "late") == ["late"]
    clock.now += 30
    assert await kept(hub, "early", "late") == []


async def test_the_time_counts_from_the_end_of_the_run(clock: Clock) -> None:
    hub = make(ttl=60)
    log = await hub.create("run_1")
    log.append(START)
    clock.now += 1000
    log.append(DONE)
    clock.now += 59
    assert await kept(hub, "run_1") == ["run_1"]


async def test_a_reader_that_has_begun_reads_to_the_end_of_a_log_that_expired(
    clock: Clock,
) -> None:
    hub = make(ttl=60)
    await finish(hub, "run_1", piece("a"))
    reader = await hub.read("run_1", None)
    clock.now += 61
    assert await kept(hub, "run_1") == []
    assert await rest(reader) == numbered([START, piece("a"), DONE])


async def test_past_the_bound_in_bytes_the_log_that_finished_first_goes_first() -> None:
    hub = make(max_bytes=250_000)
    for run_id in ("a", "b", "c"):
        await finish(hub, run_id, piece("x" * 100_000))
    assert await kept(hub, "a", "b", "c") == ["b", "c"]
    await finish(hub, "d")
    assert await kept(hub, "b", "c", "d") == ["b", "c", "d"]


async def test_a_log_that_is_being_written_is_never_dropped_for_its_size() -> None:
    hub = make(max_bytes=10_000)
    log = await hub.create("growing")
    for _ in range(10):
        log.append(piece("x" * 10_000))
    await finish(hub, "small")
    assert await kept(hub, "growing", "small") == ["growing", "small"]


async def test_what_tools_returned_counts_as_bytes_too() -> None:
    call = CompletedCall(
        id="c", name="n", arguments={}, result="x" * 30_000, duration_ms=1, truncated=False
    )
    big = [ToolCallComplete(message_id="m", tool_call=call)] * 10
    hub = make(max_bytes=350_000)
    for run_id in ("a", "b"):
        await finish(hub, run_id, *big)
    assert await kept(hub, "a", "b") == ["b"]


async def test_what_was_freed_can_be_used_again(clock: Clock) -> None:
    hub = make(ttl=60, max_bytes=250_000)
    for round_ in range(5):
        await finish(hub, f"a{round_}", piece("x" * 100_000))
        await finish(hub, f"b{round_}", piece("x" * 100_000))
        assert await kept(hub, f"a{round_}", f"b{round_}") == [f"a{round_}", f"b{round_}"]
        clock.now += 61


async def test_a_new_epoch_frees_what_the_old_one_occupied() -> None:
    hub = make(max_bytes=250_000)
    await finish(hub, "other", piece("x" * 100_000))
    for _ in range(5):
        await finish(hub, "run_1", piece("x" * 100_000))
    assert await kept(hub, "other", "run_1") == ["other", "run_1"]


async def test_a_cancelled_read_leaves_nothing_behind() -> None:
    hub = make()
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    for _ in range(100):
        task = await waiting(reader)
        task.cancel()
        await asyncio.wait([task])
    assert log.waiting == []


async def test_a_woken_read_leaves_nothing_behind() -> None:
    hub = make()
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    for _ in range(100):
        reader.wake()
        assert await read(reader) == []
    assert log.waiting == []


async def test_an_expired_log_is_freed(clock: Clock) -> None:
    hub = make(ttl=60)
    log = await hub.create("run_1")
    log.append(DONE)
    alive = weakref.ref(log)
    del log
    clock.now += 61
    await hub.create("run_2")
    gc.collect()
    assert alive() is None


async def test_many_readers_read_a_long_log_in_linear_time() -> None:
    hub = make(max_events=100_001)
    log = await hub.create("run_1")
    readers = [await hub.read("run_1", None) for _ in range(50)]
    began = time.perf_counter()
    for _ in range(20_000):
        log.append(piece("x"))
    log.append(DONE)
    for reader in readers:
        read = await rest(reader)
        assert len(read) == 6, "five batches of one merged piece each, and the end"
    assert time.perf_counter() - began < 10


async def test_one_read_of_a_long_log_takes_a_bounded_batch() -> None:
    hub = make(max_events=100_001)
    log = await hub.create("run_1")
    for _ in range(10_000):
        log.append(piece("x"))
    reader = await hub.read("run_1", None)
    seen = [event.seq for _ in range(3) for event in await reader.read()]
    assert seen == [4096, 8192, 10_000]


@unhurried
@given(plain=logs(), lag=st.integers(0, 5), begin=st.integers(0, 30))
def test_whatever_the_lag_no_text_is_lost(plain: list[Event], lag: int, begin: int) -> None:
    async def check() -> None:
        hub = make()
        log = await hub.create("run_1")
        for event in plain:
            log.append(event)
        place = begin % (len(plain) + 1)
        got = await rest(await hub.read("run_1", str(place)))
        exact = numbered(plain)[place:]
        assert got == (list(merged(exact)) if len(exact) > lag else exact)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.memory, "LAG", lag)
        asyncio.run(check())


async def test_the_newest_log_stays_even_where_it_alone_exceeds_the_bound() -> None:
    hub = make(max_bytes=2**20)
    log = await hub.create("run_1")
    log.append(piece("x" * 2**21))
    log.append(DONE)
    assert len(await rest(await hub.read("run_1", None))) == 2
    other = await hub.create("run_2")
    other.append(DONE)
    with pytest.raises(LogNotFound):
        await hub.read("run_1", None)


async def test_a_suspended_log_is_kept_no_longer_than_one_that_has_ended(clock: Clock) -> None:
    hub = make(ttl=60)
    log = await hub.create("run_1")
    log.append(START)
    log.suspend()
    clock.now += 59
    assert await kept(hub, "run_1") == ["run_1"]
    clock.now += 2
    assert await kept(hub, "run_1") == []


async def test_calls_that_begin_together_are_one_offer_and_need_no_drain() -> None:
    hub = make()
    log = await hub.create("run_1")
    log.append(START)
    offers: list[list[Event]] = []

    def offer(events: list[Event]) -> bool:
        offers.append(events)
        return True

    call_starts = EXAMPLES["tool_call_start"]
    assert isinstance(call_starts, ToolCallStart)
    reading = await waiting(await hub.read("run_1", "1"), offer)
    for _ in range(5):
        log.append(call_starts)
    assert offers == []
    await settle()
    assert [[event.seq for event in each] for each in offers] == [[2, 3, 4, 5, 6]]
    log.append(DONE)
    assert [event.seq for event in offers[-1]] == [7]
    assert await result(reading) == []
