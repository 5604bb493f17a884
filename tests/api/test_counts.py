"""A bound on a count holds when a hundred ask at once."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from memory import rows
from tests.api.support import scripted
from tests.service import Service
from tests.upstream import held, text
from tests.wsclient import connected

pytestmark = pytest.mark.usefixtures("no_mistakes")

MANY = 100


class Bound(NamedTuple):
    """A setting, the request that takes a place, how many get one, and what the others get."""

    settings: dict[str, Any]
    method: str
    path: str
    body: dict[str, Any]
    places: int
    refusal: int


BOUNDS = {
    "agents": Bound({"max_agents": 10}, "POST", "/agents/a{}", {}, 8, 429),
    "runs": Bound({"max_active_runs": 10}, "POST", "/chat/stream", {"message": "hi"}, 10, 503),
    "runs of another surface": Bound(
        {"max_active_runs": 10}, "POST", "/assistant/stream", {"input": "hi"}, 10, 503
    ),
    "messages that wait": Bound(
        {"max_queued_messages": 9},
        "POST",
        "/chat/stream",
        {"message": "hi", "conversation_id": "c"},
        10,
        429,
    ),
}


async def statuses(service: Service, bound: Bound, gate: Callable[[], None]) -> list[int]:
    """Ask a hundred times at once; what has a place keeps it until all have an answer."""

    async def ask(number: int) -> int:
        path = service.url + bound.path.format(number)
        async with service.session.request(bound.method, path, json=bound.body) as response:
            answered.append(response.status)
            if len(answered) == MANY:
                gate()
            await response.read()
            return response.status

    answered: list[int] = []
    return await asyncio.gather(*(ask(number) for number in range(MANY)))


@pytest.mark.parametrize("kind", BOUNDS)
async def test_no_more_get_a_place_than_there_are(kind: str) -> None:
    bound = BOUNDS[kind]
    script: list[Any] = [held(text("yes")) for _ in range(bound.places)]
    async with scripted(script, **bound.settings) as (service, upstream):
        found = await statuses(service, bound, upstream.gate.open)
    refused = [status for status in found if status >= 400]
    assert (len(found) - len(refused), {*refused}) == (bound.places, {bound.refusal})


async def test_a_socket_follows_no_more_runs_than_it_may() -> None:
    script: list[Any] = [held(text("yes")) for _ in range(10)]
    async with (
        scripted(script, websocket_max_chats=10) as (service, upstream),
        connected(service) as client,
    ):
        for number in range(MANY):
            await client.send("chat", f"r{number}", message="hi")
        frames = [await client.receive() for _ in range(MANY)]
        refused = [frame for frame in frames if frame["type"] == "error"]
        assert len(refused) == MANY - 10
        assert {frame["data"]["code"] for frame in refused} == {"too_many_requests"}
        upstream.gate.open()
        for _ in range(10):
            await client.until("chat_complete")


@pytest.mark.slow
async def test_a_user_has_no_more_memories_than_he_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_MEMORIES", 10)
    async with scripted([]) as (service, _):
        adding = (
            service.json("POST", "/memories", expect=201, json={"memory": f"m{number}"})
            for number in range(MANY)
        )
        await asyncio.gather(*adding)
        assert len((await service.json("GET", "/memories?limit=100"))["memories"]) == 10
