"""Every example of the README runs as pasted, the address aside."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.service import running

pytestmark = pytest.mark.slow

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

BLOCKS = [(kind, code) for kind, code in re.findall(r"```(\w+)\n(.*?)```", README, re.S)]
CURLS = [code for kind, code in BLOCKS if kind == "bash" and "curl" in code]
SAID = [
    "42",
    "**36**",
    "Ada",
    '"status":"cancelled"',
    '"result":12',
    "Grace",
    "**42**",
    '"object":"chat.completion"',
    '"object":"embedding"',
    "I love cooking Italian food!",
    '"status":"success"',
    "final_output",
    "event: done",
    '"code":"invalid_value"',
]


async def printed(*command: str) -> str:
    """Run a command and return what it printed; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(45):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_the_readme_has_the_examples_that_are_checked_here() -> None:
    assert len(CURLS) == len(SAID)


@pytest.mark.parametrize(("code", "said"), [*zip(CURLS, SAID, strict=False)])
async def test_a_shell_example_runs_and_gets_its_answer(code: str, said: str) -> None:
    async with running(demo_tokens_per_second=50) as service:
        out = await printed("bash", "-ec", code.replace("http://localhost:8000", service.url))
    assert said in out


async def test_the_client_of_openai_prints_the_answer(tmp_path: Path) -> None:
    (client,) = [code for kind, code in BLOCKS if kind == "python" and "openai" in code]
    async with running() as service:
        script = tmp_path / "client.py"
        script.write_text(client.replace("http://localhost:8000", service.url))
        assert "Oslo" in await printed(sys.executable, str(script))


async def test_the_python_client_prints_the_tools_and_the_answer(tmp_path: Path) -> None:
    (client,) = [code for kind, code in BLOCKS if kind == "python" and "aiohttp" in code]
    async with running() as service:
        script = tmp_path / "client.py"
        script.write_text(client.replace("http://localhost:8000", service.url))
        out = await printed(sys.executable, str(script))
    assert "[calculate: {'expression': '15 + 27', 'result': 42}]" in out
    assert "Oslo" in out


async def test_the_tool_example_is_a_tool() -> None:
    (example,) = [code for kind, code in BLOCKS if kind == "python" and "ToolContext" in code]
    names: dict[str, object] = {}
    exec(example, names)
    function = names["convert"]
    assert callable(function)
    async with running(tools=[function]) as service:
        message = 'call convert with {"amount": 16.09344, "unit": "km"}'
        got = await service.stream(message=message)
    (call,) = [e["tool_call"] for e in got if e["event_type"] == "tool_call_complete"]
    assert call["result"]["mi"] == pytest.approx(10)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_page_example_reads_the_stream(tmp_path: Path) -> None:
    (example,) = [code for kind, code in BLOCKS if kind == "javascript" and "fetch" in code]
    async with running() as service:
        script = tmp_path / "client.mjs"
        script.write_text(example.replace("'/chat/stream'", f"'{service.url}/chat/stream'"))
        out = await printed("node", str(script))
    assert "Tokyo" in out


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_client_prints_the_answer(tmp_path: Path) -> None:
    (example,) = [code for kind, code in BLOCKS if kind == "javascript" and "ParleyClient" in code]
    module = (Path(__file__).parent.parent / "web" / "client.js").as_uri()
    async with running() as service:
        script = tmp_path / "client.mjs"
        code = example.replace("./web/client.js", module)
        script.write_text(code.replace("http://localhost:8000", service.url))
        assert "**42**" in await printed("node", str(script))


def test_the_readme_opens_with_a_picture_that_is_there_and_small() -> None:
    address = re.search(r"!\[[^\]]+\]\((\S+\.png)\)", README[:1000])
    assert address
    picture = (Path(__file__).parent.parent / address[1]).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
