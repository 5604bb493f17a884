"""Memories in this process, made by mem0, kept in a folder or in PostgreSQL.

mem0 works in threads. Exchanges that a model reads wait for it on `_READERS` threads of their own,
so that nothing else waits behind a model; where mem0 needs a vector, a row or the model, its
thread waits for the event loop, on which all of these are used.

Without a model an exchange is kept as the user worded it: what he said, not what he asked, and
not the assistant's words. Greetings and the like are no use and are left out.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from caller import Caller
from memory import Embedder, Memories, Memory, MemoryUnavailable, rows
from memory.records import PostgresRecords, Records
from messages import AssistantMessage, Message, OutputSchema, UserMessage, clean_text

if TYPE_CHECKING:
    from memory.extraction import OwnMemory

NEAR: Final = 0.2
"""The score from which a memory helps. With wordllama, of questions about a user's life and ten
memories of his, 99 of 100 that have nothing to do with each other score less than 0.18, and a
question about pasta scores 0.35 with the love of Italian food."""

ASK_TIMEOUT: Final = 120.0
"""Seconds that the model has to read an exchange."""

MAX_SAID: Final = 1_000
"""Characters of a message that is kept as it was said; what is longer is cut."""

MAX_READ: Final = 20_000
"""Characters of a message that a model reads; what is longer is cut."""

_READERS: Final = 4
_BATCH: Final = 512

_T = TypeVar("_T")

AskModel = Callable[[Sequence[Message], OutputSchema | None], Awaitable[str]]


def open_local(folder: Path, embedder: Embedder, ask: AskModel | None) -> Memories:
    """Return memories in a folder, which belongs to one process; nothing is opened yet.

    Args:
        folder: for this alone; made where it is not there.
        embedder: makes vectors.
        ask: asks a model, raising `errors.ParleyError`; None keeps what was said as it is.
    """

    def records() -> Records:
        from memory.local import LocalRecords  # and numpy

        return LocalRecords(folder, embedder.name, embedder.dimensions)

    return Mem0Memories(records, embedder, ask)


def open_postgres(url: str, embedder: Embedder, ask: AskModel | None) -> Memories:
    """Return memories in PostgreSQL; nothing is opened yet.

    Args:
        url: `postgresql://…`; the database has pgvector, or its user may install it.
        embedder: makes vectors.
        ask: asks a model, raising `errors.ParleyError`; None keeps what was said as it is.
    """

    return Mem0Memories(lambda: PostgresRecords(url, embedder.name), embedder, ask)


class Mem0Memories:
    """Memories that mem0 makes in this process.

    Args:
        make_records: returns where they are kept; called in a thread.
        embedder: makes vectors.
        ask: asks a model; None keeps what was said as it is.
    """

    def __init__(
        self, make_records: Callable[[], Records], embedder: Embedder, ask: AskModel | None
    ) -> None:
        self._make_records = make_records
        self._embedder = embedder
        self._ask = ask
        self._records: Records | None = None
        self._mem0: type[OwnMemory]
        self._loading = asyncio.Lock()
        self._readers = ThreadPoolExecutor(_READERS, "memory-reader")
        self._waited_for: set[Future[Any]] = set()
        self._is_closing = False

    async def warm(self) -> None:
        """Import mem0, load the embedder, and open what the memories are kept in.

        Raises:
            MemoryUnavailable: one of these cannot be done now.
        """
        records = await self._loaded()
        await self._embedder.embed(["ready"])
        await records.open()

    async def aclose(self) -> None:
        """Give up what waits for a model, let the rest end, and close what is open."""
        self._is_closing = True
        for waited_for in tuple(self._waited_for):
            waited_for.cancel()
        await asyncio.to_thread(self._readers.shutdown)
        if self._records is not None:
            await self._records.close()

    async def recall(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        """Return memories near to `query`, best first; see `Memories`."""
        found = await self.search(caller, query, limit)
        return [memory for memory in found if (memory.score or 0.0) >= NEAR]

    async def search(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        """Return memories, those nearest to `query` first."""
        asked = clean_text(query).strip()
        if not asked or limit < 1:
            return []
        records, owner = await self._loaded(), key_of(caller)
        vector = (await self._embedder.embed([asked]))[0]
        await self._adopt(records, owner)
        return await records.nearest(owner, vector, limit)

    async def page(self, caller: Caller, limit: int) -> list[Memory]:
        """Return the newest memories, newest first."""
        records = await self._loaded()
        return await records.read(rows.newest, key_of(caller), max(0, limit))

    async def find(self, caller: Caller, memory_id: str) -> Memory | None:
        """Return a memory."""
        records = await self._loaded()
        return await records.read(rows.find, key_of(caller), memory_id)

    async def add(self, caller: Caller, text: str) -> Memory:
        """Remember a text as it is."""
        records, owner = await self._loaded(), key_of(caller)
        [draft] = await self._as_said(owner, [text], {})
        await records.write(owner, rows.add, records.embedder, [draft])
        return draft.memory

    async def change(self, caller: Caller, memory_id: str, text: str) -> Memory | None:
        """Put another text in the place of a memory's."""
        records, said = await self._loaded(), clean_text(text)
        vector = (await self._embedder.embed([said]))[0]
        what = (records.embedder, memory_id, said, vector)
        return await records.write(key_of(caller), rows.change, *what)

    async def remove(self, caller: Caller, memory_id: str) -> bool:
        """Forget a memory; tell whether there was one."""
        records = await self._loaded()
        return await records.write(key_of(caller), rows.remove, memory_id)

    async def clear(self, caller: Caller) -> int:
        """Forget all of a user's memories."""
        records = await self._loaded()
        return await records.write(key_of(caller), rows.clear)

    async def learn(self, caller: Caller, messages: Sequence[Message], run_id: str) -> int:
        """Remember what is worth it of an exchange, once; see `Memories`."""
        said = told(messages) if self._ask is None else [*map(for_mem0, spoken(messages))]
        if not said:
            return 0
        records, owner = await self._loaded(), key_of(caller)
        clearings = await records.read(rows.clearings_unless_learned, owner, run_id)
        if clearings is None:
            return 0
        metadata = {"learned_from": run_id}
        if self._ask is None:
            drafts = await self._as_said(owner, [each["content"] for each in said], metadata)
        else:
            await self._adopt(records, owner)
            drafts = await self._inferred(records, owner, said, metadata, self._ask)
        what = (records.embedder, drafts, run_id, clearings)
        return len((await records.write(owner, rows.learn, *what)).rows)

    async def _as_said(
        self, owner: str, texts: Sequence[str], metadata: dict[str, Any]
    ) -> list[rows.Draft]:
        said = [clean_text(text) for text in texts]
        vectors = dict(zip(said, await self._embedder.embed(said), strict=True))
        own = self._mem0(owner, lambda wanted: [vectors[text] for text in wanted])
        messages = [{"role": "user", "content": text} for text in said]
        return await asyncio.to_thread(own.drafts, messages, False, metadata)

    async def _inferred(
        self,
        records: Records,
        owner: str,
        messages: list[dict[str, str]],
        metadata: dict[str, Any],
        ask: AskModel,
    ) -> list[rows.Draft]:
        """Return what a model makes of messages. The thread waits for the loop, which asks it."""
        loop = asyncio.get_running_loop()

        async def answer(asked: Sequence[Message], output: OutputSchema) -> str:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await ask(asked, output)

        def wait_for(work: Coroutine[Any, Any, _T]) -> _T:
            waited_for = asyncio.run_coroutine_threadsafe(work, loop)
            self._waited_for.add(waited_for)
            if self._is_closing:  # looked at after the addition: `aclose` may have passed by
                waited_for.cancel()
            try:
                return waited_for.result()
            except Cancelled:
                raise MemoryUnavailable("The service is closing.") from None
            finally:
                self._waited_for.discard(waited_for)

        own = self._mem0(
            owner,
            lambda texts: wait_for(self._embedder.embed(texts)),
            lambda vector, limit: wait_for(records.nearest(owner, vector, limit)),
            lambda asked, output: wait_for(answer(asked, output)),
        )
        self._raise_if_closing()
        reading = partial(own.drafts, messages, True, metadata)
        return await loop.run_in_executor(self._readers, reading)

    async def _adopt(self, records: Records, owner: str) -> None:
        """Compute vectors again that another embedder made."""
        name = records.embedder
        while foreign := await records.read(rows.foreign, owner, name, _BATCH):
            vectors = await self._embedder.embed([text for _, _, text in foreign])
            made = [
                (memory_id, made_of, vector)
                for (memory_id, made_of, _), vector in zip(foreign, vectors, strict=True)
            ]
            await records.write(owner, rows.adopt, name, made)

    async def _loaded(self) -> Records:
        self._raise_if_closing()
        async with self._loading:
            if self._records is None:
                self._records = await asyncio.to_thread(self._load)
            return self._records

    def _load(self) -> Records:
        from memory.library import load

        self._mem0 = load("memory.extraction").OwnMemory
        try:
            return self._make_records()
        except ImportError as error:
            raise MemoryUnavailable(f"Memory is not installed ({error.name}).") from error

    def _raise_if_closing(self) -> None:
        if self._is_closing:
            raise MemoryUnavailable("The service is closing.")


def key_of(caller: Caller) -> str:
    """Return a user as one word, which no other user has."""
    return f"{quote(caller.tenant, safe='')}/{quote(caller.user, safe='')}"


def told(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return what the user said of himself or his world: no questions, no greetings."""
    texts = [message.content.strip() for message in messages if isinstance(message, UserMessage)]
    kept = [text[:MAX_SAID] for text in texts if _is_telling(text[:MAX_SAID])]
    return [{"role": "user", "content": text} for text in kept]


_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
_WORD = re.compile(r"\w+")


def _is_telling(text: str) -> bool:
    """Tell whether some sentence is no question, and longer than a greeting."""
    statements = (
        sentence
        for sentence in _SENTENCE.findall(text)
        if not sentence.rstrip().endswith(("?", "？"))
    )
    return any(
        len(_WORD.findall(statement)) > 2 or sum(ord(letter) > 0x2E80 for letter in statement) > 3
        for statement in statements
    )


def spoken(messages: Sequence[Message]) -> list[UserMessage | AssistantMessage]:
    """Return what the two said to each other; nothing, where the user said nothing."""
    spoken = [
        message
        for message in messages
        if isinstance(message, UserMessage | AssistantMessage) and message.content.strip()
    ]
    return spoken if any(isinstance(message, UserMessage) for message in spoken) else []


def for_mem0(message: UserMessage | AssistantMessage) -> dict[str, str]:
    """Return a message as mem0 wants it."""
    role = "user" if isinstance(message, UserMessage) else "assistant"
    return {"role": role, "content": clean_text(message.content[:MAX_READ])}
