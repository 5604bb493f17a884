"""What the tests of the registry share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from api.http.requests import of_message
from caller import Caller
from errors import UpstreamError
from events import TERMINAL, ChatComplete, ChatStart, ReaderEvent, Reset, Suspended, TerminalEvent
from hub import Reader
from hub.memory import MemoryHub
from loop.state import RunState
from memory import Memories
from memory.learning import LongTermMemory
from messages import EndPart, Message, ModelRequest, TextPart, UserMessage
from models import ChatRequest
from runs.observers import Observer
from runs.registry import AgentRegistry
from runs.request import RunRequest
from runs.run import Limits, Run
from storage import StorageUnavailable, StoredRun
from storage.store import Store
from tests.agent.support import add, check_calls, fail, hang, until
from tests.database import empty_database
from tests.scripted import DEADLINE, Gate, Script, ScriptedProvider, asks, says, types
from tools.tool import tool_from

CALLER = Caller("open", "default")
LIMITS = Limits(
    max_message_chars=1000,
    max_active_runs=50,
    max_queued_messages=3,
    max_agents=5,
    history_messages=20,
    history_tokens=10_000,
    run_timeout=60,
    run_ttl=600,
    max_runs=100,
    max_run_bytes=1 << 30,
    conversation_ttl=None,
    tool_workers=16,
    shutdown_grace=10,
)
TOOLS = (add, hang, fail)
FAULT = UpstreamError("The stream broke off.", code="upstream_truncated", retryable=True)
SUM = asks(("add", {"a": 1, "b": 2}), text="Well: ")


class Handle:
    """A run, as it is known at the moment."""

    def __init__(self, registry: AgentRegistry, stored: StoredRun) -> None:
        self._registry = registry
        self._last = stored
        self._run = registry._index.live(stored.id)

    @property
    def stored(self) -> StoredRun:
        return self._run.stored if self._run else self._last

    @property
    def live(self) -> Run | None:
        return self._registry._index.live(self._last.id)

    @property
    def state(self) -> RunState | None:
        return self.live.state if self.live else None

    @property
    def id(self) -> str:
        return self._last.id

    @property
    def start(self) -> ChatStart:
        return self._last.start

    @property
    def terminal(self) -> TerminalEvent | None:
        return self.stored.terminal

    @property
    def status(self) -> str:
        return self.stored.status

    @property
    def is_over(self) -> bool:
        return self.terminal is not None


class Registry:
    """A registry, asked by one caller."""

    def __init__(self, inner: AgentRegistry, caller: Caller = CALLER) -> None:
        self.inner = inner
        self.store = inner.store
        self.agents = inner.agents
        self.endings = inner._runner.endings
        self.caller = caller

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def as_user(self, user: str) -> "Registry":
        return Registry(self.inner, self.caller.named(user))

    async def start(self, request: RunRequest, key: str | None = None) -> Handle:
        return Handle(self.inner, await self.inner.start(self.caller, request, key))

    async def run(self, run_id: str) -> Handle:
        return Handle(self.inner, await self.inner.run(self.caller, run_id))

    async def cancel(self, run_id: str) -> Handle:
        return Handle(self.inner, await self.inner.cancel(self.caller, run_id))

    async def cancel_call(self, run_id: str, call_id: str) -> None:
        await self.inner.cancel_call(self.caller, run_id, call_id)

    async def read(self, run_id: str, after: str | None = None) -> Reader:
        return await self.inner.read(self.caller, run_id, after)

    async def active_run(self, conversation_id: str) -> StoredRun | None:
        return await self.inner.active_run(self.caller, conversation_id)


@asynccontextmanager
async def opened(
    provider: ScriptedProvider | None = None,
    *,
    tools: Iterable[Callable[..., Any]] = TOOLS,
    log_ttl: float = 600,
    log_max_events: int = 10_000,
    allowed_models: frozenset[str] = frozenset(),
    observers: Iterable[Observer] = (),
    path: Path | None = None,
    memories: Memories | None = None,
    **limits: Any,
) -> AsyncIterator[Registry]:
    """Open a registry; at `path` it finds what one before it left."""
    with TemporaryDirectory() as directory:
        file = path or Path(directory) / "parley.db"
        if path is None:
            await empty_database(file)
        async with (
            Store.open(f"sqlite:///{file}", instance="test") as store,
            _remembering(memories, store) as memory,
            AgentRegistry(
                provider=provider or ScriptedProvider(reply_to=echo),
                hub=MemoryHub(ttl=log_ttl, max_events=log_max_events, max_bytes=1 << 30),
                store=store,
                tools=map(tool_from, tools),
                limits=LIMITS._replace(**limits),
                instructions="Be brief.",
                allowed_models=allowed_models,
                observers=observers,
                memory=memory,
            ) as registry,
        ):
            yield Registry(registry)


@asynccontextmanager
async def _remembering(
    memories: Memories | None, store: Store
) -> AsyncIterator[LongTermMemory | None]:
    if memories is None:
        yield None
        return
    async with LongTermMemory(memories, store, timeout=DEADLINE, limit=5) as memory:
        yield memory


def echo(request: ModelRequest) -> Script:
    """Answer with the last question."""
    questions = [message for message in request.messages if isinstance(message, UserMessage)]
    return says("You said: ", questions[-1].content)


class Paused:
    """A model whose replies each stop in the middle, at a gate of their own."""

    def __init__(self) -> None:
        self.gates: list[Gate] = []
        self.provider = ScriptedProvider(reply_to=self._reply)

    def _reply(self, request: ModelRequest) -> Script:
        self.gates.append(Gate())
        return [TextPart("a"), self.gates[-1], TextPart("b"), EndPart("stop")]

    async def reached(self, count: int) -> Gate:
        """Wait until the `count`-th reply is in its middle."""
        await until(lambda: len(self.gates) >= count)
        await self.gates[count - 1].reached()
        return self.gates[count - 1]


class Troubled:
    """Makes methods of a store fail until it is repaired."""

    def __init__(self, registry: Registry, *names: str) -> None:
        self.store = registry.store
        self.sound = {name: getattr(self.store, name) for name in names}
        self.asked = 0
        for name in names:
            setattr(self.store, name, self._fail)

    async def _fail(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        raise StorageUnavailable("Full.", retry_after=1)

    def repair(self) -> None:
        for name in self.sound:
            delattr(self.store, name)


def ask(message: str = "Hi.", **fields: Any) -> RunRequest:
    return of_message(ChatRequest(message=message, **fields))


async def everything(
    registry: Registry, run: Handle, after: str | None = None
) -> list[ReaderEvent]:
    """Read a run's events to the end."""
    reader = await registry.read(run.id, after)
    got: list[ReaderEvent] = []
    async with asyncio.timeout(DEADLINE):
        while not reader.ended:
            got += await reader.read()
    return got


async def started(registry: Registry, key: str | None = None, **fields: Any) -> Handle:
    async with asyncio.timeout(DEADLINE):
        return await registry.start(ask(**fields), key)


def is_over(run: Handle) -> bool:
    return run.is_over


async def history(registry: Registry, run: Handle) -> list[Message]:
    """Return what was said in the conversation of a run."""
    return await registry.store.context(CALLER, run.start.conversation_id, 1000)


async def ended(registry: Registry, *runs: Handle) -> None:
    """Wait for the end of runs and check what holds for each."""
    for run in runs:
        check_log(run, await everything(registry, run))
        await until(partial(is_over, run))


async def answered(registry: Registry, **fields: Any) -> str:
    """Chat, and return the answer."""
    run = await started(registry, **fields)
    await ended(registry, run)
    assert isinstance(run.terminal, ChatComplete)
    return run.terminal.final_response


def check_log(run: Handle, events: list[ReaderEvent]) -> None:
    assert types(events)[0] == "chat_start"
    assert [event for event in events if isinstance(event, TERMINAL)] == events[-1:]
    told = [event for event in events if not isinstance(event, Reset | Suspended)]
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    assert {event.run_id for event in told} == {run.id}
    check_calls(told)
