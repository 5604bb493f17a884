"""Observers see every run, and disturb none."""

import asyncio
import logging
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import (
    AgentUpdated,
    Event,
    ReaderEvent,
    Suspended,
    ToolCallComplete,
    ToolCallError,
    ToolCallStart,
    merged,
)
from hub import LAG, Log, Reader
from hub.memory import MemoryHub
from runs import observers as module
from runs.observers import Observer, Observers, RunLogger, run_loggers
from storage import StoredRun
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.scripted import DEADLINE
from tests.storage.support import a_run


class Seen:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.events: dict[str, list[ReaderEvent]] = {}

    def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
        assert events
        self.events.setdefault(run.id, []).extend(events)


class Broken:
    """Fails at the event of number `at`, and counts how often it is asked."""

    def __init__(self, at: int = 1, error: BaseException | None = None) -> None:
        self.asked = 0
        self._at = at
        self._error = error or ZeroDivisionError("broken")

    def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
        self.asked += 1
        if events[-1].seq >= self._at:
            raise self._error


def stored(run_id: str) -> StoredRun:
    return msgspec.structs.replace(a_run(), id=run_id)


def make_hub() -> MemoryHub:
    return MemoryHub(ttl=600, max_events=100_000, max_bytes=1 << 30)


async def begun(hub: MemoryHub, observers: Observers, run_id: str = "run_1", epoch: int = 1) -> Log:
    """Begin a run as the registry does."""
    log = await hub.create(run_id, epoch)
    log.append(START)
    await observers.start(stored(run_id))
    return log


async def settle() -> None:
    """Let everything run that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


async def rest(reader: Reader) -> list[ReaderEvent]:
    got: list[ReaderEvent] = []
    async with asyncio.timeout(DEADLINE):
        while not reader.ended:
            got += await reader.read()
    return got


@unhurried
@given(
    plain=logs(),
    drains=st.lists(st.booleans(), min_size=5, max_size=5),
    turns=st.lists(st.booleans(), min_size=7, max_size=7),
    suspended=st.booleans(),
)
def test_every_event_is_seen_once_and_in_order_however_the_run_goes(
    plain: list[Event], drains: list[bool], turns: list[bool], suspended: bool
) -> None:
    async def check() -> None:
        hub, seen, more = make_hub(), Seen(), Seen()
        observers = Observers(hub, [seen, more])
        log = await begun(hub, observers)
        events = plain[:-1] if suspended else plain
        for number, event in enumerate(events[1:]):
            log.append(event)
            if drains[number % 5]:
                await log.drain()
            if turns[number % 7]:
                await asyncio.sleep(0)
        if suspended:
            log.suspend()
        await observers.aclose()
        expected: list[ReaderEvent] = [*numbered(events)]
        expected += [Suspended(run_id="run_1", seq=len(events))] * suspended
        assert seen.events == more.events == {"run_1": expected}

    asyncio.run(check())


async def test_runs_that_end_and_are_dropped_at_once_are_seen_whole() -> None:
    hub, seen = make_hub(), Seen()
    observers = Observers(hub, [seen])
    names = [f"run_{number}" for number in range(50)]
    for name in names:
        log = await begun(hub, observers, name)
        for event in (piece("a"), DONE):
            log.append(event)
        await hub.forget(name)
    await observers.aclose()
    expected = {name: numbered([START, piece("a"), DONE], name) for name in names}
    assert seen.events == expected


async def test_a_piece_of_text_is_seen_as_it_is_drained_and_wakes_no_task() -> None:
    hub, seen = make_hub(), Seen()
    observers = Observers(hub, [seen])
    log = await begun(hub, observers)
    await settle()
    for number in range(2, 100):
        log.append(piece("a"))
        await log.drain()  # without a turn of the loop
        assert len(seen.events["run_1"]) == number
    log.append(DONE)
    await observers.aclose()


async def test_an_observer_that_lags_gets_text_merged_and_nothing_else() -> None:
    hub, seen = make_hub(), Seen()
    observers = Observers(hub, [seen])
    log = await begun(hub, observers)
    call = EXAMPLES["tool_call_start"]
    assert isinstance(call, ToolCallStart)
    plain: list[Event] = [START, *[piece("a")] * LAG, call, *[piece("b")] * LAG, DONE]
    for event in plain[1:]:
        log.append(event)
    await observers.aclose()
    assert seen.events["run_1"] == [*merged(numbered(plain))]
    assert len(seen.events["run_1"]) == 5


async def test_a_run_that_was_suspended_is_seen_from_the_start_of_its_next_epoch() -> None:
    hub, seen = make_hub(), Seen()
    observers = Observers(hub, [seen])
    log = await begun(hub, observers)
    log.suspend()
    log = await begun(hub, observers, epoch=2)
    log.append(DONE)
    await observers.aclose()
    first, second = numbered([START]), numbered([START, DONE])
    assert seen.events["run_1"] == [*first, Suspended(run_id="run_1", seq=1), *second]


ERRORS = [ZeroDivisionError("broken"), asyncio.CancelledError()]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
async def test_an_observer_that_fails_is_logged_once_and_disturbs_nobody(
    at: int, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    hub, broken, seen = make_hub(), Broken(at, error), Seen()
    observers = Observers(hub, [broken, seen])
    for run_id in ("run_1", "run_2"):
        log = await begun(hub, observers, run_id)
        reader = await hub.read(run_id, None)
        for event in (piece("a"), piece("b"), DONE):
            await settle()
            log.append(event)
            await log.drain()
        assert len(await rest(reader)) == 4
    await observers.aclose()
    expected: list[Event] = [START, piece("a"), piece("b"), DONE]
    assert seen.events == {name: numbered(expected, name) for name in ("run_1", "run_2")}
    assert broken.asked == 2 * at
    said = [f"Broken failed, and is shown no more of run {name}" for name in ("run_1", "run_2")]
    assert [record.getMessage() for record in caplog.records] == said


async def test_a_run_that_nobody_observes_any_more_is_not_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, before = make_hub(), asyncio.all_tasks()
    observers = Observers(hub, [Broken(at=2), Broken(at=3)])
    log = await begun(hub, observers)
    await settle()
    assert len(asyncio.all_tasks() - before) == 1
    for _ in range(2):
        log.append(piece("a"))
        await log.drain()
    await settle()
    assert asyncio.all_tasks() == before
    assert len(caplog.records) == 2


async def test_without_observers_there_is_no_reader_and_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub, before = make_hub(), asyncio.all_tasks()
    monkeypatch.setattr(hub, "read", None)
    observers = Observers(hub)
    await begun(hub, observers)
    assert asyncio.all_tasks() == before
    await observers.aclose()


async def test_a_run_without_a_log_is_not_observed(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    observers = Observers(make_hub(), [seen])
    await observers.start(stored("run_9"))
    await observers.aclose()
    assert seen.events == {}
    assert "run_9" in caplog.text


async def test_what_does_not_end_is_left_when_observers_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0)
    hub, before, seen = make_hub(), asyncio.all_tasks(), Seen()
    observers = Observers(hub, [seen])
    log = await begun(hub, observers)
    await settle()
    async with asyncio.timeout(DEADLINE):
        await observers.aclose()
    assert asyncio.all_tasks() == before
    log.append(DONE)
    assert seen.events["run_1"] == numbered([START])


async def lines(caplog: pytest.LogCaptureFixture, *logged: Sequence[Event]) -> list[str]:
    """Return what the log says of runs; without a terminal event they are suspended."""
    with caplog.at_level(logging.DEBUG, "parley.runs"):
        hub = make_hub()
        observers = Observers(hub, run_loggers())
        for number, events in enumerate(logged):
            log = await begun(hub, observers, f"run_{number}")
            for event in events:
                log.append(event)
            if not log.ended:
                log.suspend()
            await settle()
        await observers.aclose()
    return [record.getMessage().rpartition(", ")[0] for record in caplog.records]


async def test_each_run_that_has_ended_is_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    complete, failed = EXAMPLES["tool_call_complete"], EXAMPLES["tool_call_error"]
    other = EXAMPLES["agent_updated"]
    assert isinstance(complete, ToolCallComplete)
    assert isinstance(failed, ToolCallError)
    assert isinstance(other, AgentUpdated)
    found = await lines(caplog, [piece("a"), complete, failed, DONE], [other, FAILED], [piece("a")])
    assert found == [
        "Run run_0 of chat (scripted-1): stop, 2 tool calls, 5 tokens",
        "Run run_1 of other (scripted-1): error upstream_error, 0 tool calls, ? tokens",
        "Run run_2 of chat (scripted-1): suspended, 0 tool calls, ? tokens",
    ]
    assert all(record.getMessage().endswith(" s") for record in caplog.records)


def test_runs_are_logged_only_where_the_log_takes_their_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def kinds() -> list[type[Observer]]:
        return [type(each) for each in run_loggers()]

    with caplog.at_level(logging.INFO, "parley.runs"):
        assert kinds() == []
    with caplog.at_level(logging.DEBUG, "parley.runs"):
        assert kinds() == [RunLogger]


@unhurried
@given(plain=logs())
def test_any_run_can_be_logged(plain: list[Event]) -> None:
    logger = RunLogger()
    for event in numbered(plain):
        logger.observe(stored("run_1"), [event])
    assert not logger._runs, "a run that has ended is forgotten"
