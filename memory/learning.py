"""What is remembered of a user: recalled before an answer, learned from it afterwards.

An answer never waits for memory longer than a fixed time, and a stream never waits for learning.
What is to be learned from an exchange (an *extraction job*) is stored in the transaction that ends
its run, so that it survives a restart; a task of this process then takes one after the other. On
PostgreSQL each job is taken by one process.

A job that cannot be done now is tried again later; one that fails `ATTEMPTS` times, or for
which the store has no room, is dropped, and the log says so.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Self

from caller import Caller
from errors import ParleyError
from llm import Provider
from memory import AskModel, Memories, Memory, MemoryUnavailable
from memory.prompt import as_data
from messages import Message, ModelOptions, ModelRequest, OutputSchema, TextPart
from storage import ExtractionJob, StorageUnavailable
from storage.store import Store

ATTEMPTS = 5
"""How often it is tried to learn from an exchange."""

PAUSE = 5.0
"""Seconds between two looks at the jobs that wait, and after one that could not be done."""

LEARNING_WAIT = 3.0
"""Seconds that a listing of memories waits for what is still to be learned."""

CLEARING_WAIT = 10.0
"""Seconds that a clearing waits for a job of the same user."""

LEARNED_CHARS = 20_000
"""Characters of a message that are learned from; what is longer is cut."""

ANSWER_TOKENS = 8_000
MAX_ANSWER = 200_000
"""Tokens that a model may answer when it reads an exchange, and characters that are taken."""

logger = logging.getLogger("parley.memory")


class Recall:
    """What is remembered for one answer, being looked for since the answer was asked for.

    `deadline`: on the loop's clock; what comes later is left out.
    """

    def __init__(self, task: "asyncio.Task[list[Memory]]", deadline: float) -> None:
        self._task = task
        self._deadline = deadline

    async def block(self) -> str:
        """Return what is remembered as a block for the instructions, empty where it is nothing."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return as_data(await self._task)
        except TimeoutError:
            logger.warning("An answer goes without memories: they were not found in time")
        except MemoryUnavailable as error:
            logger.warning("An answer goes without memories: %s", error.message)
        except Exception:  # a library's mistake must not cost the answer
            logger.exception("An answer goes without memories")
        return ""

    def drop(self) -> None:
        self._task.cancel()


@dataclass
class LongTermMemory:
    """Remembers users; an async context manager, inside of which it learns.

    Args:
        memories: keeps what was learned.
        store: keeps what is to be learned.
        timeout: seconds that an answer waits for its memories.
        limit: how many of them it gets.
        may_hold: tells whether there may be any memories; where there are none, nobody waits.
    """

    memories: Memories
    store: Store
    timeout: float
    limit: int
    may_hold: Callable[[], bool] = lambda: True
    _warm: asyncio.Event = field(default_factory=asyncio.Event)
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _learning: ExtractionJob | None = None
    _learned: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: "set[asyncio.Task[object]]" = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._due.set()
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker
        for task in tuple(self._tasks):
            task.cancel()
        await self.memories.aclose()

    async def warmed(self) -> None:
        """Wait until the memories are prepared, where there may be any, or have failed to be."""
        await self._warm.wait()

    def recall(self, caller: Caller, text: str) -> Recall:
        task = asyncio.create_task(self._found(caller, text))
        self._tasks.add(task)
        task.add_done_callback(self._recalled)
        return Recall(task, asyncio.get_running_loop().time() + self.timeout)

    async def _found(self, caller: Caller, text: str) -> list[Memory]:
        """Return what is near to a text, and as far as there is room the newest besides.

        "What do you know about me?" is near to nothing.
        """
        if not self.may_hold():
            return []
        near = await self.memories.recall(caller, text, self.limit)
        if len(near) == self.limit:
            return near
        known = {memory.id for memory in near}
        newest = await self.memories.page(caller, self.limit)
        return [*near, *(memory for memory in newest if memory.id not in known)][: self.limit]

    def _recalled(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has said so; nobody may have

    async def wait_until_learned(self, caller: Caller) -> None:
        """Wait until what a user has said is learned, for a while; who lists memories expects it.

        Raises `StorageUnavailable` where nobody can tell now.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LEARNING_WAIT):
                # Another process may be the one that learns it, so there is nothing to wait on.
                while await self.store.count_extraction_jobs(caller):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    def wake(self) -> None:
        """Look at the jobs: there is a new one."""
        self._due.set()

    async def clear(self, caller: Caller) -> int:
        """Forget all of a user's memories, and what is still to be learned; return how many.

        Where `MemoryUnavailable` or `StorageUnavailable` is raised, it is not done, or not wholly.
        """
        await self.store.forget_extraction_jobs(caller)
        if self._learning is not None and self._learning.owner == caller:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLEARING_WAIT):
                    await self._learned.wait()
        return await self.memories.clear(caller)

    async def _work(self) -> None:
        """Learn, one exchange after the other, for as long as the service runs."""
        if self.may_hold():
            try:
                await self.memories.warm()
            except MemoryUnavailable:
                pass  # each call tries again
            except Exception:  # a library's mistake must not end the learning
                logger.exception("Memories could not be prepared")
        self._warm.set()
        while True:
            self._due.clear()
            try:
                await self._learn_all()
            except StorageUnavailable as error:
                logger.warning("What there is to learn cannot be read now: %s", error.message)
            except Exception:  # a library's mistake must not end the learning
                logger.exception("Learning failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._due.wait()

    async def _learn_all(self) -> None:
        while job := await self.store.take_extraction_job():
            self._learning, self._learned = job, asyncio.Event()
            try:
                if not await self._learn(job):
                    return
            finally:
                self._learning = None
                self._learned.set()

    async def _learn(self, job: ExtractionJob) -> bool:
        """Learn from an exchange; tell whether it is worth it to go on with the next one now."""
        try:
            await self.memories.learn(job.owner, job.messages, job.run_id)
        except MemoryUnavailable as error:
            if job.attempts < ATTEMPTS:
                logger.warning("An exchange is learned from later: %s", error.message)
                await self.store.return_extraction_job(job)
                return False
            logger.warning("Nothing is learned from run %s: %s", job.run_id, error.message)
        except Exception:  # the same exchange would fail again
            logger.exception("Nothing is learned from run %s", job.run_id)
        await self.store.drop_extraction_job(job)
        return True


def asker(provider: Provider) -> AskModel:
    async def ask(messages: Sequence[Message], output: OutputSchema | None) -> str:
        request = ModelRequest(
            model=provider.default_model,
            messages=tuple(messages),
            options=ModelOptions(output=output, max_tokens=ANSWER_TOKENS),
        )
        pieces: list[str] = []
        size = 0
        try:
            async with aclosing(provider.stream(request)) as batches:
                async for batch in batches:
                    said = [part.content for part in batch if isinstance(part, TextPart)]
                    pieces += said
                    size += sum(map(len, said))
                    if size > MAX_ANSWER:
                        raise MemoryUnavailable("The model's answer is too long.")
        except MemoryUnavailable:
            raise
        except ParleyError as error:
            raise MemoryUnavailable(f"The model did not answer: {error.message}") from None
        return "".join(pieces)

    return ask
