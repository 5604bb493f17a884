"""A service that is stopped in mid-answer and started again completes every answer."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.api.support import rest, said, types, until
from tests.service import Event, events
from tests.test_server import PYTHON, Process, process
from tests.upstream import Gate, Reply, Upstream, chunk, text
from tests.wsclient import Client

pytestmark = pytest.mark.slow

TERMINAL = ("chat_complete", "error")
WHOLE = "All of the answer."


class Model:
    """Stops in the middle of each answer until it is let go; then it answers in one go."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.is_back = False

    def reply(self, body: dict[str, Any]) -> Reply:
        if not self.is_back:
            head, piece = chunk({"role": "assistant", "content": ""}), chunk({"content": "All "})
            return Reply((head, piece, self.gate))
        return text("All ", "of the answer.")


@asynccontextmanager
async def socket_of(up: Process) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(up.url.replace("http", "ws") + "/ws") as connection,
    ):
        yield Client(connection)


@asynccontextmanager
async def sent(up: Process, key: str, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Idempotency-Key": key}
    async with up.session.post(up.url + "/chat/stream", json=body, headers=headers) as response:
        assert response.status == 200
        yield response


async def whole(up: Process) -> tuple[int, str, Any]:
    """Wait for a whole answer; return the status, the run's id and the body."""
    async with up.session.post(up.url + "/chat", json={"message": "whole"}) as response:
        return response.status, response.headers["X-Run-Id"], await response.json()


async def info(up: Process, run_id: str) -> Any:
    async with up.session.get(f"{up.url}/runs/{run_id}") as response:
        assert response.status == 200
        return await response.json()


async def followed(up: Process, run_id: str, last: str | None = None) -> list[Event]:
    """Return the rest of a run's events."""
    headers = {"Last-Event-ID": last} if last else {}
    async with up.session.get(f"{up.url}/runs/{run_id}/events", headers=headers) as response:
        assert response.status == 200
        return await rest(events(response))


def check_rest(found: list[Event], before: list[Event]) -> None:
    """Check what a client gets after the restart, and that there is one end in all."""
    assert types(found) == ["reset", "chat_start", "chat_chunk", "chat_complete"]
    assert found[0]["reason"] == "epoch_changed"
    assert said(found) == found[-1]["final_response"] == WHOLE
    ends = [event for event in before + found if event["event_type"] in TERMINAL]
    assert ends == [found[-1]]


async def test_an_answer_that_a_stop_interrupts_is_complete_after_the_restart(
    tmp_path: Path,
) -> None:
    model = Model()
    async with Upstream(model.reply) as upstream:
        options = {"OPENAI_BASE_URL": upstream.base_url, "DATA_DIR": str(tmp_path)}
        async with process(*PYTHON, **options, SHUTDOWN_GRACE="0.3") as up, socket_of(up) as client:
            asked = {"message": "hi", "conversation_id": "c"}
            async with sent(up, "key", **asked) as response, asyncio.TaskGroup() as group:
                incoming = events(response)
                streamed = await until(incoming, "chat_chunk")
                await client.send("chat", message="hello", conversation_id="d")
                frames = await client.until("chat_chunk")
                waits = group.create_task(whole(up))
                await model.gate.arrivals.reach(3)
                up.child.send_signal(signal.SIGTERM)
                assert await client.closed() == 1012
                assert await rest(incoming) == []
                status, whole_id, problem = await waits
            assert (status, problem["code"], problem["retryable"]) == (503, "shutting_down", True)
            assert await up.ended(within=6) == 0
        run_id, socket_id = streamed[0]["run_id"], frames[0]["data"]["run_id"]
        await upstream.closed_by_client(3)

        async with process(*PYTHON, **options) as up, socket_of(up) as client:
            # The model stops once more, so that one sees them run.
            await model.gate.arrivals.reach(6)
            for each in (run_id, socket_id, whole_id):
                assert (await info(up, each))["status"] == "running"
            up.child.send_signal(signal.SIGKILL)
        model.is_back = True

        async with process(*PYTHON, **options) as up, socket_of(up) as client:
            check_rest(await followed(up, run_id, streamed[-1]["id"]), streamed)
            async with sent(up, "key", **asked) as response:
                assert response.headers["X-Run-Id"] == run_id
                assert types(await rest(events(response)))[-1] == "chat_complete"
            await client.send("subscribe", run_id=socket_id, after=frames[-1]["id"])
            ack, *told = await client.until("chat_complete")
            assert ack["type"] == "ack"
            check_rest([each["data"] for each in told], [each["data"] for each in frames])
            assert (await followed(up, whole_id))[-1]["final_response"] == WHOLE
            async with up.session.get(up.url + "/conversations/c") as response:
                messages = [each["content"] for each in (await response.json())["messages"]]
            assert messages == ["hi", WHOLE]


async def test_a_second_signal_stops_at_once_and_costs_no_answer(tmp_path: Path) -> None:
    model = Model()
    async with Upstream(model.reply) as upstream:
        options = {"OPENAI_BASE_URL": upstream.base_url, "DATA_DIR": str(tmp_path)}
        async with process(*PYTHON, **options) as up, up.stream() as incoming:
            streamed = await until(incoming, "chat_chunk")
            await model.gate.arrivals.reach(1)
            up.child.send_signal(signal.SIGTERM)
            await up.stops_listening()
            up.child.send_signal(signal.SIGINT)
            await up.ended(within=3)
        model.is_back = True
        async with process(*PYTHON, **options) as up:
            run_id, cursor = streamed[0]["run_id"], streamed[-1]["id"]
            check_rest(await followed(up, run_id, cursor), streamed)
