"""A mistake of the service's own in one run, or beside all runs, is no matter of the others."""

from pathlib import Path
from typing import Any

import pytest

from errors import ParleyError, Unavailable
from events import RunError
from runs.queue import LocalTurn
from storage import StoredRun
from tests.agent.support import until
from tests.runs.support import CALLER, Paused, Registry, ended, opened, started
from tests.runs.test_recovering import leave_behind

MISTAKE = ZeroDivisionError("a mistake of ours")
FULL = Unavailable("There is no memory left for another log.", retry_after=1)


class Broken:
    """Stands for a method that fails."""

    def __init__(self, failure: Exception) -> None:
        self.asked = 0
        self._failure = failure

    async def __call__(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise self._failure


async def refused(registry: Registry, key: str, **fields: Any) -> ParleyError:
    with pytest.raises(ParleyError) as caught:
        await started(registry, key, **fields)
    return caught.value


async def test_a_run_that_cannot_join_a_queue_is_refused_and_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        other = await started(registry)
        gate = await paused.reached(1)
        with monkeypatch.context() as patch:
            patch.setattr(registry.inner._locks, "join", Broken(MISTAKE))
            assert (await refused(registry, "key")).code == "internal_error"
        index = registry.inner._index
        assert (len(index), index.live_bytes) == (1, index.all_live()[0].size)
        assert index.of_key(CALLER, "key") is None
        gate.open()
        await ended(registry, other)


@pytest.mark.parametrize(
    ("owner", "name"), [("queue", "leave"), ("driver", "_finish")], ids=["queue", "driver"]
)
async def test_a_run_that_cannot_be_left_in_order_ends_no_other_one(
    owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        runs, gates = [], []
        for number, place in enumerate("ab", 1):
            runs.append(await started(registry, conversation_id=place))
            gates.append(await paused.reached(number))  # its own, not the other's
        with monkeypatch.context() as patch:
            broken = LocalTurn if owner == "queue" else registry.inner._runner._driver
            patch.setattr(broken, name, Broken(MISTAKE))
            gates[0].open()
            await until(lambda: registry.active_runs == 1)
        assert registry.inner._index.live_bytes == registry.inner._index.all_live()[0].size
        gates[1].open()
        await ended(registry, runs[1])
        assert runs[1].status == "completed"


async def test_a_mistake_in_what_is_done_now_and_then_ends_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    paused = Paused()
    async with opened(paused.provider) as registry:
        run = await started(registry)
        gate = await paused.reached(1)
        broken = Broken(MISTAKE)
        with monkeypatch.context() as patch:
            patch.setattr(registry.store, "expire", broken)
            await until(lambda: broken.asked >= 2)
        gate.open()
        await ended(registry, run)


@pytest.mark.parametrize(
    ("failure", "code"), [(FULL, "unavailable"), (MISTAKE, "internal_error")], ids=["full", "bug"]
)
async def test_a_run_whose_log_cannot_begin_is_refused_and_does_not_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: str
) -> None:
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        hub = registry.inner._hub
        for owner, name in ((hub, "create"), (registry.inner._observers, "start")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, Broken(failure))
                assert (await refused(registry, name, conversation_id=name)).code == code
            assert not registry.inner._index.all_live()
            assert not hub._logs  # type: ignore[attr-defined]
            stored = await started(registry, name, conversation_id=name)
            assert isinstance(stored.terminal, RunError)
            assert stored.terminal.code == code
    async with opened(path=path) as registry:
        assert registry.active_runs == 0


async def test_what_is_claimed_as_the_service_stops_is_left_to_another(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    left = await leave_behind(path)
    async with opened(path=path) as registry:
        runner = registry.inner._runner
        await registry.cancel(left.id)
        await until(lambda: registry.active_runs == 0)
        sound = registry.store.claim

        async def claim() -> list[StoredRun]:
            await sound()
            registry.drain()
            registry.inner.stop_all()
            return [left]

        registry.store.claim = claim  # type: ignore[method-assign]
        await runner.recover()
        assert registry.active_runs == 0
