"""What the tests share: real servers with one template each, and a service for each of them."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from openai import AsyncOpenAI

from client_tests.service import ROOT, running

HERE = Path(__file__).parent
PYTHON = os.environ.get("MODEL_PYTHON", str(ROOT / ".venv-model" / "bin" / "python"))
MAX_TOKENS = 24
"""Of an answer, where a test asks for no other: nonsense has no end of its own."""

os.environ["NO_PROXY"] = "*"
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)


@dataclass(frozen=True)
class Setting:
    """A service, and the address of the server behind it."""

    url: str
    llama: str
    session: aiohttp.ClientSession

    async def json(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        """Request, check the status and return the JSON body; a path of the service, or a URL."""
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, **options) as response:
            body = await response.read()
            assert response.status == expect, body
            return msgspec.json.decode(body)

    async def agent(self, name: str, **config: Any) -> str:
        """Configure an agent, and return its name."""
        await self.json("POST", f"/agents/{name}", expect=201, json={"tools": [], **config})
        return name

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60)


@contextmanager
def llama(template: str, slots: int, tokens: int) -> Iterator[str]:
    """Run a server with one of the templates, and yield its address."""
    path = str(HERE / "templates" / f"{template}.jinja")
    command = [PYTHON, str(HERE / "llama.py"), path, str(slots), str(tokens)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            address = child.stdout.readline().strip()
            assert address, "the server did not start"
            yield address
        finally:
            child.stdin.close()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


async def _setting(
    template: str, slots: int, tokens: int, **environment: str
) -> AsyncIterator[Setting]:
    with (
        llama(template, slots, tokens) as address,
        running(
            OPENAI_BASE_URL=f"{address}/v1",
            OPENAI_MODEL="gemma",
            OPENAI_MAX_TOKENS=str(MAX_TOKENS),
            **environment,
        ) as service,
    ):
        async with aiohttp.ClientSession() as session:
            setting = Setting(service.url, address, session)
            await setting.agent("plain")
            yield setting


@pytest.fixture(scope="session")
async def qwen() -> AsyncIterator[Setting]:
    """A template like Qwen's: one system message, at the beginning; tools."""
    async for setting in _setting("qwen", slots=2, tokens=1024):
        yield setting


@pytest.fixture(scope="session")
async def mistral() -> AsyncIterator[Setting]:
    """A template like Mistral's and Gemma's: users and assistants alternate. One slot."""
    async for setting in _setting("mistral", slots=1, tokens=8192):
        yield setting


@pytest.fixture(scope="session")
async def facts() -> AsyncIterator[Setting]:
    """A model that learns facts of an exchange."""
    async for setting in _setting("facts", slots=1, tokens=512):
        yield setting


@pytest.fixture(params=["qwen", "mistral"])
def strict(request: pytest.FixtureRequest, qwen: Setting, mistral: Setting) -> Setting:
    """Each server whose template refuses what it does not know."""
    return {"qwen": qwen, "mistral": mistral}[request.param]
