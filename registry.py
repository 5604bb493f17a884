"""The life of every run.

The registry owns each run: a task of its own, which no reader can end by going away. Its
stations:

1. `start` decides in one step without an await: is this a repeated request, may the
   conversation take it, is there room. Then the run is in the conversation's queue.
2. Its task stores the run with the user's message, opens the log (`chat_start`), and only then
   is the run accepted. It waits for the floor, and lets the agent answer.
3. Whatever happens there, what was said is stored, exactly one terminal event ends the log, and
   the next run gets the floor.

Runs are remembered in storage, longer than their logs: a reader that comes too late for the
events still learns the outcome. A run that a crash interrupted goes on from its last stored
turn, in a new epoch.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from driver import Driver, failure, left_open
from errors import Conflict, Invalid, NotFound, ParleyError, TooMany, Unavailable
from events import ChatChunk, ChatComplete, ChatStart, Reset, TerminalEvent, stamped
from hub import Hub, LogNotFound, Reader, parse_cursor
from hub.fixed import FixedReader
from intake import begin_of, decoded, encoded, entry_of, owner_of, place_of, text_of
from llm import Provider
from models import Completion, Owner, RunRequest, new_id
from roster import Roster
from runs import Agent, Limits, Queue, Queues, Run, Work
from storage import StorageUnavailable, StoredRun
from storage.store import Store
from tools.tool import Tool
from tools.workers import Workers

HOUSEKEEPING = 10.0
"""Seconds between two rounds of what has to be done now and then."""

RETRY = 1.0
"""Seconds between two attempts to store what the database did not take."""

logger = logging.getLogger("parley.registry")


class AgentRegistry:
    """All runs of this process and the agents that they use; an async context manager.

    Args:
        provider: answers for every agent.
        hub: keeps the logs.
        store: keeps everything else. It is open for longer than the registry.
        tools: what agents may use, by name.
        limits: the bounds.
        instructions: the system prompt of agents that bring none.
        allowed_models: the models that an agent may name; empty: any.
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
        allowed_models: frozenset[str] = frozenset(),
        special: Callable[[Provider, Mapping[str, Tool], Workers], Iterable[Agent]] | None = None,
    ) -> None:
        self.provider = provider
        self.store = store
        self.tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.draining = False
        self._hub = hub
        self._limits = limits
        self._workers = Workers(limits.tool_workers)
        self.agents = Roster(
            provider=provider,
            store=store,
            tenant=Owner().tenant,
            tools=self.tools,
            workers=self._workers,
            special=special(provider, self.tools, self._workers) if special else (),
            instructions=instructions,
            allowed_models=allowed_models,
            limit=limits.max_agents,
        )
        self._queues = Queues()
        self._runs: dict[str, Run] = {}
        self._active: set[Run] = set()
        self._finished: deque[tuple[float, str]] = deque()
        self._keys: dict[tuple[Owner, str], tuple[bytes, str]] = {}
        self._driver = Driver(store, hub, limits, refuse=self._refuse, leave=self._leave)
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self.agents.load()
        await self._stack.enter_async_context(self._workers)
        self._stack.push_async_callback(self.provider.aclose)
        await self._stack.enter_async_context(self._tasks)
        await self._recover()
        self._warming = self._tasks.create_task(self._warm())
        self._housekeeping = self._tasks.create_task(self._keep_house())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.draining = True
        self.end_all()
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

    # Beginning

    @property
    def active_runs(self) -> int:
        """How many runs are under way or wait."""
        return len(self._active)

    async def start(
        self,
        request: RunRequest,
        key: str | None = None,
        *,
        conversation_id: str | None = None,
        ephemeral: bool = False,
    ) -> Run:
        """Start a run, or find the one that the same request started before.

        Args:
            key: an idempotency key; the same key with the same request is the same run.
            conversation_id: the conversation of a request that names none; a new one where it
                is absent too. It is no part of the request that a key stands for.
            ephemeral: the conversation serves this run only, and is not listed.

        Raises:
            errors.NotFound: no such agent; of a request that goes on with a conversation: no
                such conversation, or no such message of a user in it.
            errors.Invalid: the message is too long.
            errors.Conflict: the conversation is busy and `if_busy` is `reject`, or the key was
                used for another request.
            errors.TooMany: too many messages wait in the conversation.
            errors.Unavailable: the service is full or stopping, or nothing can be stored now.
        """
        self._expire()
        owner = owner_of(request)
        said = encoded(request)
        fingerprint = hashlib.sha256(said.encode()).digest() if key is not None else b""
        run = self._known(owner, key, fingerprint) if key is not None else None
        if run is None:
            queue = self._queues.of(owner, place_of(request) or conversation_id or new_id("conv"))
            stored = self._admit(request, said, queue, key, fingerprint)
            work = Work(
                request,
                self.agents.find(request.agent),
                queue,
                begin_of(request),
                entry_of(request, ephemeral=ephemeral),
            )
            run = self._enter(Run(stored, work), work)
        await run.accepted.wait()
        if run.refusal is not None:
            raise run.refusal
        if run.twin is not None:
            _check_twin(run.twin.fingerprint, fingerprint)
            return self._runs.get(run.twin.id) or Run.remembered(run.twin)
        return run

    def _known(self, owner: Owner, key: str, fingerprint: bytes) -> Run | None:
        if (owner, key) not in self._keys:
            return None
        before, run_id = self._keys[owner, key]
        _check_twin(before, fingerprint)
        return self._runs[run_id]

    def _admit(
        self, request: RunRequest, said: str, queue: Queue, key: str | None, fingerprint: bytes
    ) -> StoredRun:
        """Refuse a run, or return it as it is to be stored. Without an await, as is `_enter`."""
        limits = self._limits
        if self.draining:
            raise Unavailable("The service is stopping.", retry_after=limits.shutdown_grace)
        # Whose client keeps the conversation sends it whole; the body's bound is enough there.
        chars = 0 if isinstance(request, Completion) else len(text_of(request))
        if chars > limits.max_message_chars:
            fault = f"At most {limits.max_message_chars} characters."
            raise Invalid("The message is too long.", errors=[_fault("message", fault)])
        agent = self.agents.find(request.agent)
        if len(self._active) >= limits.max_active_runs:
            raise Unavailable("The service is at its limit of runs under way.", retry_after=1)
        self._make_way(queue, request)
        run_id = new_id("run")
        start = ChatStart(
            conversation_id=queue.conversation_id,
            agent=agent.name,
            model=self._answering(request, agent),
            message_id=new_id("msg"),
        )
        return StoredRun(
            id=run_id,
            owner=queue.owner,
            conversation_id=queue.conversation_id,
            agent=agent.name,
            request=said,
            start=stamped(start, run_id, 1),
            status="queued",
            created_at=datetime.now(UTC),
            key=key,
            fingerprint=fingerprint,
        )

    def _answering(self, request: RunRequest, agent: Agent) -> str:
        wanted = request.model if isinstance(request, Completion) else None
        return self.provider.answering(wanted) if wanted else agent.model

    def _make_way(self, queue: Queue, request: RunRequest) -> None:
        if not queue.runs:
            return
        if request.if_busy == "reject":
            raise Conflict(
                f"The conversation has a run under way: {queue.runs[0].id}.",
                code="conversation_busy",
            )
        if request.if_busy == "interrupt":
            for run in queue.runs:
                run.end("cancelled")
        elif len(queue.runs) > self._limits.max_queued_messages:
            raise TooMany("Too many messages wait in this conversation.", retry_after=1)

    def _enter(self, run: Run, work: Work) -> Run:
        self._runs[run.id] = run
        self._active.add(run)
        self._queues.enter(work.queue, run)
        if run.stored.key is not None:
            self._keys[run.stored.owner, run.stored.key] = (run.stored.fingerprint, run.id)
        work.task = self._tasks.create_task(self._driver.drive(run, work), name=run.id)
        return run

    def _refuse(self, run: Run, work: Work, error: ParleyError | None) -> None:
        """Take back a run that is not stored."""
        run.refusal = error
        self._forget(run.id)
        self._leave(run, work)
        run.accepted.set()

    def _leave(self, run: Run, work: Work) -> None:
        run.work = None
        self._queues.leave(work.queue, run)
        self._active.discard(run)
        if run.refusal is None and run.terminal is not None:
            deadline = asyncio.get_running_loop().time() + self._limits.run_ttl
            self._finished.append((deadline, run.id))

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._finished:
            deadline, run_id = self._finished[0]
            if deadline > now and len(self._finished) <= self._limits.max_runs:
                return
            self._finished.popleft()
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        run = self._runs.pop(run_id, None)
        if run is not None and run.stored.key is not None:
            self._keys.pop((run.stored.owner, run.stored.key), None)

    # Recovering

    async def _recover(self) -> None:
        """Take up the runs that nobody works on any more."""
        for stored in await self.store.claim():
            try:
                self._resume(stored)
            except ParleyError as error:
                terminal = stamped(failure(error), stored.id, 2)
                await self.store.finish(stored, left_open(stored), terminal, None)

    def _resume(self, stored: StoredRun) -> None:
        if stored.id in self._runs:
            self._forget(stored.id)
        request = decoded(stored.request)
        work = Work(
            request,
            self.agents.find(stored.agent),
            self._queues.of(stored.owner, stored.conversation_id),
            begin_of(request),
            resumed=True,
            begun=stored.status == "running",
        )
        self._enter(Run(stored, work), work)

    async def _keep_house(self) -> None:
        """Do what has to be done now and then, until the registry ends."""
        due = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._driver.store_unsaved()
                if loop.time() >= due:
                    await self._tidy()
                    due = loop.time() + HOUSEKEEPING
            except StorageUnavailable as error:
                logger.warning("Storage cannot be tidied now: %s", error.message)
            await asyncio.sleep(RETRY if self._driver.has_unsaved else HOUSEKEEPING)

    async def _tidy(self) -> None:
        await self.store.renew()
        await self._recover()
        await self.store.expire(
            runs_older_than=self._limits.run_ttl,
            conversations_older_than=self._limits.conversation_ttl,
        )

    # Following and ending

    async def run(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            errors.NotFound: there is none of this id, or it was forgotten.
            storage.StorageUnavailable: nobody can tell now.
        """
        self._expire()
        if run_id in self._runs:
            return self._runs[run_id]
        stored = await self.store.run(Owner().tenant, run_id)
        if stored is None or self._is_old(stored):
            raise NotFound("There is no run of this id.", code="run_not_found")
        return Run.remembered(stored)

    def _is_old(self, stored: StoredRun) -> bool:
        if stored.finished_at is None:
            return False
        age = datetime.now(UTC) - stored.finished_at
        return age.total_seconds() > self._limits.run_ttl

    def active_run(self, owner: Owner, conversation_id: str) -> Run | None:
        """Return the run that has the floor in a conversation, if there is one."""
        queue = self._queues.of(owner, conversation_id)
        return queue.runs[0] if queue.runs else None

    async def read(self, run_id: str, after: str | None = None) -> Reader:
        """Follow a run's events; see `hub.Hub.read`.

        Where the log has expired and the run is remembered, the reader gets a `reset` and
        the run's state: its start, its answer as one piece, and its end.
        """
        known = self._runs.get(run_id)
        if known is not None:
            await known.accepted.wait()
        try:
            return await self._hub.read(run_id, after)
        except LogNotFound:
            run = await self.run(run_id)
            if run.terminal is None:
                raise
            return _remains(run, run.terminal, after)

    async def cancel(self, run_id: str) -> Run:
        """Cancel a run; one that has ended stays as it is.

        Raises:
            errors.NotFound: no such run.
        """
        run = await self.run(run_id)
        run.end("cancelled")
        return run

    async def cancel_tool(self, run_id: str, tool_call_id: str) -> None:
        """Cancel one tool call of a run; its siblings and the run go on.

        Raises:
            errors.NotFound: no such run, or the call is not under way.
        """
        work = (await self.run(run_id)).work
        task = work.turns.calls.get(tool_call_id) if work and work.turns else None
        if task is None or task.done():
            raise NotFound("This call is not under way.", code="tool_call_not_found")
        task.cancel()

    async def quiet(self, owner: Owner, conversation_id: str, patience: float) -> None:
        """Cancel all runs of a conversation, and wait until they have ended.

        Raises:
            errors.Conflict: they have not, within `patience` seconds.
        """
        runs = [*self._queues.of(owner, conversation_id).runs]
        for run in runs:
            run.end("cancelled")
        tasks = [run.work.task for run in runs if run.work and run.work.task]
        if tasks and (await asyncio.wait(tasks, timeout=patience))[1]:
            raise Conflict("A run of this conversation does not end.", code="conversation_busy")

    def drain(self) -> None:
        """Refuse new runs from now on."""
        self.draining = True

    def end_all(self) -> None:
        """End all runs: their clients are told that the service stops."""
        for run in list(self._active):
            run.end("shutting_down")


def _check_twin(before: bytes, fingerprint: bytes) -> None:
    if before != fingerprint:
        raise Conflict(
            "This idempotency key was used for another request.", code="idempotency_conflict"
        )


def _fault(field: str, message: str) -> dict[str, str]:
    return {"field": field, "message": message}


def _remains(run: Run, terminal: TerminalEvent, after: str | None) -> FixedReader:
    epoch = run.stored.epoch
    if after is not None:
        of_epoch, seq = parse_cursor(after, run.id)
        if of_epoch in (None, epoch) and seq >= terminal.seq:
            return FixedReader([], epoch)
    text = terminal.final_response if isinstance(terminal, ChatComplete) else ""
    piece = ChatChunk(
        run_id=run.id,
        seq=terminal.seq - 1,
        first_seq=2,
        message_id=run.start.message_id,
        content=text,
    )
    reset = Reset(run_id=run.id, epoch=epoch, reason="log_expired")
    middle = [piece] if text else []
    return FixedReader([reset, run.start, *middle, terminal], epoch)
