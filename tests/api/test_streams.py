"""Readers that are silent, slow, or behind."""

import asyncio
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import server
from tests.api.support import Heard, add, follow, request, said, scripted, types
from tests.service import DEADLINE, Service, events
from tests.upstream import Reply, calls, completion, held, text

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_mistakes")]

PIECE = 65_536


async def test_a_silent_stream_sends_heartbeats_that_no_client_sees() -> None:
    async with (
        scripted([held(text("late"))], heartbeat_interval=0.02) as (service, upstream),
        service.session.post(service.url + "/chat/stream", json={"message": "hi"}) as response,
    ):
        raw = b""
        async with asyncio.timeout(DEADLINE):
            while raw.count(b": keep-alive\n\n") < 3:
                raw += await response.content.readany()
        upstream.gate.open()
        async with asyncio.timeout(DEADLINE):
            raw += await response.content.read()
    frames = [frame for frame in raw.split(b"\n\n") if frame]
    assert frames[0].startswith(b"id: ")
    shown = [frame for frame in frames if not frame.startswith(b":")]
    assert len(shown) == 3
    assert all(re.fullmatch(rb"id: [^\n]+\ndata: \{[^\n]+\}", frame) for frame in shown)


async def test_a_reader_that_comes_late_gets_the_text_merged_and_nothing_lost() -> None:
    pieces = [f"{number} " for number in range(1500)]
    script = [calls(("add", {"a": 1, "b": 1}), before="I add."), text(*pieces)]
    async with scripted(script, tools=[add]) as (service, _):
        found = await service.stream(message="count")
        run_id, whole = found[0]["run_id"], "I add." + "".join(pieces)
        merged = await follow(service, run_id)
        end = merged[-1]["seq"]
        assert said(merged) == whole
        assert len(merged) < 20
        assert types(merged) == [
            "chat_start",
            "chat_chunk",
            "tool_call_start",
            "tool_call_complete",
            "chat_chunk",
            "chat_complete",
        ]
        at = 0
        for event in merged:
            assert event.get("first_seq", event["seq"]) == at + 1
            assert event["id"] == f"{run_id}:1:{event['seq']}"
            at = event["seq"]
        for after in (1, 2, 5, 500, end - 257, end - 256, end - 2):
            rest = await follow(service, run_id, after=after)
            first = rest[0].get("first_seq", rest[0]["seq"])
            assert first == after + 1
            assert whole.endswith(said(rest))
            assert rest[-1] == merged[-1]
        # Reading on from within what came as one event repeats nothing.
        cursor = merged[1]["seq"] + 700
        assert said(await follow(service, run_id, after=cursor)).startswith("698 699 ")


def large(gate_after: int) -> Reply:
    """Return an answer of so many large pieces, and a gate before its end."""
    whole = completion({"content": "x" * PIECE} for _ in range(gate_after))
    steps = (*whole.steps[: gate_after + 1], *held(whole).steps[:1], *whole.steps[gate_after + 1 :])
    return Reply(steps)


def connected(service: Service) -> socket.socket:
    """Return a connection that takes little before the service has to wait."""
    address = urlsplit(service.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.hostname, address.port))
    return client


def resident() -> int:
    """Return the bytes of memory that this process occupies."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


async def read_text(service: Service, run_id: str, size: int, after: int = 0) -> int:
    """Read a run until `size` characters of text have come; return the last event's seq."""
    async with service.session.get(
        f"{service.url}/runs/{run_id}/events", params={"after": after}, read_bufsize=2**22
    ) as response:
        async for event in events(response):
            size -= len(event.get("content", ""))
            if size <= 0:
                return int(event["seq"])
    raise AssertionError(f"{size} characters are missing")


async def test_readers_that_never_read_are_cut_off_and_cost_no_memory_and_no_other_reader() -> None:
    slow, pieces = 8, 256
    async with (
        scripted([held(large(pieces))], slow_reader_timeout=1.0, heartbeat_interval=0.2) as (
            service,
            upstream,
        ),
        service.session.post(service.url + "/chat/stream", json={"message": "hi"}) as response,
    ):
        run_id = response.headers["X-Run-Id"]
        clients = [connected(service) for _ in range(slow)]
        for client in clients:
            client.sendall(request("GET", f"/runs/{run_id}/events"))
        response.close()
        before = resident()
        with Heard("parley.api", "cut off") as heard:
            await upstream.gate.pass_one()
            last = await read_text(service, run_id, pieces * PIECE)
            await heard.count.reach(slow)
            grown = resident() - before
        assert last == pieces + 1
        # The log itself, and what eight connections buffer; eight copies would be 128 MiB.
        assert grown < 64 * 2**20, f"{grown / 2**20:.0f} MiB"
        upstream.gate.open()
        assert (await follow(service, run_id, after=last))[-1]["event_type"] == "chat_complete"
        for client in clients:
            client.close()


async def test_a_reader_that_was_cut_off_resumes_where_it_stopped_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "USER_TIMEOUT_MS", 1500)
    pieces = 256
    async with scripted([large(pieces)], slow_reader_timeout=1.0, heartbeat_interval=0.2) as (
        service,
        upstream,
    ):
        client = connected(service)
        with Heard("parley.api", "cut off") as heard:
            client.sendall(request("POST", "/chat/stream", b'{"message":"hi"}'))
            await heard.count.reach(1)
        got = await asyncio.to_thread(_read_all, client)
        assert not got.endswith(b"0\r\n\r\n")  # nobody takes this for the whole
        cursors = re.findall(rb"\nid: ([^\n]+)\ndata: [^\n]+\}\n\n", got)
        run_id, _, seq = cursors[-1].decode().split(":")
        assert 1 < int(seq) < pieces
        upstream.gate.open()
        rest = await follow(service, run_id, last=cursors[-1].decode())
    assert len(said(rest)) == (pieces + 1 - int(seq)) * PIECE
    assert len(rest[-1]["final_response"]) == pieces * PIECE


def _read_all(client: socket.socket) -> bytes:
    """Read until the end, or until the connection breaks."""
    client.settimeout(DEADLINE)
    got = bytearray()
    try:
        while data := client.recv(2**20):
            got += data
    except ConnectionError:
        pass
    finally:
        client.close()
    return bytes(got)
