"""Runs that cannot go on, and ends that cannot be stored: each concerns its own run only."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import ChatComplete, RunError
from storage import StorageUnavailable, StoredRun
from storage.store import Store
from tests.agent.support import until
from tests.runs.support import CALLER, Registry, answered, ended, everything, opened, started
from tests.runs.test_recovering import leave_behind, recovered

MISTAKE = ZeroDivisionError("a mistake of ours")
BUSY = StorageUnavailable("The database is too busy.", retry_after=1)

STRANGE = {
    "no JSON": "{",
    "a list": "[]",
    "a chat": '{"message": "Hi.", "if_busy": "wait"}',
    "an edit": '{"message_id": "msg_1"}',
    "a completion": '{"completion": {"messages": 3}}',
}


class Failing:
    """A store's `finish` that fails, a failure for each of the first calls."""

    def __init__(self, store: Store, *failures: Exception | None) -> None:
        self._finish = store.finish
        self._failures = [*failures]
        store.finish = self  # type: ignore[assignment, method-assign]

    async def __call__(self, *args: Any) -> bool:
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        return await self._finish(*args)


async def leave_also(path: Path, left: StoredRun, **fields: Any) -> StoredRun:
    """Store another run as a service that was killed leaves it."""
    run = msgspec.structs.replace(left, **{"id": "run_odd", "conversation_id": "odd"} | fields)
    async with Store.open(f"sqlite:///{path}", instance="killed") as store:
        await store.accept(run, begin=None)
    return run


async def end_of(registry: Registry, run_id: str) -> Any:
    stored = await registry.store.run(CALLER, run_id)
    assert stored is not None
    return stored.terminal


@pytest.mark.parametrize("request_", STRANGE.values(), ids=STRANGE)
async def test_a_run_of_another_version_ends_in_an_error_and_the_others_go_on(
    tmp_path: Path, request_: str
) -> None:
    path = tmp_path / "p.db"
    left = await leave_behind(path)
    odd = await leave_also(path, left, request=request_)
    async with opened(path=path) as registry:
        run = await registry.run(odd.id)
        assert isinstance(run.terminal, RunError)
        assert (run.terminal.code, run.terminal.retryable) == ("interrupted", False)
        assert run.stored.request == ""
        assert isinstance((await everything(registry, run))[-1], RunError)
        assert isinstance((await recovered(registry, left)).terminal, ChatComplete)


async def test_what_is_claimed_goes_on_though_the_database_does_not_take_the_end_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.runner.RETRY", 0.005)
    path = tmp_path / "p.db"
    left = await leave_behind(path)
    gone = await leave_also(path, left, agent="gone")
    last = await leave_also(path, left, id="run_last", conversation_id="last")
    sound = Store.finish
    failures = [BUSY, BUSY]

    async def finish(store: Store, run: StoredRun, *args: Any) -> bool:
        if run.id == gone.id and failures:
            raise failures.pop()
        return await sound(store, run, *args)

    monkeypatch.setattr(Store, "finish", finish)
    async with opened(path=path) as registry:
        for run in (left, last):
            assert isinstance((await recovered(registry, run)).terminal, ChatComplete)
        await until(lambda: not registry.endings.has_waiting)
        end = await end_of(registry, gone.id)
        assert isinstance(end, RunError)
        assert end.code == "agent_not_found"
    assert failures == []


@pytest.mark.parametrize("failures", [[MISTAKE], [MISTAKE, BUSY]], ids=["now", "later"])
async def test_a_run_whose_answer_is_not_stored_by_a_mistake_has_ended_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: list[Exception]
) -> None:
    monkeypatch.setattr("runs.runner.HOUSEKEEPING", 0.005)
    path = tmp_path / "p.db"
    async with opened(path=path) as registry:
        Failing(registry.store, *failures)
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert run.terminal.code == "internal_error"
        await until(lambda: not registry.endings.has_waiting)
        assert await end_of(registry, run.id) == run.terminal
    async with opened(path=path) as registry:
        assert registry.active_runs == 0
        assert (await registry.run(run.id)).terminal == run.terminal


async def test_a_run_whose_end_cannot_be_stored_at_all_ends_for_its_readers() -> None:
    async with opened() as registry:
        Failing(registry.store, MISTAKE, MISTAKE)
        run = await started(registry, conversation_id="c")
        await ended(registry, run)
        assert isinstance(run.terminal, RunError)
        assert not registry.endings.has_waiting
        assert await answered(registry, conversation_id="d") == "You said: Hi."


async def test_an_end_that_cannot_be_stored_later_either_keeps_no_other_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as registry:
        Failing(registry.store, BUSY, BUSY, MISTAKE)
        runs = [await started(registry, conversation_id=name) for name in "ab"]
        await ended(registry, *runs)
        first, second = (ending for ending, _ in registry.endings._waiting)
        await registry.endings.store_waiting()
        assert await end_of(registry, first.run.id) is None
        assert await end_of(registry, second.run.id) == second.terminal
        assert not registry.endings.has_waiting
