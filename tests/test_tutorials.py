"""What the users of chat backends call, with curl and `requests`, against the service's process.

It runs as `make run` starts it: the demo answers, no setting but the address, the folder and the
pace. Each call is one that a published tutorial or README of such a backend tells its readers to
make.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.test_server import Process, process

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).parent / "clients"
HEADER = "Content-Type: application/json"
DEADLINE = 20.0

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@asynccontextmanager
async def service(**environment: str) -> AsyncIterator[Process]:
    async with process(DEMO_TOKENS_PER_SECOND="0", **environment) as up:
        yield up


async def printed(*command: str) -> str:
    """Run a command to its end and return what it printed."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(4 * DEADLINE):
        out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return out.decode()


async def post(url: str, body: Any, *options: str) -> str:
    """POST with curl, as the tutorials write it."""
    return await printed(
        "curl", "-sS", "-X", "POST", url, "-H", HEADER, "-d", json.dumps(body), *options
    )


async def client(name: str, *arguments: str) -> Any:
    return json.loads(await printed(sys.executable, str(CLIENTS / name), *arguments))


@needs_curl
async def test_an_agent_with_sessions_is_talked_to() -> None:
    async with service() as up:
        chat = f"{up.url}/chat"
        alone = json.loads(await post(f"{chat}/run", {"input": "Hello, how can you help me?"}))
        assert alone["success"]
        assert alone["final_output"]
        session = {"session_id": "user_sarah_123"}
        who = "Hi, my name is Sarah and I work as a software engineer"
        met = json.loads(await post(f"{chat}/run", {"input": who} | session))
        assert "Sarah" in met["final_output"]
        work = json.loads(
            await post(f"{chat}/run", {"input": "What kind of work do I do?"} | session)
        )
        assert "software engineer" in work["final_output"]
        tips = {"input": "Give me some programming tips for my field"} | session
        stream = await post(f"{chat}/stream", tips, "--no-buffer")
        frames = [
            json.loads(line.removeprefix("data: "))
            for line in stream.splitlines()
            if line.startswith("data: ")
        ]
        assert {frame["type"] for frame in frames} >= {"raw_response", "stream_complete"}
        assert frames[-1]["session_id"] == "user_sarah_123"
        info = json.loads(await printed("curl", "-sS", "-X", "GET", f"{chat}/info"))
        assert info["session_config"]["sessions_enabled"]
        cleared = await printed("curl", "-sS", "-X", "DELETE", f"{chat}/session/user_sarah_123")
        assert json.loads(cleared)["success"]
        forgotten = json.loads(
            await post(f"{chat}/run", {"input": "What kind of work do I do?"} | session)
        )
        assert "software engineer" not in forgotten["final_output"]
        debug = {"input": "Test message", "session_id": "debug_session"}
        assert json.loads(await post(f"{chat}/run", debug))["session_id"] == "debug_session"
        report = json.loads(await post(f"{up.url}/research", {"input": "AI trends"}))
        assert report["success"]
        assert report["report"]


@needs_curl
async def test_a_chatbot_is_talked_to_in_a_conversation() -> None:
    async with service() as up:
        whole = json.loads(
            await post(f"{up.url}/chat", {"message": "Hello! How are you?", "stream": False})
        )
        assert whole["response"]
        assert whole["conversation_id"]
        stream = await post(f"{up.url}/chat/stream", {"message": "Tell me a short joke"})
        assert '"event_type":"chat_complete"' in stream
        path = f"{up.url}/conversations/{whole['conversation_id']}"
        shown = json.loads(await printed("curl", "-sS", path))
        assert [message["role"] for message in shown["messages"]] == ["user", "assistant"]
        assert shown["messages"][0]["content"] == "Hello! How are you?"
        deleted = json.loads(await printed("curl", "-sS", "-X", "DELETE", path))
        assert deleted == {"status": "deleted"}
        missing = await printed("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", path)
        assert missing == "404"
        health = json.loads(await printed("curl", "-sS", f"{up.url}/"))
        assert health["status"] == "healthy"


@pytest.mark.parametrize("how", ["asked for", "set for the server"])
async def test_a_front_end_reads_tokens_and_goes_on_with_its_conversation(how: str) -> None:
    options = {} if how == "asked for" else {"CHAT_STREAM_PROTOCOL": "tokens"}
    async with service(**options) as up:
        url = f"{up.url}/chat/stream" + ("?protocol=tokens" if not options else "")
        first = await client("token_reader.py", url, "My name is Ada.")
        assert "".join(first["tokens"]).startswith("Nice")
        second = await client("token_reader.py", url, "What is my name?", first["conversation_id"])
        assert any("Ada" in token for token in second["tokens"])
        assert second["conversation_id"] == first["conversation_id"]


async def test_the_same_front_end_survives_the_service_s_own_events() -> None:
    async with service() as up:
        got = await client("token_reader.py", f"{up.url}/chat/stream", "Hello!")
        assert got["tokens"] == []
        assert got["conversation_id"].startswith("conv_")


@needs_curl
async def test_a_user_is_talked_to() -> None:
    async with service() as up:
        asked = {"user_id": "user123", "message": "What is the capital of France?"}
        stream = await post(f"{up.url}/api/chat", asked)
        assert stream.rstrip().endswith("data: [DONE]")
        assert '"done":true' in stream
        simple = json.loads(await post(f"{up.url}/api/chat/simple", asked))
        assert "demo" in simple["response"]
        assert "Paris" not in simple["response"]
        assert (simple["user_id"], simple["message"]) == ("user123", asked["message"])
        health = json.loads(await printed("curl", "-sS", f"{up.url}/api/health"))
        assert health["status"] == "healthy"
        history = json.loads(await printed("curl", "-sS", f"{up.url}/api/chat/history/user123"))
        assert history["count"] == 2
        detailed = json.loads(await printed("curl", "-sS", f"{up.url}/api/health/detailed"))
        assert detailed["status"] == "healthy"
        of_user = f"{up.url}/api/chat/history/user123"
        await printed("curl", "-sS", "-f", "-X", "DELETE", of_user)
        assert json.loads(await printed("curl", "-sS", of_user))["count"] == 0


async def test_a_python_client_of_users_gets_its_chunks() -> None:
    async with service() as up:
        got = await client("user_chat.py", up.url)
    assert got["whole"]["response"]
    assert len(got["pieces"]) > 3
    assert got["pieces"][-1] == ""
    assert got["ended"]
