"""The examples of the client's README, run as they are pasted."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.service import DEADLINE, running

CLIENT = Path(__file__).parents[2] / "clients" / "python"
EXAMPLES = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
EXPECTED = (["42"], ["[calculate", "147"], ["2", "4", "6"])


async def said(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(CLIENT), "PYTHONWARNINGS": "error"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(3 * DEADLINE):
        output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return output.decode()


async def test_the_examples_run_as_they_are_pasted() -> None:
    assert len(EXAMPLES) == len(EXPECTED)
    async with running() as service:
        for code, parts in zip(EXAMPLES, EXPECTED, strict=True):
            assert "http://localhost:8000" in code
            output = await said(code.replace("http://localhost:8000", service.url))
            assert all(part in output for part in parts), output
