"""mem0's service, as its client and its published interface describe it, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from caller import Caller
from memory import Memories, MemoryUnavailable
from memory.hosted import open_hosted
from messages import AssistantMessage, Message, UserMessage

ANN = Caller("open", "ann")
NOW = "2026-01-01T10:00:00.000000-07:00"


class Service:
    """A small mem0. What is added becomes visible when its event was asked for twice."""

    def __init__(self) -> None:
        self.memories: dict[str, dict[str, Any]] = {}
        self.pending: dict[str, list[Any]] = {}
        self.bodies: list[tuple[str, Any]] = []
        self.is_down = False
        self.app = web.Application(middlewares=[self.guard])
        self.app.router.add_get("/v1/ping/", self.ping)
        self.app.router.add_post("/v3/memories/add/", self.add)
        self.app.router.add_get("/v1/event/{id}/", self.event)
        self.app.router.add_post("/v3/memories/", self.list)
        self.app.router.add_post("/v3/memories/search/", self.search)
        self.app.router.add_delete("/v1/memories/", self.delete_all)
        self.app.router.add_route("*", "/v1/memories/{id}/", self.one)

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.is_down or request.headers.get("Authorization") != "Token m0-key":
            return web.json_response({"detail": "no"}, status=503 if self.is_down else 401)
        if request.can_read_body:
            self.bodies.append((request.path, await request.json()))
        response: web.StreamResponse = await handler(request)
        return response

    async def ping(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "org_id": "o", "project_id": "p"})

    async def add(self, request: web.Request) -> web.Response:
        event = f"event{len(self.pending)}"
        self.pending[event] = [2, await request.json()]
        return web.json_response({"event_id": event, "status": "PENDING"})

    async def event(self, request: web.Request) -> web.Response:
        event = self.pending[request.match_info["id"]]
        event[0] -= 1
        if event[0] == 0:
            body = event[1]
            for message in body["messages"]:
                if message["role"] == "user":
                    self.keep(body["user_id"], message["content"], body["metadata"])
        return web.json_response({"status": "SUCCEEDED" if event[0] <= 0 else "RUNNING"})

    def keep(self, user: str, text: str, metadata: dict[str, str]) -> None:
        name = f"id{len(self.memories)}"
        self.memories[name] = {
            "id": name,
            "memory": text,
            "user_id": user,
            "metadata": metadata,
            "created_at": NOW,
            "updated_at": NOW,
        }

    def matching(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        parts = filters.get("AND", [filters])
        wanted = {key: value for part in parts for key, value in part.items()}
        return [
            memory
            for memory in reversed(self.memories.values())
            if memory["user_id"] == wanted["user_id"]
            and wanted.get("metadata", {}).items() <= memory["metadata"].items()
        ]

    async def list(self, request: web.Request) -> web.Response:
        found = self.matching((await request.json())["filters"])
        return web.json_response({"count": len(found), "next": None, "results": found})

    async def search(self, request: web.Request) -> web.Response:
        body = await request.json()
        found = [{**memory, "score": 0.7} for memory in self.matching(body["filters"])]
        return web.json_response({"results": found[: body["top_k"]]})

    async def delete_all(self, request: web.Request) -> web.Response:
        for memory in self.matching({"user_id": request.query["user_id"]}):
            del self.memories[memory["id"]]
        return web.json_response({"message": "deleted"})

    async def one(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.memories:
            return web.json_response({"detail": "not found"}, status=404)
        if request.method == "PUT":
            self.memories[name]["memory"] = (await request.json())["text"]
        if request.method == "DELETE":
            return web.json_response(self.memories.pop(name))
        return web.json_response(self.memories[name])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def address(service: Service) -> AsyncIterator[str]:
    runner = web.AppRunner(service.app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def memories(address: str) -> AsyncIterator[Memories]:
    memories = open_hosted("m0-key", address)
    async with asyncio.timeout(30):
        yield memories
    await memories.aclose()


async def test_a_memory_is_added_found_changed_and_removed(
    service: Service, memories: Memories
) -> None:
    added = await memories.add(ANN, "I love pasta")
    assert added.text == "I love pasta"
    assert await memories.find(ANN, added.id) == added
    assert await memories.page(ANN, 5) == [added]
    (found,) = await memories.recall(ANN, "dinner", 5)
    assert (found.id, found.score) == (added.id, 0.7)
    changed = await memories.change(ANN, added.id, "I love rice")
    assert changed is not None
    assert changed.text == "I love rice"
    assert await memories.remove(ANN, added.id) is True
    assert await memories.remove(ANN, added.id) is False
    added_as = next(body for path, body in service.bodies if path == "/v3/memories/add/")
    assert (added_as["infer"], added_as["user_id"]) == (False, "open/ann")


async def test_nobody_reaches_another_users_memory_by_its_id(memories: Memories) -> None:
    added = await memories.add(ANN, "I love pasta")
    stranger = Caller("open", "bob")
    assert await memories.find(stranger, added.id) is None
    assert await memories.change(stranger, added.id, "I hate pasta") is None
    assert await memories.remove(stranger, added.id) is False
    assert await memories.clear(stranger) == 0
    assert await memories.page(ANN, 5) == [added]
    assert await memories.clear(ANN) == 1
    assert await memories.page(ANN, 5) == []


@pytest.mark.parametrize("name", [".", ".."])
async def test_an_id_that_is_a_way_to_something_else_is_nobodys(
    service: Service, memories: Memories, name: str
) -> None:
    added = await memories.add(ANN, "I love pasta")
    service.is_down = True  # it is not even asked
    assert await memories.find(ANN, name) is None
    assert await memories.change(ANN, name, "I hate pasta") is None
    assert await memories.remove(ANN, name) is False
    service.is_down = False
    assert await memories.page(ANN, 5) == [added]


async def test_an_exchange_is_sent_once(service: Service, memories: Memories) -> None:
    said: list[Message] = [UserMessage("I love pasta"), AssistantMessage("Good.")]
    assert await memories.learn(ANN, said, "run_1") == 1
    assert await memories.learn(ANN, said, "run_1") == 0
    (sent,) = [body for path, body in service.bodies if path == "/v3/memories/add/"]
    assert sent["infer"] is True
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant"]


async def test_a_service_that_is_down_is_unavailable_and_is_asked_again(
    service: Service, memories: Memories
) -> None:
    service.is_down = True
    with pytest.raises(MemoryUnavailable):
        await memories.warm()
    service.is_down = False
    await memories.warm()
    service.is_down = True
    with pytest.raises(MemoryUnavailable):
        await memories.recall(ANN, "dinner", 5)
    service.is_down = False
    assert await memories.recall(ANN, "dinner", 5) == []


async def test_a_key_that_is_wrong_is_unavailable_and_is_not_told(address: str) -> None:
    memories = open_hosted("m0-wrong", address)
    with pytest.raises(MemoryUnavailable) as raised:
        await memories.add(ANN, "I love pasta")
    assert "m0-wrong" not in str(raised.value)
