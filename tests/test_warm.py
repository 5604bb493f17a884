"""A service that says that it is ready is warm: nothing is left to be loaded for the first chat."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import anthropic_upstream as claude
from tests.service import DEADLINE
from tests.test_server import Process, process
from tests.upstream import Upstream, calls, text

pytestmark = pytest.mark.slow

# Each import is a line of the log.
WATCHED = (sys.executable, "-X", "importtime", "app.py")
SUM = ("calculate", {"expression": "15 + 27"})
QUESTION = "What's 15 + 27?"
BODIES = {
    "/chat/stream": {"message": QUESTION},
    "/chat": {"message": QUESTION},
    "/v1/chat/completions": {
        "model": "chat",
        "stream": True,
        "messages": [{"role": "user", "content": QUESTION}],
    },
    "/assistant/stream": {"input": QUESTION},
}


@asynccontextmanager
async def answering_with(provider: str) -> AsyncIterator[dict[str, str]]:
    """Serve a model that calls a tool at each message; yield the settings for it."""
    if provider == "openai":
        async with Upstream([calls(SUM), text("42")] * 10) as upstream:
            yield {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": upstream.base_url}
    elif provider == "anthropic":
        call = claude.calls(claude.called("toolu_1", *SUM))
        async with claude.Upstream([call, claude.text("42")] * 10) as upstream:
            yield {"ANTHROPIC_API_KEY": "sk-test", "ANTHROPIC_BASE_URL": upstream.base_url}
    else:
        yield {"DEMO_TOKENS_PER_SECOND": "0"}


async def chat(up: Process) -> None:
    """Send a message in every way."""
    for path, body in BODIES.items():
        async with up.session.post(up.url + path, json=body) as response:
            said = await response.text()
            assert response.status == 200, said
            assert "42" in said
    async with up.session.ws_connect(up.url + "/ws") as socket:
        await socket.send_json({"type": "chat", "data": {"message": QUESTION}})
        while json.loads(await socket.receive_str())["type"] != "chat_complete":
            pass


@pytest.mark.parametrize("provider", ["demo", "openai", "anthropic"])
async def test_once_it_listens_no_chat_imports_a_module(tmp_path: Path, provider: str) -> None:
    (tmp_path / "memory").mkdir()  # there may be memories
    async with (
        answering_with(provider) as settings,
        process(*WATCHED, DATA_DIR=str(tmp_path), **settings) as up,
    ):
        await chat(up)
        up.child.kill()  # what an orderly end imports does not count
        assert up.child.stderr is not None
        async with asyncio.timeout(DEADLINE):
            said = (await up.child.stderr.read()).decode()
    assert [line for line in said.splitlines() if line.startswith("import time:")] == []
