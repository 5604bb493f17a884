"""Memories in mem0's own service.

mem0's client speaks to it (2.2; `/v3/memories/…` for adding, listing and searching,
`/v1/memories/…` for one memory, `/v1/event/…` for an addition, which the service only accepts and
does later). The client asks the service who it is with a blocking request when it is made, so it
is made in a thread, and again at the next call where that failed.

A user is named by its key, tenant and name (`long_term.key_of`). The service finds a memory by its
id alone, so every memory that comes is checked for its user.

An exchange carries its run's id as metadata: where the service has memories of it, it is not sent
again. One that the service found nothing in leaves no trace there, and would be read once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

from caller import Caller
from memory import Memories, Memory, MemoryUnavailable
from memory.extraction import for_mem0
from memory.library import load
from memory.long_term import key_of, spoken
from messages import Message, clean_text

TIMEOUT: Final = 10.0
"""Seconds for one request."""

ADDITION_TIMEOUT: Final = 30.0
"""Seconds that an addition may take in the service."""

NEAR: Final = 0.3
"""The score from which a memory helps; the service's own default is lower."""

_PAUSES: Final = (0.1, 0.2, 0.5, 1.0)
"""Seconds between two questions whether an addition is done."""

_PAGE: Final = 100


def open_hosted(api_key: str, base_url: str | None) -> Memories:
    """Return memories in mem0's service; nothing is asked yet.

    Args:
        api_key: the credential.
        base_url: the service's address; mem0's own where it is None.
    """
    return HostedMemories(api_key, base_url)


class HostedMemories:
    """Memories in mem0's service; see `open_hosted`."""

    unread = 0  # the service does not tell

    def __init__(self, api_key: str, base_url: str | None) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._client: Any = None
        self._loading = asyncio.Lock()

    async def warm(self) -> None:
        """Make the client, which checks the key."""
        await self._asked(_nothing)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.async_client.aclose()

    async def recall(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        return await self._ranked(caller, query, limit, NEAR)

    async def search(self, caller: Caller, query: str, limit: int) -> list[Memory]:
        return await self._ranked(caller, query, limit, 0.0)

    async def _ranked(self, caller: Caller, query: str, limit: int, least: float) -> list[Memory]:
        asked, wanted = clean_text(query).strip(), _of(caller)
        if not asked or limit < 1:
            return []
        answer = await self._asked(
            lambda client: client.search(asked, filters=wanted, top_k=limit, threshold=least)
        )
        return _memories(answer, caller)[:limit]

    async def page(self, caller: Caller, limit: int) -> list[Memory]:
        newest: list[Memory] = []
        wanted, number = _of(caller), 1
        while len(newest) < limit:
            answer = await self._asked(_page(wanted, number))
            newest += _memories(answer, caller)
            number += 1
            if not answer.get("next"):
                break
        return newest[: max(0, limit)]

    async def find(self, caller: Caller, memory_id: str) -> Memory | None:
        if not memory_id.strip("."):
            return None  # in an address it would be the way to something else
        answer = await self._asked(lambda client: client.get(memory_id), missing=None)
        found = _memories({"results": [answer]} if answer else {}, caller)
        return found[0] if found else None

    async def add(self, caller: Caller, text: str) -> Memory:
        said = [{"role": "user", "content": clean_text(text)}]
        token = uuid4().hex
        await self._added(caller, said, False, {"added_as": token})
        for memory in await self._marked(caller, "added_as", token):
            return memory
        raise MemoryUnavailable("The memory service did not say what it kept.")

    async def change(self, caller: Caller, memory_id: str, text: str) -> Memory | None:
        if await self.find(caller, memory_id) is None:
            return None
        said = clean_text(text)
        await self._asked(lambda client: client.update(memory_id, text=said), missing=None)
        return await self.find(caller, memory_id)

    async def remove(self, caller: Caller, memory_id: str) -> bool:
        if await self.find(caller, memory_id) is None:
            return False
        await self._asked(lambda client: client.delete(memory_id), missing=None)
        return True

    async def clear(self, caller: Caller) -> int:
        key = key_of(caller)
        answer = await self._asked(_page(_of(caller), 1))
        await self._asked(lambda client: client.delete_all(user_id=key), missing=None)
        return int(answer.get("count", len(answer.get("results", []))))

    async def learn(self, caller: Caller, messages: Sequence[Message], run_id: str) -> int:
        said = [*map(for_mem0, spoken(messages))]
        if not said or await self._marked(caller, "learned_from", run_id):
            return 0
        await self._added(caller, said, True, {"learned_from": run_id})
        return len(await self._marked(caller, "learned_from", run_id))

    async def _added(
        self, caller: Caller, said: list[dict[str, str]], infer: bool, metadata: dict[str, Any]
    ) -> None:
        """Add messages, and wait until the service has done it."""
        key = key_of(caller)
        answer = await self._asked(
            lambda client: client.add(said, user_id=key, infer=infer, metadata=metadata)
        )
        event = answer.get("event_id") if isinstance(answer, dict) else None
        if event is None:
            return
        try:
            async with asyncio.timeout(ADDITION_TIMEOUT):
                await self._done(str(event))
        except TimeoutError:
            raise MemoryUnavailable("The memory service takes too long.", retry_after=10) from None

    async def _done(self, event: str) -> None:
        path = f"/v1/event/{quote(event, safe='')}/"
        pauses = iter(_PAUSES)
        while True:
            status = (await self._asked(_got(path))).get("status")
            if status == "SUCCEEDED":
                return
            if status == "FAILED":
                raise MemoryUnavailable("The memory service failed to keep this.", retry_after=10)
            await asyncio.sleep(next(pauses, _PAUSES[-1]))

    async def _marked(self, caller: Caller, name: str, value: str) -> list[Memory]:
        wanted = {"AND": [_of(caller), {"metadata": {name: value}}]}
        answer = await self._asked(_page(wanted, 1))
        marked = [
            item
            for item in answer.get("results", [])
            if (item.get("metadata") or {}).get(name) == value
        ]
        return _memories({"results": marked}, caller)

    async def _connected(self) -> Any:
        async with self._loading:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)
        return self._client

    def _make_client(self) -> Any:
        import httpx

        client = httpx.AsyncClient(timeout=TIMEOUT)
        return load("mem0").AsyncMemoryClient(self._api_key, self._base_url, client)

    async def _asked(self, request: Callable[[Any], Awaitable[Any]], **missing: Any) -> Any:
        """Return the answer to a request that is made with the client.

        `missing`: under this name, what to return where there is no such thing.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                return await request(await self._connected())
        except MemoryUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - three libraries' errors, none may escape
            if "missing" in missing and type(error).__name__ == "MemoryNotFoundError":
                return missing["missing"]
            text = f"The memory service did not do this ({type(error).__name__})."
            raise MemoryUnavailable(text, retry_after=1) from None


async def _nothing(_client: Any) -> None:
    pass


def _got(path: str) -> Callable[[Any], Awaitable[dict[str, Any]]]:
    async def get(client: Any) -> dict[str, Any]:
        response = await client.async_client.get(path)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    return get


def _page(filters: dict[str, Any], number: int) -> Callable[[Any], Awaitable[dict[str, Any]]]:
    return lambda client: client.get_all(filters=filters, page=number, page_size=_PAGE)


def _of(caller: Caller) -> dict[str, Any]:
    return {"user_id": key_of(caller)}


def _memories(answer: dict[str, Any], caller: Caller) -> list[Memory]:
    """Return the memories of an answer that are the caller's."""
    key = key_of(caller)
    return [_memory_of(item) for item in answer.get("results", []) if item.get("user_id") == key]


def _memory_of(found: dict[str, Any]) -> Memory:
    created_at = datetime.fromisoformat(found["created_at"])
    updated_at = datetime.fromisoformat(found["updated_at"] or found["created_at"])
    return Memory(
        id=found["id"],
        text=found["memory"],
        created_at=created_at,
        updated_at=updated_at,
        score=found.get("score"),
    )
