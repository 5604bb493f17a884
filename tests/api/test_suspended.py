"""What clients are told of a run that is suspended because the service stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

import sse
from tests.api.support import rest, scripted, streaming, until
from tests.api.test_research import TOOLS
from tests.service import DEADLINE, Service
from tests.upstream import Gate, Reply, chunk, text
from tests.wsclient import connected

pytestmark = pytest.mark.usefixtures("no_mistakes")

ADA = {"user_id": "ada", "message": "hello"}
HELLO = {"message": "hello"}
STREAM = {"Accept": "text/event-stream"}

WHOLE: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("/chat", HELLO, ("code",)),
    ("/conversations/c/regenerate", {}, ("code",)),
    ("/agents/chat/run", {"input": "hello"}, ("code",)),
    ("/research", {"query": "hello"}, ("code",)),
    ("/api/chat/simple", ADA, ("code",)),
    ("/invocations", {"prompt": "hello"}, ("code",)),
    ("/v1/responses", {"model": "chat", "input": "hello"}, ("error", "code")),
    (
        "/v1/chat/completions",
        {"model": "chat", "messages": [{"role": "user", "content": "hello"}]},
        ("error", "code"),
    ),
]
"""An address that answers whole, a body, and where the failure's code stands."""

ASKED: list[tuple[str, dict[str, Any], str]] = [
    ("/chat/stream?protocol=tokens", HELLO, "code"),
    ("/chat/stream?protocol=chunks", HELLO, "error.code"),
    ("/chat/stream?protocol=agents-sdk", HELLO, "code"),
    ("/chat/stream?protocol=openai", HELLO, "error.code"),
    ("/invocations", {"prompt": "hello"}, "code"),
    ("/v1/responses", {"model": "chat", "input": "hello", "stream": True}, "code"),
]
"""A stream whose clients do not come back, and where the code stands in its last frame."""


@asynccontextmanager
async def halted(*before: Reply) -> AsyncIterator[tuple[Service, Gate]]:
    """Serve with a model that stops in the middle of each reply but the first ones."""
    gate = Gate()
    steps = (chunk({"role": "assistant", "content": ""}), chunk({"content": "so"}), gate)
    script = [*before, *([Reply(steps)] * 5)]
    async with scripted(script, tools=TOOLS) as (service, _):
        yield service, gate


def at(body: Any, path: str) -> Any:
    for name in path.split("."):
        body = body[name]
    return body


@pytest.mark.parametrize(("path", "body", "place"), WHOLE, ids=[each[0] for each in WHOLE])
async def test_who_waits_for_a_whole_answer_gets_503_and_the_run(
    path: str, body: dict[str, Any], place: tuple[str, ...]
) -> None:
    first = [text("So.")] if "regenerate" in path else []
    async with halted(*first) as (service, gate):
        if first:
            await service.json("POST", "/chat", json={"message": "Hi.", "conversation_id": "c"})
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(post(service, path, body))
            await gate.arrivals.reach(1)
            service.registry.stop_all()
        status, headers, answer = asked.result()
        assert status == 503, answer
        assert at(answer, ".".join(place)) == "shutting_down"
        assert answer.get("retryable") in (True, None)
        assert headers["X-Run-Id"].startswith("run_")
        run = await service.json("GET", f"/runs/{headers['X-Run-Id']}")
        assert run["status"] == ("failed" if "completions" in path else "running")


async def post(service: Service, path: str, body: Any) -> tuple[int, Any, Any]:
    async with service.session.post(service.url + path, json=body) as response:
        return response.status, response.headers, await response.json(content_type=None)


@pytest.mark.parametrize(("path", "body", "place"), ASKED, ids=[each[0] for each in ASKED])
async def test_a_stream_that_cannot_be_resumed_ends_in_an_error(
    path: str, body: dict[str, Any], place: str
) -> None:
    async with halted() as (service, gate):
        headers = STREAM if path == "/invocations" else {}
        async with service.session.post(service.url + path, json=body, headers=headers) as response:
            assert response.status == 200
            await gate.arrivals.reach(1)
            service.registry.stop_all()
            frames = sse.Decoder().feed(await response.read())
        assert len(frames) > 1
        last = msgspec.json.decode(frames[-1])
        assert at(last, place) == "shutting_down"
        assert b"[DONE]" not in frames
        assert last.get("type") in (None, "error")


async def test_a_response_that_is_suspended_has_not_failed_and_its_frames_are_counted() -> None:
    async with halted() as (service, gate):
        body = {"model": "chat", "input": "hello", "stream": True}
        async with service.session.post(service.url + "/v1/responses", json=body) as response:
            await gate.arrivals.reach(1)
            service.registry.stop_all()
            frames = sse.Decoder().feed(await response.read())
            found = [msgspec.json.decode(frame) for frame in frames]
        assert [frame["sequence_number"] for frame in found] == [*range(len(found))]
        shown = await service.json("GET", f"/v1/responses/{found[0]['response']['id']}")
        assert shown["status"] == "in_progress"


async def test_a_native_stream_ends_without_a_word_and_is_not_called_over() -> None:
    async with (
        halted() as (service, gate),
        streaming(service, message="hello") as (run_id, incoming),
    ):
        last = (await until(incoming, "chat_chunk"))[-1]
        await gate.arrivals.reach(1)
        service.registry.stop_all()
        assert await rest(incoming) == []
        async with service.session.get(
            f"{service.url}/runs/{run_id}/events", headers={"Last-Event-ID": last["id"]}
        ) as response:
            assert response.status == 200
            assert await response.read() == b""


async def test_a_socket_whose_run_is_suspended_is_closed_with_1012() -> None:
    async with halted() as (service, gate), connected(service) as client:
        for name in "ab":
            await client.send("chat", name, message="hello", conversation_id=name)
        await gate.arrivals.reach(2)
        for _ in "ab":
            await client.until("chat_chunk")
        service.registry.stop_all()
        async with asyncio.timeout(DEADLINE):
            message = await client.socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
