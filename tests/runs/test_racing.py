"""What happens at the same moment: requests for one conversation, and runs taken over and back."""

import asyncio
from pathlib import Path

from errors import Conflict
from events import RunError
from storage.store import Store
from tests.agent.support import until
from tests.runs.support import (
    CALLER,
    Handle,
    Paused,
    ask,
    ended,
    everything,
    opened,
    started,
)
from tests.scripted import DEADLINE


async def test_what_a_busy_conversation_rejects_takes_no_room_of_others() -> None:
    paused = Paused()
    async with opened(paused.provider, max_active_runs=3) as registry:
        first = await started(registry, conversation_id="c")
        wishes = [started(registry, conversation_id="c", if_busy="reject") for _ in range(20)]
        wishes.append(started(registry, conversation_id="other"))
        *rejected, other = await asyncio.gather(*wishes, return_exceptions=True)
        assert {type(each) for each in rejected} == {Conflict}
        assert isinstance(other, Handle)
        (await paused.reached(1)).open()
        (await paused.reached(2)).open()
        await ended(registry, first, other)


async def test_a_run_asked_for_before_its_conversation_is_deleted_goes_with_it() -> None:
    async with opened() as registry, asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(registry.inner.start(CALLER, ask(conversation_id="c")))
        deleting = tasks.create_task(registry.inner.delete(CALLER, "c"))
        assert await deleting
        run_id = (await starting).id
        assert registry.inner._index.find(run_id) is None
        assert await registry.store.conversation(CALLER, "c") is None


async def test_a_run_that_was_taken_over_and_given_back_meanwhile_goes_on(tmp_path: Path) -> None:
    paused, path = Paused(), tmp_path / "parley.db"
    async with opened(paused.provider, path=path) as registry:
        before = await started(registry, conversation_id="c")
        gate = await paused.reached(1)
        async with Store.open(f"sqlite:///{path}", instance="other") as other:
            assert [run.id for run in await other.claim()] == [before.id]
            await other.give_back()
        stale = before.live
        assert stale is not None
        await registry.inner._runner.recover()
        gate.open()
        (await paused.reached(2)).open()
        events = await everything(registry, before)
        assert not isinstance(events[-1], RunError)
        assert isinstance(stale.stored.terminal, RunError)
        await until(lambda: registry.active_runs == 0)
        async with asyncio.timeout(DEADLINE):
            again = await registry.run(before.id)
            assert again.status == "completed"
