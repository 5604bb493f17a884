"""The lock of a conversation."""

import pytest

from caller import Caller
from errors import Conflict, TooMany
from models import IfBusy
from runs.queue import LocalLocks, LocalTurn

CALLER = Caller("open", "default")


async def join(
    locks: LocalLocks, run_id: str, *, if_busy: IfBusy = "enqueue", limit: int = 10
) -> LocalTurn:
    return await locks.join(CALLER, "c", run_id, if_busy=if_busy, limit=limit)


async def test_the_first_run_has_its_turn_and_the_others_have_theirs_after_it() -> None:
    locks = LocalLocks()
    turns = [await join(locks, name) for name in "abc"]
    assert [turn.is_held for turn in turns] == [True, False, False]
    await turns[0].leave()
    assert [turn.is_held for turn in turns] == [True, True, False]
    await turns[1].leave()
    await turns[2].leave()
    assert await locks.queue(CALLER, "c") == []
    assert (await join(locks, "d")).is_held


async def test_a_run_that_gives_up_waiting_does_not_give_away_the_turn() -> None:
    locks = LocalLocks()
    turns = [await join(locks, name) for name in "abc"]
    await turns[1].leave()
    assert await locks.queue(CALLER, "c") == ["a", "c"]
    assert not turns[2].is_held
    await turns[0].leave()
    assert turns[2].is_held


async def test_conversations_have_queues_of_their_own() -> None:
    locks = LocalLocks()
    await join(locks, "a")
    others = ((CALLER, "b"), (Caller("open", "else"), "c"), (Caller("else", "default"), "c"))
    for owner, conversation_id in others:
        assert await locks.queue(owner, conversation_id) == []
        turn = await locks.join(owner, conversation_id, "x", if_busy="reject", limit=0)
        assert turn.is_held


async def test_a_busy_conversation_rejects_bounds_and_lets_an_interruption_in() -> None:
    locks = LocalLocks()
    await join(locks, "a", if_busy="reject")
    with pytest.raises(Conflict):
        await join(locks, "b", if_busy="reject")
    for name in "bc":
        await join(locks, name, limit=1)
        with pytest.raises(TooMany):
            await join(locks, "x", limit=1) if name == "c" else await join(locks, "x", limit=0)
        if name == "b":
            break
    await join(locks, "i", if_busy="interrupt", limit=0)
    assert await locks.queue(CALLER, "c") == ["a", "b", "i"]


async def test_a_conversation_whose_runs_have_all_left_is_forgotten() -> None:
    locks = LocalLocks()
    turns = [await join(locks, name) for name in "ab"]
    for turn in turns:
        await turn.leave()
    assert locks._queues == {}


async def test_a_refused_run_leaves_no_trace_in_a_queue() -> None:
    locks = LocalLocks()
    first = await join(locks, "a")
    with pytest.raises(Conflict):
        await join(locks, "b", if_busy="reject")
    assert await locks.queue(CALLER, "c") == ["a"]
    await first.leave()
    assert locks._queues == {}


async def test_so_many_runs_wait_beside_the_one_that_has_its_turn() -> None:
    locks = LocalLocks()
    for name in "abc":
        await join(locks, name, limit=2)
    with pytest.raises(TooMany):
        await join(locks, "d", limit=2)
    await join(locks, "e", if_busy="interrupt", limit=2)
    assert await locks.queue(CALLER, "c") == ["a", "b", "c", "e"]
