"""What belongs to another tenant is not there, whatever is asked of it."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from caller import Caller
from errors import NotFound
from events import TERMINAL, ReaderEvent
from models import AgentConfig
from runs.registry import AgentRegistry
from storage import StoredRun
from tests.runs.support import CALLER, Handle, Paused, Registry, answered, ended, opened, started

STRANGER = Caller("other", "default")

QUESTIONS: dict[str, Callable[[AgentRegistry, str], Awaitable[object]]] = {
    "run": lambda registry, run_id: registry.run(STRANGER, run_id),
    "read": lambda registry, run_id: registry.read(STRANGER, run_id),
    "before": lambda registry, run_id: registry.before(STRANGER, run_id, 1),
    "cancel": lambda registry, run_id: registry.cancel(STRANGER, run_id),
    "cancel_call": lambda registry, run_id: registry.cancel_call(STRANGER, run_id, "c0"),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_run_of_another_tenant_is_not_there(question: str) -> None:
    paused = Paused()
    async with opened(paused.provider) as registry:
        run = await started(registry, conversation_id="c")
        gate = await paused.reached(1)
        for _ in ("under way", "ended"):
            with pytest.raises(NotFound) as caught:
                await QUESTIONS[question](registry.inner, run.id)
            assert caught.value.code == "run_not_found"
            gate.open()
            await ended(registry, run)
        assert run.status == "completed"


async def test_tenants_and_users_share_no_conversation_key_or_agent() -> None:
    async with opened() as registry:
        mine = await started(registry, "key", conversation_id="c", message="Mine.")
        await ended(registry, mine)
        for caller in (STRANGER, CALLER.named("ben")):
            other = Registry(registry.inner, caller)
            assert (
                await answered(other, conversation_id="c", message="Other.") == "You said: Other."
            )
            assert (await started(other, "key", message="Third.")).id != mine.id
            assert len(await registry.store.context(caller, "c", 9)) == 2
        await registry.agents.put(CALLER, "helper", AgentConfig())
        assert registry.agents.find(CALLER.named("ben"), "helper").name == "helper"
        with pytest.raises(NotFound):
            registry.agents.find(STRANGER, "helper")


class Watching:
    """Keeps what it is shown of each run."""

    def __init__(self) -> None:
        self.seen: list[tuple[Caller, ReaderEvent]] = []

    def observe(self, run: StoredRun, events: Sequence[ReaderEvent]) -> None:
        self.seen += [(run.owner, event) for event in events]


async def test_an_observer_is_shown_every_run_and_whose_it_is() -> None:
    watching = Watching()
    runs: list[Handle] = []
    async with opened(observers=[watching]) as registry:
        for caller in (CALLER, STRANGER):
            runs.append(await started(Registry(registry.inner, caller)))
            await ended(Registry(registry.inner, caller), runs[-1])
    ends = [(owner, event) for owner, event in watching.seen if isinstance(event, TERMINAL)]
    assert ends == [(run.stored.owner, run.terminal) for run in runs]
    assert [event.seq for owner, event in watching.seen if owner == CALLER][:2] == [1, 2]
