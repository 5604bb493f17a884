"""What holds for every provider behind an SDK."""

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
import app
assert "mem0" not in sys.modules and "openai" not in sys.modules
assert sys.modules["httpx"].Response
"""


@pytest.mark.slow
async def test_nobody_sees_half_of_an_import_of_httpx() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CODE, cwd=ROOT)
    async with asyncio.timeout(30):
        assert await child.wait() == 0
