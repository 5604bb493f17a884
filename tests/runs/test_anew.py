"""An answer that is made anew, and a run of which nothing is kept."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from events import ChatComplete, RunError
from messages import (
    AssistantMessage,
    EndPart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from models import AgentConfig
from runs.request import RunRequest
from storage import Begin
from storage.tables import conversations
from tests.agent.support import check_history, until
from tests.runs.support import (
    CALLER,
    FAULT,
    SUM,
    Handle,
    Registry,
    answered,
    ended,
    history,
    opened,
    started,
)
from tests.runs.test_recovering import CALL, RESULT, admitted, leave_behind, recovered
from tests.scripted import Gate, Script, ScriptedProvider, asks, says

AGAIN = RunRequest(conversation_id="c", must_exist=True, regenerates=True)


async def anew(registry: Registry) -> Handle:
    run = await registry.start(AGAIN)
    await ended(registry, run)
    return run


async def said(registry: Registry, run: Handle) -> list[str]:
    return [message.content for message in await history(registry, run)]


async def test_another_answer_takes_the_place_of_the_last_one() -> None:
    provider = ScriptedProvider(says("One."), SUM, says("Two."), says("Other."))
    async with opened(provider) as registry:
        await answered(registry, conversation_id="c", message="one")
        await answered(registry, conversation_id="c", message="two")
        run = await anew(registry)
        assert await said(registry, run) == ["one", "One.", "two", "Other."]
        told = [message.content for message in provider.requests[-1].messages]
        assert told == ["Be brief.", "one", "One.", "two"]


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ([[TextPart("Oth"), FAULT]], ["one", "One."]),
        ([[FAULT]], ["one", "One."]),
        ([SUM, [TextPart("Oth"), FAULT]], ["one", "Well: ", "3", "Oth"]),
        ([SUM, [FAULT]], ["one", "Well: ", "3"]),
    ],
)
async def test_an_attempt_that_failed_takes_nothing_away_unless_it_has_acted(
    script: Sequence[Script], left: list[str]
) -> None:
    async with opened(ScriptedProvider(says("One."), *script)) as registry:
        await answered(registry, conversation_id="c", message="one")
        run = await anew(registry)
        assert isinstance(run.terminal, RunError)
        check_history(await history(registry, run))
        assert await said(registry, run) == left


async def test_an_attempt_that_ends_while_it_acts_is_kept_with_what_it_did() -> None:
    provider = ScriptedProvider(says("One."), asks(("hang", {}), text="Oth"))
    async with opened(provider, run_timeout=0.1) as registry:
        await answered(registry, conversation_id="c", message="one")
        run = await anew(registry)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "run_timeout"
        check_history(await history(registry, run))
        assert await said(registry, run) == ["one", "Oth", "Error: The call was cancelled."]


async def test_an_attempt_that_fails_after_a_crash_is_kept_with_what_it_did_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        await answered(registry, conversation_id="c")
        stored = admitted(registry, AGAIN)
        await registry.store.accept(stored, begin=Begin())
        await registry.store.save_turn(stored, [CALL, RESULT], None)
    async with opened(ScriptedProvider([TextPart("Oth"), FAULT]), path=path) as registry:
        run = await recovered(registry, stored)
        assert isinstance(run.terminal, RunError)
        assert await history(registry, run) == [
            UserMessage("Hi."),
            CALL,
            RESULT,
            AssistantMessage("Oth"),
        ]


async def test_an_attempt_that_was_cancelled_leaves_what_it_said() -> None:
    gate = Gate()
    async with opened(ScriptedProvider(says("One."), [TextPart("Oth"), gate])) as registry:
        await answered(registry, conversation_id="c", message="one")
        run = await registry.start(AGAIN)
        await gate.reached()
        await registry.cancel(run.id)
        await ended(registry, run)
        assert await said(registry, run) == ["one", "Oth"]


async def test_a_first_answer_that_failed_is_kept_as_far_as_it_came() -> None:
    async with opened(ScriptedProvider([TextPart("On"), FAULT])) as registry:
        run = await started(registry, conversation_id="c", message="one")
        await ended(registry, run)
        assert await said(registry, run) == ["one", "On"]


async def test_where_nothing_was_asked_nothing_is_made_anew() -> None:
    async with opened() as registry:
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        await registry.clear(CALLER, "c")
        again = await anew(registry)
        assert isinstance(again.terminal, RunError)
        assert (again.terminal.code, again.terminal.retryable) == ("nothing_to_answer", False)


async def test_a_conversation_is_named_by_its_last_question_when_it_is_answered() -> None:
    provider = ScriptedProvider([FAULT], says("Here."), says("And."))
    async with opened(provider) as registry:
        run = await started(registry, conversation_id="c", message="Where is it")
        await ended(registry, run)
        assert await title(registry) is None
        await anew(registry)
        assert await title(registry) == "Where is it"
        await answered(registry, conversation_id="c", message="Something else")
        assert await title(registry) == "Where is it"


async def title(registry: Registry) -> str | None:
    record = await registry.store.conversation(CALLER, "c")
    assert record is not None
    return record.title


THEIRS: tuple[Message, ...] = (
    UserMessage("one"),
    AssistantMessage("One."),
    UserMessage("two"),
)
UNKEPT = RunRequest(
    history=THEIRS, instructions=("Rhyme.",), ephemeral=True, is_kept=False, is_whole=True
)


async def test_a_clients_own_conversation_is_seen_whole_and_nothing_of_it_is_kept() -> None:
    provider = ScriptedProvider(SUM, says("Two."))
    async with opened(provider, history_messages=1) as registry:
        run = await registry.start(UNKEPT)
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert run.terminal.final_response == "Two."
        assert provider.requests[0].messages == (
            SystemMessage("Be brief."),
            SystemMessage("Rhyme."),
            *THEIRS,
        )
        assert await history(registry, run) == []
        assert run.stored.request == ""


async def test_of_a_run_of_which_nothing_is_kept_a_turn_is_there_as_long_as_it_lasts() -> None:
    gate = Gate()
    provider = ScriptedProvider(SUM, [gate, *says("Two.")])
    async with opened(provider) as registry:
        run = await registry.start(UNKEPT)
        await gate.reached()
        assert await said(registry, run) == ["Well: ", "3"]
        gate.open()
        await ended(registry, run)
        assert await said(registry, run) == []


async def test_messages_that_come_with_a_history_are_kept_without_it() -> None:
    provider = ScriptedProvider(says("Two."), says("Three."))
    async with opened(provider) as registry:
        request = RunRequest(
            messages=(UserMessage("two"),), history=THEIRS[:2], conversation_id="c"
        )
        run = await registry.start(request)
        await ended(registry, run)
        assert await said(registry, run) == ["two", "Two."]
        told = [message.content for message in provider.requests[0].messages]
        assert told == ["Be brief.", "one", "One.", "two"]


async def test_a_run_whose_turns_are_many_sees_its_question_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    calls = [AssistantMessage("", (ToolCall(f"c{at}", "add", "{}"),)) for at in range(6)]
    results = [ToolMessage(f"c{at}", "add", "3") for at in range(6)]
    turns = [each for pair in zip(calls, results, strict=True) for each in pair]
    stored = await leave_behind(path, message="one", messages=turns)
    provider = ScriptedProvider(says("Done."))
    async with opened(provider, path=path, history_messages=2) as registry:
        await recovered(registry, stored)
    assert provider.requests[0].messages[1:] == (UserMessage("one"), *turns)


async def test_who_is_asked_is_named_or_was_asked_last() -> None:
    async with opened(ScriptedProvider(reply_to=lambda _: [Gate(), EndPart("stop")])) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig())
        first = await registry.start(request_to("b"))
        waiting = await registry.start(request_to(None))
        other = await registry.start(request_to("chat"))
        last = await registry.start(request_to(None))
        runs = (first, waiting, other, last)
        assert [run.start.agent for run in runs] == ["b", "b", "chat", "chat"]
        for run in reversed(runs):
            await registry.cancel(run.id)
        await ended(registry, *runs)
        await until(lambda: registry.active_runs == 0)


def request_to(agent: str | None) -> RunRequest:
    return RunRequest(messages=(UserMessage("Hi."),), conversation_id="c", agent=agent)


async def test_who_was_asked_last_is_remembered_with_the_conversation() -> None:
    async with opened() as registry:
        await registry.agents.put(CALLER, "b", AgentConfig())
        for agent, asked in (("b", "b"), (None, "b"), ("chat", "chat"), (None, "chat")):
            run = await registry.start(request_to(agent))
            await ended(registry, run)
            assert run.start.agent == asked
        for place in (None, "new"):
            request = RunRequest(messages=(UserMessage("Hi."),), conversation_id=place)
            new = await registry.start(request)
            await ended(registry, new)
            assert new.start.agent == "chat"


async def test_a_model_that_is_asked_for_answers_and_is_named() -> None:
    async with opened() as registry:
        asked = RunRequest(messages=(UserMessage("Hi."),), model="big-1")
        run = await registry.start(asked)
        await ended(registry, run)
        assert run.start.model == "big-1"
        assert isinstance(registry.provider, ScriptedProvider)
        assert registry.provider.requests[0].model == "big-1"
        assert (await started(registry)).start.model == "scripted-1"


async def test_who_answered_in_a_conversation_is_asked_in_its_branches() -> None:
    async with opened() as registry:
        await registry.agents.put(CALLER, "b", AgentConfig())
        await ended(registry, await registry.start(request_to("b")))
        branched = RunRequest(messages=(UserMessage("And?"),), branch=("c", None))
        run = await registry.start(branched)
        await ended(registry, run)
        assert run.start.agent == "b"
        assert run.start.conversation_id != "c"
        assert [message.content for message in await history(registry, run)] == [
            "Hi.",
            "You said: Hi.",
            "And?",
            "You said: And?",
        ]


async def test_a_run_says_whether_its_conversation_is_listed() -> None:
    async with opened() as registry:
        for request, is_ephemeral in ((UNKEPT, True), (request_to(None), False)):
            run = await registry.start(request)
            await ended(registry, run)
            assert run.start.ephemeral is is_ephemeral


async def test_a_conversation_of_an_older_version_says_nothing_of_who_was_asked() -> None:
    async with opened() as registry:
        await ended(registry, await registry.start(request_to("assistant")))

        def forget(db: Connection) -> None:
            db.execute(update(conversations).values(agent=None))

        await registry.store._db.write(forget)
        run = await registry.start(request_to(None))
        await ended(registry, run)
        assert run.start.agent == "chat"


async def test_an_answer_that_is_to_be_made_anew_can_be_cancelled_while_it_waits() -> None:
    gate = Gate()
    async with opened(ScriptedProvider([gate, *says("One.")])) as registry:
        first = await started(registry, conversation_id="c", message="one")
        again = await registry.start(AGAIN)
        await gate.reached()
        await registry.cancel(again.id)
        gate.open()
        await ended(registry, first, again)
        assert again.status == "cancelled"
        assert await said(registry, first) == ["one", "One."]
