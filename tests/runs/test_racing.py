"""What happens at the same moment: requests for one conversation, and runs taken over and back."""

import asyncio
from pathlib import Path

from events import RunError
from storage.store import Store
from tests.agent.support import until
from tests.runs.support import (
    Paused,
    everything,
    opened,
    started,
)
from tests.scripted import DEADLINE


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
