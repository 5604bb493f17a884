"""The JavaScript client, in Node, against services on real ports behind a bad network.

The cases are in the files `*.test.mjs`, which Node's own test runner executes; each file is one
test here.
"""

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.web.stage import controls

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("*.test.mjs") if "thread" not in path.name)
TIMEOUT = 240.0
"""Seconds for all cases of one file, on a machine that does other things too."""


def node() -> str:
    """Return Node's path; where it or its packages are absent the test is skipped, or fails."""
    found = shutil.which("node")
    missing = "node" if found is None else "tests/web/node_modules (npm ci)"
    if found is None or not (HERE / "node_modules" / "ws").is_dir():
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(f"{missing} is needed (REQUIRE_BROWSER is set)")
        pytest.skip(f"{missing} is not installed")
    return found


@pytest.mark.timeout(TIMEOUT + 30)
@pytest.mark.parametrize("file", FILES)
async def test_the_client_does_what_its_cases_say(file: str) -> None:
    async with controls() as address:
        process = await asyncio.create_subprocess_exec(
            node(),
            "--test-reporter=tap",
            "--test-reporter-destination=stdout",
            "--unhandled-rejections=strict",
            "--test",
            str(HERE / file),
            env={**os.environ, "STAGES": address, "NODE_NO_WARNINGS": "0"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                said = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, said
    assert int(re.findall(r"^# pass (\d+)", said, re.M)[-1]) > 0, said
    for fault in ("fail", "cancelled", "skipped", "todo"):
        assert re.findall(rf"^# {fault} (\d+)", said, re.M)[-1] == "0", said
    assert "Warning" not in said, said
