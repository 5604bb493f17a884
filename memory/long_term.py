"""Memories by mem0 in this process, kept in a folder or in PostgreSQL.

A call computes its vectors on the event loop's side and then works in a thread. There are two
groups of threads: exchanges that a model reads wait for it on `_READERS` threads of their own,
and everything else has `_WORKERS`, so that no recall waits behind a model.

Without a model an exchange is kept as the user worded it: what he said, not what he asked, and
not the assistant's words. Greetings and the like are no use and are left out.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from caller import Caller
from memory import Embedder, Memories, Memory, MemoryUnavailable
from messages import AssistantMessage, Message, OutputSchema, UserMessage, clean_text

if TYPE_CHECKING:
    from memory.extraction import OwnMemory
    from memory.records import Draft, Records

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

_WORKERS: Final = 4
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

    def records() -> "Records":
        from memory.local import LocalRecords

        return LocalRecords(folder, embedder.name, embedder.dimensions)

    return Mem0Memories(records, embedder, ask)


def open_postgres(url: str, embedder: Embedder, ask: AskModel | None) -> Memories:
    """Return memories in PostgreSQL; nothing is opened yet.

    Args:
        url: `postgresql://…`; the database has pgvector, or its user may install it.
        embedder: makes vectors.
        ask: asks a model, raising `errors.ParleyError`; None keeps what was said as it is.
    """

    def records() -> "Records":
        from memory.postgres import PostgresRecords

        return PostgresRecords(url, embedder.name)

    return Mem0Memories(records, embedder, ask)


class Mem0Memories:
    """Memories that mem0 makes and finds in this process.

    Args:
        make_records: returns where they are kept; called in a thread.
        embedder: makes vectors.
        ask: asks a model; None keeps what was said as it is.
    """

    def __init__(
        self, make_records: "Callable[[], Records]", embedder: Embedder, ask: AskModel | None
    ) -> None:
        self._make_records = make_records
        self._embedder = embedder
        self._ask = ask
        self._records: Records | None = None
        self._mem0: type[OwnMemory]
        self._loading = asyncio.Lock()
        self._workers = ThreadPoolExecutor(_WORKERS, "memory")
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
        await self._in_thread(records.open)

    async def aclose(self) -> None:
        """Give up what waits for a model, let the rest end, and close what is open."""
        self._is_closing = True
        for waited_for in tuple(self._waited_for):
            waited_for.cancel()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._workers.shutdown)
        if self._records is not None:
            await asyncio.to_thread(self._records.close)

    async def recall(self, owner: Caller, query: str, limit: int) -> list[Memory]:
        """Return memories near to `query`, best first; see `Memories`."""
        return await self._ranked(owner, query, limit, NEAR)

    async def search(self, owner: Caller, query: str, limit: int) -> list[Memory]:
        """Return memories, those nearest to `query` first."""
        return await self._ranked(owner, query, limit, 0.0)

    async def _ranked(self, owner: Caller, query: str, limit: int, least: float) -> list[Memory]:
        asked = clean_text(query).strip()
        if not asked or limit < 1:
            return []
        records, key = await self._loaded(), key_of(owner)
        vector = (await self._embedder.embed([asked]))[0]
        await self._adopt(records, key)

        def search() -> list[Memory]:
            own = self._mem0(records, key, lambda _: [vector])
            return [memory_of(found) for found in own.nearest(asked, limit, least)]

        return await self._in_thread(search)

    async def page(self, owner: Caller, limit: int) -> list[Memory]:
        """Return the newest memories, newest first."""
        records, key = await self._loaded(), key_of(owner)
        newest = self._mem0(records, key, _no_vectors).newest
        found = await self._in_thread(lambda: newest(max(1, limit)))
        return [memory_of(item) for item in found[: max(0, limit)]]

    async def find(self, owner: Caller, memory_id: str) -> Memory | None:
        """Return a memory."""
        records, key = await self._loaded(), key_of(owner)
        found = await self._in_thread(self._mem0(records, key, _no_vectors).get, memory_id)
        return None if found is None else memory_of(found)

    async def add(self, owner: Caller, text: str) -> Memory:
        """Remember a text as it is."""
        records, key = await self._loaded(), key_of(owner)
        drafts = await self._as_said(records, key, [text], {})
        await self._in_thread(records.keep, key, drafts)
        return _memory(drafts[0])

    async def change(self, owner: Caller, memory_id: str, text: str) -> Memory | None:
        """Put another text in the place of a memory's."""
        records, key = await self._loaded(), key_of(owner)
        said = clean_text(text)
        vectors = await self._embedder.embed([said])
        own = self._mem0(records, key, lambda _: vectors)

        def update() -> Memory | None:
            try:
                own.update(memory_id, text=said)
            except ValueError:  # mem0's word for a memory that is not there
                return None
            changed = own.get(memory_id)
            return None if changed is None else memory_of(changed)

        return await self._in_thread(update)

    async def remove(self, owner: Caller, memory_id: str) -> bool:
        """Forget a memory; tell whether there was one."""
        records, key = await self._loaded(), key_of(owner)
        own = self._mem0(records, key, _no_vectors)

        def delete() -> bool:
            try:
                own.delete(memory_id)
            except ValueError:  # mem0's word for a memory that is not there
                return False
            return True

        return await self._in_thread(delete)

    async def clear(self, owner: Caller) -> int:
        """Forget all of a user's memories."""
        records = await self._loaded()
        return await self._in_thread(records.clear, key_of(owner))

    async def learn(self, owner: Caller, messages: Sequence[Message], run_id: str) -> int:
        """Remember what is worth it of an exchange, once; see `Memories`."""
        said = told(messages) if self._ask is None else [*map(for_mem0, spoken(messages))]
        if not said:
            return 0
        records, key = await self._loaded(), key_of(owner)
        if await self._in_thread(records.is_learned, key, run_id):
            return 0
        clearings = await self._in_thread(records.clearings, key)
        metadata = {"learned_from": run_id}
        if self._ask is None:
            texts = [message["content"] for message in said]
            drafts = await self._as_said(records, key, texts, metadata)
        else:
            await self._adopt(records, key)
            drafts = await self._inferred(records, key, said, metadata, self._ask)
        return await self._in_thread(records.learn, key, drafts, run_id, clearings)

    async def _as_said(
        self, records: "Records", key: str, texts: Sequence[str], metadata: dict[str, Any]
    ) -> "list[Draft]":
        said = [clean_text(text) for text in texts]
        vectors = dict(zip(said, await self._embedder.embed(said), strict=True))
        own = self._mem0(records, key, lambda wanted: [vectors[text] for text in wanted])
        messages = [{"role": "user", "content": text} for text in said]
        return await self._in_thread(own.drafts, messages, False, metadata)

    async def _inferred(
        self,
        records: "Records",
        key: str,
        messages: list[dict[str, str]],
        metadata: dict[str, Any],
        ask: AskModel,
    ) -> "list[Draft]":
        """Return what a model makes of messages. The thread waits for the loop, which asks it."""
        loop = asyncio.get_running_loop()

        async def answer(asked: Sequence[Message], output: OutputSchema) -> str:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await ask(asked, output)

        def wait_for(work: Coroutine[Any, Any, _T]) -> _T:
            waited_for = asyncio.run_coroutine_threadsafe(work, loop)
            self._waited_for.add(waited_for)
            if self._is_closing:  # looked at behind the addition: `aclose` may have passed by
                waited_for.cancel()
            try:
                return waited_for.result()
            except Cancelled:
                raise MemoryUnavailable("The service is closing.") from None
            finally:
                self._waited_for.discard(waited_for)

        if self._is_closing:
            raise MemoryUnavailable("The service is closing.")
        own = self._mem0(
            records,
            key,
            lambda texts: wait_for(self._embedder.embed(texts)),
            lambda asked, output: wait_for(answer(asked, output)),
        )
        reading = partial(own.drafts, messages, True, metadata)
        return await loop.run_in_executor(self._readers, reading)

    async def _adopt(self, records: "Records", key: str) -> None:
        """Make vectors anew that another embedder made."""
        while foreign := await self._in_thread(records.foreign, key, _BATCH):
            texts = [str(found.payload["data"]) for found in foreign]
            vectors = await self._embedder.embed(texts)
            made = {
                found.id: (str(found.payload["hash"]), vector)
                for found, vector in zip(foreign, vectors, strict=True)
            }
            await self._in_thread(records.adopt, key, made)

    async def _loaded(self) -> "Records":
        async with self._loading:
            if self._records is None:
                self._records = await self._in_thread(self._load)
            return self._records

    def _load(self) -> "Records":
        from memory.library import load

        self._mem0 = load("memory.extraction").OwnMemory
        try:
            return self._make_records()
        except ImportError as error:
            raise MemoryUnavailable(f"Memory is not installed ({error.name}).") from error

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        if self._is_closing:
            raise MemoryUnavailable("The service is closing.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, partial(function, *args))


def key_of(owner: Caller) -> str:
    """Return an owner as one word, which no other owner has."""
    return f"{quote(owner.tenant, safe='')}/{quote(owner.user, safe='')}"


def memory_of(found: dict[str, Any]) -> Memory:
    """Return a memory as mem0 words it."""
    created_at = datetime.fromisoformat(found["created_at"])
    updated_at = datetime.fromisoformat(found["updated_at"] or found["created_at"])
    return Memory(
        id=found["id"],
        text=found["memory"],
        created_at=created_at,
        updated_at=updated_at,
        score=found.get("score"),
    )


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


def _memory(draft: "Draft") -> Memory:
    return memory_of({"id": draft.id, "memory": draft.text, **draft.payload})


def _no_vectors(_texts: Sequence[str]) -> list[list[float]]:
    raise RuntimeError("this call of mem0 was expected to need no vectors")
