"""`/memories` and `/callbacks`: what is remembered of a user across conversations.

A user is named as in `user` of a chat completion. Clearing is permanent: it deletes the memories
from every store, and the exchanges that wait for extraction.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from api.http.documents import PROBLEMS
from api.http.identity import Who, user_named
from api.http.services import Registry
from caller import Caller
from errors import NotFound
from memory import Memory
from memory.learning import LongTermMemory
from models import ID_PATTERN, TEXT

MAX_CHARS = 10_000
"""Characters of one memory."""

router = APIRouter(tags=["memory"], responses=PROBLEMS)


async def _memory(connection: HTTPConnection) -> LongTermMemory:
    memory: LongTermMemory | None = connection.app.state.memory
    if memory is None:
        raise NotFound("Memory is turned off here (MEMORY_ENABLED).", code="memory_disabled")
    return memory


LongTerm = Annotated[LongTermMemory, Depends(_memory)]

UserName = Annotated[str, Field(min_length=1, max_length=512), TEXT]


def _named(caller: Caller, user: str | None) -> Caller:
    return caller.named(None if user is None else user_named(user))


async def _named_in_query(
    caller: Who,
    user_id: Annotated[
        str | None,
        Query(min_length=1, max_length=512, description="The user. Without it: the default user."),
    ] = None,
) -> Caller:
    return _named(caller, user_id)


WhoByName = Annotated[Caller, Depends(_named_in_query)]
"""As `api.http.identity.WhoInQuery`, but any name will do: one that is no id is hashed."""


async def _named_for_good(
    caller: Who,
    user_id: Annotated[str, Query(min_length=1, max_length=512, description="The user.")],
) -> Caller:
    return _named(caller, user_id)


WhoMustBeNamed = Annotated[Caller, Depends(_named_for_good)]
"""As `WhoByName`, where nobody is meant without being named."""

MemoryId = Annotated[str, Path(pattern=ID_PATTERN)]
MemoryText = Annotated[str, Field(min_length=1, max_length=MAX_CHARS, pattern=r"\S"), TEXT]


class MemoryView(BaseModel):
    """A memory. `score`: how similar it is to the search text, from 0 to 1."""

    id: str
    memory: str
    created_at: datetime
    updated_at: datetime
    score: float | None = None


class MemoryList(BaseModel):
    """Memories of a user: the newest first, or in a search the most similar first."""

    user_id: str
    memories: list[MemoryView]
    count: int


class NewMemory(BaseModel):
    """Something to remember."""

    memory: MemoryText
    user_id: UserName | None = None


class MemoryChange(BaseModel):
    """A new text for a memory."""

    model_config = ConfigDict(extra="forbid")

    memory: MemoryText


class Forgotten(BaseModel):
    """How many memories were deleted."""

    user_id: str
    status: str = "success"
    cleared: int
    message: str = "The user's memories are gone."


class MemoriesOf(BaseModel):
    """The user, the maximum number of memories, and a search text."""

    user_id: UserName
    limit: int = Field(10, ge=1, le=1000)
    query: Annotated[str, Field(max_length=MAX_CHARS), TEXT] | None = None


class AllMemoriesOf(BaseModel):
    """The user of the memories."""

    user_id: UserName


@router.get("/memories")
async def list_memories(
    memory: LongTerm,
    caller: WhoByName,
    query: Annotated[str | None, Query(max_length=MAX_CHARS, description="Search text.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> MemoryList:
    """List the memories of a user, or those that are similar in meaning to `query`."""
    return await _listed(memory, caller, query, limit)


@router.post("/memories", status_code=201)
async def add_memory(new: NewMemory, memory: LongTerm, caller: Who) -> MemoryView:
    """Store a text as a memory, unchanged."""
    return _view(await memory.memories.add(_named(caller, new.user_id), new.memory))


@router.get("/memories/{memory_id}")
async def get_memory(memory_id: MemoryId, memory: LongTerm, caller: WhoByName) -> MemoryView:
    """Show a memory."""
    return _view(_there(await memory.memories.find(caller, memory_id)))


@router.patch("/memories/{memory_id}")
async def change_memory(
    memory_id: MemoryId, change: MemoryChange, memory: LongTerm, caller: WhoByName
) -> MemoryView:
    """Replace the text of a memory."""
    return _view(_there(await memory.memories.change(caller, memory_id, change.memory)))


@router.delete("/memories/{memory_id}")
async def delete_memory(memory_id: MemoryId, memory: LongTerm, caller: WhoByName) -> dict[str, str]:
    """Delete a memory."""
    if not await memory.memories.remove(caller, memory_id):
        raise _none()
    return {"status": "deleted"}


@router.delete("/memories")
async def clear_memories(memory: LongTerm, caller: WhoMustBeNamed) -> Forgotten:
    """Forget everything about a user, for good."""
    return Forgotten(user_id=caller.user, cleared=await memory.clear(caller))


@router.post("/callbacks/get_memories")
async def get_memories(wanted: MemoriesOf, memory: LongTerm, caller: Who) -> MemoryList:
    """List what is remembered of a user."""
    found = await _listed(memory, _named(caller, wanted.user_id), wanted.query, wanted.limit)
    return found.model_copy(update={"user_id": wanted.user_id})


@router.post("/callbacks/clear_memories")
async def clear_all(wanted: AllMemoriesOf, memory: LongTerm, caller: Who) -> Forgotten:
    """Forget everything about a user, for good."""
    named = _named(caller, wanted.user_id)
    return Forgotten(user_id=wanted.user_id, cleared=await memory.clear(named))


@router.post("/callbacks/health")
async def health(connection: HTTPConnection, registry: Registry) -> dict[str, Any]:
    """Tell the service's state."""
    return {
        "status": "draining" if registry.draining else "healthy",
        "service": connection.app.title,
        "memory": "disabled" if connection.app.state.memory is None else "enabled",
    }


async def _listed(
    memory: LongTermMemory, caller: Caller, query: str | None, limit: int
) -> MemoryList:
    await memory.wait_until_learned(caller)
    found = (
        await memory.memories.search(caller, query, limit)
        if query and query.strip()
        else await memory.memories.page(caller, limit)
    )
    views = [_view(each) for each in found]
    return MemoryList(user_id=caller.user, memories=views, count=len(views))


def _there(memory: Memory | None) -> Memory:
    if memory is None:
        raise _none()
    return memory


def _none() -> NotFound:
    return NotFound("There is no memory of this id.", code="memory_not_found")


def _view(memory: Memory) -> MemoryView:
    return MemoryView(
        id=memory.id,
        memory=memory.text,
        created_at=memory.created_at,
        updated_at=memory.updated_at,
        score=memory.score,
    )
