"""The life of every run.

The registry owns each run: a task of its own, which no reader can end by going away. Its
stations:

1. `start` decides in one step, without giving way to another task: is this a repeated request, is
   there room, may the conversation take it. Then the run is known, and in the conversation's queue.
2. Its task (`Runner`) lets `Driver.drive` work: it stores the run with the user's message and opens
   the log (`chat_start`), and only then is the run accepted. It waits for its turn, and lets the
   agent answer.
3. Whatever happens there, what was said is stored, exactly one terminal event ends the log, and
   the next run has its turn.
4. Where the service stops before that, the run is suspended, and in the end the store gives all of
   these back at once.

Runs are known in storage for longer than their logs are kept: a reader that comes too late for the
events still gets the outcome. A run that a crash interrupted, or that was suspended, goes on from
its last stored turn, in a new epoch.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import msgspec

from caller import Caller
from errors import Conflict, Invalid, NotFound, ParleyError, Unavailable
from events import ChatStart, Event, stamped
from hub import Hub, LogNotFound, Reader
from llm import Provider
from memory.learning import LongTermMemory
from messages import new_id
from runs.agents import DEFAULT, Roster
from runs.commands import LocalCommands
from runs.index import RunIndex, size_of
from runs.observers import Observer, Observers
from runs.queue import LocalLocks
from runs.replay import replay_of
from runs.request import RunRequest, check_same, encoded, fingerprint_of
from runs.run import Agent, Limits, Refused, Repeated, Run
from runs.runner import Runner
from storage import StoredRun
from storage.store import Store
from tools.tool import Tool
from tools.workers import Workers

CANCEL_WAIT = 5.0
"""Seconds that is waited for the end of runs that are cancelled; tools get two."""

logger = logging.getLogger("parley.registry")


class RunElsewhere(Unavailable):
    def __init__(self) -> None:
        text = "Another process works on this run; ask again when it has ended."
        super().__init__(text, code="run_elsewhere", retry_after=1)


class AgentRegistry:
    """All runs of this process and the agents that they use; an async context manager.

    Args:
        provider: answers for every agent.
        hub: keeps the logs.
        store: keeps everything else. It is open for longer than the registry.
        tools: what agents may use, by name.
        limits: the bounds.
        instructions: the system prompt of agents that bring none.
        memory: remembers users; open for longer than the registry.
        allowed_models: the models that an agent may name; empty: any.
        observers: are shown each run.
        special: makes agents of another kind, from the provider, the tools and their workers.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        hub: Hub,
        store: Store,
        tools: Iterable[Tool],
        limits: Limits,
        instructions: str,
        memory: LongTermMemory | None = None,
        allowed_models: frozenset[str] = frozenset(),
        observers: Iterable[Observer] = (),
        special: Callable[[Provider, Mapping[str, Tool], Workers], Iterable[Agent]] | None = None,
    ) -> None:
        self.provider = provider
        self.store = store
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._hub = hub
        self._limits = limits
        self._workers = Workers(limits.tool_workers)
        self.agents = Roster(
            provider=provider,
            store=store,
            tools=self.tools,
            workers=self._workers,
            special=special(provider, self.tools, self._workers) if special else (),
            instructions=instructions,
            allowed_models=allowed_models,
            limit=limits.max_agents,
        )
        self._index = RunIndex(hub, limits.run_ttl, limits.max_runs, limits.max_run_bytes // 2)
        self._locks = LocalLocks()
        self._commands = LocalCommands(self._index)
        self._observers = Observers(hub, observers)
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._runner = Runner(
            tasks=self._tasks,
            store=store,
            hub=hub,
            agents=self.agents,
            index=self._index,
            locks=self._locks,
            commands=self._commands,
            observers=self._observers,
            limits=limits,
            memory=memory,
        )

    async def __aenter__(self) -> Self:
        await self.agents.load()
        await self._stack.enter_async_context(self._workers)
        self._stack.push_async_callback(self.provider.aclose)
        self._stack.push_async_callback(self._runner.give_back)
        self._stack.push_async_callback(self._observers.aclose)
        await self._stack.enter_async_context(self._tasks)
        await self._runner.recover()
        self._warming = self._tasks.create_task(self._warm())
        self._housekeeping = self._tasks.create_task(self._runner.keep_house())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()
        self.stop_all()
        self._warming.cancel()
        self._housekeeping.cancel()
        await self._stack.__aexit__(kind, error, trace)

    async def warmed(self) -> None:
        """Wait until the provider is prepared, or has failed to be."""
        await asyncio.wait([self._warming])

    async def _warm(self) -> None:
        try:
            await self.provider.warm()
        except ParleyError as error:
            logger.warning("The model provider could not be prepared: %s", error.message)
        except Exception:  # a library's mistake must not end the runs
            logger.exception("The model provider could not be prepared")

    # Beginning

    @property
    def max_message_chars(self) -> int:
        return self._limits.max_message_chars

    @property
    def active_runs(self) -> int:
        return len(self._index)

    async def start(
        self,
        caller: Caller,
        request: RunRequest,
        key: str | None = None,
        *,
        conversation_id: str | None = None,
    ) -> StoredRun:
        """Start a run, or find the one that the same request started before.

        Args:
            key: an idempotency key; the same key with the same request is the same run.
            conversation_id: the conversation of a request that names none; a new one where it
                is absent too. It is no part of the request that a key stands for.

        Raises:
            errors.NotFound: no such agent; of a request that goes on with a conversation: no
                such conversation, or no such message of a user in it.
            errors.Invalid: the message is too long.
            errors.Conflict: the conversation is busy and `if_busy` is `reject`, or the key was
                used for another request.
            errors.TooMany: too many messages wait in the conversation.
            errors.Unavailable: the service is full or stopping, or nothing can be stored now.
        """
        said = encoded(request)
        fingerprint = fingerprint_of(request) if key is not None else b""
        asked = await self._agent_of(caller, request)
        known = self._index.of_key(caller, key) if key is not None else None
        if known is not None:
            return await self._repeated(known, fingerprint)
        agent = self.agents.find(caller, asked)
        size = size_of(said)
        self._check_room(request, size)
        place = request.conversation_id or conversation_id
        stored = self._stored(caller, request, agent, place or new_id("conv"))
        stored = msgspec.structs.replace(stored, request=said, key=key, fingerprint=fingerprint)
        is_new = place is None and request.branch is None
        run = Run(stored, request, agent, size=size, is_new=is_new)
        await self._runner.enter(run)
        return await self._accepted(run, fingerprint)

    async def _repeated(self, run_id: str, fingerprint: bytes) -> StoredRun:
        run = self._index.live(run_id)
        stored = run.stored if run is not None else self._index.find(run_id)
        if stored is None:
            raise RuntimeError("a key stands for a run that is not known")
        check_same(stored.fingerprint, fingerprint)
        return stored if run is None else await self._accepted(run, fingerprint)

    async def _accepted(self, run: Run, fingerprint: bytes) -> StoredRun:
        await run.accepted.wait()
        match run.refusal:
            case Refused(error):
                raise error
            case Repeated(twin):
                check_same(twin.fingerprint, fingerprint)
                return self._index.find(twin.id) or twin
        return run.stored

    async def _agent_of(self, caller: Caller, request: RunRequest) -> str:
        """Return the name of the agent that is asked: the one named, or the last one there."""
        if request.agent is not None:
            return request.agent
        place = request.branch[0] if request.branch else request.conversation_id
        if place is None:
            return DEFAULT
        queue = await self._locks.queue(caller, place)
        waiting = self._index.find(queue[-1]) if queue else None
        if waiting is not None:
            return waiting.agent
        there = await self.store.conversation(caller, place)
        return there.agent if there is not None and there.agent is not None else DEFAULT

    def _check_room(self, request: RunRequest, size: int) -> None:
        """Refuse a run that there is no room for; nothing may suspend before `Runner.enter`."""
        limits = self._limits
        if self.draining:
            raise Unavailable("The service is stopping.", retry_after=limits.shutdown_grace)
        # Whose client keeps the conversation sends it whole; the body's bound is enough there.
        if not request.is_whole and len(request.text) > limits.max_message_chars:
            fault = f"At most {limits.max_message_chars} characters."
            errors = [{"field": "message", "message": fault}]
            raise Invalid("The message is too long.", errors=errors)
        if len(self._index) >= limits.max_active_runs:
            raise Unavailable("The service is at its limit of runs under way.", retry_after=1)
        if not (self._hub.has_room and self._index.has_room(size, self._runner.endings.size)):
            text = "The runs under way take all the memory that there is for runs; try again later."
            raise Unavailable(text, retry_after=1)

    def _stored(
        self, caller: Caller, request: RunRequest, agent: Agent, conversation_id: str
    ) -> StoredRun:
        run_id = new_id("run")
        model = self.provider.answering(request.model) if request.model else agent.model
        start = ChatStart(
            conversation_id=conversation_id,
            agent=agent.name,
            model=model,
            message_id=new_id("msg"),
            ephemeral=request.ephemeral,
        )
        return StoredRun(
            id=run_id,
            owner=caller,
            conversation_id=conversation_id,
            agent=agent.name,
            request="",
            start=stamped(start, run_id, 1),
            status="queued",
            created_at=datetime.now(UTC),
            replaces=request.regenerates,
        )

    # Following

    async def run(self, caller: Caller, run_id: str) -> StoredRun:
        """Return a run as it is now.

        Raises:
            errors.NotFound: there is none of this id for this caller, or it was forgotten.
            storage.StorageUnavailable: nobody can tell now.
        """
        stored = self._index.find(run_id) or await self.store.run(caller, run_id)
        if stored is None or self._is_old(stored) or not caller.may_see(stored.owner):
            raise NotFound("There is no run of this id.", code="run_not_found")
        return stored

    def _is_old(self, stored: StoredRun) -> bool:
        if stored.finished_at is None:
            return False
        age = datetime.now(UTC) - stored.finished_at
        return age.total_seconds() > self._limits.run_ttl

    async def open_runs(self, caller: Caller, conversation_id: str) -> list[Run]:
        """Return the accepted runs of a conversation that have not ended, in their order."""
        queue = await self._locks.queue(caller, conversation_id)
        live = [self._index.live(run_id) for run_id in queue]
        return [run for run in live if run is not None and run.accepted.is_set()]

    async def active_run(self, caller: Caller, conversation_id: str) -> StoredRun | None:
        """Return the run that has its turn in a conversation, accepted, if there is one."""
        queue = await self._locks.queue(caller, conversation_id)
        run = self._index.live(queue[0]) if queue else None
        if run is None:
            return None
        await run.accepted.wait()
        return run.stored

    async def read(self, caller: Caller, run_id: str, after: str | None = None) -> Reader:
        """Follow a run's events; see `hub.Hub.read`.

        Where the log has expired and the run is known, the reader gets a `reset` and the run's
        state: its start, what is stored of its turns, and its end.

        Raises:
            errors.NotFound: see `run`.
            RunElsewhere: it is under way in another process.
        """
        live = self._index.live(run_id)
        if live is not None:
            await live.accepted.wait()
        run = await self.run(caller, run_id)
        try:
            return await self._hub.read(run_id, after)
        except LogNotFound:
            if run.terminal is None:
                raise RunElsewhere from None
            said = await self.store.run_messages(run)
            return replay_of(run.start, run.terminal, said, epoch=run.epoch, after=after)

    async def before(self, caller: Caller, run_id: str, seq: int) -> AsyncIterator[Event]:
        """Return the events of a run up to `seq`, as they are in its log; see `hub.Hub.before`."""
        await self.run(caller, run_id)
        return await self._hub.before(run_id, seq)

    # Ending

    async def cancel(self, caller: Caller, run_id: str, *, wait: float = 0) -> StoredRun:
        """Cancel a run; one that has ended stays as it is.

        Args:
            wait: seconds that is waited for its end.

        Raises:
            errors.NotFound: no such run.
            RunElsewhere: another process works on it.
        """
        run = await self.run(caller, run_id)
        if run.terminal is not None:
            return run
        if not await self._commands.stop(run_id, "cancelled"):
            raise RunElsewhere
        if wait:
            await self._commands.wait([run_id], wait)
        return await self.run(caller, run_id)

    async def cancel_call(self, caller: Caller, run_id: str, tool_call_id: str) -> None:
        """Cancel one tool call of a run; its siblings and the run go on.

        `errors.NotFound`: no such run, or the call is not under way.
        """
        await self.run(caller, run_id)
        if not await self._commands.cancel_call(run_id, tool_call_id):
            raise NotFound("This call is not under way.", code="tool_call_not_found")

    async def delete(self, caller: Caller, conversation_id: str) -> bool:
        """Delete a conversation; its runs are cancelled, and forgotten. False: there is none.

        `errors.Conflict`: one of them does not end, and nothing is deleted.
        """
        await self._cancel_and_wait(caller, conversation_id)
        if not await self.store.delete(caller, conversation_id):
            return False
        await self._index.forget_conversation(caller, conversation_id)
        return True

    async def clear(self, caller: Caller, conversation_id: str) -> None:
        """As `delete`, but only what was said in the conversation goes."""
        await self._cancel_and_wait(caller, conversation_id)
        await self.store.clear(caller, conversation_id)
        await self._index.forget_conversation(caller, conversation_id)

    async def _cancel_and_wait(self, caller: Caller, conversation_id: str) -> None:
        queue = await self._locks.queue(caller, conversation_id)
        for run_id in queue:
            await self._commands.stop(run_id, "cancelled")
        if not await self._commands.wait(queue, CANCEL_WAIT):
            raise Conflict("A run of this conversation does not end.", code="conversation_busy")

    @property
    def draining(self) -> bool:
        return self._runner.draining

    def drain(self) -> None:
        self._runner.draining = True

    def stop_all(self) -> None:
        """End all runs because the service stops; what can go on later is suspended."""
        for run in self._index.all_live():
            run.stop("shutting_down")
