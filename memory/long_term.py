"""Memories in this process, in the words of a model, kept in a folder or in PostgreSQL.

A model is asked what is worth remembering of an exchange (`extraction`). Without one an exchange is
kept as the user worded it: what he said, not what he asked, and not the assistant's words.
Greetings and the like are no use and are left out.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from caller import Caller
from memory import AskModel, Embedder, Memories, Memory, MemoryUnavailable, extraction, rows
from memory.records import PostgresRecords, Records
from messages import AssistantMessage, Message, UserMessage, clean_text

NEAR: Final = 0.2
"""The score from which a memory helps. With wordllama, of questions about a user's life and ten
memories of his, 99 of 100 that have nothing to do with each other score less than 0.18, and a
question about pasta scores 0.35 with the love of Italian food."""

ASK_TIMEOUT: Final = 120.0
"""Seconds that the model has to read an exchange."""

MAX_SAID: Final = 1_000
"""Characters of a message that is kept as it was said; what is longer is cut."""

KNOWN: Final = 10
"""How many memories a model that reads an exchange is told."""

_BATCH: Final = 512

logger = logging.getLogger("parley.memory")

_Spoken = UserMessage | AssistantMessage


def open_local(folder: Path, embedder: Embedder, ask: AskModel | None) -> Memories:
    """Return memories in a folder, which belongs to one process; nothing is opened yet.

    The folder is for this alone, and made where it is not there. Without `ask` what was said is
    kept as it is.
    """

    def records() -> Records:
        from memory.local import LocalRecords  # and numpy

        return LocalRecords(folder, embedder.name, embedder.dimensions)

    return DatabaseMemories(records, embedder, ask)


def open_postgres(url: str, embedder: Embedder, ask: AskModel | None) -> Memories:
    """Return memories in PostgreSQL; nothing is opened yet.

    The database has pgvector, or its user may install it. `ask`: see `open_local`.
    """
    return DatabaseMemories(lambda: PostgresRecords(url, embedder.name), embedder, ask)


class DatabaseMemories:
    """Memories in a database, which `make_records` returns; it is called in a thread."""

    def __init__(
        self, make_records: Callable[[], Records], embedder: Embedder, ask: AskModel | None
    ) -> None:
        self._make_records = make_records
        self._embedder = embedder
        self._ask = ask
        self.unread = 0
        self._records: Records | None = None
        self._loading = asyncio.Lock()
        self._waits: set[asyncio.Timeout] = set()
        self._is_closing = False

    async def warm(self) -> None:
        records = await self._loaded()
        await self._embedder.embed(["ready"])
        await records.open()
        if self._ask is not None:
            await extraction.prompts()

    async def aclose(self) -> None:
        """Give up what waits for a model, let the rest end, and close what is open."""
        self._is_closing = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())
        if self._records is not None:
            await self._records.close()

    async def recall(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        found = await self.search(caller, query, limit)
        return [memory for memory in found if (memory.score or 0.0) >= NEAR]

    async def search(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        asked = clean_text(query).strip()
        if not asked or limit < 1:
            return []
        records, owner = await self._loaded(), key_of(caller)
        [vector] = await self._embedder.embed([asked])
        await self._adopt(records, owner)
        return await records.nearest(owner, vector, limit)

    async def page(self, caller: Caller, limit: int) -> list[Memory]:
        records = await self._loaded()
        return await records.read(rows.newest, key_of(caller), max(0, limit))

    async def find(self, caller: Caller, memory_id: str) -> Memory | None:
        records = await self._loaded()
        return await records.read(rows.find, key_of(caller), memory_id)

    async def add(self, caller: Caller, text: str) -> Memory:
        records, said = await self._loaded(), clean_text(text)
        [vector] = await self._embedder.embed([said])
        draft = rows.draft(said, vector, None)
        await records.write(key_of(caller), rows.add, records.embedder, [draft])
        return draft.memory

    async def change(self, caller: Caller, memory_id: str, text: str) -> Memory | None:
        records, said = await self._loaded(), clean_text(text)
        [vector] = await self._embedder.embed([said])
        what = (records.embedder, memory_id, said, vector)
        return await records.write(key_of(caller), rows.change, *what)

    async def remove(self, caller: Caller, memory_id: str) -> bool:
        records = await self._loaded()
        return await records.write(key_of(caller), rows.remove, memory_id)

    async def clear(self, caller: Caller) -> int:
        records = await self._loaded()
        return await records.write(key_of(caller), rows.clear)

    async def learn(self, caller: Caller, messages: Sequence[Message], run_id: str) -> int:
        said = told(messages) if self._ask is None else spoken(messages)
        if not said:
            return 0
        records, owner = await self._loaded(), key_of(caller)
        clearings = await records.read(rows.clearings_unless_learned, owner, run_id)
        if clearings is None:
            return 0
        if self._ask is None:
            facts = [extraction.Fact(clean_text(each.content.strip()[:MAX_SAID])) for each in said]
        else:
            facts = await self._extracted(records, owner, said, self._ask, run_id)
        vectors = await self._embedder.embed([fact.text for fact in facts]) if facts else []
        drafts = [
            rows.draft(fact.text, vector, run_id, fact.attributed_to)
            for fact, vector in zip(facts, vectors, strict=True)
        ]
        what = (records.embedder, drafts, run_id, clearings)
        return len((await records.write(owner, rows.learn, *what)).rows)

    async def _extracted(
        self, records: Records, owner: str, said: Sequence[_Spoken], ask: AskModel, run_id: str
    ) -> list[extraction.Fact]:
        exchange = extraction.as_text(said)
        [vector] = await self._embedder.embed([exchange])
        await self._adopt(records, owner)
        known = await records.nearest(owner, vector, KNOWN)
        question = await extraction.question(exchange, known)
        self._raise_if_closing()
        wait = asyncio.timeout(ASK_TIMEOUT)
        self._waits.add(wait)
        try:
            async with wait:
                answer = await ask(question, extraction.FACTS)
        except (MemoryUnavailable, TimeoutError) as error:
            self._raise_if_closing()
            if isinstance(error, MemoryUnavailable):
                raise
            text = f"The model did not answer within {ASK_TIMEOUT:g} s."
            raise MemoryUnavailable(text, retry_after=1) from None
        finally:
            self._waits.discard(wait)
        reading = extraction.facts_in(answer)
        if reading.unread:
            self.unread += reading.unread
            told = "%d of the facts that a model found in run %s could not be read"
            logger.warning(told, reading.unread, run_id)
        return reading.facts

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
                try:
                    self._records = await asyncio.to_thread(self._make_records)
                except ImportError as error:
                    text = f"Memory is not installed ({error.name})."
                    raise MemoryUnavailable(text) from error
            return self._records

    def _raise_if_closing(self) -> None:
        if self._is_closing:
            raise MemoryUnavailable("The service is closing.")


def key_of(caller: Caller) -> str:
    """Return a user as one word, which no other user has."""
    return f"{quote(caller.tenant, safe='')}/{quote(caller.user, safe='')}"


def told(messages: Sequence[Message]) -> list[UserMessage]:
    """Return what the user said of himself or his world: no questions, no greetings."""
    said = [message for message in messages if isinstance(message, UserMessage)]
    return [message for message in said if _is_telling(message.content.strip()[:MAX_SAID])]


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


def spoken(messages: Sequence[Message]) -> list[_Spoken]:
    """Return what the two said to each other; nothing, where the user said nothing."""
    spoken = [
        message for message in messages if isinstance(message, _Spoken) and message.content.strip()
    ]
    return spoken if any(isinstance(message, UserMessage) for message in spoken) else []
