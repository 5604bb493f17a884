"""The property: whatever is cut wherever, a run's events are exactly its log."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parley_client import ChatChunk, ChatComplete, ParleyClient, Status
from tests.api.support import add, scripted
from tests.python_client.proxy import Proxy
from tests.python_client.support import all_of, client_of, log_of
from tests.service import DEADLINE, Service
from tests.upstream import Reply, Upstream, calls, held, text

TRANSPORTS = ("websocket", "sse")
WORDS = [f" wörd{number}" for number in range(12)]


def answer(body: dict[str, Any]) -> Reply:
    """Call a tool, then say something with letters of several bytes."""
    if body["messages"][-1]["role"] == "tool":
        return text(*WORDS)
    return calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}), before="Let me see.")


@asynccontextmanager
async def answering() -> AsyncIterator[tuple[Service, Upstream]]:
    async with scripted(answer, tools=[add]) as (service, upstream):
        yield service, upstream


async def check(service: Service, client: ParleyClient) -> None:
    run = client.chat("Add them.")
    found = await all_of(run)
    assert found == await log_of(service, run)
    assert [event.seq for event in found] == [*range(1, len(found) + 1)]
    assert "".join(e.content for e in found if isinstance(e, ChatChunk)).endswith("".join(WORDS))


async def size_of(service: Service, transport: Any) -> int:
    """Return how many bytes come to a client in one chat on one connection."""
    async with Proxy(service.url) as proxy, client_of(proxy.url, transport=transport) as client:
        await check(service, client)
        return proxy.passed


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_whatever_is_cut_wherever_the_events_are_exactly_the_runs_log(transport: Any) -> None:
    async with answering() as (service, upstream):
        size = await size_of(service, transport)
        chance = random.Random(5)
        before = upstream.asked.value
        # A cut in the head, around each border of an event, and in the middle of everything.
        cuts = [1, 40, 129, 130, *range(150, size, 61)]
        made = 0
        for cut in cuts:
            limits = (cut, chance.randrange(1, size), chance.randrange(1, size))
            async with (
                Proxy(service.url, limits) as proxy,
                client_of(proxy.url, transport=transport) as client,
            ):
                await check(service, client)
                made += proxy.cut.value
        assert made > len(cuts)
        assert upstream.asked.value - before == 2 * len(cuts), "a message was answered twice"


async def test_several_runs_on_one_socket_all_survive_its_cuts() -> None:
    async with answering() as (service, _):
        chance = random.Random(7)
        limits = [chance.randrange(200, 6000) for _ in range(12)]
        async with Proxy(service.url, limits) as proxy, client_of(proxy.url) as client:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(check(service, client))
            assert client.status.transport == "websocket"
            assert proxy.cut.value


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_said_while_the_connection_is_away_is_not_missing(transport: Any) -> None:
    script = [held(text("It went on", " all the same."))]
    async with (
        scripted(script) as (service, upstream),
        Proxy(service.url) as proxy,
        client_of(proxy.url, transport=transport) as client,
    ):
        run = client.chat("Go on.")
        await run.started()
        await upstream.gate.reached()
        await proxy.refuse()
        upstream.gate.open()
        await upstream.finished.reach(1)
        await proxy.listen()
        found = await all_of(run)
        assert found == await log_of(service, run)
        assert isinstance(found[-1], ChatComplete)
        assert found[-1].final_response == "It went on all the same."


async def test_a_message_whose_start_never_came_is_sent_again_and_is_one_run() -> None:
    async with scripted([text("Once.")]) as (service, upstream):
        handshake = await handshake_of(service)
        limits = (handshake + 5,)  # in the middle of the first frame
        async with Proxy(service.url, limits) as proxy, client_of(proxy.url) as client:
            run = client.chat("Once, please.", conversation_id="c1")
            assert await run.text() == "Once."
            assert proxy.cut.value == 1
            assert upstream.asked.value == 1
            stored = await client.conversation("c1")
            assert [message.content for message in stored.messages] == ["Once, please.", "Once."]


async def handshake_of(service: Service) -> int:
    """Return how many bytes come to a client that says nothing."""
    is_online = asyncio.Event()

    def on_status(status: Status) -> None:
        if status.state == "online":
            is_online.set()

    async with Proxy(service.url) as proxy, client_of(proxy.url, on_status=on_status) as client:
        client.connect()
        async with asyncio.timeout(DEADLINE):
            await is_online.wait()
        return proxy.passed
