"""The registry's bounds, and what it remembers."""

import asyncio
import contextlib

import msgspec
import pytest

import hub.memory
from caller import Caller
from errors import (
    Conflict,
    Invalid,
    NotFound,
    ParleyError,
    Unavailable,
)
from events import ChatChunk, Reset
from hub import InvalidCursor, LogNotFound
from messages import ModelOptions, OutputSchema, TextPart, ToolSpec, UserMessage
from runs.request import RunRequest, decoded
from storage import Begin, StorageUnavailable
from tests.runs.support import (
    CALLER,
    FAULT,
    SUM,
    Handle,
    Paused,
    Registry,
    answered,
    ended,
    everything,
    opened,
    started,
)
from tests.scripted import DEADLINE, ScriptedProvider, says, types

# Bounds.


async def test_a_message_that_is_too_long_is_refused() -> None:
    async with opened(max_message_chars=5) as registry:
        assert await answered(registry, message="12345")
        with pytest.raises(Invalid) as caught:
            await started(registry, message="123456")
        assert [fault["field"] for fault in caught.value.errors] == ["message"]


async def test_no_more_runs_are_under_way_than_may() -> None:
    paused = Paused()
    async with opened(paused.provider, max_active_runs=2) as registry:
        runs = [await started(registry) for _ in range(2)]
        assert registry.active_runs == 2
        with pytest.raises(Unavailable):
            await started(registry)
        (await paused.reached(1)).open()
        await ended(registry, runs[0])
        runs.append(await started(registry))
        (await paused.reached(2)).open()
        (await paused.reached(3)).open()
        await ended(registry, *runs)
        assert registry.active_runs == 0


async def test_what_is_refused_leaves_nothing_behind() -> None:
    async with opened() as registry:
        for fields in ({"agent": "unknown"}, {"message": "x" * 2000}):
            with pytest.raises(ParleyError):
                await started(registry, **fields)
        assert registry.active_runs == 0
        assert await answered(registry, conversation_id="c") == "You said: Hi."


# What is remembered.


async def test_a_run_that_left_memory_is_found_in_storage() -> None:
    async with opened(max_runs=1) as registry:
        first = await started(registry, "key")
        await ended(registry, first)
        for _ in range(2):
            await ended(registry, await started(registry))
        found = await registry.run(first.id)
        assert found is not first
        assert found.terminal == first.terminal
        assert found.status == "completed"
        assert (await registry.cancel(first.id)).status == "completed"
        assert (await started(registry, "key")).id == first.id
        with pytest.raises(Conflict):
            await started(registry, "key", message="Another.")


async def until_forgotten(registry: Registry, run: Handle) -> None:
    with contextlib.suppress(NotFound):
        while await registry.run(run.id):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.001)


async def test_a_run_is_forgotten_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.01)
    async with opened(run_ttl=0.05) as registry:
        run = await started(registry)
        await ended(registry, run)

        async with asyncio.timeout(DEADLINE):
            await until_forgotten(registry, run)


async def test_a_run_tells_where_it_stands() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        first = await started(registry, conversation_id="c")
        second = await started(registry, conversation_id="c")
        gate = await paused.reached(1)
        assert (first.status, second.status) == ("running", "queued")
        assert second.stored.started_at is None
        gate.open()
        await ended(registry, first)
        (await paused.reached(2)).open()
        await ended(registry, second)
        info = second.stored
        assert info.status == "completed"
        assert info.started_at is not None
        assert info.finished_at is not None
        assert info.created_at <= info.started_at <= info.finished_at
        assert (info.agent, info.start.model, info.conversation_id) == ("chat", "scripted-1", "c")


class Clock:
    """A monotonic clock that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


async def test_a_log_that_expired_is_told_as_a_reset_and_the_state_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    async with opened(ScriptedProvider(SUM, says("It ", "is ", "3.")), log_ttl=60) as registry:
        run = await started(registry)
        whole = await everything(registry, run)
        last = whole[-1]
        assert not isinstance(last, Reset)
        clock.now += 61
        for after in (None, "0", "3", f"{run.id}:1:2"):
            got = await everything(registry, run, after)
            assert types(got) == [
                "reset",
                "chat_start",
                "chat_chunk",
                "tool_call_start",
                "tool_call_complete",
                "chat_chunk",
                "chat_complete",
            ]
            reset, start, *told, end = got
            assert reset == Reset(run_id=run.id, epoch=1, reason="log_expired")
            assert (start, end) == (whole[0], last)
            said = [piece.content for piece in told if isinstance(piece, ChatChunk)]
            assert said == ["Well: ", "It is 3."]
            numbers = [event.seq for event in told if not isinstance(event, Reset)]
            assert numbers == [2, 3, 4, 5]
            assert last.seq > 5
        assert await everything(registry, run, f"{run.id}:1:{last.seq}") == []
        for after in ("nonsense", "run_other:1:1", "-1"):
            with pytest.raises(InvalidCursor):
                await registry.read(run.id, after)


async def test_where_the_turns_of_a_run_are_gone_its_answer_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    async with opened(log_ttl=60) as registry:
        run = await started(registry)
        whole = await everything(registry, run)
        await registry.store.delete(Caller("open", "default"), run.start.conversation_id)
        clock.now += 61
        got = await everything(registry, run)
        assert types(got) == ["reset", "chat_start", "chat_chunk", "chat_complete"]
        assert isinstance(got[2], ChatChunk)
        assert (got[2].content, got[-1]) == ("You said: Hi.", whole[-1])


async def test_an_expired_log_of_a_run_that_failed_tells_what_it_said_and_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(hub.memory, "time", clock)
    async with opened(ScriptedProvider([TextPart("a"), FAULT]), log_ttl=60) as registry:
        run = await started(registry)
        whole = await everything(registry, run)
        clock.now += 61
        got = await everything(registry, run)
        assert types(got) == ["reset", "chat_start", "chat_chunk", "error"]
        assert [got[1], got[-1]] == [whole[0], whole[-1]]
        assert isinstance(got[2], ChatChunk)
        assert got[2].content == "a"


async def test_a_run_that_is_not_known_cannot_be_read() -> None:
    async with opened() as registry:
        with pytest.raises(NotFound):
            await registry.read("run_unknown")


async def test_a_run_under_way_in_another_process_can_be_read_later() -> None:
    async with opened() as registry:
        run = await started(registry)
        await ended(registry, run)
        other = msgspec.structs.replace(
            run.stored, id="run_other", key="k", status="running", terminal=None, finished_at=None
        )
        await registry.store.accept(other, begin=Begin())
        with pytest.raises(Unavailable) as caught:
            await registry.read("run_other")
        assert (caught.value.code, caught.value.retry_after) == ("run_elsewhere", 1)
        with pytest.raises(Unavailable, match="Another process"):
            await registry.cancel("run_other")


async def test_of_a_request_nothing_is_kept_behind_the_runs_end() -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        run = await started(registry)
        stored = await registry.store.run(CALLER, run.id)
        assert stored is not None
        assert "Hi." in stored.request
        assert run.live is not None
        assert run.live.request.text == "Hi."
        assert run.stored.request == ""  # once is enough
        (await paused.reached(1)).open()
        await ended(registry, run)
        stored = await registry.store.run(CALLER, run.id)
        assert stored is not None
        assert (run.stored.request, stored.request) == ("", "")


async def test_of_a_completion_is_kept_what_its_caller_wants_to_find_again() -> None:
    request = RunRequest(
        messages=(UserMessage("Hi." * 1000),),
        instructions=("Rhyme." * 1000,),
        tools=(ToolSpec("act", "Act." * 1000, {}),),
        model="big-1",
        is_whole=True,
        options=ModelOptions(output=OutputSchema("form", {"title": "x" * 1000})),
        echo={"metadata": {"a": 1}},
    )
    async with opened() as registry:
        async with asyncio.timeout(DEADLINE):
            run = await registry.start(request)
        await ended(registry, run)
        stored = await registry.store.run(CALLER, run.id)
        assert stored is not None
        assert stored.request == run.stored.request
        assert len(stored.request) < 300
        kept = decoded(stored.request)
        assert (kept.model, kept.echo) == ("big-1", request.echo)


async def test_what_begins_anew_takes_the_ended_runs_with_it() -> None:
    async with opened() as registry:
        gone = await started(registry, "key", conversation_id="c")
        other = await started(registry, conversation_id="other")
        await ended(registry, gone, other)
        again = await started(registry, conversation_id="c", message="No!", reset_history=True)
        await ended(registry, again)
        for run in (gone, other, again):
            if run is gone:
                with pytest.raises(NotFound):
                    await registry.read(run.id)
                with pytest.raises(NotFound):
                    await registry.run(run.id)
            else:
                assert await everything(registry, run)
        record = await registry.store.conversation(Caller("open", "default"), "c")
        assert record is not None
        assert record.title == "No!"
        assert (await started(registry, "key", conversation_id="c")).id != gone.id


async def test_of_runs_that_have_ended_are_kept_as_many_bytes_as_there_may_be() -> None:
    provider = ScriptedProvider(reply_to=lambda request: says("x" * 100_000))
    async with opened(provider, max_run_bytes=1_000_000) as registry:
        runs = [await started(registry, f"key{n}", conversation_id=f"c{n}") for n in range(10)]
        await ended(registry, *runs)
        index = registry.inner._index
        assert 300_000 < index.ended_bytes <= 500_000
        for number, run in enumerate(runs):
            assert (await registry.run(run.id)).terminal == run.terminal
            assert len(await everything(registry, run)) >= 3
            again = await started(registry, f"key{number}", conversation_id=f"c{number}")
            assert again.id == run.id
            with pytest.raises(Conflict):
                await started(registry, f"key{number}", message="Another.")
        await registry.delete(CALLER, "c0")
        with pytest.raises(LogNotFound):
            await registry.inner._hub.read(runs[0].id, None)
        with pytest.raises(NotFound):
            await registry.read(runs[0].id)


async def test_where_runs_under_way_fill_the_memory_no_other_one_begins() -> None:
    paused = Paused()
    message = "x" * 100_000
    async with opened(
        paused.provider, max_message_chars=200_000, max_run_bytes=1_000_000
    ) as registry:
        runs = [await started(registry, message=message) for _ in range(2)]
        with pytest.raises(Unavailable, match="memory") as caught:
            await started(registry, message=message)
        assert (caught.value.retryable, caught.value.retry_after) == (True, 1)
        small = await started(registry, message="Hi.")
        for number in range(1, 4):
            (await paused.reached(number)).open()
        await ended(registry, *runs, small)
        assert registry.inner._index.live_bytes == 0
        runs = [await started(registry, message=message)]
        (await paused.reached(4)).open()
        await ended(registry, *runs)


async def test_what_waits_to_be_stored_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = ScriptedProvider(reply_to=lambda request: says("x" * 200_000))
    async with opened(provider, max_run_bytes=1_000_000) as registry:
        store, endings, finish = registry.store, registry.endings, registry.store.finish

        async def fails(*args: object) -> bool:
            raise StorageUnavailable("Not now.")

        monkeypatch.setattr(store, "finish", fails)
        await ended(registry, await started(registry))
        assert 200_000 < endings.size < 500_000
        for _ in range(2):
            await ended(registry, await started(registry))
        with pytest.raises(Unavailable, match="memory"):
            await started(registry)
        monkeypatch.setattr(store, "finish", finish)
        await endings.store_waiting()
        assert endings.size == 0
        await ended(registry, await started(registry))
