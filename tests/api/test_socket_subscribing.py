"""`/ws`: what one socket follows, and its own conversation, when things come at once or fail."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from api.http.identity import OPEN
from api.http.payloads import Session
from api.native.socket import Socket, SocketLimits
from tests.api.test_socket_bad_input import library
from tests.hostile import frame
from tests.service import DEADLINE, Service, running
from tests.upstream import Upstream, paced, text
from tests.wsclient import ENDS, connected, text_of

pytestmark = pytest.mark.usefixtures("no_mistakes")


def message(kind: str, **data: Any) -> bytes:
    return json.dumps({"type": kind, "request_id": "r1", "data": data}).encode()


async def test_an_unsubscribe_and_a_subscribe_may_come_in_one_go() -> None:
    async with (
        Upstream([paced(text("one", " two"))]) as upstream,
        running(upstream=upstream.base_url) as service,
        library(service) as raw,
        asyncio.timeout(DEADLINE),
    ):
        raw.transport.write(frame(message("chat", message="hi")))
        run_id = json.loads(await raw.recv())["data"]["run_id"]
        again = [message(kind, run_id=run_id) for kind in ("unsubscribe", "subscribe")]
        raw.transport.write(b"".join(map(frame, again)))
        upstream.gate.open()
        frames = [json.loads(await raw.recv())]
        while frames[-1]["type"] not in ENDS:
            frames.append(json.loads(await raw.recv()))
    acks = [found["data"]["type"] for found in frames if found["type"] == "ack"]
    assert acks == ["unsubscribe", "subscribe"]
    assert frames[-1]["type"] == "chat_complete"
    assert [found["data"]["seq"] for found in frames if "id" in found] == [1, 2, 3, 4]


class Stuck:
    """A connection that takes no event of a run, and every other message."""

    def __init__(self, service: Service) -> None:
        self.scope: dict[str, Any] = {}
        self.stuck = asyncio.Event()
        self.taken: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def accept(self) -> None:
        pass

    async def close(self, code: int, reason: str) -> None:
        await self.taken.put({"type": "close"})

    async def receive(self) -> dict[str, str]:
        return await self.sent.get()

    async def send_text(self, data: str) -> None:
        said = msgspec.json.decode(data)
        if "id" in said:
            self.stuck.set()
            await asyncio.Event().wait()
        await self.taken.put(said)

    async def send(self, data: bytes) -> None:
        await self.sent.put({"type": "websocket.receive", "text": data.decode()})


async def test_a_write_that_an_unsubscribe_gives_up_does_not_count_as_slow() -> None:
    time_limit = 0.4
    async with running() as service, asyncio.timeout(DEADLINE):
        run_id = (await service.stream(message="hi"))[0]["run_id"]
        stuck = Stuck(service)
        limits = SocketLimits(65_536, 32, time_limit)
        session = Session(None, None, None)
        socket: Any = Socket(stuck, service.registry, limits, OPEN, session)  # type: ignore[arg-type]
        serving = asyncio.create_task(socket.serve())
        await stuck.send(message("subscribe", run_id=run_id))
        await stuck.stuck.wait()
        await stuck.send(message("unsubscribe", run_id=run_id))
        await asyncio.wait([serving], timeout=2.5 * time_limit)  # several checks pass
        await stuck.send(message("ping"))
        kinds = [(await stuck.taken.get())["type"] for _ in range(3)]
        await stuck.sent.put({"type": "websocket.disconnect"})
        await serving
    assert kinds == ["ack", "ack", "pong"]


async def test_a_refused_reset_leaves_the_socket_its_conversation() -> None:
    async with (
        Upstream([text("one"), text("two")]) as upstream,
        running(upstream=upstream.base_url) as service,
        connected(service) as client,
    ):
        first = await client.chat("first")
        await client.send("chat", message="second", agent="nobody", reset_history=True)
        assert (await client.refusal())["code"] == "agent_not_found"
        third = await client.chat("third")
    ids = {frames[0]["data"]["conversation_id"] for frames in (first, third)}
    assert len(ids) == 1
    assert text_of(third) == "two"
    told = [said["content"] for said in upstream.requests[1]["messages"][1:]]
    assert told == ["first", "one", "third"]
