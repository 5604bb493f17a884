"""`python app.py check-model` as somebody runs it."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from tests import upstream as up
from tests.llm.test_check import good

pytestmark = pytest.mark.slow

APP = str(Path(__file__).parents[1] / "app.py")


async def ran(folder: Path, *arguments: str, **settings: str) -> tuple[int | None, str, str]:
    """Run the command where no `.env` is; return its exit status and what it printed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        APP,
        "check-model",
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(45):
        out, errors = await child.communicate()
    return child.returncode, out.decode(), errors.decode()


async def test_it_prints_what_works_in_words_or_as_json(tmp_path: Path) -> None:
    async with up.Upstream(good) as upstream:
        settings = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "some-model"}
        status, out, errors = await ran(tmp_path, **settings)
        assert (status, errors) == (0, "")
        assert out.startswith("The model some-model works.\n")
        status, out, _ = await ran(tmp_path, "other-model", "--json", **settings)
        checked = msgspec.json.decode(out)
        assert (status, checked["ok"], checked["model"]) == (0, True, "other-model")
        assert checked["findings"]["tools"]["works"] is True
    assert os.listdir(tmp_path) == []


async def test_a_model_that_cannot_be_reached_is_status_1_and_what_to_do(tmp_path: Path) -> None:
    with up.refusing() as url:
        status, out, errors = await ran(tmp_path, OPENAI_BASE_URL=url, OPENAI_MAX_RETRIES="0")
    assert (status, errors) == (1, "")
    assert "does not work" in out
    assert "OPENAI_BASE_URL" in out


async def test_without_a_model_it_says_what_to_set(tmp_path: Path) -> None:
    status, out, errors = await ran(tmp_path)
    assert (status, out) == (2, "")
    assert "OPENAI_API_KEY" in errors
