"""A stream that has ended leaves nothing behind: no timer, no task."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from api.http.streams import EventStream
from hub.memory import MemoryHub
from protocols.native import EventsEncoder
from tests.logs import DONE, START
from tests.scripted import DEADLINE


@pytest.mark.parametrize("is_left", [False, True])
async def test_a_stream_that_has_ended_leaves_no_timer_and_no_task(is_left: bool) -> None:
    hub = MemoryHub(ttl=60, max_events=100, max_bytes=1 << 20)
    log = await hub.create("run_1")
    log.append(START)
    reader = await hub.read("run_1", None)
    stream = EventStream(reader, EventsEncoder(1), heartbeat=0.001, write_timeout=60)
    alive = weakref.ref(stream)
    sent: list[bytes] = []
    leaves = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    others = asyncio.all_tasks()
    serving = asyncio.create_task(stream({"type": "http"}, receive, send))
    if is_left:
        leaves.set()
    else:
        log.append(DONE)
    async with asyncio.timeout(DEADLINE):
        await serving
        del serving, stream
        while asyncio.all_tasks() != others:  # noqa: ASYNC110 - what was cancelled ends by itself
            await asyncio.sleep(0)
    assert sent[-1] == b""
    gc.collect()
    assert alive() is None


async def test_a_suspended_run_sends_nothing_behind_its_last_event() -> None:
    hub = MemoryHub(ttl=60, max_events=100, max_bytes=1 << 20)
    log = await hub.create("run_1")
    log.append(START)
    log.suspend()
    reader = await hub.read("run_1", None)
    stream = EventStream(reader, EventsEncoder(1), heartbeat=60, write_timeout=60)
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async with asyncio.timeout(DEADLINE):
        await stream({"type": "http"}, receive, send)
    assert [body.partition(b"\n")[0] for body in sent] == [b"", b"id: run_1:1:1", b""]
