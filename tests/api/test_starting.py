"""Every route that starts a run: what all of them take, and what they tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.api.support import add, refused, rest, scripted, streaming
from tests.api.test_research import TOOLS
from tests.service import DEADLINE, Service, running
from tests.upstream import Upstream, held, text

pytestmark = pytest.mark.usefixtures("no_mistakes")

HELLO = {"message": "hello", "conversation_id": "c"}
ADA = {"user_id": "ada", "message": "hello"}

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/chat", {"message": "hello"}),
    ("/chat/stream", {"message": "hello"}),
    ("/chat/stream", {"input": "hello"}),
    ("/assistant/run", {"input": "hello"}),
    ("/assistant/stream", {"input": "hello"}),
    ("/api/chat", ADA),
    ("/api/chat/simple", ADA),
    ("/research", {"query": "hello"}),
    ("/research/stream", {"query": "hello"}),
    ("/conversations/c/regenerate", {}),
    ("/conversations/c/regenerate/stream", {}),
    ("/conversations/c/edit", {"message": "ho"}),
    ("/conversations/c/edit/stream", {"message": "ho"}),
]


async def test_every_route_that_starts_a_run_names_it_and_starts_it_once_for_a_key() -> None:
    async with running(tools=TOOLS) as service:
        await service.json("POST", "/chat", json=HELLO)
        first = (await service.json("GET", "/conversations/c"))["messages"][0]["id"]
        for number, (path, body) in enumerate(ROUTES):
            sent = body | ({"message_id": first} if "edit" in path else {})
            ids = []
            for key in ("one", "one", "two"):
                headers = {"Idempotency-Key": f"{number}-{key}"}
                async with service.session.post(
                    service.url + path, json=sent, headers=headers
                ) as response:
                    assert response.status == 200, await response.text()
                    ids.append(response.headers.get("X-Run-Id"))
            assert ids[0] is not None, path
            assert (ids[1] == ids[0], ids[2] == ids[0]) == (True, False), path


async def test_an_answer_anew_takes_the_options_of_its_body() -> None:
    async with scripted([text("one"), text("two")], tools=[add]) as (service, upstream):
        await service.json("POST", "/chat", json=HELLO)
        await service.json("POST", "/agents/sums", expect=201, json={"instructions": "Add."})
        options = {"agent": "sums", "parallel_tools": False}
        again = await service.json("POST", "/conversations/c/regenerate", json=options)
    assert again["agent"] == "sums"
    assert upstream.requests[1]["messages"][0]["content"] == "Add."
    assert upstream.requests[1]["parallel_tool_calls"] is False


async def test_an_edit_takes_the_options_of_its_body() -> None:
    async with scripted([text("one"), text("two")], tools=[add]) as (service, upstream):
        await service.json("POST", "/chat", json=HELLO)
        first = (await service.json("GET", "/conversations/c"))["messages"][0]["id"]
        body = {"message_id": first, "message": "ho", "parallel_tools": False}
        await service.json("POST", "/conversations/c/edit", json=body)
    assert upstream.requests[1]["parallel_tool_calls"] is False


async def test_a_run_of_a_session_takes_the_options_of_its_body() -> None:
    async with scripted([text("one")], tools=[add]) as (service, upstream):
        body = {"input": "hi", "parallel_tools": False}
        await service.json("POST", "/assistant/run", json=body)
    assert upstream.requests[0]["parallel_tool_calls"] is False


@asynccontextmanager
async def busy(conversation_id: str) -> AsyncIterator[tuple[Service, Upstream]]:
    """Serve with a run under way in a conversation."""
    async with (
        scripted([held(text("one"))], tools=TOOLS) as (service, upstream),
        streaming(service, message="hi", conversation_id=conversation_id) as (_, incoming),
    ):
        await upstream.asked.reach(1)
        yield service, upstream
        upstream.gate.open()
        assert (await rest(incoming))[-1]["final_response"] == "one"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/assistant/run", {"input": "x"}),
        ("/chat/stream", {"input": "x"}),
        ("/research", {"query": "x"}),
        ("/research/stream", {"query": "x"}),
    ],
)
async def test_a_session_that_is_busy_can_refuse(path: str, body: dict[str, Any]) -> None:
    async with busy("s") as (service, _), asyncio.timeout(DEADLINE):
        sent = body | {"session_id": "s", "if_busy": "reject"}
        await refused(service, "POST", path, 409, "conversation_busy", json=sent)


@pytest.mark.parametrize("path", ["/api/chat", "/research/stream", "/assistant/stream"])
async def test_a_stream_of_any_surface_is_told_in_the_protocol_that_is_asked_for(
    path: str,
) -> None:
    async with running(tools=TOOLS) as service:
        body = {"user_id": "ada", "message": "hi", "input": "hi"}
        frames = await service.stream(f"{path}?protocol=events", **body)
    assert frames[0]["event_type"] == "chat_start"
