"""What logs in memory may occupy, counted exactly, and readers at the edge of a wake."""

import tracemalloc
from collections.abc import Callable

import pytest

import hub.memory
from events import Event, ReasoningChunk, Reset, Suspended
from hub import InvalidCursor, LogFull, parse_cursor
from hub.memory import MemoryReader
from tests.hub.test_hub import result, take, waiting
from tests.hub.test_memory import Clock, finish, kept, make
from tests.logs import DONE, EXAMPLES, START, numbered, piece

PIECES = 20_000


def thought(text: str) -> ReasoningChunk:
    return ReasoningChunk(message_id="msg_1", content=text)


@pytest.mark.parametrize("make_piece", [piece, thought])
async def test_text_that_was_streamed_a_while_ago_takes_a_few_bytes_a_piece(
    make_piece: Callable[[str], Event],
) -> None:
    log = await make(max_events=PIECES).create("run_1")
    tracemalloc.start()
    try:
        for _ in range(PIECES):
            log.append(make_piece("word"))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert log.last_seq == PIECES
    assert taken / PIECES < 30


async def test_what_is_dropped_before_its_end_counts_for_nothing() -> None:
    size = 0
    for count in range(3):
        logs = make(max_bytes=10**9)
        for number in range(count):
            await finish(logs, f"run_{number}", piece("x" * 1000))
        size = max(size, logs._finished_bytes)
    logs = make(max_bytes=size - 1)  # one log and not two
    for number in range(2000):
        await logs.forget("unknown")
        await logs.create(f"begun_{number}")
        await logs.forget(f"begun_{number}")
    await finish(logs, "run_0", piece("x" * 1000))
    await finish(logs, "run_1", piece("x" * 1000))
    assert await kept(logs, "run_0", "run_1") == ["run_1"]


async def test_logs_that_fill_the_bound_exactly_are_all_kept() -> None:
    logs = make(max_bytes=10**9)
    for run_id in ("a", "b"):
        await finish(logs, run_id, piece("x" * 1000))
    both = logs._finished_bytes
    for room, left in ((both, ["a", "b"]), (both - 1, ["b"])):
        logs = make(max_bytes=room)
        for run_id in ("a", "b"):
            await finish(logs, run_id, piece("x" * 1000))
        assert await kept(logs, "a", "b") == left


async def test_what_happens_to_a_reader_that_was_just_woken_harms_no_writer() -> None:
    logs = make()
    log = await logs.create("run_1")
    reader = await logs.read("run_1", None)
    read_under_way = await waiting(reader)
    reader.wake()
    log.append(START)  # told to all that wait, of which this one still is
    log.append(DONE)
    got = await result(read_under_way) or await take(reader, 2)
    assert got == numbered([START, DONE])


async def test_a_suspension_is_told_once() -> None:
    log = await make().create("run_1")
    log.append(START)
    reader = MemoryReader(log, 0, None)
    log.suspend()
    assert await reader.read() == [*numbered([START]), Suspended(run_id="run_1", seq=1)]
    assert reader.ended
    assert await reader.read() == []


def test_a_place_in_a_log_has_sixteen_digits_at_most() -> None:
    assert parse_cursor("9" * 16, "run_1") == (None, 10**16 - 1)
    assert parse_cursor(f"run_1:{'9' * 16}:0", "run_1") == (10**16 - 1, 0)
    too_long = ("9" * 17, f"run_1:1:{'9' * 17}")
    for text in (*too_long, "", "-1", "+1", "1.0", "²", "run_1:1", "run_1:::"):
        with pytest.raises(InvalidCursor):
            parse_cursor(text, "run_1")
    with pytest.raises(InvalidCursor, match="another run"):
        parse_cursor("run_2:1:1", "run_1")


async def test_a_log_that_goes_on_is_not_dropped_whatever_has_happened_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    logs = make(ttl=60, max_bytes=6000)
    log = await logs.create("going_on")
    for event in (START, piece("a"), EXAMPLES["tool_call_start"], piece("b")):
        assert not isinstance(event, Reset | Suspended)
        log.append(event)
    for run_id in ("a", "b", "c"):
        await finish(logs, run_id, piece("x" * 2000))
    clock.now += 61
    assert await kept(logs, "going_on", "a", "b", "c") == ["going_on"]
    log.append(DONE)
    assert await kept(logs, "going_on") == ["going_on"]


async def test_a_log_that_has_ended_is_kept_in_little_memory_however_short_it_is() -> None:
    log = await make().create("run_1")
    tracemalloc.start()
    try:
        for _ in range(400):
            log.append(piece("word"))
        before = tracemalloc.get_traced_memory()[0]
        log.append(DONE)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after < before / 3


async def test_a_full_log_takes_its_end_and_nothing_else() -> None:
    log = await make(max_events=2).create("run_1")
    log.append(START)
    log.append(piece("a"))
    with pytest.raises(LogFull):
        log.append(piece("b"))
    log.append(DONE)
    assert (log.last_seq, log.ended) == (3, True)
