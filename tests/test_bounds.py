"""Whatever clients fill, the memory of the process stays within what its settings say.

The tables that a client can fill are listed in `docs/limits.md`. Here a real process is filled, and
what it counts is compared with what it takes from the system.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.probed import Probe, Service, probed
from tests.upstream import Gate, Reply, Upstream, calls, held, text

pytestmark = pytest.mark.slow

MIB = 1 << 20
MAX_RUN_BYTES = 32 * MIB
MARGIN = 64 * MIB
"""What a process may take besides: what is under way, caches of libraries, unused memory."""

MAX_RUNS = 100
AT_ONCE = 4


class Model:
    """Does what the message says, `answer`, `results` or `wait`."""

    def __init__(self) -> None:
        self.gate = Gate()

    def reply(self, body: dict[str, Any]) -> Reply:
        said = body["messages"][-1]
        match str(said["content"]).partition(" ")[0]:
            case "answer":
                return text(*["word " * 1000] * 200)
            case "results":
                return calls(*[("some_text", {})] * 50)
            case "wait":
                return held(text("Hi."), self.gate)
        return text("Hi.")


class Filling:
    """A service, and what it had before it was filled."""

    def __init__(self, service: Service, model: Model, empty: Probe) -> None:
        self.service = service
        self.model = model
        self._empty = empty

    async def many(self, count: int, ask: Callable[[int], Awaitable[Any]]) -> list[Any]:
        """Ask so many times, a few at a time."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Any:
            async with gate:
                return await ask(number)

        return await asyncio.gather(*map(one, range(count)))

    async def check(self, what: str) -> None:
        """Fail where the process counts, or takes, more than it may."""
        now = await self.service.probe()
        assert now.logs <= MAX_RUN_BYTES // 2, what
        assert now.live + now.ended <= MAX_RUN_BYTES // 2, what
        assert min(now.logs, now.live, now.ended) >= 0, what
        assert now.runs <= MAX_RUNS, what
        grown = now.memory - self._empty.memory
        assert grown < MAX_RUN_BYTES + MARGIN, f"{what}: {grown / MIB:.0f} MiB"


@asynccontextmanager
async def filling() -> AsyncIterator[Filling]:
    model = Model()
    settings = {"max_run_bytes": MAX_RUN_BYTES, "max_runs": MAX_RUNS, "max_active_runs": 500}
    async with (
        Upstream(model.reply) as upstream,
        probed(upstream.base_url, **settings) as service,
    ):
        await service.post("/chat", {"message": "Hi."})
        yield Filling(service, model, await service.probe())


def with_schema(said: str, number: int) -> dict[str, Any]:
    """Return a request for a response with a schema of 900 KB."""
    members = {f"p{each}": {"description": f"{number} " * 4_000} for each in range(60)}
    schema = {"type": "object", "properties": members}
    form = {"type": "json_schema", "name": "form", "schema": schema}
    return {"model": "chat", "input": said, "text": {"format": form}}


async def test_whatever_is_filled_the_memory_has_a_bound() -> None:
    async with filling() as it:
        service = it.service

        async def respond(number: int) -> str:
            status, body = await service.post("/v1/responses", with_schema("Hi.", number))
            assert status == 200, body[:200]
            return str(json.loads(body)["id"])

        ids = await it.many(120, respond)
        await it.check("schemas of responses")
        for id in (ids[0], ids[-1]):  # one that left memory, and one that did not
            status, body = await service.get(f"/v1/responses/{id}")
            assert (status, json.loads(body)["id"]) == (200, id)

        async def chat(said: str, **headers: str) -> int:
            return (await service.post("/chat", {"message": said}, **headers))[0]

        assert set(await it.many(40, lambda _: chat("answer"))) == {200}
        await it.check("long answers")
        assert set(await it.many(30, lambda _: chat("results"))) == {200}
        await it.check("results of tools")
        keys = [f"{number:04}".ljust(255, "k") for number in range(120)]
        await it.many(len(keys), lambda number: chat("Hi.", **{"idempotency-key": keys[number]}))
        await it.check("idempotency keys")
        await it.many(
            100,
            lambda number: service.get(
                "/conversations/search?q=" + "+".join(f"{number}w{each}" * 8 for each in range(32))
            ),
        )
        await it.check("searches")


async def test_requests_that_wait_fill_no_more_than_there_is_and_others_are_told_to_wait() -> None:
    async with filling() as it:
        service = it.service
        answers: list[tuple[int, bytes]] = []

        async def wait(number: int) -> None:
            body = with_schema("wait", number) | {"background": True}
            answers.append(await service.post("/v1/responses", body))

        await it.many(60, wait)
        await it.check("runs that wait")
        refused = [json.loads(body) for status, body in answers if status == 503]
        accepted = [json.loads(body)["id"] for status, body in answers if status == 200]
        assert len(refused) + len(accepted) == len(answers)
        assert len(refused) > 20
        assert len(accepted) > 2
        assert "memory" in refused[0]["error"]["message"]
        it.model.gate.open()
        for id in accepted:
            body = (await service.get(f"/v1/responses/{id}?stream=true"))[1]
            assert b"response.completed" in body
        assert (await service.post("/v1/responses", with_schema("Hi.", 1)))[0] == 200
        await it.check("runs that waited")
