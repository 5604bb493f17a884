"""What is kept compactly is what was put in, whichever part of it is asked for."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from events import ChatChunk, Event, ReasoningChunk, merged
from hub import LAG
from hub.compact import MAX_PIECES, CompactEvents
from hub.memory import MemoryHub
from tests.logs import DONE, START, logs, numbered, piece, unhurried


@unhurried
@given(plain=logs(), data=st.data())
def test_any_part_is_as_it_was_put_in(plain: list[Event], data: st.DataObject) -> None:
    events = numbered(plain)
    compact = CompactEvents("run_1")
    while len(compact) < len(events):
        count = data.draw(st.integers(1, 40))
        compact.extend(events[len(compact) : len(compact) + count])
    start = data.draw(st.integers(0, len(events)))
    stop = data.draw(st.integers(0, len(events) + 1))
    assert compact.between(start, stop) == events[start:stop]


def test_a_long_text_with_every_kind_of_piece() -> None:
    texts: list[Event] = [piece("é" * (number % 3)) for number in range(2 * MAX_PIECES + 3)]
    texts += [
        ReasoningChunk(message_id="m", content="why"),
        ReasoningChunk(message_id="n", content=""),
    ]
    texts += [ChatChunk(message_id="n", content="merged", first_seq=3), piece("end")]
    events = numbered(texts)
    compact = CompactEvents("run_1")
    compact.extend(events)
    for start in (
        0,
        1,
        MAX_PIECES - 1,
        MAX_PIECES,
        MAX_PIECES + 1,
        2 * MAX_PIECES,
        len(events) - 3,
    ):
        for stop in (start, start + 1, start + MAX_PIECES, len(events)):
            assert compact.between(start, stop) == events[start:stop]


async def test_a_log_is_read_across_what_is_compact_and_what_is_recent() -> None:
    hub = MemoryHub(ttl=60, max_events=10_000, max_bytes=1 << 30)
    log = await hub.create("run_1")
    plain: list[Event] = [START, *(piece(str(number)) for number in range(5 * LAG)), DONE]
    events = numbered(plain)
    for number, event in enumerate(plain, 1):
        log.append(event)
        if number % 7 == 0 or event is DONE:
            for seq in (0, number // 2, max(number - LAG - 1, 0), number - 3):
                assert [event async for event in await hub.before("run_1", seq)] == events[:seq]
                reader = await hub.read("run_1", str(seq))
                got = cast("list[Event]", await reader.read())
                assert [*merged(got)] == [*merged(events[seq:number])]
