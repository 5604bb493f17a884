"""What every hub promises, whatever it keeps its logs in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import (
    ChatChunk,
    CompletedCall,
    Event,
    ReaderEvent,
    ReasoningChunk,
    Reset,
    Suspended,
    ToolCallComplete,
    ToolCallStart,
    merged,
    stamped,
)
from hub import (
    LAG,
    Hub,
    InvalidCursor,
    LogEnded,
    LogFull,
    LogNotFound,
    Offer,
    Reader,
    cursor,
)
from hub.memory import MemoryHub
from tests.logs import DONE, EXAMPLES, FAILED, START, logs, numbered, piece, unhurried
from tests.scripted import DEADLINE


class OpenHub(Protocol):
    """Opens a hub of one kind; the arguments have the meaning of the settings."""

    def __call__(
        self, *, ttl: float = 600, max_events: int = 100_000
    ) -> AbstractAsyncContextManager[Hub]: ...


@asynccontextmanager
async def in_memory(*, ttl: float = 600, max_events: int = 100_000) -> AsyncIterator[Hub]:
    yield MemoryHub(ttl=ttl, max_events=max_events, max_bytes=1 << 30)


KINDS: dict[str, OpenHub] = {"memory": in_memory}

every_kind = pytest.mark.parametrize("open_hub", KINDS.values(), ids=KINDS)


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def open_hub(request: pytest.FixtureRequest) -> OpenHub:
    kind: OpenHub = request.param
    return kind


@pytest.fixture
async def hub(open_hub: OpenHub) -> AsyncIterator[Hub]:
    async with open_hub() as hub:
        yield hub


async def read(reader: Reader) -> list[ReaderEvent]:
    async with asyncio.timeout(DEADLINE):
        return await reader.read()


async def take(reader: Reader, count: int) -> list[ReaderEvent]:
    """Read until there are `count` events."""
    got: list[ReaderEvent] = []
    while len(got) < count:
        got += await read(reader)
    return got


async def rest(reader: Reader) -> list[ReaderEvent]:
    """Read to the end of the log."""
    got: list[ReaderEvent] = []
    while not reader.ended:
        got += await read(reader)
    return got


async def settle() -> None:
    """Let everything run that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


async def waiting(reader: Reader, offer: Offer | None = None) -> "asyncio.Task[list[ReaderEvent]]":
    """Return a read that waits."""
    task = asyncio.create_task(reader.read(offer))
    await settle()
    assert not task.done()
    return task


async def result(task: "asyncio.Task[list[ReaderEvent]]") -> list[ReaderEvent]:
    async with asyncio.timeout(DEADLINE):
        return await task


async def expired(hub: Hub, run_id: str) -> None:
    """Wait until a log is not found any more."""
    with contextlib.suppress(LogNotFound):
        async with asyncio.timeout(DEADLINE):
            while await hub.read(run_id, None):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.001)


LOG = numbered([START, piece("a"), piece("b"), DONE])


async def fill(
    hub: Hub, events: Sequence[Event] = (START, piece("a"), piece("b"), DONE), epoch: int = 1
) -> None:
    """Begin the log of run_1 and append to it."""
    log = await hub.create("run_1", epoch)
    for event in events:
        log.append(event)
    await log.drain()


async def test_a_log_numbers_its_events_from_one_without_gaps(hub: Hub) -> None:
    log = await hub.create("run_1")
    assert (log.run_id, log.epoch, log.last_seq, log.ended) == ("run_1", 1, 0, False)
    begin: list[Event] = [START, piece("a"), piece("b")]
    for seq, event in enumerate(begin, 1):
        log.append(event)
        assert (log.last_seq, log.ended) == (seq, False)
    log.append(DONE)
    assert (log.last_seq, log.ended) == (4, True)
    assert await rest(await hub.read("run_1", None)) == LOG


async def test_what_is_before_a_cursor_is_as_it_was_appended(hub: Hub) -> None:
    many = numbered([START, *(piece(str(n)) for n in range(2 * LAG))])
    await fill(hub, many)
    for seq in (0, 1, LAG, len(many)):
        assert [event async for event in await hub.before("run_1", seq)] == many[:seq]
    with pytest.raises(LogNotFound):
        await hub.before("run_other", 1)


async def test_a_log_that_is_dropped_is_not_found(hub: Hub) -> None:
    await fill(hub)
    await hub.forget("run_1")
    await hub.forget("run_1")
    with pytest.raises(LogNotFound):
        await hub.read("run_1", None)


@pytest.mark.parametrize("terminal", [DONE, FAILED])
@pytest.mark.parametrize("event", [piece("late"), DONE, FAILED])
async def test_nothing_is_appended_behind_the_terminal_event(
    hub: Hub, terminal: Event, event: Event
) -> None:
    log = await hub.create("run_1")
    log.append(START)
    log.append(terminal)
    with pytest.raises(LogEnded):
        log.append(event)
    assert log.last_seq == 2
    assert await rest(await hub.read("run_1", None)) == numbered([START, terminal])


async def test_a_full_log_takes_its_terminal_event_and_nothing_else(open_hub: OpenHub) -> None:
    async with open_hub(max_events=3) as hub:
        log = await hub.create("run_1")
        for event in (START, piece("a"), piece("b")):
            log.append(event)
        for _ in range(2):
            with pytest.raises(LogFull):
                log.append(piece("c"))
        assert log.last_seq == 3
        log.append(DONE)
        assert log.ended
        assert await rest(await hub.read("run_1", None)) == LOG


async def test_a_waiting_reader_gets_what_is_appended(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    events: list[Event] = [START, piece("a"), DONE]
    for seq, event in enumerate(events, 1):
        read_under_way = await waiting(reader)
        log.append(event)
        await log.drain()
        assert await result(read_under_way) == [stamped(event, "run_1", seq)]
    assert reader.ended


class Connection:
    """Takes what it is offered while it has room."""

    def __init__(self) -> None:
        self.taken: list[ReaderEvent] = []
        self.has_room = True

    def offer(self, events: list[Event]) -> bool:
        if self.has_room:
            self.taken += events
        return self.has_room


async def test_a_waiting_reader_hands_on_what_is_new_while_there_is_room(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader, connection = await hub.read("run_1", None), Connection()
    read_under_way = await waiting(reader, connection.offer)
    for event in (START, piece("a")):
        log.append(event)
        await log.drain()
        await settle()
    assert (connection.taken, read_under_way.done()) == (LOG[:2], False)
    connection.has_room = False
    log.append(piece("b"))
    await log.drain()
    assert await result(read_under_way) == [LOG[2]]
    connection.has_room = True
    read_under_way = await waiting(reader, connection.offer)
    log.append(DONE)
    assert await result(read_under_way) == []
    assert reader.ended
    assert connection.taken == [*LOG[:2], LOG[3]]


async def test_a_reader_that_cannot_take_an_offer_fails_alone(hub: Hub) -> None:
    def broken(events: list[Event]) -> bool:
        raise ZeroDivisionError

    log = await hub.create("run_1")
    failing, sound = [await hub.read("run_1", None) for _ in range(2)]
    reads = [await waiting(failing, broken), await waiting(sound)]
    log.append(START)
    await log.drain()
    with pytest.raises(ZeroDivisionError):
        await result(reads[0])
    assert await result(reads[1]) == [LOG[0]]


async def test_an_offer_ends_with_its_read(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader, connection = await hub.read("run_1", None), Connection()
    read_under_way = await waiting(reader, connection.offer)
    reader.wake()
    assert await result(read_under_way) == []
    log.append(START)
    await log.drain()
    await settle()
    assert connection.taken == []
    assert await read(reader) == [LOG[0]]


async def test_a_reader_gets_all_that_is_new_at_once(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    read_under_way = await waiting(reader)
    for event in (START, piece("a"), piece("b"), DONE):
        log.append(event)
    await log.drain()
    assert await result(read_under_way) + await rest(reader) == LOG


async def test_every_reader_gets_everything_however_the_others_read(hub: Hub) -> None:
    log = await hub.create("run_1")
    prompt, late, idle = [await hub.read("run_1", None) for _ in range(3)]
    seen: list[ReaderEvent] = []
    for event in (START, piece("a"), piece("b")):
        log.append(event)
        seen += await take(prompt, 1)
    assert await take(late, 3) == LOG[:3]
    log.append(DONE)
    assert seen + await rest(prompt) == LOG
    assert await rest(late) == LOG[3:]
    assert not idle.ended
    assert await rest(idle) == LOG


async def test_one_append_wakes_every_waiting_reader(hub: Hub) -> None:
    log = await hub.create("run_1")
    reads = [await waiting(await hub.read("run_1", None)) for _ in range(20)]
    log.append(START)
    for read_under_way in reads:
        assert await result(read_under_way) == [LOG[0]]


async def test_logs_do_not_mix(hub: Hub) -> None:
    for run_id in ("run_1", "run_2"):
        log = await hub.create(run_id)
        for event in (START, piece(f"of {run_id}"), DONE):
            log.append(event)
    for run_id in ("run_1", "run_2"):
        expected = numbered([START, piece(f"of {run_id}"), DONE], run_id)
        assert await rest(await hub.read(run_id, None)) == expected


def forms(seq: int) -> list[str]:
    """Return every text that names the place behind event `seq` of run_1."""
    return [cursor("run_1", 1, seq), str(seq), f"0{seq}"]


@pytest.mark.parametrize("seq", range(5))
@pytest.mark.parametrize("form", range(3))
async def test_a_cursor_gives_exactly_the_rest(hub: Hub, seq: int, form: int) -> None:
    await fill(hub)
    reader = await hub.read("run_1", forms(seq)[form])
    assert reader.epoch == 1
    assert reader.ended is (seq == 4)
    assert await rest(reader) == LOG[seq:]


@pytest.mark.parametrize("after", ["2", "run_1:1:2"])
async def test_a_cursor_at_the_end_of_a_log_that_grows_waits_for_the_next_event(
    hub: Hub, after: str
) -> None:
    log = await hub.create("run_1")
    log.append(START)
    log.append(piece("a"))
    await log.drain()
    read_under_way = await waiting(await hub.read("run_1", after))
    log.append(DONE)
    assert await result(read_under_way) == [stamped(DONE, "run_1", 3)]


BAD_CURSORS = {
    "beyond the end": "5",
    "beyond the end, whole": "run_1:1:5",
    "far beyond the end": "9999999999999999",
    "of a later epoch": "run_1:2:0",
    "of another run": "run_2:1:1",
    "of a run whose name begins alike": "run_11:1:1",
    "negative": "-1",
    "negative, whole": "run_1:1:-1",
    "of a negative epoch": "run_1:-1:1",
    "huge": "9" * 5000,
    "huge, whole": f"run_1:1:{'9' * 5000}",
    "of a huge epoch": f"run_1:{'9' * 5000}:1",
    "empty": "",
    "a colon": ":",
    "two colons": "::",
    "without a seq": "run_1:1:",
    "without an epoch": "run_1::1",
    "two parts": "1:1",
    "four parts": "run_1:1:1:1",
    "words": "start",
    "a sign": "+1",
    "spaces": " 1",
    "a line break": "1\n",
    "an underscore": "1_0",
    "a fraction": "1.0",
    "hexadecimal": "0x1",
    "Arabic digits": "١",
    "a superscript": "²",
    "full-width digits": "run_1:1:１",
    "NUL": "1\0",
    "a lone surrogate": "\ud800",
}


@pytest.mark.parametrize("after", BAD_CURSORS.values(), ids=BAD_CURSORS)
async def test_what_is_no_cursor_of_this_log_is_refused(hub: Hub, after: str) -> None:
    await fill(hub)
    with pytest.raises(InvalidCursor) as caught:
        await hub.read("run_1", after)
    assert (caught.value.status, caught.value.code) == (400, "invalid_cursor")


async def test_a_run_without_a_log_is_not_found(hub: Hub) -> None:
    await fill(hub)
    for after in (None, "0", "run_2:1:0", "nonsense"):
        with pytest.raises(LogNotFound) as caught:
            await hub.read("run_2", after)
        assert (caught.value.status, caught.value.code) == (404, "run_not_found")


@pytest.mark.parametrize("seq", [0, 1, 2, 77])
async def test_a_cursor_of_an_epoch_that_is_over_gives_a_reset_and_then_everything(
    hub: Hub, seq: int
) -> None:
    await fill(hub, [START, piece("lost")])
    log = await hub.create("run_1", 2)
    assert (log.epoch, log.last_seq, log.ended) == (2, 0, False)
    for event in (START, piece("a"), piece("b"), DONE):
        log.append(event)
    reader = await hub.read("run_1", cursor("run_1", 1, seq))
    assert reader.epoch == 2
    assert not reader.ended
    assert await rest(reader) == [Reset(run_id="run_1", epoch=2, reason="epoch_changed"), *LOG]


async def test_a_reset_comes_before_the_new_epoch_has_an_event(hub: Hub) -> None:
    await fill(hub, [START])
    log = await hub.create("run_1", 2)
    reader = await hub.read("run_1", "run_1:1:1")
    assert await read(reader) == [Reset(run_id="run_1", epoch=2, reason="epoch_changed")]
    read_under_way = await waiting(reader)
    log.append(START)
    assert await result(read_under_way) == [LOG[0]]


@pytest.mark.parametrize("after", [None, "0", "run_1:2:0"])
async def test_without_an_old_cursor_a_new_epoch_needs_no_reset(
    hub: Hub, after: str | None
) -> None:
    await fill(hub, [START, piece("lost"), piece("too")])
    await fill(hub, epoch=2)
    assert await rest(await hub.read("run_1", after)) == LOG


async def test_a_log_has_the_epoch_that_it_was_begun_with(hub: Hub) -> None:
    assert [(await hub.create("run_1", epoch)).epoch for epoch in (1, 2, 5)] == [1, 2, 5]
    assert (await hub.create("run_2")).epoch == 1


async def test_a_reader_that_waits_can_be_woken_with_nothing(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    read_under_way = await waiting(reader)
    reader.wake()
    assert await result(read_under_way) == []
    assert not reader.ended
    read_under_way = await waiting(reader)
    log.append(START)
    assert await result(read_under_way) == [LOG[0]]


async def test_waking_a_reader_that_does_not_read_ends_its_next_read_and_only_that(
    hub: Hub,
) -> None:
    await hub.create("run_1")
    reader = await hub.read("run_1", None)
    reader.wake()
    reader.wake()
    assert await read(reader) == []
    (await waiting(reader)).cancel()


async def test_waking_one_reader_leaves_the_others_waiting(hub: Hub) -> None:
    log = await hub.create("run_1")
    first, second = [await hub.read("run_1", None) for _ in range(2)]
    of_first, of_second = await waiting(first), await waiting(second)
    first.wake()
    assert await result(of_first) == []
    assert not of_second.done()
    log.append(START)
    assert await result(of_second) == [LOG[0]]
    assert await take(first, 1) == [LOG[0]]


async def test_a_wake_and_an_event_together_lose_neither_the_event_nor_the_reader(
    hub: Hub,
) -> None:
    log = await hub.create("run_1")
    for in_order in (True, False):
        reader = await hub.read("run_1", str(log.last_seq))
        read_under_way = await waiting(reader)
        steps: list[Callable[[], None]] = [reader.wake, lambda: log.append(piece("a"))]
        for step in steps if in_order else reversed(steps):
            step()
        got = await result(read_under_way)
        assert (got or await take(reader, 1)) == [stamped(piece("a"), "run_1", log.last_seq)]


async def test_a_read_that_is_cancelled_takes_nothing_with_it(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    for _ in range(3):
        read_under_way = await waiting(reader)
        read_under_way.cancel()
        await asyncio.wait([read_under_way])
        assert read_under_way.cancelled()
    log.append(START)
    assert await take(reader, 1) == [LOG[0]]


async def test_a_read_that_is_cancelled_as_an_event_arrives_does_not_lose_it(hub: Hub) -> None:
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    read_under_way = await waiting(reader)
    log.append(START)
    read_under_way.cancel()
    await asyncio.wait([read_under_way])
    got = [] if read_under_way.cancelled() else read_under_way.result()
    assert (got or await take(reader, 1)) == [LOG[0]]


async def test_reading_on_behind_the_end_gives_nothing_and_does_not_wait(hub: Hub) -> None:
    await fill(hub)
    reader = await hub.read("run_1", None)
    assert not reader.ended
    await rest(reader)
    for _ in range(2):
        assert reader.ended
        assert await read(reader) == []


async def test_a_reader_of_a_run_that_is_under_way_has_not_ended(hub: Hub) -> None:
    log = await hub.create("run_1")
    log.append(START)
    reader = await hub.read("run_1", None)
    await take(reader, 1)
    assert not reader.ended
    log.append(DONE)
    assert not reader.ended
    assert await take(reader, 1) == [stamped(DONE, "run_1", 2)]
    assert reader.ended


async def test_a_reader_that_lags_gets_adjacent_pieces_as_one_and_the_rest_as_it_is(
    hub: Hub,
) -> None:
    start = EXAMPLES["tool_call_start"]
    assert isinstance(start, ToolCallStart)
    texts = [piece(f"{number} ") for number in range(LAG)]
    plain: list[Event] = [START, *texts, start, *texts, piece("other", "msg_2"), DONE]
    log = await hub.create("run_1")
    prompt, lagging = [await hub.read("run_1", None) for _ in range(2)]
    seen: list[ReaderEvent] = []
    for event in plain:
        log.append(event)
        seen += await take(prompt, 1)
    assert seen == numbered(plain)
    got = await rest(lagging)
    assert got == list(merged(numbered(plain)))
    assert len(got) == 6
    first = got[1]
    assert isinstance(first, ChatChunk)
    assert (first.first_seq, first.seq) == (2, LAG + 1)


async def test_a_reader_that_is_just_not_lagging_gets_every_piece(hub: Hub) -> None:
    plain: list[Event] = [START, *[piece("x")] * (LAG - 2), DONE]
    await fill(hub, plain)
    assert await rest(await hub.read("run_1", None)) == numbered(plain)


async def test_a_cursor_inside_what_was_merged_gives_exactly_the_rest(hub: Hub) -> None:
    plain: list[Event] = [START, *[piece(str(at % 10)) for at in range(2 * LAG)], DONE]
    await fill(hub, plain)
    for seq in (1, 2, 200, LAG + 50, 2 * LAG, 2 * LAG + 1):
        got = await rest(await hub.read("run_1", str(seq)))
        assert list(merged(got)) == list(merged(numbered(plain)[seq:]))  # type: ignore[arg-type]


async def test_a_finished_log_expires(open_hub: OpenHub) -> None:
    async with open_hub(ttl=0.001) as hub:
        await fill(hub)
        await expired(hub, "run_1")


async def test_a_log_that_is_being_written_does_not_expire(open_hub: OpenHub) -> None:
    async with open_hub(ttl=0.001) as hub:
        log = await hub.create("run_1")
        log.append(START)
        other = await hub.create("run_2")
        other.append(DONE)
        await expired(hub, "run_2")
        assert await take(await hub.read("run_1", None), 1) == [LOG[0]]
        log.append(piece("a"))
        assert log.last_seq == 2


Steps = list[tuple[str, int, int]]

steps: st.SearchStrategy[Steps] = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "open", "read", "read", "wake", "resume", "cancel"]),
        st.integers(0, 3),
        st.integers(0, 30),
    ),
    max_size=40,
)


class Follower:
    """One reader among others: where it began, and what it has got."""

    def __init__(self, hub: Hub, begin: int, after: str) -> None:
        self._hub = hub
        self._begin = begin
        self._after = after
        self._reader: Reader | None = None
        self.got: list[Any] = []

    async def reader(self) -> Reader:
        if self._reader is None:
            self._reader = await self._hub.read("run_1", self._after)
        return self._reader

    async def do(self, action: str) -> None:
        """Read what is there, be woken, come again with a cursor, or give up a read."""
        reader = await self.reader()
        if action == "read":
            reader.wake()
            self.got += await read(reader)
        elif action == "wake":
            reader.wake()
        elif action == "resume":
            place = self.got[-1].seq if self.got else self._begin
            self._reader = await self._hub.read("run_1", cursor("run_1", 1, place))
        elif action == "cancel":
            under_way = asyncio.create_task(reader.read())
            await asyncio.sleep(0)
            under_way.cancel()
            await asyncio.wait([under_way])
            self.got += [] if under_way.cancelled() else under_way.result()

    def check(self, log: list[Event]) -> None:
        """See that all was got, once and in order, from the beginning to the newest."""
        seen = log[self._begin : self.got[-1].seq if self.got else self._begin]
        assert list(merged(self.got)) == list(merged(seen))


async def follow(open_hub: OpenHub, plain: list[Event], actions: Steps) -> None:
    """Append `plain` while readers come, read, are woken, resume, and give up."""
    log = numbered(plain)
    async with open_hub() as hub:
        writer = await hub.create("run_1")
        followers: list[Follower] = []
        for action, which, number in actions:
            if action == "append" and writer.last_seq < len(plain):
                writer.append(plain[writer.last_seq])
                await writer.drain()
            elif action == "open":
                begin = number % (writer.last_seq + 1)
                after = str(begin) if which % 2 else cursor("run_1", 1, begin)
                followers.append(Follower(hub, begin, after))
                await followers[-1].reader()
            elif followers:
                follower = followers[which % len(followers)]
                await follower.do(action)
                follower.check(log)
        for event in plain[writer.last_seq :]:
            writer.append(event)
        await writer.drain()
        for follower in followers:
            follower.got += await rest(await follower.reader())
            assert not follower.got or follower.got[-1].seq == len(log)
            follower.check(log)


@every_kind
@unhurried
@given(plain=logs(), actions=steps)
def test_any_reader_gets_exactly_the_rest_however_the_run_goes(
    open_hub: OpenHub, plain: list[Event], actions: Steps
) -> None:
    asyncio.run(follow(open_hub, plain, actions))


async def test_a_log_that_is_suspended_ends_without_a_terminal_event(hub: Hub) -> None:
    log = await hub.create("run_1", 2)
    for event in (START, piece("a")):
        log.append(event)
    behind, at_end = await hub.read("run_1", None), await hub.read("run_1", "2")
    waits = await waiting(at_end)
    log.append(piece("b"))
    log.suspend()
    assert log.ended
    async with asyncio.timeout(DEADLINE):
        got = await waits
    late = await hub.read("run_1", "run_1:2:3")
    assert [reader.ended for reader in (behind, at_end, late)] == [False, True, False]
    events = numbered([START, piece("a"), piece("b")])
    suspended = Suspended(run_id="run_1", seq=3)
    assert got == [events[2], suspended]
    assert await rest(behind) == [*events, suspended]
    assert await rest(late) == [suspended]
    assert [event async for event in await hub.before("run_1", 9)] == events
    for reader in (behind, at_end, late):
        assert reader.ended
        assert (await read(reader), reader.seq) == ([], 3)


async def test_a_reader_that_waits_for_a_suspended_log_with_an_offer_is_woken(hub: Hub) -> None:
    log = await hub.create("run_1")
    log.append(START)
    offered: list[Event] = []

    def offer(events: list[Event]) -> bool:
        offered.extend(events)
        return True

    reader = await hub.read("run_1", "1")
    waits = await waiting(reader, offer)
    log.append(piece("a"))
    log.suspend()
    async with asyncio.timeout(DEADLINE):
        assert await waits == [Suspended(run_id="run_1", seq=2)]
    assert [event.seq for event in offered] == [2]
    assert reader.ended


async def test_a_log_ends_once_in_one_way(hub: Hub) -> None:
    ended, suspended = await hub.create("run_1"), await hub.create("run_2")
    for log in (ended, suspended):
        log.append(START)
    ended.append(DONE)
    suspended.suspend()
    for log in (ended, suspended):
        with pytest.raises(LogEnded):
            log.append(DONE)
        with pytest.raises(LogEnded):
            log.suspend()
    reader = await hub.read("run_1", None)
    assert await rest(reader) == numbered([START, DONE])


async def test_after_a_suspended_log_the_next_epoch_begins_with_a_reset(hub: Hub) -> None:
    log = await hub.create("run_1")
    log.append(START)
    log.suspend()
    log = await hub.create("run_1", 2)
    log.append(START)
    log.append(DONE)
    reader = await hub.read("run_1", "run_1:1:1")
    kinds = [event.event_type for event in await rest(reader)]
    assert kinds == ["reset", "chat_start", "chat_complete"]


async def test_a_reader_of_a_suspended_log_that_lags_gets_all_of_it_before_the_last_event(
    hub: Hub,
) -> None:
    log = await hub.create("run_1")
    for number in range(10_000):
        log.append(piece(f"{number} "))
    log.suspend()
    *pieces, last = await rest(await hub.read("run_1", None))
    assert last == Suspended(run_id="run_1", seq=10_000)
    text = "".join(event.content for event in pieces if isinstance(event, ChatChunk))
    assert text == "".join(f"{number} " for number in range(10_000))


async def test_a_piece_of_text_is_the_event_that_it_would_be_as_one(hub: Hub) -> None:
    log = await hub.create("run_1", epoch=2)
    reader = await hub.read("run_1", None)
    for kind in (ChatChunk, ReasoningChunk):
        log.append(kind(message_id="msg_1", content="é"))
        log.append_text(kind, "msg_1", "é")
        first, second = await read(reader)
        assert isinstance(first, kind)
        assert second == stamped(first, "run_1", log.last_seq)
    log.append(DONE)
    with pytest.raises(LogEnded):
        log.append_text(ChatChunk, "msg_1", "late")


async def test_a_reader_that_keeps_up_gets_each_event_as_it_was_appended(hub: Hub) -> None:
    """One that is kept in another form than it came in, too, and the last one of a log."""
    call = CompletedCall(
        id="c",
        name="n",
        arguments={},
        result=["word"] * 1000,
        duration_ms=1,
        truncated=False,
    )
    events: list[Event] = [
        START,
        piece("a"),
        ToolCallComplete(message_id="msg_1", tool_call=call),
        DONE,
    ]
    log = await hub.create("run_1")
    reader = await hub.read("run_1", None)
    for event, expected in zip(events, numbered(events), strict=True):
        log.append(event)
        assert await read(reader) == [expected]
    assert reader.ended
