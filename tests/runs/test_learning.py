"""What a run recalls of its user, and what is learned from it."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import msgspec
import pytest

from caller import Caller
from memory import Memories, Memory
from memory.learning import LEARNED_CHARS
from messages import AssistantMessage, Message, TextPart, ToolSpec, UserMessage
from models import AgentConfig
from runs.request import RunRequest
from storage import StorageUnavailable
from tests.agent.support import until
from tests.runs.support import CALLER, FAULT, Handle, Registry, ask, ended, opened, started
from tests.runs.test_giving_up import Failing
from tests.scripted import DEADLINE, Gate, ScriptedProvider, asks, says
from tests.storage.support import a_run


class Notes:
    """Memories that a test can look into."""

    def __init__(self) -> None:
        self.asked: list[tuple[Caller, str]] = []
        self.learned: dict[str, Sequence[Message]] = {}
        self.open: asyncio.Event | None = None
        self.waiting = 0

    async def recall(self, owner: Caller, query: str, limit: int) -> list[Memory]:
        self.asked.append((owner, query))
        if self.open is not None:
            self.waiting += 1
            try:
                await self.open.wait()
            finally:
                self.waiting -= 1
        when = a_run().created_at
        return [Memory(id="m", text="Likes pasta.", created_at=when, updated_at=when)]

    async def page(self, owner: Caller, limit: int) -> list[Memory]:
        return []

    async def learn(self, owner: Caller, messages: Sequence[Message], run_id: str) -> int:
        self.learned[run_id] = messages
        return 1

    def __getattr__(self, name: str) -> Any:  # `warm`, `aclose`
        async def nothing() -> None:
            """Do nothing."""

        return nothing


def remembering(
    notes: Notes, provider: ScriptedProvider | None = None
) -> AbstractAsyncContextManager[Registry]:
    return opened(provider, memories=cast("Memories", notes))


@pytest.fixture(autouse=True)
def _learns_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.learning.PAUSE", 10 * DEADLINE)


async def learned_from(registry: Registry, notes: Notes, *runs: Handle) -> list[bool]:
    """Return of which of the runs that have ended something was learned.

    One exchange is learned after the other, so behind another one all of them were.
    """
    other = await started(registry, message="Last.", memory=True)
    await ended(registry, other)
    await until(lambda: other.id in notes.learned)
    return [run.id in notes.learned for run in runs]


async def test_an_answer_is_learned_from_with_its_question() -> None:
    notes = Notes()
    async with remembering(notes) as registry:
        run = await started(registry, message="I like pasta.", memory=True)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [True]
        assert [*notes.learned[run.id]] == [
            UserMessage("I like pasta."),
            AssistantMessage("You said: I like pasta."),
        ]


async def test_an_answer_that_became_an_error_is_not_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.runner.RETRY", 0.005)
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    notes = Notes()
    async with remembering(notes) as registry:
        Failing(registry.store, StorageUnavailable("Full.", retry_after=1))
        run = await started(registry, memory=True)
        await ended(registry, run)
        assert run.status == "failed"
        await until(lambda: not registry.endings.has_waiting)
        assert await learned_from(registry, notes, run) == [False]


def spoken(*replies: Any) -> ScriptedProvider:
    return ScriptedProvider(*replies, says("Last one."))


async def test_what_failed_is_not_learned_from() -> None:
    notes = Notes()
    async with remembering(notes, spoken([TextPart("a"), FAULT])) as registry:
        run = await started(registry, memory=True)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [False]


async def test_what_was_cancelled_is_not_learned_from() -> None:
    notes, gate = Notes(), Gate()
    async with remembering(notes, spoken([TextPart("a"), gate])) as registry:
        run = await started(registry, memory=True)
        await gate.reached()
        await registry.cancel(run.id)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [False]


async def test_an_answer_that_the_client_is_to_go_on_with_is_not_learned_from() -> None:
    notes = Notes()
    theirs = (ToolSpec("theirs", "Theirs.", {}),)
    async with remembering(notes, spoken(asks(("theirs", {})))) as registry:
        request = msgspec.structs.replace(ask(memory=True), tools=theirs)
        run = await registry.start(request)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [False]


async def test_an_answer_that_is_made_anew_says_nothing_more_of_the_user() -> None:
    notes = Notes()
    async with remembering(notes) as registry:
        first = await started(registry, conversation_id="c", message="Pasta?", memory=True)
        await ended(registry, first)
        request = RunRequest(conversation_id="c", must_exist=True, regenerates=True, memory=True)
        again = await registry.start(request)
        await ended(registry, again)
        assert await learned_from(registry, notes, first, again) == [True, False]
        asked = [query for _, query in notes.asked]
        assert asked == ["Pasta?", "Pasta?", "Last."]


@pytest.mark.parametrize(
    ("of_agent", "of_request", "remembers"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
    ],
)
async def test_a_user_is_remembered_as_the_request_says_or_else_as_the_agent_is_configured(
    of_agent: bool, of_request: bool | None, remembers: bool
) -> None:
    notes, provider = Notes(), spoken(says("Yes."))
    async with remembering(notes, provider) as registry:
        await registry.agents.put(CALLER, "b", AgentConfig(memory=of_agent))
        run = await started(registry, agent="b", message="Pasta?", memory=of_request)
        await ended(registry, run)
        assert notes.asked == ([(CALLER, "Pasta?")] if remembers else [])
        assert ("Likes pasta." in provider.requests[0].messages[0].content) is remembers
        assert await learned_from(registry, notes, run) == [remembers]


async def test_a_recall_that_no_answer_waits_for_is_dropped() -> None:
    notes = Notes()
    notes.open = asyncio.Event()
    async with remembering(notes) as registry:
        run = await started(registry, conversation_id="c", memory=True)
        await until(lambda: notes.waiting == 1)
        await registry.cancel(run.id)
        await ended(registry, run)
        async with asyncio.timeout(DEADLINE):
            await until(lambda: notes.waiting == 0)


async def test_a_conversation_that_only_its_client_keeps_is_learned_from() -> None:
    notes = Notes()
    async with remembering(notes) as registry:
        request = RunRequest(
            history=(UserMessage("I like pasta."),),
            ephemeral=True,
            is_kept=False,
            is_whole=True,
            memory=True,
        )
        run = await registry.start(request)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [True]
        assert notes.learned[run.id][0] == UserMessage("I like pasta.")


async def test_what_is_long_is_learned_from_as_far_as_it_may_be() -> None:
    notes = Notes()
    long = "x" * (LEARNED_CHARS + 1)
    provider = ScriptedProvider(says(long), says("Last one."))
    async with opened(
        provider, memories=cast("Memories", notes), max_message_chars=10**6
    ) as registry:
        run = await started(registry, message=long, memory=True)
        await ended(registry, run)
        assert await learned_from(registry, notes, run) == [True]
        assert [len(said.content) for said in notes.learned[run.id]] == [LEARNED_CHARS] * 2
