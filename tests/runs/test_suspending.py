"""A run that outlasts the service's stop goes on when the service is back."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from errors import Unavailable
from events import (
    TERMINAL,
    ChatComplete,
    ReaderEvent,
    Reset,
    RunError,
    Suspended,
    ToolCallError,
)
from hub import cursor
from messages import AssistantMessage, ToolMessage, UserMessage
from runs.replay import MAX_EPOCHS
from runs.request import RunRequest
from storage import Begin, StorageUnavailable
from storage.store import Store
from tests.agent.support import Held, check_history, until
from tests.runs.support import (
    CALLER,
    Handle,
    Paused,
    Registry,
    Troubled,
    ask,
    ended,
    everything,
    history,
    opened,
    started,
)
from tests.scripted import DEADLINE, Gate, ScriptedProvider, asks, says, types
from tests.storage.support import a_run
from tools.tool import idempotent


async def told(registry: Registry, run: Handle) -> list[ReaderEvent]:
    """Read the log of a suspended run, and check that it says nothing of an end."""
    reader = await registry.read(run.id)
    got: list[ReaderEvent] = []
    async with asyncio.timeout(DEADLINE):
        while not reader.ended:
            got += await reader.read()
    *said, last = got
    assert not [event for event in said if isinstance(event, (*TERMINAL, Suspended))]
    assert last == Suspended(run_id=run.id, seq=reader.seq)
    return said


async def left(registry: Registry, run: Handle) -> None:
    """Wait until nobody works on a run here."""
    await until(lambda: run.live is None)


async def test_a_run_under_way_goes_on_after_the_stop_and_has_one_end(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        run = await started(registry, "key", message="Tell me.", conversation_id="c")
        await paused.reached(1)
        reader = await registry.read(run.id)
        assert types(await reader.read()) == ["chat_start", "chat_chunk"]
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
    assert await waiting == [Suspended(run_id=run.id, seq=2)]
    assert reader.ended
    assert (run.terminal, run.status, run.live) == (None, "running", None)
    assert paused.provider.open_streams == 0
    go = Gate()
    async with opened(ScriptedProvider([go, *says("All of it.")]), path=path) as registry:
        again = await started(registry, "key", message="Tell me.", conversation_id="c")
        await go.reached()
        assert (again.id, again.status, again.stored.epoch) == (run.id, "running", 2)
        go.open()
        await ended(registry, again)
        assert isinstance(again.terminal, ChatComplete)
        reset, *events = await everything(registry, again, cursor(run.id, 1, 2))
        assert isinstance(reset, Reset)
        assert types(events) == ["chat_start", "chat_chunk", "chat_complete"]
        said = [UserMessage("Tell me."), AssistantMessage("All of it.")]
        assert await history(registry, again) == said


async def test_messages_that_wait_go_on_in_their_order(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        runs = [await started(registry, conversation_id="c", message=text) for text in "xyz"]
        await paused.reached(1)
    assert [(run.terminal, run.status) for run in runs] == [
        (None, "running"),
        (None, "queued"),
        (None, "queued"),
    ]
    async with opened(path=path) as registry:
        assert registry.active_runs == 3
        again = [await registry.run(run.id) for run in runs]
        await ended(registry, *again)
        said = [message.content for message in await history(registry, runs[0])]
        assert said == ["x", "You said: x", "y", "You said: y", "z", "You said: z"]


@pytest.mark.parametrize("harmless", [True, False])
async def test_a_call_under_way_ends_soon_and_is_repeated_only_where_that_does_no_harm(
    tmp_path: Path, harmless: bool
) -> None:
    path, held, called = tmp_path / "p.db", Held(), []

    def act() -> str:
        """Act."""
        called.append(1)
        return held.held() if len(called) == 1 else "again"

    tools = [idempotent(act) if harmless else act]
    provider = ScriptedProvider(asks(("act", {}), text="Well: "))
    async with opened(provider, tools=tools, path=path) as registry:
        run = await started(registry, conversation_id="c")
        await until(held.entered.is_set)
        begin = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begin < 3
    held.released.set()
    replies = [asks(("act", {})), says("Done.")] if harmless else [says("Done.")]
    async with opened(ScriptedProvider(*replies), tools=tools, path=path) as registry:
        again = await registry.run(run.id)
        await ended(registry, again)
        assert isinstance(again.terminal, ChatComplete)
        said = await history(registry, again)
        check_history(said)
        [result] = [message for message in said if isinstance(message, ToolMessage)]
        events = await everything(registry, again)
        codes = [event.tool_call.code for event in events if isinstance(event, ToolCallError)]
    assert (len(called), codes) == ((2, []) if harmless else (1, ["interrupted"]))
    assert ("not known" in result.content) != harmless


async def test_a_run_that_was_cancelled_before_or_meanwhile_ends(tmp_path: Path) -> None:
    held, path = Held(), tmp_path / "p.db"
    provider = ScriptedProvider(reply_to=lambda _: asks(("held", {}), text="A"))
    async with opened(provider, tools=[held.held], path=path) as registry:
        runs = [await started(registry, conversation_id=name) for name in "abc"]
        await until(lambda: all(run.state for run in runs))
        await until(lambda: all(run.state and run.state.calls for run in runs))
        before, meanwhile, never = runs
        await registry.cancel(before.id)
        registry.stop_all()
        await registry.cancel(meanwhile.id)
        for run in runs:
            await left(registry, run)
        for run in (before, meanwhile):
            assert isinstance(run.terminal, ChatComplete)
            assert run.terminal.finish_reason == "cancelled"
            check_history(await history(registry, run))
        assert "tool_call_error" in types(await told(registry, never))
    held.released.set()
    async with opened(path=path) as registry:
        assert registry.active_runs == 1
        assert (await registry.run(before.id)).status == "cancelled"


async def test_a_message_that_was_cancelled_while_it_waited_is_taken_back(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        first = await started(registry, conversation_id="c", message="one")
        second = await started(registry, conversation_id="c", message="two")
        await paused.reached(1)
        registry.stop_all()
        await registry.cancel(second.id)
    assert (first.status, second.status) == ("running", "cancelled")
    async with opened(path=path) as registry:
        await ended(registry, await registry.run(first.id))
        said = [message.content for message in await history(registry, first)]
        assert said == ["one", "You said: one"]


async def test_a_run_of_which_nothing_stays_ends_with_the_service(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        said = (UserMessage("Hi."),)
        asked = [RunRequest(history=said, is_kept=False), RunRequest(messages=said)]
        asked = [msgspec.structs.replace(each, is_whole=True) for each in asked]
        passing, kept = [await registry.start(request) for request in asked]
        await paused.reached(2)
        registry.stop_all()
        await ended(registry, passing)
        await left(registry, kept)
        assert isinstance(passing.terminal, RunError)
        assert (passing.terminal.code, passing.terminal.retryable) == ("shutting_down", True)
        assert kept.terminal is None
    async with opened(path=path) as registry:
        assert (await registry.run(passing.id)).terminal == passing.terminal
        await ended(registry, await registry.run(kept.id))


async def test_a_run_that_is_at_its_end_as_the_service_stops_ends() -> None:
    async with opened() as registry:
        finish, entered, go = registry.store.finish, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> bool:
            entered.set()
            await go.wait()
            return await finish(*args)

        registry.store.finish = slow  # type: ignore[assignment, method-assign]
        run = await started(registry)
        async with asyncio.timeout(DEADLINE):
            await entered.wait()
        registry.stop_all()
        go.set()
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert run.terminal.finish_reason == "stop"


async def test_a_run_that_was_just_accepted_is_suspended_too(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        start = asyncio.create_task(registry.start(ask()))
        await asyncio.sleep(0)
        registry.stop_all()
        async with asyncio.timeout(DEADLINE):
            run = await start
        assert types(await told(registry, run)) == ["chat_start"]
    async with opened(path=path) as registry:
        await ended(registry, again := await registry.run(run.id))
        assert isinstance(again.terminal, ChatComplete)
        assert [each.content for each in await history(registry, run)] == ["Hi.", "You said: Hi."]


async def test_who_comes_to_a_suspended_run_is_told_what_it_had_said(tmp_path: Path) -> None:
    paused = Paused()
    async with opened(paused.provider, path=tmp_path / "p.db") as registry:
        run = await started(registry, "key", conversation_id="c")
        await paused.reached(1)
        registry.drain()
        registry.stop_all()
        await left(registry, run)
        assert types(await told(registry, run)) == ["chat_start", "chat_chunk"]
        assert (await started(registry, "key", conversation_id="c")).id == run.id
        assert registry.active_runs == 0
        with pytest.raises(Unavailable) as caught:
            await registry.cancel(run.id)
        assert caught.value.code == "run_elsewhere"


async def test_stops_do_not_count_as_interruptions(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        run = await started(registry, conversation_id="c")
        await paused.reached(1)
    for number in range(2, MAX_EPOCHS + 3):
        async with opened(paused.provider, path=path):
            await paused.reached(number)
    for _ in range(MAX_EPOCHS - 1):  # these do
        async with Store.open(f"sqlite:///{path}", instance="killed") as store:
            [stored] = await store.claim()
    assert stored.suspensions == MAX_EPOCHS + 2
    async with opened(paused.provider, path=path) as registry:
        (await paused.reached(MAX_EPOCHS + 3)).open()
        await ended(registry, again := await registry.run(run.id))
        assert isinstance(again.terminal, ChatComplete)


async def test_a_stop_does_not_need_the_storage(tmp_path: Path) -> None:
    path, paused = tmp_path / "p.db", Paused()
    async with opened(paused.provider, path=path) as registry:
        run = await started(registry, conversation_id="c")
        await paused.reached(1)
        trouble = Troubled(registry, "give_back", "finish", "save_turn")
    assert trouble.asked == 1
    async with opened(path=path) as registry:
        await ended(registry, again := await registry.run(run.id))
        assert isinstance(again.terminal, ChatComplete)


async def test_a_service_that_stops_takes_up_no_run_of_another(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    left_over = a_run()
    async with opened(path=path) as registry:
        registry.drain()
        async with Store.open(f"sqlite:///{path}", instance="other") as other:
            await other.accept(left_over, begin=Begin(messages=(UserMessage("Hi."),)))
        for draining, epoch in ((True, 1), (False, 2)):
            registry.inner._runner.draining = draining
            await registry.inner._runner._tidy()
            stored = await registry.store.run(left_over.owner, left_over.id)
            assert stored is not None
            assert stored.epoch == epoch


async def test_a_run_whose_end_could_not_be_stored_yet_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parley.db"
    async with opened(path=path) as registry:
        finish = registry.store.finish
        refused: list[Any] = []

        async def finish_later(*end: Any) -> bool:
            if not refused:
                refused.append(end)
                raise StorageUnavailable("The database is locked.")
            return await finish(*end)

        monkeypatch.setattr(registry.store, "finish", finish_later)
        run = await started(registry, conversation_id="c", message="Hi.")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
    async with opened(path=path) as registry:
        assert registry.active_runs == 0
        assert (await registry.run(run.id)).terminal == run.terminal


async def test_a_run_whose_end_could_not_be_stored_yet_is_not_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = []
    path = tmp_path / "parley.db"
    async with Store.open(f"sqlite:///{path}", instance="other") as other:
        async with opened(path=path) as registry:
            give_back = registry.store.give_back

            async def give_back_to_other() -> None:
                await give_back()
                claimed.extend(await other.claim())

            monkeypatch.setattr(registry.store, "give_back", give_back_to_other)
            trouble = Troubled(registry, "finish")
            run = await started(registry, conversation_id="c", message="Hi.")
            await ended(registry, run)
            assert isinstance(run.terminal, RunError)
            trouble.repair()
            assert registry.endings.has_waiting
        assert claimed == []
        stored = await other.run(CALLER, run.id)
        assert stored is not None
        assert (stored.epoch, stored.terminal) == (1, run.terminal)
