"""The state of a run: what is kept of it, and what of that is stored."""

import asyncio
from collections.abc import Sequence

import pytest

from errors import Unavailable
from loop.state import Counts, Transcript, settle, to_its_end
from messages import AssistantMessage, Message, ToolCall, ToolCallPart
from tests.scripted import DEADLINE, Gate

SAID = AssistantMessage("a")


class Held:
    """A journal that takes messages when the test lets it, or fails then."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.gate = Gate()
        self.stored: list[Message] = []
        self._failure = failure

    async def __call__(self, messages: Sequence[Message], pending: AssistantMessage | None) -> None:
        await self.gate.pass_through()
        if self._failure is not None:
            raise self._failure
        self.stored += messages


async def cancelled_while_it_is_stored(
    transcript: Transcript, journal: Held
) -> "asyncio.Task[None]":
    transcript.keep(SAID)
    saving = asyncio.create_task(transcript.save())
    await journal.gate.reached()
    saving.cancel()
    await asyncio.wait([saving], timeout=0)
    assert not saving.done()
    journal.gate.open()
    await asyncio.wait([saving], timeout=DEADLINE)
    return saving


async def test_a_turn_that_is_cancelled_while_it_is_stored_is_stored_once() -> None:
    journal = Held()
    transcript = Transcript(journal)
    saving = await cancelled_while_it_is_stored(transcript, journal)
    assert saving.cancelled()
    assert (transcript.unsaved, transcript.saved) == ([], 1)
    await transcript.save()
    assert journal.stored == [SAID]


async def test_a_turn_that_could_not_be_stored_is_still_to_be_stored() -> None:
    journal = Held(Unavailable("No."))
    transcript = Transcript(journal)
    transcript.keep(SAID)
    journal.gate.open()
    with pytest.raises(Unavailable):
        await transcript.save()
    assert (transcript.unsaved, transcript.saved) == ([SAID], 0)


async def test_a_turn_that_is_cancelled_and_cannot_be_stored_is_still_to_be_stored() -> None:
    journal = Held(Unavailable("No."))
    transcript = Transcript(journal)
    saving = await cancelled_while_it_is_stored(transcript, journal)
    assert saving.cancelled()
    assert (transcript.unsaved, transcript.saved) == ([SAID], 0)


def test_a_turn_without_text_or_calls_is_none() -> None:
    transcript = Transcript()
    transcript.keep(AssistantMessage(""))
    assert transcript.messages == []


async def test_what_has_ended_is_waited_for_and_a_cancel_counts_only_then() -> None:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(to_its_end(done))
    for _ in range(3):
        await asyncio.wait([waiting], timeout=0)
        waiting.cancel()
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    done.set_result(1)
    await asyncio.wait([waiting], timeout=DEADLINE)
    assert waiting.cancelled()
    assert await to_its_end(done) == 1


async def test_tasks_that_are_to_end_are_waited_for_through_any_cancel() -> None:
    slow = Gate()

    async def reluctant() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await slow.pass_through()

    task = asyncio.create_task(reluctant())
    await asyncio.sleep(0)
    settling = asyncio.create_task(settle([task]))
    await slow.reached()
    settling.cancel()
    await asyncio.wait([settling], timeout=0)
    assert not settling.done()
    slow.open()
    await asyncio.wait([settling], timeout=DEADLINE)
    assert task.done()
    assert settling.done()


def called(*ids: str) -> AssistantMessage:
    return AssistantMessage("", tuple(ToolCall(id, "add", "{}") for id in ids))


def test_turns_and_calls_that_were_made_before_are_counted() -> None:
    counts = Counts()
    counts.add(called("a", "b"))
    counts.add(called("c"))
    counts.add(AssistantMessage("So."))
    assert (counts.turns, counts.calls) == (3, 3)
    counts.reserve(called("d", "e"))
    assert (counts.turns, counts.calls) == (4, 3)


def test_no_call_has_the_id_of_another_one() -> None:
    counts = Counts()
    counts.add(called("a", "b"))
    counts.reserve(called("c"))
    parts = [ToolCallPart(ToolCall(id, "add", "{}")) for id in ("a", "b", "c", "d", "d", "")]
    ids = [counts.with_own_id(part).call.id for part in parts]
    assert ids[3] == "d"
    assert len({"a", "b", "c", *ids}) == 9


def test_how_often_in_a_row_the_same_calls_were_made() -> None:
    counts = Counts()
    one = ToolCallPart(ToolCall("x", "add", "{}"))
    other = ToolCallPart(ToolCall("y", "add", '{"a": 1}'))
    named = ToolCallPart(ToolCall("z", "look", "{}"))
    turns = ([one], [one], [other], [one, other], [other, one], [named], [one], [one], [one])
    assert [counts.repeats(turn) for turn in turns] == [1, 2, 1, 1, 2, 1, 1, 2, 3]
