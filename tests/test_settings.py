"""The environment: what is read, what is refused, and what nobody gets to see."""

import logging
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import ALL_PROVIDERS, _greeting, create_app, make_provider
from llm.providers import configured
from settings import BadSettings, Settings, load_settings

EXAMPLE = Path(__file__).parent.parent / ".env.example"
SECRET = "sk-very-secret-0123456789abcdef"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test an environment without settings, and no `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def listed() -> dict[str, str | None]:
    """Return what the example lists: name to default, None where there is no default."""
    found: dict[str, str | None] = {}
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(# )?([A-Z][A-Z0-9_]*)=(.*)", line)
        if match:
            assert match[2] not in found, f"{match[2]} is listed twice"
            assert not (match[1] and match[3]), f"{match[2]}: a default behind a #"
            found[match[2]] = None if match[1] else match[3]
    return found


def test_the_example_lists_every_setting_and_nothing_else() -> None:
    assert set(listed()) == {name.upper() for name in Settings.model_fields}


def test_the_example_says_what_the_defaults_are(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    for name, value in listed().items():
        if value is None:
            assert getattr(defaults, name.lower()) is None, name
        else:
            monkeypatch.setenv(name, value)
    assert load_settings() == defaults


def test_the_example_explains_each_setting() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert all(len(line) <= 110 for line in lines)
    assert sum(line.startswith("# ") for line in lines) >= len(Settings.model_fields) / 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("OPENAI_BASE_URL", "localhost:11434"),
        ("OPENAI_TEMPERATURE", "hot"),
        ("OPENAI_TEMPERATURE", "nan"),
        ("OPENAI_MAX_RETRIES", "11"),
        ("OPENAI_TIMEOUT", "0"),
        ("LOG_LEVEL", "loud"),
        ("DEBUG", "perhaps"),
        ("SHUTDOWN_GRACE", "-5"),
        ("MAX_BODY_BYTES", "1e3x"),
        ("MAX_MESSAGE_CHARS", "0"),
        ("HEARTBEAT_INTERVAL", "0"),
        ("SLOW_READER_TIMEOUT", "-3"),
        ("TOOL_WORKERS", "0"),
        ("HISTORY_MESSAGES", "none"),
    ],
)
def test_a_bad_value_is_one_line_with_the_name_and_without_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as raised:
        load_settings()
    said = str(raised.value)
    assert name in said
    assert "\n" not in said
    assert value not in re.sub(r"\b(than|equal to) -?\d+(\.\d+)?", "", said).split()
    assert raised.value.__suppress_context__


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("MAX_RUNS", "y")
    with pytest.raises(BadSettings, match=r"(?s)PORT.*MAX_RUNS"):
        load_settings()


def test_an_address_with_a_password_in_it_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"ftp://user:{SECRET}@host/")
    with pytest.raises(BadSettings) as raised:
        load_settings()
    assert SECRET not in str(raised.value)


def test_an_empty_value_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    assert load_settings() == Settings(_env_file=None)


def test_a_file_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=1234\nAPP_NAME=From the file\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PORT", "4321")
    settings = load_settings()
    assert (settings.port, settings.app_name) == (4321, "From the file")
    assert load_settings(port=1).port == 1


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", " https://a.example , https://b.example,")
    assert load_settings().cors_origins == ("https://a.example", "https://b.example")


def test_a_log_level_may_be_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_secrets_are_in_no_text_of_the_settings_or_the_provider(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("OPENAI_API_KEY", "FRIENDLI_TOKEN", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    settings = load_settings()
    assert isinstance(settings.openai_api_key, SecretStr)
    provider = make_provider(settings)
    app = create_app(settings)
    told = f"{settings!r} {settings} {settings.model_dump_json()} {provider!r} {app!r}"
    assert SECRET not in told + _greeting(settings) + caplog.text


@pytest.mark.parametrize(
    ("environment", "provider"),
    [
        ({}, "demo"),
        ({"OPENAI_API_KEY": "k"}, "openai"),
        ({"OPENAI_BASE_URL": "http://localhost:1/v1"}, "openai"),
        ({"FRIENDLI_TOKEN": "t"}, "friendli"),
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic"),
        ({"FRIENDLI_TOKEN": "t", "ANTHROPIC_API_KEY": "k"}, "friendli"),
        ({"OPENAI_MODEL": "m"}, "demo"),
    ],
)
def test_the_provider_follows_from_the_credentials(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], provider: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert configured(ALL_PROVIDERS, settings)[0].name == provider
    asked = make_provider(settings)
    assert asked.name == ("openai" if provider == "friendli" else provider)


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({"OPENAI_API_KEY": "k"}, "gpt-4.1-mini"),
        ({"FRIENDLI_TOKEN": "t"}, "Qwen/Qwen3-235B-A22B-Instruct-2507"),
        ({"FRIENDLI_TOKEN": "t", "OPENAI_API_KEY": "k"}, "gpt-4.1-mini"),
        ({"FRIENDLI_TOKEN": "t", "OPENAI_MODEL": "m"}, "m"),
        ({"ANTHROPIC_API_KEY": "k"}, "claude-sonnet-5-5"),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_MODEL": "m", "OPENAI_MODEL": "n"}, "m"),
    ],
)
def test_the_default_model_follows_from_the_credentials(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], model: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert make_provider(load_settings()).default_model == model


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
    ],
)
def test_the_greeting_says_that_it_is_open_and_to_whom(host: str, loopback: bool) -> None:
    settings = load_settings(host=host)
    assert settings.listens_on_loopback is loopback
    greeting = _greeting(settings)
    assert "open, without credentials" in greeting
    assert ("only this machine" in greeting) is loopback
    assert loopback or host in greeting


def test_the_database_is_a_file_unless_an_address_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().storage_url == "sqlite:///data/parley.db"
    monkeypatch.setenv("DATA_DIR", "/somewhere")
    assert load_settings().storage_url == "sqlite:////somewhere/parley.db"
    monkeypatch.setenv("SESSION_DB_PATH", "./conversations.db")
    assert load_settings().storage_url == "sqlite:///conversations.db"
    address = f"postgresql://user:{SECRET}@localhost/parley"
    monkeypatch.setenv("DATABASE_URL", address)
    assert load_settings().storage_url == address
    assert SECRET not in repr(load_settings())


def test_an_answer_waits_longer_for_memories_that_are_asked_for_over_a_network() -> None:
    near, far = Settings(), [Settings(memory_embedder="openai"), Settings(mem0_api_key="m0")]
    assert [each.recall_timeout > 5 * near.recall_timeout for each in far] == [True, True]
    assert Settings(mem0_api_key="m0", memory_recall_timeout=0.2).recall_timeout == 0.2
