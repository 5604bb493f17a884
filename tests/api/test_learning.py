"""Memory learns with every model and is there at once, or the log says why not."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import tests.dialect_servers as servers
import tests.upstream as up
from memory.embedder import DIMENSIONS, WordllamaEmbedder
from tests.api.support import scripted
from tests.api.test_memories import ASK, LOVE, learned, memories_of
from tests.dialect_servers import ANSWER, Server
from tests.service import DEADLINE, Service, running
from tests.tools.loopback import serving
from tests.upstream import Upstream

FACT = "Loves Italian food"
TOLD = {"message": LOVE, "user_id": "ann", "memory": True}
SECRET = "zqmarker"


def reads_exchanges(body: dict[str, Any]) -> bool:
    return "# OUTPUT FORMAT" in str(body["messages"])


def with_facts(server: Server) -> Server:
    """Return a server that refuses what it refuses, and knows what is worth remembering."""

    def answering(body: dict[str, Any]) -> up.Reply:
        reply = server(body)
        found = json.dumps({"memory": [{"text": FACT}]})
        return up.text(found) if reads_exchanges(body) and reply.status == 200 else reply

    return answering


@pytest.mark.parametrize(
    "server",
    [
        servers.openai_reasoning,
        servers.mistral,
        servers.databricks,
        servers.bedrock_gateway,
        servers.strict_gateway,
        servers.one_fault_at_a_time,
        servers.deepseek,
        servers.no_structured_output,
    ],
    ids=lambda server: str(server.__name__),
)
async def test_memory_learns_with_every_model(server: Server) -> None:
    async with scripted(with_facts(server), openai_max_retries=0) as (service, upstream):
        await service.json("POST", "/chat", json=TOLD)
        assert await learned(service, "ann", 1) == [FACT]
        form, asked = asked_form(upstream), upstream.asked.value
        await service.json("POST", "/chat", json=TOLD | {"message": f"{LOVE} Really."})
        await memories_of(service, "ann")
        # What the server takes is known by now.
        assert (upstream.asked.value, asked_form(upstream)) == (asked + 2, form)


def asked_form(upstream: Upstream) -> str:
    """Return the form that was demanded when an exchange was read the last time."""
    body = [each for each in upstream.requests if reads_exchanges(each)][-1]
    kind = body.get("response_format", {}).get("type", "words")
    assert (kind == "json_schema") != ("JSON Schema" in str(body["messages"][0]))
    return str(kind)


@pytest.mark.parametrize(
    ("server", "form"),
    [
        (lambda _: ANSWER, "json_schema"),
        (servers.deepseek, "json_object"),
        (servers.no_structured_output, "words"),
    ],
)
async def test_it_asks_in_the_richest_form_that_the_model_takes(server: Server, form: str) -> None:
    async with scripted(with_facts(server), openai_max_retries=0) as (service, upstream):
        await service.json("POST", "/chat", json=TOLD)
        await learned(service, "ann", 1)
        assert asked_form(upstream) == form


async def test_a_bound_that_is_too_high_is_lowered() -> None:
    def server(body: dict[str, Any]) -> up.Reply:
        if body.get("max_tokens", 0) > 4096:
            text = "max_tokens is too large: 8000. This model supports at most 4096 tokens."
            return up.status(400, text, param="max_tokens")
        return ANSWER

    async with scripted(with_facts(server), openai_max_retries=0) as (service, _):
        await service.json("POST", "/chat", json=TOLD)
        assert await learned(service, "ann", 1) == [FACT]


async def until_nothing_waits(service: Service) -> dict[str, Any]:
    """Return what the health tells of memory once all has been tried."""
    async with asyncio.timeout(DEADLINE):
        while await service.registry.store.count_extraction_jobs():  # noqa: ASYNC110 - a worker
            await asyncio.sleep(0.01)
    detail = await service.json("GET", "/api/health/detailed")
    found: dict[str, Any] = detail["components"]["memory"]["details"]
    return found


def refusing(body: dict[str, Any]) -> up.Reply:
    if not reads_exchanges(body):
        return ANSWER
    return up.status(400, f"The context of 4096 tokens is full. You sent {SECRET} and {LOVE!r}")


def talking(body: dict[str, Any]) -> up.Reply:
    return up.text(f"I cannot remember {SECRET}.") if reads_exchanges(body) else ANSWER


def half(body: dict[str, Any]) -> up.Reply:
    return up.text(f'["{FACT}", {{"text": 7}}]') if reads_exchanges(body) else ANSWER


@pytest.mark.parametrize(
    ("server", "counted", "reason"),
    [
        (refusing, (1, 0), "The context of 4096 tokens is full"),
        (talking, (1, 0), "has not the form that it was asked for"),
        (half, (0, 1), "could not be read"),
    ],
)
async def test_what_could_not_be_learned_is_counted_and_the_log_says_why(
    server: Server,
    counted: tuple[int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("storage.extraction_jobs.PAUSE", -1.0)
    monkeypatch.setattr("memory.learning.PAUSE", 0.01)
    async with scripted(server, openai_max_retries=0) as (service, _):
        await service.json("POST", "/chat", json=TOLD | {"message": f"{LOVE} {SECRET}."})
        details = await until_nothing_waits(service)
    assert (details["not_learned"], details["unread"]) == counted
    told = [record.getMessage() for record in caplog.records if record.name == "parley.memory"]
    assert reason in told[-1]
    assert SECRET not in caplog.text
    assert "Italian" not in caplog.text


class Held(WordllamaEmbedder):
    """An embedder that is not loaded before a test lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_load = asyncio.Event(), asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.is_asked.set()
        await self.may_load.wait()
        return await super().embed(texts)


async def first_prompt(service: Service, upstream: Upstream) -> str:
    """Ask once, and return the instructions that the model got."""
    await service.json("POST", "/chat", json=TOLD | {"message": ASK})
    return str(upstream.requests[0]["messages"][0]["content"])


async def started_again(path: Path, held: Any, let_go: Callable[[], None], **settings: Any) -> str:
    """Start a service whose embedder is held up; return the first prompt after it is ready."""
    prompts: list[str] = []
    is_ready = asyncio.Event()

    async def serve() -> None:
        async with scripted(lambda _: ANSWER, data_dir=path, **settings) as (service, upstream):
            is_ready.set()
            prompts.append(await first_prompt(service, upstream))

    serving = asyncio.create_task(serve())
    async with asyncio.timeout(DEADLINE * 2):
        await held.wait()
        with pytest.raises(TimeoutError):  # for much longer than the rest of a start takes
            await asyncio.wait_for(is_ready.wait(), 1.0)
        let_go()
        await serving
    return prompts[0]


async def test_the_first_answer_after_a_restart_has_its_memories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(data_dir=tmp_path) as service:
        body = {"memory": LOVE, "user_id": "ann"}
        await service.json("POST", "/memories", expect=201, json=body)
    embedder = Held()
    monkeypatch.setattr("app.WordllamaEmbedder", lambda: embedder)
    prompt = await started_again(tmp_path, embedder.is_asked, embedder.may_load.set)
    assert LOVE in prompt


async def test_it_has_them_with_an_embedder_that_is_far_away_and_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()
    may_answer.set()

    async def embeddings(request: web.Request) -> web.Response:
        is_asked.set()
        await may_answer.wait()
        texts = (await request.json())["input"]
        data = [
            {"object": "embedding", "index": at, "embedding": [1.0] + [0.0] * (DIMENSIONS - 1)}
            for at in range(len(texts))
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "model": "e", "data": data, "usage": usage})

    async with serving(embeddings) as url:
        settings = {"memory_embedder": "openai"}
        monkeypatch.setattr("app.OpenAIEmbedder", far(url))
        async with scripted(lambda _: ANSWER, data_dir=tmp_path, **settings) as (service, _):
            body = {"memory": LOVE, "user_id": "ann"}
            await service.json("POST", "/memories", expect=201, json=body)
        is_asked.clear()
        may_answer.clear()
        prompt = await started_again(tmp_path, is_asked, may_answer.set, **settings)
    assert LOVE in prompt


def far(url: str) -> Callable[..., Any]:
    from memory.embedder import OpenAIEmbedder

    return lambda key, _base_url, model: OpenAIEmbedder(key, f"{url}/v1", model)
