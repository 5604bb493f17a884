"""Clients as front ends write them: `fetch`, `WebSocket`, aiohttp. Each makes one chat."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.api.support import add, fail, scripted
from tests.service import DEADLINE, running
from tests.upstream import Script, calls, status, text

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).parent / "clients"
NODE = shutil.which("node")
SWITCH = "--experimental-websocket"
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
needs_websocket = pytest.mark.skipif(
    NODE is None or subprocess.run([NODE, SWITCH, "-e", "0"], capture_output=True).returncode != 0,
    reason="node is not installed, or older than 20.10, and has no WebSocket",
)

PIECES = ("Grüße, ", "it is ", "42 — 😀", ".\n\u2028done")


def weather(city: str) -> dict[str, Any]:
    """Get the weather in a city."""
    return {"city": city, "temperature_c": 21}


def script() -> Script:
    wanted = (("weather", {"city": "Tokyo"}), ("add", {"a": 15, "b": 27}))
    return [calls(*wanted, ids=["w", "a"]), text(*PIECES)]


def node(name: str) -> tuple[str, ...]:
    """Return the command for a script; a global WebSocket is behind a switch before node 22."""
    assert NODE is not None
    return (NODE, *([SWITCH] if name == "websocket.mjs" else []), str(CLIENTS / name))


async def run(*command: str) -> Any:
    """Run a client to its end and return what it understood."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(2 * DEADLINE):
            out, errors = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, errors.decode()
    return msgspec.json.decode(out)


ASK = "What's the weather in Tokyo and what's 15 + 27?"


@pytest.mark.parametrize(
    "client", [pytest.param("sse.mjs", marks=needs_node), "sse_client.py"], ids=["fetch", "aiohttp"]
)
async def test_an_sse_client_sees_the_tools_and_the_whole_answer(client: str) -> None:
    path = str(CLIENTS / client)
    command = node(client) if client.endswith(".mjs") else (sys.executable, path)
    async with scripted(script(), tools=[weather, add]) as (service, upstream):
        seen = await run(*command, service.url, ASK)
    assert upstream.requests[0]["messages"][-1]["content"] == ASK
    assert "".join(seen["chunks"]) == seen["final"] == "".join(PIECES)
    results = {call["id"]: call["result"] for call in seen["tools"]}
    assert results == {"w": {"city": "Tokyo", "temperature_c": 21}, "a": 42}
    assert (seen["types"][0], seen["types"][-1]) == ("chat_start", "chat_complete")
    assert seen["types"].count("chat_chunk") == len(PIECES)


@needs_websocket
async def test_a_websocket_client_sees_the_tools_and_the_whole_answer() -> None:
    async with scripted(script(), tools=[weather, add]) as (service, _):
        seen = await run(*node("websocket.mjs"), service.url, ASK)
    assert "".join(seen["chunks"]) == seen["final"] == "".join(PIECES)
    told = sorted((event["event_type"], event["tool_call"]["id"]) for event in seen["tools"])
    assert told == [
        ("tool_call_complete", "a"),
        ("tool_call_complete", "w"),
        ("tool_call_start", "a"),
        ("tool_call_start", "w"),
    ]
    assert seen["errors"] == []


@needs_websocket
async def test_a_websocket_client_sees_a_failing_tool_and_then_an_error() -> None:
    replies = [calls(("fail", {"why": "no luck"})), status(401)]
    async with scripted(replies, tools=[fail]) as (service, _):
        seen = await run(*node("websocket.mjs"), service.url, "try")
    kinds = [event["event_type"] for event in seen["tools"]]
    assert kinds == ["tool_call_start", "tool_call_error"]
    assert "no luck" in seen["tools"][1]["tool_call"]["error"]
    assert [error["code"] for error in seen["errors"]] == ["upstream_unauthorized"]
    assert seen["final"] is None


@pytest.mark.parametrize(
    "client",
    [
        pytest.param("sse.mjs", marks=needs_node),
        pytest.param("websocket.mjs", marks=needs_websocket),
    ],
)
async def test_a_client_talks_to_the_demo(client: str) -> None:
    async with running() as service:
        seen = await run(*node(client), service.url, "What's 15 + 27?")
    assert "42" in seen["final"]
    assert "".join(seen["chunks"]) == seen["final"]
