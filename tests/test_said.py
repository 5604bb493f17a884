"""What people say is in no log, at any level, on any surface."""

import asyncio
import io
import json
import logging
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from uvicorn.lifespan.on import LifespanOn

from app import create_app
from logs import Discreet
from settings import Settings
from storage.store import Store
from tests.service import DEADLINE
from tests.test_server import PYTHON, UVICORN, Process, started
from tests.upstream import Reply, Upstream, calls, status, text

MARKER = "zqmarker"
SAY = f"My secret is {MARKER}."

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/agents/a", {"instructions": SAY, "memory": True}),
    ("POST", "/agents/b", {"instructions": SAY, "tools": [MARKER]}),
    ("POST", "/chat", {"message": SAY, "conversation_id": "c", "user_id": "u", "agent": "a"}),
    ("POST", "/chat", {"message": f"{SAY} tool", "conversation_id": "c", "user_id": "u"}),
    ("POST", "/chat", {"message": f"{SAY} refuse"}),
    ("POST", "/chat", {"message": f"{SAY} break"}),
    ("POST", "/chat", {"message": SAY, "unknown": {MARKER: MARKER}, "agent": 7}),
    ("POST", "/chat", {"message": SAY, "output_schema": {"type": MARKER}}),
    *(
        ("POST", f"/chat/stream?protocol={protocol}", {"message": SAY})
        for protocol in ("events", "tokens", "chunks", "agents-sdk", "openai")
    ),
    ("POST", "/conversations/c/regenerate?user_id=u", {}),
    ("POST", "/conversations/c/regenerate/stream?user_id=u", {}),
    ("PATCH", "/conversations/c?user_id=u", {"title": SAY, "metadata": {MARKER: SAY}}),
    ("GET", f"/search?user_id=u&q={MARKER}", {}),
    ("GET", f"/search?q={MARKER}&limit={MARKER}", {}),
    ("GET", f"/conversations?user_id=u&before={MARKER}", {}),
    ("GET", "/conversations/c?user_id=u", {}),
    ("POST", "/assistant/run", {"input": SAY, "session_id": "s"}),
    ("POST", "/assistant/stream", {"input": SAY, "session_id": "s"}),
    ("GET", "/assistant/session/s", {}),
    ("POST", "/api/chat", {"user_id": "u", "message": SAY}),
    ("POST", "/api/chat/simple", {"user_id": "u", "message": SAY}),
    ("GET", "/api/chat/history/u", {}),
    ("POST", "/memories", {"user_id": "u", "memory": SAY}),
    ("GET", f"/memories?user_id=u&query={MARKER}", {}),
    ("POST", "/callbacks/get_memories", {"user_id": "u", "query": SAY}),
    ("POST", "/research", {"query": SAY}),
    ("POST", "/research/stream", {"query": SAY}),
    ("POST", "/invocations", {"prompt": SAY}),
    ("POST", "/invocations", {"input": {"prompt": SAY}}),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "chat", "messages": [{"role": "user", "content": SAY}]},
    ),
    (
        "POST",
        "/v1/chat/completions",
        {"model": MARKER, "messages": [{"role": MARKER, "content": SAY}], "stream": True},
    ),
    ("POST", "/v1/responses", {"model": "chat", "input": SAY, "metadata": {"k": SAY}}),
    ("POST", "/v1/responses", {"model": "chat", "input": f"{SAY} tool", "stream": True}),
    ("POST", "/v1/responses", {"model": "chat", "input": [{"type": MARKER}]}),
    ("POST", "/v1/embeddings", {"model": "wordllama", "input": [SAY]}),
    ("POST", "/v1/embeddings", {"model": MARKER, "input": SAY}),
]

FRAMES = [
    json.dumps({"type": "chat", "data": {"message": SAY, "conversation_id": "w"}}),
    json.dumps({"type": "chat", "data": {"message": SAY, "agent": [MARKER]}}),
    json.dumps({"type": MARKER, "data": SAY}),
    json.dumps({"prompt": SAY}),
    f"no JSON: {MARKER}",
    json.dumps({"type": "chat", "data": {"message": f"{SAY} refuse"}}),
]


def reply(body: dict[str, Any]) -> Reply:
    """Answer with the marker, call a tool with it, refuse with it, or break off."""
    said = str(body["messages"][-1]["content"])
    if "refuse" in said:
        return status(400, SAY, error_code=MARKER)
    if "tool" in said and body["messages"][-1]["role"] == "user":
        return calls(("calculate", {"expression": MARKER}), ("get_time", {"timezone": MARKER}))
    return text(SAY, SAY)


async def use(up: Process) -> None:
    """Say the marker everywhere."""
    for method, path, body in REQUESTS:
        async with up.session.request(method, up.url + path, json=body or None) as response:
            await response.read()
            assert response.status != 500, path
    for raw in (f"no JSON: {MARKER}", f'{{"message": "{MARKER}'):
        async with up.session.post(up.url + "/chat", data=raw) as response:
            assert response.status in (400, 415, 422)
    async with up.session.ws_connect(up.url.replace("http", "ws") + "/ws") as socket:
        for frame in FRAMES:
            await socket.send_str(frame)
        await socket.send_bytes(MARKER.encode())
        ends = 0
        async with asyncio.timeout(DEADLINE):
            while ends < len(FRAMES) + 1:
                ends += json.loads(await socket.receive_str())["type"] in ("chat_complete", "error")


ALL = ("sh", "-c", 'exec "$@" >&2', "sh")
"""Runs a command whose standard output comes with its standard error."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [(*ALL, *PYTHON), (*ALL, *UVICORN, "--log-level", "trace")],
    ids=["python app.py", "uvicorn app:app"],
)
async def test_no_surface_writes_what_is_said_into_the_log(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    options = {"LOG_LEVEL": "DEBUG", "DEBUG": "true", "DATA_DIR": str(tmp_path)}
    async with (
        Upstream(reply, check=False) as upstream,
        started(
            *command, OPENAI_BASE_URL=upstream.base_url, OPENAI_API_KEY="sk", **options
        ) as child,
        aiohttp.ClientSession() as session,
    ):
        up = Process(child, "", session)
        up.url = await up.address()
        assert child.stderr is not None
        rest = asyncio.create_task(child.stderr.read())
        await use(up)
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3 * DEADLINE):
            said = (await rest).decode()
    assert len(upstream.requests) > 20
    assert "/search" in said  # each request is a line
    assert MARKER not in said, [line for line in said.splitlines() if MARKER in line][:5]


def logged(log: logging.Logger, write: Any) -> str:
    """Return what a handler makes of what is logged."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Discreet())
    log.addHandler(handler)
    try:
        write()
    finally:
        log.removeHandler(handler)
    return stream.getvalue()


def test_of_an_exception_only_its_course_is_logged() -> None:
    log = logging.getLogger("parley.test")

    def write() -> None:
        try:
            try:
                int(MARKER)
            except ValueError as error:
                raise ExceptionGroup(MARKER, [KeyError(MARKER)]) from error
        except ExceptionGroup:
            log.exception("It failed")

    said = logged(log, write)
    assert MARKER not in said
    for part in ("It failed", "builtins.ValueError", "ExceptionGroup", "builtins.KeyError"):
        assert part in said
    assert "int(MARKER)" in said  # where


def test_of_a_report_of_asyncio_only_the_first_line_is_logged() -> None:
    log = logging.getLogger("asyncio")
    said = logged(log, lambda: log.error("Task exception was never retrieved\n%s", MARKER))
    assert said == "Task exception was never retrieved\n"


async def test_of_a_lifespan_that_fails_only_its_course_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give_back(store: Store) -> None:
        raise RuntimeError(MARKER)

    monkeypatch.setattr(Store, "give_back", give_back)
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, memory_enabled=False))
    lifespan = LifespanOn(uvicorn.Config(app, log_config=None))

    root = logging.StreamHandler(stream := io.StringIO())
    root.addFilter(Discreet())
    logging.root.addHandler(root)
    try:
        await lifespan.startup()
        await lifespan.shutdown()
    finally:
        logging.root.removeHandler(root)
    said = stream.getvalue()
    assert lifespan.shutdown_failed
    assert MARKER not in said, said
    assert "builtins.RuntimeError" in said
