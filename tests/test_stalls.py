"""Nothing that a client or a tool does stalls the event loop, and so the tokens of all others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.probed import Service, probed
from tests.upstream import Reply, Upstream, calls, text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LONGEST = 0.1
"""Seconds that the loop may stand still."""

ROUNDS = 5
"""The best of so many counts: a busy machine may take part in some of them."""

MESSAGES = 9_000
TOKENS = 50_000
TOOLS = ("long_text", "long_list", "many_objects", "many_records")

Work = Callable[[], Awaitable[tuple[int, bytes]]]


def model(body: dict[str, Any]) -> Reply:
    """Do what the message says: `use <tool>`, `arguments`, `tokens`."""
    said = body["messages"][-1]
    if said["role"] == "tool":
        return text("done")
    match str(said["content"]).split():
        case ["use", tool]:
            return calls((tool, {}))
        case ["arguments"]:
            return calls(("echo", {"items": [[]] * 9_000}), piece_length=9_000)
        case ["tokens"]:
            return text(*["token "] * TOKENS)
    return text("Hi.")


def packed(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def schema(properties: int) -> dict[str, Any]:
    members = {f"p{number}": {"type": "a"} for number in range(properties)}
    return {"type": "object", "properties": members}


def bodies() -> list[tuple[int, str, bytes]]:
    """Return bodies near the bound of a body, with the status of the answer and the path."""
    hi = [{"role": "user", "content": "Hi."}]
    many = b"[%b]" % b",".join([b"1"] * 400_000)
    said = [{"role": "user", "content": "x" * 60}] * MESSAGES
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}] * 4_500
    found: list[tuple[int, str, bytes]] = [
        (400, "/v1/responses", b'{"model":"chat","input":%b}' % many),
        (400, "/v1/chat/completions", b'{"model":"chat","messages":%b}' % many),
        (400, "/v1/embeddings", b'{"model":"m","input":%b}' % many),
        (400, "/invocations", b'{"prompt":%b}' % many),
        (422, "/chat", b'{"message":"Hi.","history":%b}' % many),
        (200, "/chat", b'{"message":"Hi.","ignored":%b}' % many),
        (413, "/chat", b'{"message":"Hi.","ignored":[%b]}' % b",".join([b"{}"] * 300_000)),
        (200, "/v1/embeddings", packed({"model": "m", "input": ["word " * 80] * 2_000})),
        (200, "/v1/chat/completions", packed({"model": "chat", "messages": said})),
        (200, "/v1/chat/completions", packed({"model": "chat", "messages": parts})),
        (200, "/v1/responses", packed({"model": "chat", "input": said})),
    ]
    for status, size in ((200, 14_000), (413, 40_000)):
        function = {"name": "act", "parameters": schema(size)}
        form = {"type": "json_schema", "name": "form", "schema": schema(size)}
        tools = [{"type": "function", "function": function}]
        found += [
            (
                status,
                "/v1/chat/completions",
                packed({"model": "chat", "messages": hi} | {"tools": tools}),
            ),
            (
                status,
                "/v1/responses",
                packed({"model": "chat", "input": "Hi.", "text": {"format": form}}),
            ),
        ]
    return found


def asked(service: Service, status: int, path: str, body: Any = None) -> Work:
    async def ask() -> tuple[int, bytes]:
        answer = await (service.get(path) if body is None else service.post(path, body))
        assert answer[0] == status, (path, answer[1][:200])
        return answer

    return ask


def large_requests(service: Service) -> list[Work]:
    return [asked(service, *each) for each in bodies()]


def large_results(service: Service) -> list[Work]:
    wanted = [*(f"use {tool}" for tool in (*TOOLS, *TOOLS)), *["arguments"] * 4]
    return [asked(service, 200, "/chat", {"message": message}) for message in wanted]


async def long_answers(service: Service) -> list[Work]:
    """Return reads of a log, a stored response and a conversation that are long."""
    async with service.session.post(
        service.url + "/chat/stream", json={"message": "tokens", "conversation_id": "long"}
    ) as response:
        await response.read()
        run_id = response.headers["X-Run-Id"]
    wanted = packed(
        {
            "model": "chat",
            "input": "tokens",
            "tools": [{"type": "function", "name": "act", "parameters": schema(14_000)}],
        }
    )
    response_id = json.loads((await service.post("/v1/responses", wanted))[1])["id"]
    for _ in range(10):
        await service.post("/chat", {"message": "use long_text", "conversation_id": "long"})
    places = [
        f"/runs/{run_id}/events?protocol={protocol}{after}"
        for protocol in ("events", "tokens", "chunks", "agents-sdk", "openai")
        for after in ("", f"&after={TOKENS - 10}")
    ]
    places += [
        f"/v1/responses/{response_id}{query}"
        for query in ("", "?stream=true", f"?stream=true&starting_after={TOKENS - 10}")
    ]
    places += ["/conversations/long?limit=1000", "/conversations/long/export", "/openapi.json"]
    return [asked(service, 200, place) for place in places]


async def test_all_of_it_at_once_stalls_nobody() -> None:
    found: list[float] = []
    async with Upstream(model) as upstream, probed(upstream.base_url) as service:
        await service.post("/chat", {"message": "Hi."})  # what is loaded at first use
        await service.post("/v1/embeddings", {"model": "m", "input": "Hi."})
        work = [*large_requests(service), *large_results(service), *await long_answers(service)]
        while len(found) < ROUNDS and not (found and found[-1] < LONGEST):
            await service.probe()
            await asyncio.gather(*(each() for each in work))
            found.append((await service.probe()).stall)
    assert min(found) < LONGEST, found
