"""What is known of models beforehand, and what a person can set."""

from typing import Any, get_args

import pytest
from pydantic import SecretStr

from app import make_provider
from llm.dialects import ROWS, Dialect, dialect_of, read_setting
from models import DialectChanges
from settings import BadSettings, Settings

LOCAL = "http://localhost:8000/v1"
OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("base_url", "model", "expected"),
    [
        (None, "gpt-4.1-mini", {}),
        (OPENAI, "gpt-4.1-mini", {}),
        ("https://me.openai.azure.com/openai/v1/", "my-deployment", {}),
        ("https://me.services.ai.azure.com/openai/v1", "gpt-4o", {}),
        (None, "gpt-5-mini", {"temperature": False, "top_p": False}),
        (OPENAI, "gpt-5-nano-2025-08-07", {"temperature": False, "top_p": False}),
        (LOCAL, "openai/gpt-5", {"temperature": False, "top_p": False}),
        (LOCAL, "databricks-gpt-5", {"temperature": False, "top_p": False}),
        (LOCAL, "gpt-5-chat-latest", {}),
        (LOCAL, "gpt-5.1", {}),
        (
            LOCAL,
            "o3-mini",
            {"temperature": False, "top_p": False, "parallel_tool_calls": False},
        ),
        (LOCAL, "llama3:8b", {"bound": "max_tokens"}),
        (LOCAL, "gpt-oss:20b", {"bound": "max_tokens"}),
        (LOCAL, "olmo3", {"bound": "max_tokens"}),
        (LOCAL, "o1.5-like", {"bound": "max_tokens"}),
        (LOCAL, "aidc/Marco-o1", {"bound": "max_tokens"}),
        (
            LOCAL,
            "openai/o4-mini",
            {"temperature": False, "top_p": False, "parallel_tool_calls": False},
        ),
        ("https://api.openai.com.example.org/v1", "m", {"bound": "max_tokens"}),
        ("https://notopenai.com/v1", "m", {"bound": "max_tokens"}),
        ("https://api.mistral.ai/v1", "m", {"bound": "max_tokens"}),
        (
            "https://api.deepseek.com",
            "deepseek-chat",
            {"bound": "max_tokens", "json_schema": False, "echo": "reasoning_content"},
        ),
        (
            LOCAL,
            "deepseek-ai/DeepSeek-V3.2",
            {"bound": "max_tokens", "echo": "reasoning_content"},
        ),
        (
            "https://api.moonshot.ai/v1",
            "kimi-k2.6",
            {
                "bound": "max_tokens",
                "call_ids": "functions",
                "echo": "reasoning_content",
                "temperature": False,
                "top_p": False,
            },
        ),
        (
            LOCAL,
            "kimi-k2",
            {"bound": "max_tokens", "call_ids": "functions", "echo": "reasoning_content"},
        ),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "gemini-3-pro-preview",
            {"bound": "max_tokens", "echo": "extra_content"},
        ),
        (
            "https://openrouter.ai/api/v1",
            "google/gemini-3-pro",
            {"bound": "max_tokens", "call_ids": "any", "echo": "reasoning_details"},
        ),
        (
            "https://openrouter.ai/api/v1",
            "deepseek/deepseek-v4-pro",
            {"bound": "max_tokens", "call_ids": "any", "echo": "reasoning_content"},
        ),
    ],
)
def test_the_address_and_the_name_of_the_model_tell_a_dialect(
    base_url: str | None, model: str, expected: dict[str, Any]
) -> None:
    assert dialect_of(base_url, model) == Dialect(**expected)


def test_each_row_says_what_it_changes_and_where_that_is_written() -> None:
    for row in ROWS:
        Dialect(**row.changes)
        DialectChanges.model_validate(row.changes)
        assert row.changes
        assert len(row.source) > 20


def test_what_can_be_set_is_what_there_is() -> None:
    fields = DialectChanges.model_fields
    assert tuple(fields) == Dialect.__struct_fields__
    for name, kind in Dialect.__annotations__.items():
        assert get_args(fields[name].annotation) == (kind, type(None))


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("bound=max_tokens", {"bound": "max_tokens"}),
        (
            " stream_options = off ,think_tags=false, top_p=on,",
            {"stream_options": False, "think_tags": False, "top_p": True},
        ),
    ],
)
def test_a_setting_names_what_is_different(text: str, changes: dict[str, Any]) -> None:
    assert read_setting(text) == changes


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("max_tokens", "max_tokens: Extra inputs"),
        ("bound=tokens", "bound: Input should be 'max_completion_tokens'"),
        ("stream_options=perhaps", "stream_options: Input should be a valid boolean"),
        ("stream_options", "stream_options: Input should be a valid boolean"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_at_the_start(text: str, fault: str) -> None:
    settings = Settings.model_construct(openai_api_key=SecretStr("k"), openai_dialect=text)
    with pytest.raises(BadSettings, match=fault) as caught:
        make_provider(settings)
    assert "OPENAI_DIALECT" in str(caught.value)
