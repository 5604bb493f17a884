"""The lines that `docs/models.md` tells people to put into `.env` do what they are for."""

import re
from pathlib import Path

import pytest

from app import ALL_PROVIDERS
from llm.check import in_words
from llm.providers import configured
from settings import Settings, load_settings
from tests.llm.test_check import checked, good

TEXT = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
ROWS = {
    row[0].strip(): re.findall(r"`([A-Z_]+)=([^`]+)`", row[1])
    for row in (line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("|"))
    if len(row) == 4 and "=" in row[1]
}
SERVERS = {
    *("OpenAI", "Azure OpenAI", "Anthropic", "Gemini", "Mistral", "DeepSeek", "Kimi", "Qwen"),
    *("Groq", "OpenRouter", "Databricks", "Friendli", "Ollama", "LM Studio", "llama.cpp", "vLLM"),
}
PROVIDERS = {"Anthropic": "anthropic", "Friendli": "friendli"}


def test_every_server_has_its_lines() -> None:
    assert set(ROWS) == SERVERS
    assert all(len(lines) >= 2 for lines in ROWS.values())


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_the_lines_of_a_server_are_read(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    lines = ROWS[server]
    assert {name.lower() for name, _ in lines} <= set(Settings.model_fields)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines))
    settings = load_settings()
    row = configured(ALL_PROVIDERS, settings)[0]
    told = dict(lines)
    assert row.name == PROVIDERS.get(server, "openai")
    assert row.default_model(settings) == told.get("ANTHROPIC_MODEL", told.get("OPENAI_MODEL"))
    assert settings.openai_base_url == told.get("OPENAI_BASE_URL")


async def test_the_check_that_is_shown_has_the_findings_that_there_are() -> None:
    shown = re.findall(r"^  ([a-z ]+?)  +(?:yes|no)  ", TEXT, re.M)
    found = in_words(await checked(good))
    assert shown == re.findall(r"^  ([a-z ]+?)  +(?:yes|no)  ", found, re.M)
