"""What every protocol has in common: an example that stays as it is, and laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import ChatChunk, Event, Reset, Suspended
from protocols import ENCODERS
from tests.logs import logs, numbered, unhurried
from tests.protocols.eventsource import dispatched
from tests.protocols.golden import CONVERSATION, FOLDER, encoded, encoder_of, stored

PROTOCOLS = [*ENCODERS]

WITHOUT_RESET = {"openai"}
"""Those whose clients cannot be told to start over; their own tests say what they are told."""

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@every_protocol
def test_the_conversation_looks_as_it_always_did(protocol: str) -> None:
    assert stored(protocol).is_file(), f"{protocol} has no example beside the others"
    assert encoded(protocol).decode() == stored(protocol).read_bytes().decode()


def test_no_example_is_left_of_a_protocol_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PROTOCOLS)


@every_protocol
def test_the_heartbeat_is_no_message(protocol: str) -> None:
    encoder = encoder_of(protocol, 1)
    beating = b"".join(encoder.encode(event) + encoder.heartbeat for event in CONVERSATION)
    assert dispatched(beating) == dispatched(encoded(protocol))


@every_protocol
@unhurried
@given(plain=logs(), epoch=st.integers(1, 9))
def test_each_event_of_any_log_is_whole_frames_and_nothing_more(
    protocol: str, plain: list[Event], epoch: int
) -> None:
    encoder = encoder_of(protocol, epoch)
    log = numbered(plain)
    frames = [encoder.encode(event) for event in log]
    assert all(not frame or frame.endswith(b"\n\n") for frame in frames)
    whole = dispatched(b"".join(frames))
    assert len(whole) == sum(len(dispatched(frame)) for frame in frames)
    assert whole


@pytest.mark.parametrize("protocol", sorted({*PROTOCOLS} - WITHOUT_RESET))
@given(plain=logs())
@unhurried
def test_a_reset_begins_anew_whatever_came_before(protocol: str, plain: list[Event]) -> None:
    fresh, used = encoder_of(protocol, 2), encoder_of(protocol, 1)
    for event in numbered(plain)[:-1]:
        used.encode(event)
    assert used.encode(Reset(run_id="run_1", epoch=2, reason="epoch_changed"))
    again = [used.encode(event) for event in CONVERSATION]
    assert again == [fresh.encode(event) for event in CONVERSATION]


@every_protocol
@pytest.mark.parametrize("count", range(len(CONVERSATION)))
def test_a_suspended_run_ends_in_its_error_where_clients_cannot_come_back(
    protocol: str, count: int
) -> None:
    suspended = Suspended(run_id="run_1", seq=count)
    said, failed = encoder_of(protocol, 3), encoder_of(protocol, 3)
    for event in CONVERSATION[:count]:
        said.encode(event)
        failed.encode(event)
    expected = b"" if protocol == "events" else failed.encode(suspended.as_error())
    assert said.encode(suspended) == expected
    assert (b"shutting_down" in expected) == (protocol != "events")


@every_protocol
def test_the_text_of_the_conversation_is_in_it_in_order(protocol: str) -> None:
    at, stream = 0, encoded(protocol).decode()
    for event in CONVERSATION:
        if isinstance(event, ChatChunk):
            word = event.content.split()[0]
            assert word in stream[at:]
            at = stream.index(word, at)
