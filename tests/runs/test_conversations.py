"""Messages into conversations: their order, their history, and the same one twice."""

import asyncio
from typing import Any

import pytest

from errors import (
    Conflict,
    NotFound,
    TooMany,
)
from messages import UserMessage
from models import AgentConfig
from tests.runs.support import (
    CALLER,
    SUM,
    Handle,
    Paused,
    answered,
    ask,
    ended,
    history,
    opened,
    started,
)
from tests.scripted import DEADLINE, ScriptedProvider, asks, says

# Two messages into one conversation.


async def test_messages_into_one_conversation_are_answered_one_after_another() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs = [await started(registry, conversation_id="c", message=text) for text in "xyz"]
        for number, run in enumerate(runs, 1):
            gate = await paused.reached(number)
            assert [other.status for other in runs[number:]] == ["queued"] * (3 - number)
            assert paused.provider.open_streams == 1
            gate.open()
            await ended(registry, run)
        seen = [message.content for message in paused.provider.requests[-1].messages]
        assert seen == ["Be brief.", "x", "ab", "y", "ab", "z"]


async def test_conversations_do_not_wait_for_each_other_and_share_nothing() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs = [await started(registry, message=text) for text in "xyz"]
        for number in (1, 2, 3):
            await paused.reached(number)
        for gate in paused.gates:
            gate.open()
        await ended(registry, *runs)
        assert len({run.start.conversation_id for run in runs}) == 3
        assert all(len(request.messages) == 2 for request in paused.provider.requests)


async def test_a_busy_conversation_rejects_who_asked_for_that() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c")
        with pytest.raises(Conflict) as caught:
            await started(registry, conversation_id="c", if_busy="reject")
        assert caught.value.code == "conversation_busy"
        assert first.id in caught.value.message
        (await paused.reached(1)).open()
        await ended(registry, first)
        second = await started(registry, conversation_id="c", if_busy="reject")
        (await paused.reached(2)).open()
        await ended(registry, second)


async def test_of_many_at_once_one_has_the_floor_and_the_others_are_rejected() -> None:
    async with opened() as registry:
        request = ask(conversation_id="c", if_busy="reject")
        starts = [registry.start(request) for _ in range(20)]
        got = await asyncio.gather(*starts, return_exceptions=True)
        runs = [run for run in got if isinstance(run, Handle)]
        assert len(runs) == 1
        assert all(isinstance(other, Conflict) for other in got if other is not runs[0])
        await ended(registry, *runs)


async def test_an_interrupt_cancels_all_that_wait_and_then_answers() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        before = [await started(registry, conversation_id="c") for _ in range(3)]
        await paused.reached(1)
        run = await started(registry, conversation_id="c", if_busy="interrupt", message="Stop!")
        (await paused.reached(2)).open()
        await ended(registry, *before, run)
        assert [other.status for other in before] == ["cancelled"] * 3
        assert run.status == "completed"
        said = [message.content for message in await history(registry, run)]
        assert said == ["Hi.", "a", "Hi.", "Hi.", "Stop!", "ab"]


async def test_of_many_interrupts_at_once_the_last_is_answered() -> None:
    async with opened() as registry:
        request = ask(conversation_id="c", if_busy="interrupt")
        async with asyncio.timeout(DEADLINE):
            runs = await asyncio.gather(*[registry.start(request) for _ in range(5)])
        await ended(registry, *runs)
        assert [run.status for run in runs] == [*["cancelled"] * 4, "completed"]
        assert await answered(registry, conversation_id="c") == "You said: Hi."


async def test_as_many_messages_wait_as_may_and_no_more() -> None:
    paused = Paused()
    async with opened(paused.provider, max_queued_messages=2) as registry:
        runs = [await started(registry, conversation_id="c") for _ in range(3)]
        with pytest.raises(TooMany) as caught:
            await started(registry, conversation_id="c")
        assert caught.value.retryable
        other = await started(registry, conversation_id="other")
        await registry.cancel(runs[2].id)
        await ended(registry, runs[2])
        last = await started(registry, conversation_id="c")
        for run in (*runs, other, last):
            await registry.cancel(run.id)
        await ended(registry, *runs, other, last)


async def test_with_no_place_to_wait_a_busy_conversation_is_full() -> None:
    paused = Paused()
    async with opened(paused.provider, max_queued_messages=0) as registry:
        run = await started(registry, conversation_id="c")
        with pytest.raises(TooMany):
            await started(registry, conversation_id="c")
        (await paused.reached(1)).open()
        await ended(registry, run)


# History.


async def test_a_history_grows_by_whole_turns_and_can_be_reset() -> None:
    provider = ScriptedProvider(SUM, says("3."), says("Yes."), says("New."))
    async with opened(provider) as registry:
        for message in ("one", "two"):
            await answered(registry, conversation_id="c", message=message)
        run = await started(registry, conversation_id="c", message="three", reset_history=True)
        await ended(registry, run)
        assert [message.content for message in provider.requests[2].messages] == [
            "Be brief.",
            "one",
            "Well: ",
            "3",
            "3.",
            "two",
        ]
        assert [message.content for message in provider.requests[3].messages] == [
            "Be brief.",
            "three",
        ]
        assert [message.content for message in await history(registry, run)] == ["three", "New."]


async def test_a_reset_that_waits_forgets_only_when_its_turn_comes() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c", message="one")
        second = await started(registry, conversation_id="c", message="two", reset_history=True)
        (await paused.reached(1)).open()
        await ended(registry, first)
        (await paused.reached(2)).open()
        await ended(registry, second)
        said = [message.content for message in await history(registry, first)]
        assert said == ["two", "ab"]


async def test_a_model_sees_no_more_of_a_long_history_than_configured() -> None:
    async with opened(history_messages=4) as registry:
        for number in range(5):
            await answered(registry, conversation_id="c", message=str(number))
        assert isinstance(registry.provider, ScriptedProvider)
        seen = [message.content for message in registry.provider.requests[-1].messages]
        assert seen == ["Be brief.", "3", "You said: 3", "4"]


async def test_an_exchange_of_many_calls_is_seen_whole_and_hides_no_earlier_one() -> None:
    calls = [asks(*[("add", {"a": turn, "b": 1})] * 2) for turn in range(10)]
    provider = ScriptedProvider(says("one"), *calls, says("three"), says("four"))
    async with opened(provider, history_messages=5) as registry:
        for message in ("first", "second", "third"):
            await answered(registry, conversation_id="c", message=message)
        seen = provider.requests[-1].messages
        users = [message.content for message in seen if isinstance(message, UserMessage)]
        assert users == ["first", "second", "third"]
        assert len(seen) == 1 + 2 + (1 + 30 + 1) + 1


# The same request twice.


async def test_the_same_key_and_request_are_the_same_run_while_it_runs_and_afterwards() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, "key", conversation_id="c")
        assert (await started(registry, "key", conversation_id="c")).id == first.id
        (await paused.reached(1)).open()
        await ended(registry, first)
        assert (await started(registry, "key", conversation_id="c")).id == first.id
        assert len(paused.provider.requests) == 1


async def test_the_same_key_at_the_same_time_is_one_run() -> None:
    async with opened() as registry:
        starts = [registry.start(ask(), "key") for _ in range(20)]
        runs = await asyncio.gather(*starts)
        assert len({run.id for run in runs}) == 1
        await ended(registry, runs[0])


@pytest.mark.parametrize(
    "other",
    [
        {"message": "Bye."},
        {"conversation_id": "c"},
        {"reset_history": True},
        {"parallel_tools": False},
        {"if_busy": "reject"},
    ],
)
async def test_a_key_that_was_used_for_another_request_is_a_conflict(other: dict[str, Any]) -> None:
    async with opened() as registry:
        run = await started(registry, "key")
        with pytest.raises(Conflict) as caught:
            await started(registry, "key", **other)
        assert caught.value.code == "idempotency_conflict"
        await ended(registry, run)


async def test_other_keys_and_no_key_are_other_runs() -> None:
    async with opened() as registry:
        runs = [await started(registry, key) for key in ("a", "b", None, None)]
        assert len(set(runs)) == 4
        await ended(registry, *runs)


async def test_a_request_that_was_refused_does_not_use_up_its_key() -> None:
    async with opened() as registry:
        with pytest.raises(NotFound):
            await started(registry, "key", agent="later")
        await registry.agents.put(CALLER, "later", AgentConfig())
        await ended(registry, await started(registry, "key", agent="later"))


async def test_a_key_is_forgotten_with_its_run() -> None:
    async with opened(max_runs=1) as registry:
        first = await started(registry, "key")
        await ended(registry, first)
        await answered(registry)
        second = await started(registry, "key")
        assert second is not first
        await ended(registry, second)
