"""The examples of docs/javascript.md run as pasted, and say what is written below them."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.service import running
from tests.web.test_client import HERE, node

TEXT = (Path(__file__).parent.parent.parent / "docs" / "javascript.md").read_text()
EXAMPLES = re.findall(r"```js\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.S)
ADDRESS = "http://127.0.0.1:8000"
TIMEOUT = 30.0


def test_every_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == TEXT.count("```js\n") > 0


@pytest.mark.parametrize(
    ("code", "printed"), EXAMPLES, ids=[f"example {n}" for n in range(1, len(EXAMPLES) + 1)]
)
async def test_an_example_prints_what_the_text_says(code: str, printed: str) -> None:
    assert ADDRESS in code
    async with running(demo_tokens_per_second=40) as service:
        # `ws` is installed beside the tests, and looked for from where Node is.
        here = code.replace(ADDRESS, service.url).replace("./web/", "../../web/")
        process = await asyncio.create_subprocess_exec(
            node(),
            "--input-type=module",
            cwd=HERE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(TIMEOUT):
            said, _ = await process.communicate(here.encode())
    assert process.returncode == 0, said.decode()
    assert said.decode() == printed
