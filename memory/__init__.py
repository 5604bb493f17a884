"""Long-term memory: what is remembered of a user across conversations.

Rules:

* Every call names whose memories it is about, and reaches nothing of anybody else's.
* What is remembered is the user's words or a model's reading of them: data, never instructions
  (`prompt` makes the block for a system prompt).
* Whatever is wrong with a store, a key or a model's answer is `MemoryUnavailable`. The next call
  tries again: nothing has to be restarted.
* An import of this package is cheap. mem0, numpy, the embedder's weights and a database are loaded
  at `warm()` or else at first use, in threads.

Three ways to keep memories, behind one interface: a folder of this process
(`long_term.open_local`), PostgreSQL with pgvector, which several processes share
(`long_term.open_postgres`), and mem0's own service (`hosted.open_hosted`).
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from caller import Caller
from errors import Unavailable
from messages import Message, OutputSchema


class MemoryUnavailable(Unavailable):
    """Memories cannot be read or kept now."""

    code = "memory_unavailable"


class Unreadable(MemoryUnavailable):
    """What a model says of an exchange cannot be read: asked again, it would say the same."""


AskModel = Callable[[Sequence[Message], OutputSchema | None], Awaitable[str]]
"""Asks a model and returns its whole answer; raises `MemoryUnavailable`, which says why."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is remembered. Times are UTC.

    `score`: how near it is to what was asked for, from 0 to 1, where something was asked for.
    """

    id: str
    text: str
    created_at: datetime
    updated_at: datetime
    score: float | None = None


class Memories(Protocol):
    """The memories of all users. Every method raises `MemoryUnavailable`.

    `unread`: how many items of models' answers could not be read, since the start.
    """

    unread: int

    async def recall(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        """Return at most `limit` memories that are near enough to `query` to help, best first."""

    async def search(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        """Return at most `limit` memories, best first, however far from `query` they are."""

    async def page(self, caller: Caller, limit: int) -> list[Memory]:
        """Return the newest memories, newest first."""

    async def find(self, caller: Caller, memory_id: str) -> Memory | None: ...

    async def add(self, caller: Caller, text: str) -> Memory:
        """Remember a text as it is."""

    async def change(self, caller: Caller, memory_id: str, text: str) -> Memory | None:
        """Put another text in the place of a memory's, and return it."""

    async def remove(self, caller: Caller, memory_id: str) -> bool:
        """Forget a memory; tell whether there was one."""

    async def clear(self, caller: Caller) -> int:
        """Forget all of a user's memories, in every store; return how many there were."""

    async def learn(self, caller: Caller, messages: Sequence[Message], run_id: str) -> int:
        """Remember what is worth it of an exchange, and return how many memories that made.

        The same `run_id` again adds nothing: what was not sure to have happened may be repeated.
        Raises `Unreadable` where it is no use to try again.
        """

    async def warm(self) -> None:
        """Do slow preparations, such as imports, ahead of the first call."""

    async def aclose(self) -> None:
        """Release threads, connections and files."""


class Embedder(Protocol):
    """Makes vectors of texts.

    `name` says which ones: vectors of another name are not comparable. `dimensions`: how long
    they are.
    """

    name: str
    dimensions: int

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a unit vector for each text, in their order; may raise `MemoryUnavailable`."""

    async def counted(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return the same, and how many tokens of the model the texts have."""

    async def aclose(self) -> None: ...
