"""Recalling within a time, learning after the answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

import memory.learning as learning
from caller import Caller
from errors import UpstreamError
from memory import Memories, Memory, MemoryUnavailable, Unreadable
from memory.learning import ANSWER_TOKENS, ATTEMPTS, LongTermMemory, asker
from messages import (
    AssistantMessage,
    EndPart,
    Message,
    ModelRequest,
    OutputSchema,
    SystemMessage,
    TextPart,
    UserMessage,
)
from storage import extraction_jobs
from storage.store import Store
from tests.scripted import DEADLINE, Output, ScriptedProvider, says
from tests.storage.support import ANN, a_run

BEN = Caller("acme", "ben")
SAID = (UserMessage("I love pasta."), AssistantMessage("Noted."))


class Notebook:
    """Memories that a test can hold up and break."""

    def __init__(self) -> None:
        self.learned: list[tuple[Caller, str]] = []
        self.cleared: list[Caller] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.is_warm = self.is_closed = False
        self.warming: Exception | asyncio.Event | None = None

    async def recall(self, owner: Caller, query: str, limit: int) -> list[Memory]:
        self.asked.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        when = a_run().created_at
        text = f"{owner.user} asked {query}"
        return [Memory(id="m", text=text, created_at=when, updated_at=when)][:limit]

    async def page(self, owner: Caller, limit: int) -> list[Memory]:
        when = a_run().created_at
        found = [("m", "the same"), ("n", "newer"), ("o", "older")]
        return [Memory(id=i, text=t, created_at=when, updated_at=when) for i, t in found][:limit]

    async def learn(self, owner: Caller, messages: Sequence[Message], run_id: str) -> int:
        self.asked.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.learned.append((owner, run_id))
        return 1

    async def clear(self, owner: Caller) -> int:
        self.cleared.append(owner)
        return 3

    async def warm(self) -> None:
        if isinstance(self.warming, Exception):
            raise self.warming
        if self.warming is not None:
            await self.warming.wait()
        self.is_warm = True

    async def aclose(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def remembering(
    path: Path, notebook: Notebook, *, timeout: float = DEADLINE
) -> AsyncIterator[LongTermMemory]:
    async with Store.open(f"sqlite:///{path / 'parley.db'}", instance="test") as store:
        memory = LongTermMemory(cast("Memories", notebook), store, timeout=timeout, limit=5)
        async with asyncio.timeout(DEADLINE), memory:
            yield memory


async def teach(memory: LongTermMemory, owner: Caller = ANN, most: int = 100) -> str:
    run = a_run(owner=owner)
    await memory.store._db.write(extraction_jobs.add, run, SAID, most)
    memory.wake()
    return run.id


async def until_empty(memory: LongTermMemory) -> None:
    while await memory.store.count_extraction_jobs():  # noqa: ASYNC110 - the database tells nobody
        await asyncio.sleep(0.005)


async def test_what_is_remembered_becomes_a_block_of_data(tmp_path: Path) -> None:
    async with remembering(tmp_path, Notebook()) as memory:
        block = await memory.recall(ANN, "for pasta").block()
    assert block.splitlines()[-4:-1] == ['"ann asked for pasta"', '"newer"', '"older"']


async def test_what_is_near_goes_before_what_is_new(tmp_path: Path) -> None:
    async with remembering(tmp_path, Notebook()) as memory:
        for limit, told in {1: ['"ann asked for x"'], 2: ['"ann asked for x"', '"newer"']}.items():
            memory.limit = limit
            block = await memory.recall(ANN, "for x").block()
            assert [line for line in block.splitlines() if line.startswith('"')] == told


async def test_an_answer_does_not_wait_for_what_comes_late(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook, timeout=0.01) as memory:
        await memory.warmed()
        assert await memory.recall(ANN, "for pasta").block() == ""
    assert "not found in time" in caplog.text


async def test_an_answer_waits_while_the_memories_are_being_prepared(tmp_path: Path) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    notebook.warming = asyncio.Event()
    async with remembering(tmp_path, notebook, timeout=0.001) as memory:
        block = asyncio.create_task(memory.recall(ANN, "for pasta").block())
        await notebook.asked.wait()
        # As long as an answer usually waits.
        await asyncio.wait({block}, timeout=0.05)
        assert not block.done()
        notebook.warming.set()
        notebook.gate.set()
        assert "for pasta" in await block


@pytest.mark.parametrize("failure", [MemoryUnavailable("No disk."), ZeroDivisionError("by zero")])
async def test_what_cannot_be_prepared_ends_neither_the_start_nor_the_learning(
    tmp_path: Path, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = Notebook()
    notebook.warming = failure
    async with remembering(tmp_path, notebook) as memory:
        await memory.warmed()
        run = await teach(memory)
        await until_empty(memory)
    assert notebook.learned == [(ANN, run)]
    assert "The memories are not ready" in caplog.text


@pytest.mark.parametrize("failure", [MemoryUnavailable("No disk."), ZeroDivisionError("by zero")])
async def test_an_answer_goes_without_what_cannot_be_read(
    tmp_path: Path, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = Notebook()
    notebook.failures = [failure]
    async with remembering(tmp_path, notebook) as memory:
        assert await memory.recall(ANN, "for pasta").block() == ""
    assert "without memories" in caplog.text


async def test_a_recall_that_nobody_waits_for_ends_with_the_service(tmp_path: Path) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook) as memory:
        memory.recall(ANN, "for pasta")
        await notebook.asked.wait()
        memory.recall(ANN, "for wine").drop()
    assert notebook.is_closed
    assert memory._tasks == set()


async def test_nobody_waits_for_memories_that_cannot_be_there(tmp_path: Path) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook) as memory:
        memory.may_hold = lambda: False
        assert await memory.recall(ANN, "for pasta").block() == ""
        assert not notebook.asked.is_set()


async def test_what_waits_is_learned_in_its_order(tmp_path: Path) -> None:
    notebook = Notebook()
    async with remembering(tmp_path, notebook) as memory:
        runs = [await teach(memory, owner) for owner in (ANN, BEN, ANN)]
        await until_empty(memory)
    assert notebook.learned == list(zip((ANN, BEN, ANN), runs, strict=True))
    assert notebook.is_warm


@pytest.mark.parametrize("failure", [MemoryUnavailable("No disk."), ZeroDivisionError("by zero")])
async def test_memories_that_cannot_be_prepared_are_learned_all_the_same(
    tmp_path: Path, failure: Exception
) -> None:
    class Cold(Notebook):
        async def warm(self) -> None:
            raise failure

    notebook = Cold()
    async with remembering(tmp_path, notebook) as memory:
        await memory.warmed()
        run = await teach(memory)
        await until_empty(memory)
    assert notebook.learned == [(ANN, run)]


async def test_what_was_to_be_learned_survives_a_restart(tmp_path: Path) -> None:
    held, free = Notebook(), Notebook()
    held.gate.clear()
    async with remembering(tmp_path, held) as memory:
        run = await teach(memory)
        await held.asked.wait()
    async with remembering(tmp_path, free) as memory:
        await until_empty(memory)
    assert (held.learned, free.learned) == ([], [(ANN, run)])


async def test_what_cannot_be_learned_now_is_learned_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction_jobs, "PAUSE", -1.0)
    monkeypatch.setattr(learning, "PAUSE", 0.01)
    notebook = Notebook()
    notebook.failures = [MemoryUnavailable("No disk.")] * (ATTEMPTS - 1)
    async with remembering(tmp_path, notebook) as memory:
        run = await teach(memory)
        await until_empty(memory)
    assert notebook.learned == [(ANN, run)]


@pytest.mark.parametrize(
    "failures",
    [
        [MemoryUnavailable("No disk.")] * ATTEMPTS,
        [Unreadable("No form.")],
        [ZeroDivisionError("by zero")],
    ],
)
async def test_what_can_never_be_learned_is_dropped_and_said(
    tmp_path: Path,
    failures: list[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(extraction_jobs, "PAUSE", -1.0)
    monkeypatch.setattr(learning, "PAUSE", 0.01)
    notebook = Notebook()
    notebook.failures = failures
    async with remembering(tmp_path, notebook) as memory:
        lost = await teach(memory)
        await until_empty(memory)
        kept = await teach(memory)
        await until_empty(memory)
        assert memory.not_learned == 1
    assert notebook.learned == [(ANN, kept)]
    assert f"Nothing is learned from run {lost}" in caplog.text


async def test_what_finds_no_room_is_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook) as memory:
        first = await teach(memory)
        await notebook.asked.wait()
        later = [await teach(memory, most=2) for _ in range(3)]
        assert await memory.store.count_extraction_jobs() == 2
        notebook.gate.set()
        await until_empty(memory)
    assert [run for _, run in notebook.learned] == [first, *later[1:]]
    assert "1 exchanges are not learned from" in caplog.text


async def test_clearing_waits_for_what_is_being_learned_and_forgets_what_waits(
    tmp_path: Path,
) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook) as memory:
        first = await teach(memory)
        await notebook.asked.wait()
        await teach(memory)
        other = await teach(memory, BEN)
        clearing = asyncio.create_task(memory.clear(ANN))
        while await memory.store.count_extraction_jobs() > 1:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.005)
        assert notebook.cleared == []
        notebook.gate.set()
        assert await clearing == 3
        await until_empty(memory)
    assert notebook.learned == [(ANN, first), (BEN, other)]


async def test_who_lists_memories_waits_for_what_was_said_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = Notebook()
    notebook.gate.clear()
    async with remembering(tmp_path, notebook) as memory:
        run = await teach(memory)
        await memory.wait_until_learned(BEN)
        waiting = asyncio.create_task(memory.wait_until_learned(ANN))
        await notebook.asked.wait()
        assert not waiting.done()
        notebook.gate.set()
        await waiting
        assert notebook.learned == [(ANN, run)]
        notebook.gate.clear()
        await teach(memory)
        monkeypatch.setattr(learning, "LEARNING_WAIT", 0.01)
        await memory.wait_until_learned(ANN)
        assert len(notebook.learned) == 1


async def test_the_services_own_model_is_asked_for_what_to_remember() -> None:
    provider = ScriptedProvider(says('{"facts":', " []}"))
    form = OutputSchema("facts", {"type": "object"})
    answer = await asker(provider)([UserMessage("Hi.")], form)
    assert answer == '{"facts": []}'
    [request] = provider.requests
    assert (request.model, request.options.output) == ("scripted-1", form)
    broken = ScriptedProvider([TextPart("a"), UpstreamError("Refused.")])
    with pytest.raises(MemoryUnavailable, match="did not answer: Refused"):
        await asker(broken)([UserMessage("Hi.")], None)
    endless = ScriptedProvider(says(*["x" * 10_000] * 21))
    with pytest.raises(MemoryUnavailable, match="too long"):
        await asker(endless)([UserMessage("Hi.")], None)


TOO_HIGH = [
    {"message": "max_tokens is too large: 8000. This model supports at most 4096 of them."},
    {"message": "max_tokens: 8000 > 4096, which is the maximum allowed number of output tokens"},
    {"detail": [{"msg": "`max_new_tokens` must be <= 4097. Given: 8000"}]},
    "You requested 9000 tokens (1000 in the messages, 8000 in the completion); at most 8192.",
]


@pytest.mark.parametrize("refusal", TOO_HIGH, ids=str)
async def test_a_bound_that_is_too_high_for_a_model_is_lowered_until_it_takes_it(
    refusal: object,
) -> None:
    def reply(request: ModelRequest) -> list[Output]:
        if (request.options.max_tokens or 0) > 4096:
            return [UpstreamError("Refused.", refusal=refusal)]
        return says("[]")

    provider = ScriptedProvider(reply_to=reply)
    assert await asker(provider)([UserMessage("Hi.")], None) == "[]"
    bounds = [request.options.max_tokens for request in provider.requests]
    assert bounds == [ANSWER_TOKENS, ANSWER_TOKENS // 2]


async def test_a_model_that_takes_no_bound_is_given_up() -> None:
    refused = UpstreamError("Refused.", refusal=TOO_HIGH[0])
    provider = ScriptedProvider(reply_to=lambda _: [refused])
    with pytest.raises(MemoryUnavailable, match="Refused"):
        await asker(provider)([UserMessage("Hi.")], None)
    assert [request.options.max_tokens for request in provider.requests] == [
        *(8000, 4000, 2000, 1000, 500)
    ]


async def test_other_refusals_are_no_reason_to_ask_again() -> None:
    refused = UpstreamError("Refused.", refusal={"message": "max_tokens is not supported."})
    provider = ScriptedProvider(reply_to=lambda _: [refused])
    with pytest.raises(MemoryUnavailable, match="Refused"):
        await asker(provider)([UserMessage("Hi.")], None)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_model_that_answers_nothing_says_why(reason: Any) -> None:
    provider = ScriptedProvider([EndPart(reason)])
    with pytest.raises(Unreadable, match=reason):
        await asker(provider)([UserMessage("Hi.")], None)


async def test_why_a_model_did_not_answer_is_told_without_what_was_said() -> None:
    failure = UpstreamError("Rejected: 'xylophone' makes no sense in a prompt of 9000 tokens.")
    ask = asker(ScriptedProvider([failure]))
    with pytest.raises(MemoryUnavailable) as caught:
        await ask([SystemMessage("Read it."), UserMessage("user: xylophone")], None)
    assert caught.value.message == (
        "The model did not answer: Rejected: '[…]' makes no sense in a prompt of 9000 tokens."
    )
