"""What the users of a chat that remembers do: curl and OpenAI's SDK, as a README tells them to.

The service's process runs as `make run` starts it, the demo answers, and only the address of the
examples is another. LangChain's example is in `client_tests`.
"""

import asyncio
import json
import re
import shutil
import sys
from typing import Any

import pytest

from tests.test_server import process

pytestmark = pytest.mark.slow

DEADLINE = 30.0
ADDRESS = "http://0.0.0.0:8080"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

SDK = """
from openai import OpenAI

client = OpenAI(
    api_key="dummy_api_key",
    base_url="http://0.0.0.0:8080/v1"
)

response = client.chat.completions.create(
    model="Qwen/Qwen3-235B-A22B-Instruct-2507",
    messages=[
        {"role": "user", "content": "I love cooking Italian food!"}
    ],
    user="user123",  # For memory management
    temperature=0.7
)
print(response.choices[0].message.content)

stream = client.chat.completions.create(
    model="Qwen/Qwen3-235B-A22B-Instruct-2507",
    messages=[
        {"role": "user", "content": "What pasta recipe would you recommend?"}
    ],
    user="user123",
    stream=True,
    temperature=0.7
)

for chunk in stream:
    if chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="")
"""

ANOTHER_MODEL = """
from openai import OpenAI

client = OpenAI(
    api_key="dummy_api_key",
    base_url="http://0.0.0.0:8080/v1"
)

response = client.chat.completions.create(
    model="deepseek-ai/DeepSeek-R1-0528",  # Different model
    messages=[{"role": "user", "content": "Hello!"}],
    user="user123"
)
"""

WHOLE = r"""
curl -X POST http://0.0.0.0:8080/v1/chat/completions \
  -H "Content-Type: application/json" \
  -d '{
    "model": "Qwen/Qwen3-235B-A22B-Instruct-2507",
    "messages": [
      {"role": "user", "content": "Hello! I love cooking Italian food."}
    ],
    "user": "user123",
    "temperature": 0.7,
    "max_tokens": 500
  }'
"""

STREAMED = r"""
curl -X POST http://0.0.0.0:8080/v1/chat/completions \
  -H "Content-Type: application/json" \
  -d '{
    "model": "Qwen/Qwen3-235B-A22B-Instruct-2507",
    "messages": [
      {"role": "user", "content": "What pasta recipe would you recommend?"}
    ],
    "user": "user123",
    "stream": true,
    "temperature": 0.7
  }'
"""

HEALTH = "curl -X POST http://0.0.0.0:8080/callbacks/health"

GET_MEMORIES = r"""
curl -X POST http://0.0.0.0:8080/callbacks/get_memories \
  -H "Content-Type: application/json" \
  -d '{
    "user_id": "user123",
    "limit": 10
  }'
"""

CLEAR_MEMORIES = r"""
curl -X POST http://0.0.0.0:8080/callbacks/clear_memories \
  -H "Content-Type: application/json" \
  -d '{
    "user_id": "user123"
  }'
"""


async def printed(url: str, code: str) -> str:
    """Run an example to its end, Python or shell, and return what it printed."""
    code = code.replace(ADDRESS, url)
    command = ("sh", "-c", code) if "curl" in code else (sys.executable, "-c", code)
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(4 * DEADLINE):
        out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return out.decode()


async def memories(url: str, of: str = "user123") -> list[str]:
    found = json.loads(await printed(url, GET_MEMORIES.replace("user123", of)))
    return [each["memory"] for each in found["memories"]]


async def remembered(url: str, words: str) -> list[str]:
    """Return the memories once one holds these words: they are learned behind the answer."""
    async with asyncio.timeout(4 * DEADLINE):
        while True:
            found = await memories(url)
            if any(words in each for each in found):
                return found


def texts(stream: str) -> str:
    """Return the text of a streamed completion that has come to its end."""
    assert stream.rstrip().endswith("data: [DONE]")
    chunks: list[Any] = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", stream, re.M)]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@needs_curl
async def test_the_sdk_s_user_is_remembered_beyond_a_restart_until_the_memories_are_cleared(
    tmp_path: Any,
) -> None:
    folder = {"DATA_DIR": str(tmp_path), "DEMO_TOKENS_PER_SECOND": "0"}
    async with process(**folder) as up:
        said = await printed(up.url, SDK)
        first, _, rest = said.partition("\n")
        assert "Italian food" in first
        assert rest.strip()
        await remembered(up.url, "I love cooking Italian food!")
        assert await memories(up.url, of="user456") == []
    async with process(**folder) as up:
        assert "I love cooking Italian food!" in await memories(up.url)
        assert json.loads(await printed(up.url, CLEAR_MEMORIES))["status"] == "success"
        assert await memories(up.url) == []


@needs_curl
async def test_curl_s_user_is_answered_and_remembered() -> None:
    async with process(DEMO_TOKENS_PER_SECOND="0") as up:
        assert json.loads(await printed(up.url, HEALTH))["status"] == "healthy"
        done = json.loads(await printed(up.url, WHOLE))
        assert "Italian food" in done["choices"][0]["message"]["content"]
        await remembered(up.url, "I love cooking Italian food.")
        assert texts(await printed(up.url, STREAMED))


async def test_another_model_is_named() -> None:
    async with process(DEMO_TOKENS_PER_SECOND="0") as up:
        code = f"{ANOTHER_MODEL}print(response.choices[0].message.content)"
        assert "demo" in await printed(up.url, code)
