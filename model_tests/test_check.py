"""`python app.py check-model` and the detailed health, with a real model."""

import asyncio
import os
import sys
from typing import Any

import msgspec

from client_tests.service import PYTHON, ROOT
from model_tests.conftest import Setting


async def check(url: str, *arguments: str) -> tuple[int | None, str]:
    """Run the command in the environment of a person with two lines in `.env`."""
    child = await asyncio.create_subprocess_exec(
        PYTHON,
        "app.py",
        "check-model",
        *arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "gemma"},
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )
    out, _ = await child.communicate()
    return child.returncode, out.decode()


def works(findings: dict[str, Any]) -> dict[str, bool | None]:
    return {name: finding["works"] for name, finding in findings.items()}


async def test_the_command_tells_what_works(qwen: Setting) -> None:
    status, out = await check(qwen.llama, "--json")
    checked = msgspec.json.decode(out)
    assert status == 0, checked
    assert works(checked["findings"]) == {
        "stream": True,
        "tools": True,
        "parallel tools": True,
        "tool results": True,
        "usage": True,
        "reasoning": False,
        "structured output": True,
    }
    assert checked["dialect"]["bound"] == "max_tokens"


async def test_the_health_has_the_same(facts: Setting) -> None:
    path = "/api/health/detailed?check_model=true"
    health = await facts.json("GET", path)
    checked = health["components"]["model_provider"]["details"]["check"]
    assert checked["ok"], checked
    assert works(checked["findings"])["stream"]
    assert works(checked["findings"])["tools"] is None  # its template has none
