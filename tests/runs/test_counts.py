"""What is counted of runs is what is held of them, however they come and go."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent import StreamingAgent
from events import ChatComplete, ChatStart, RunError, stamped
from hub.memory import MemoryHub
from messages import AssistantMessage, ToolCall, UserMessage
from runs.endings import Ending, Endings
from runs.index import RunIndex
from runs.request import RunRequest, encoded
from runs.run import Run
from storage import StorageUnavailable, StoredRun
from storage.store import Store
from tests.agent.support import until
from tests.hub.test_memory import make
from tests.logs import unhurried
from tests.runs.support import (
    CALLER,
    Paused,
    Registry,
    Troubled,
    ended,
    opened,
    started,
)

RUNS = ("a", "b", "c")
MAX_BYTES = 40_000
NO_AGENT: StreamingAgent = None  # type: ignore[assignment]


def run_of(run_id: str, text: str) -> Run:
    request = RunRequest(messages=(UserMessage(text),), is_whole=True, echo={"text": text})
    start = ChatStart(conversation_id="c", agent="chat", model="m", message_id="msg_1")
    stored = StoredRun(
        id=run_id,
        owner=CALLER,
        conversation_id="c",
        agent="chat",
        request=encoded(request),
        start=stamped(start, run_id, 1),
        status="queued",
        created_at=datetime.now(UTC),
        key=f"key of {run_id}",
    )
    return Run(stored, request, NO_AGENT, size=len(text))


class Known:
    """An index, and the runs under way that it was given, those included that were replaced."""

    def __init__(self) -> None:
        self.index = RunIndex(make(), 600, 2, MAX_BYTES)
        self._runs: list[Run] = []

    async def add(self, run_id: str, text: str) -> None:
        self.index.forget(run_id)
        self._runs.append(run_of(run_id, text))
        self.index.add(self._runs[-1])

    async def end(self, _: str, text: str) -> None:
        if self._runs:
            run = self._runs.pop(len(text) % len(self._runs))
            run.ends(ChatComplete(final_response=text, finish_reason="stop", usage=None))
            self.index.end(run)

    async def suspend(self, _: str, text: str) -> None:
        if self._runs:
            self.index.end(self._runs.pop(len(text) % len(self._runs)))

    async def forget(self, run_id: str, _: str) -> None:
        self.index.forget(run_id)

    async def forget_conversation(self, _run_id: str, _text: str) -> None:
        await self.index.forget_conversation(CALLER, "c")

    async def tell(self, run_id: str, _: str) -> None:
        """Encode a run, which may make the objects larger that it is made of."""
        msgspec.json.encode(self.index.find(run_id))

    def check(self) -> None:
        index = self.index
        assert index.live_bytes == sum(run.size for run in index.all_live())
        assert index.ended_bytes == sum(known.size for known in index._known.values())
        assert index.ended_bytes == 0 or index.live_bytes + index.ended_bytes <= MAX_BYTES
        assert len(index._ended) <= 2
        assert index._known.keys() <= index._ended.keys()
        assert {*index._keys.values()} == {*index._live, *index._known}

    async def end_all(self) -> None:
        while self._runs:
            await self.end("", "")
        for run_id in RUNS:
            self.index.forget(run_id)


Step = Callable[[Known, str, str], Coroutine[Any, Any, None]]
STEPS: tuple[Step, ...] = (
    Known.add,
    Known.add,
    Known.end,
    Known.end,
    Known.suspend,
    Known.forget,
    Known.forget_conversation,
    Known.tell,
)
TEXTS = st.builds(str.__mul__, st.sampled_from("xéя語😀"), st.integers(0, 4000))


@unhurried
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(RUNS), TEXTS), max_size=40))
def test_the_bytes_that_are_counted_are_those_of_the_runs_that_are_known(
    steps: list[tuple[Step, str, str]],
) -> None:
    async def check() -> None:
        known = Known()
        for step, run_id, text in steps:
            await step(known, run_id, text)
            known.check()
        await known.end_all()
        known.check()
        assert (known.index.live_bytes, known.index.ended_bytes) == (0, 0)

    asyncio.run(check())


class Recovering(Store):
    """A store that cannot store one end, and then can; it encodes what it gets either way."""

    def __init__(self) -> None:
        self.is_full = True

    async def finish(self, *args: Any, **_: Any) -> bool:
        msgspec.json.encode(args)
        if self.is_full:
            raise StorageUnavailable("Full.")
        return True


async def test_ends_that_waited_are_counted_no_more_once_they_are_stored() -> None:
    store = Recovering()
    endings = Endings(store, None)
    failed = RunError(code="storage_unavailable", message="Full.", retryable=True)
    for text in ("я" * 1000, "x"):
        call = ToolCall("c1", "act", text)
        said = (AssistantMessage(text, (call,)),)
        size = endings.size
        endings.store_later(Ending(run_of("a", text).stored, said, stamped(failed, "a", 2)))
        assert endings.size - size > 2 * len(text)
    store.is_full = False
    await endings.store_waiting()
    assert (endings.size, endings.has_waiting) == (0, False)


async def test_however_runs_end_nothing_of_them_is_counted_after_all_is_over() -> None:
    paused = Paused()
    async with opened(paused.provider, max_runs=3) as registry:
        for number, how in enumerate((complete, cancel, fail, interrupt, complete, cancel)):
            await how(registry, paused, f"c{number}")
        await until(lambda: registry.active_runs == 0)
        index, hub = registry.inner._index, registry.inner._hub
        assert isinstance(hub, MemoryHub)
        assert (index.live_bytes, registry.endings.size, len(index._ended)) == (0, 0, 3)
        assert hub.used == hub._finished_bytes == sum(log.size for log in hub._logs.values())
        for number in range(6):
            await registry.inner.delete(CALLER, f"c{number}")
        assert (index.ended_bytes, index._ended, index._known, index._keys) == (0, {}, {}, {})
        assert not registry.inner._locks._queues


async def complete(registry: Registry, paused: Paused, place: str) -> None:
    count = len(paused.gates) + 1
    run = await started(registry, "key of " + place, conversation_id=place, message="Да." * 100)
    (await paused.reached(count)).open()
    await ended(registry, run)


async def cancel(registry: Registry, paused: Paused, place: str) -> None:
    run = await started(registry, conversation_id=place)
    waiting = await started(registry, conversation_id=place)
    await registry.cancel(waiting.id)
    await registry.cancel(run.id)
    await ended(registry, run, waiting)


async def interrupt(registry: Registry, paused: Paused, place: str) -> None:
    count = len(paused.gates) + 1
    run = await started(registry, conversation_id=place)
    await paused.reached(count)
    other = await started(registry, conversation_id=place, if_busy="interrupt")
    await registry.cancel(other.id)
    await ended(registry, run, other)


async def fail(registry: Registry, paused: Paused, place: str) -> None:
    """End a run whose end cannot be stored at once."""
    count = len(paused.gates) + 1
    run = await started(registry, conversation_id=place)
    gate = await paused.reached(count)
    trouble = Troubled(registry, "finish")
    gate.open()
    await ended(registry, run)
    assert registry.endings.size > 0
    trouble.repair()
    await registry.endings.store_waiting()
