"""Vectors of a server that speaks OpenAI's API, and what is done where it does not."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from memory import MemoryUnavailable
from memory.embedder import DIMENSIONS, MAX_CHARS, OpenAIEmbedder
from tests.tools.loopback import refusing, serving

KEY = "sk-secret-of-the-embedder"

Answer = Callable[[list[str]], Any]


def vector(text: str) -> list[float]:
    """Return a vector that is none of length 1: its direction follows from the text's length."""
    return [3.0 * len(text), 4.0, *[0.0] * (DIMENSIONS - 2)]


def in_order(texts: list[str]) -> Any:
    data = [
        {"object": "embedding", "index": at, "embedding": vector(text)}
        for at, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "model": "small", "data": data, "usage": usage}


def reversed_order(texts: list[str]) -> Any:
    answer = in_order(texts)
    return answer | {"data": answer["data"][::-1]}


def one_less(texts: list[str]) -> Any:
    answer = in_order(texts)
    return answer | {"data": answer["data"][1:]}


def too_long(texts: list[str]) -> Any:
    return in_order(texts) | {"data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]}


class Server:
    """What is asked of the server, and what it answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer: Answer | None = answer
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    async def embeddings(self, request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("POST", "/v1/embeddings")
        self.bodies.append(await request.json())
        self.keys.add(request.headers.get("Authorization"))
        if self.answer is None:
            return web.json_response({"error": {"message": f"Bad key {KEY}."}}, status=401)
        return web.json_response(self.answer(self.bodies[-1]["input"]))


@asynccontextmanager
async def asked(answer: Answer = in_order) -> AsyncIterator[tuple[OpenAIEmbedder, Server]]:
    server = Server(answer)
    async with serving(server.embeddings) as url:
        embedder = OpenAIEmbedder(KEY, f"{url}/v1", "small")
        try:
            yield embedder, server
        finally:
            await embedder.aclose()


def direction(text: str) -> list[float]:
    length = math.hypot(3.0 * len(text), 4.0)
    return [3.0 * len(text) / length, 4.0 / length]


@pytest.mark.parametrize("answer", [in_order, reversed_order])
async def test_each_text_has_its_vector_of_length_one_in_whatever_order_they_come(
    answer: Answer,
) -> None:
    async with asked(answer) as (embedder, server):
        vectors = await embedder.embed(["one", "seven"])
    assert [found[:2] for found in vectors] == [
        pytest.approx(direction("one")),
        pytest.approx(direction("seven")),
    ]
    [body] = server.bodies
    assert (body["model"], body["dimensions"]) == ("small", DIMENSIONS)
    assert body["input"] == ["one", "seven"]
    assert server.keys == {f"Bearer {KEY}"}
    assert embedder.name == f"openai-small-{DIMENSIONS}"


async def test_many_texts_are_asked_for_in_parts_and_their_tokens_counted_together() -> None:
    texts = ["a" * (1 + at % 3) for at in range(600)]
    async with asked() as (embedder, server):
        vectors, tokens = await embedder.counted(texts)
    assert [len(body["input"]) for body in server.bodies] == [256, 256, 88]
    assert (len(vectors), tokens) == (600, 600)
    assert vectors[599][:2] == pytest.approx(direction(texts[599]))


async def test_of_a_long_text_the_beginning_is_sent_and_of_an_empty_one_a_blank() -> None:
    async with asked() as (embedder, server):
        await embedder.embed(["", "a" * MAX_CHARS + "b"])
    assert server.bodies[0]["input"] == [" ", "a" * MAX_CHARS]


@pytest.mark.parametrize("answer", [one_less, too_long])
async def test_an_answer_of_another_form_is_none(answer: Answer) -> None:
    async with asked(answer) as (embedder, _):
        with pytest.raises(MemoryUnavailable, match="another form"):
            await embedder.embed(["one", "two"] if answer is one_less else ["one"])


async def test_a_server_that_refuses_makes_memory_unavailable_until_it_does_not() -> None:
    async with asked() as (embedder, server):
        server.answer = None
        with pytest.raises(MemoryUnavailable) as caught:
            await embedder.embed(["one"])
        assert KEY not in caught.value.message
        assert caught.value.__cause__ is None
        server.answer = in_order
        assert len(await embedder.embed(["one"])) == 1


async def test_a_server_that_is_not_there_makes_memory_unavailable() -> None:
    embedder = OpenAIEmbedder(KEY, refusing(), "small")
    try:
        with pytest.raises(MemoryUnavailable):
            await embedder.embed(["one"])
    finally:
        await embedder.aclose()


async def test_who_was_never_asked_has_nothing_to_close() -> None:
    embedder = OpenAIEmbedder(KEY, None, "small")
    await embedder.aclose()
    assert embedder._client is None
