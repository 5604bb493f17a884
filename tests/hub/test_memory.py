"""What is special to logs in memory: what they may occupy, and that nothing is left behind."""

import asyncio
import gc
import time
import tracemalloc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hub.memory
from errors import Unavailable
from events import CompletedCall, Event, ToolCallComplete, ToolCallStart, merged
from hub import LogFull, LogNotFound
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
    hub = make(max_bytes=200_000)
    log = await hub.create("growing")
    for _ in range(9):
        log.append(piece("x" * 10_000))
    for run_id in ("a", "b"):
        await finish(hub, run_id, piece("x" * 90_000))
    await finish(hub, "small")
    assert await kept(hub, "growing", "a", "b", "small") == ["growing", "b", "small"]


async def test_one_log_has_a_bound_in_bytes_and_still_takes_its_end() -> None:
    hub = make(max_bytes=200_000)
    log = await hub.create("run_1")
    log.append(START)
    for _ in range(9):
        log.append(piece("x" * 10_000))
    with pytest.raises(LogFull, match="100000 bytes"):
        log.append(piece("x" * 10_000))
    log.append(DONE)
    assert log.size < 101_000
    assert len(await rest(await hub.read("run_1", None))) == log.last_seq


async def test_where_logs_under_way_fill_the_memory_the_largest_grow_no_more() -> None:
    hub = make(max_bytes=100_000)
    small = await hub.create("small")
    large = [await hub.create(f"large{n}") for n in range(3)]
    for log in (small, *large):
        log.append(START)
    assert hub.has_room
    for number in range(96):
        large[number % 3].append(piece("x" * 1000))
    with pytest.raises(Unavailable) as caught:
        large[0].append(piece("x" * 2000))
    assert caught.value.retry_after
    small.append(piece("x" * 2000))
    assert not hub.has_room
    assert hub.used < 101_000
    large[0].append(DONE)
    assert hub.has_room
    large[1].append(piece("x" * 1000))
    assert await kept(hub, "small", "large0", "large1") == ["small", "large1"]


async def test_a_log_that_was_dropped_counts_for_as_long_as_somebody_reads_it() -> None:
    hub = make(max_bytes=99_000)
    readers = []
    for number in range(2):
        await finish(hub, f"run_{number}", piece("x" * 49_000))
        readers.append(await hub.read(f"run_{number}", None))
    for number in range(2):
        await hub.forget(f"run_{number}")
    assert hub.used > 98_000
    await finish(hub, "new", piece("x" * 40_000))
    assert not hub.has_room
    assert await kept(hub, "new") == ["new"]
    assert len(await rest(readers.pop())) == 3
    assert hub.has_room
    readers.clear()
    assert hub.used < 50_000


async def test_what_is_counted_is_what_it_takes() -> None:
    """Lists of lists are forty times as large as their JSON, and one emoji makes all text wide."""
    hub = make(max_events=100_000)
    dense = CompletedCall(
        id="c",
        name="n",
        arguments={"a": [[[]] for _ in range(100)]},
        result=[{} for _ in range(10_000)],
        duration_ms=1,
        truncated=False,
    )
    texts = [piece("word " * 10), piece("\U0001f600")]
    await finish(hub, "first")
    gc.collect()
    tracemalloc.start()
    try:
        for run_id in ("a", "b"):
            await finish(hub, run_id, *[ToolCallComplete(message_id="m", tool_call=dense)] * 20)
            await finish(hub, f"text_{run_id}", *texts * 5000)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 1.2 * hub.used


async def test_one_read_takes_no_more_bytes_than_can_be_written_at_once() -> None:
    hub = make()
    call = CompletedCall(
        id="c", name="n", arguments={}, result="x" * 30_000, duration_ms=1, truncated=False
    )
    events: list[Event] = [START, *[ToolCallComplete(message_id="m", tool_call=call)] * 100, DONE]
    await finish(hub, "run_1", *events[1:-1])
    reader = await hub.read("run_1", None)
    batches = []
    while not reader.ended:
        batches.append(await reader.read())
    assert [event for batch in batches for event in batch] == numbered(events)
    assert max(map(len, batches)) == 9, "the start, and eight results"


async def test_who_reads_a_long_log_lets_others_run() -> None:
    hub = make(max_events=100_000)
    log = await hub.create("run_1")
    for _ in range(50_000):
        log.append(piece("x"))
    log.append(DONE)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await rest(await hub.read("run_1", None))
    assert turns > 10
    turns = 0
    assert len([event async for event in await hub.before("run_1", 50_000)]) == 50_000
    assert turns > 10
    counting.cancel()


async def test_what_tools_returned_counts_as_bytes_too() -> None:
    call = CompletedCall(
        id="c", name="n", arguments={}, result="x" * 30_000, duration_ms=1, truncated=False
    )
    big = [ToolCallComplete(message_id="m", tool_call=call)] * 10
    hub = make(max_bytes=800_000)
    for run_id in ("a", "b", "c"):
        await finish(hub, run_id, *big)
    assert await kept(hub, "a", "b", "c") == ["b", "c"]


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


async def test_the_newest_log_stays_even_where_others_fill_the_memory() -> None:
    hub = make(max_bytes=200_000)
    under_way = [await hub.create(f"run_{number}") for number in range(2)]
    for log in under_way:
        log.append(piece("x" * 90_000))
    for run_id in ("first", "newest"):
        await finish(hub, run_id, piece("x" * 10_000))
    assert await kept(hub, "first", "newest") == ["newest"]


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
