"""The model providers that the service knows; a new one is one row of `PROVIDERS`.

Which of them a server has follows from its settings. The first of these in the table's order
answers where an agent's model names no provider.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pydantic import SecretStr

from llm import Provider
from llm.anthropic import AnthropicProvider
from llm.dialects import read_setting
from llm.openai import OpenAIProvider
from llm.router import Router
from settings import Settings

FRIENDLI_BASE_URL = "https://api.friendli.ai/serverless/v1"


class ProviderRow(NamedTuple):
    """A model provider.

    Args:
        name: stands before the colon in `<provider>:<model>`.
        title: the name for people.
        remedy: what to do where a server does not have it, as the end of a sentence.
        is_configured: whether the settings are enough to ask it.
        default_model: the model of requests that name none.
        make: returns it, given the settings and its default model.
    """

    name: str
    title: str
    remedy: str
    is_configured: Callable[[Settings], bool]
    default_model: Callable[[Settings], str]
    make: Callable[[Settings, str], Provider]


def _openai(settings: Settings, model: str) -> Provider:
    key = settings.openai_api_key or settings.friendli_token
    dialect = read_setting(settings.openai_dialect)
    return _compatible(settings, key, settings.openai_base_url, model, dialect)


def _friendli(settings: Settings, model: str) -> Provider:
    return _compatible(settings, settings.friendli_token, FRIENDLI_BASE_URL, model, {})


def _compatible(
    settings: Settings,
    key: SecretStr | None,
    base_url: str | None,
    model: str,
    dialect: dict[str, Any],
) -> Provider:
    return OpenAIProvider(
        api_key=_secret(key),
        base_url=base_url,
        default_model=model,
        max_retries=settings.openai_max_retries,
        timeout=settings.openai_timeout,
        temperature=settings.openai_temperature,
        max_tokens=settings.openai_max_tokens,
        dialect=dialect,
    )


def _anthropic(settings: Settings, model: str) -> Provider:
    return AnthropicProvider(
        api_key=_secret(settings.anthropic_api_key),
        base_url=settings.anthropic_base_url,
        default_model=model,
        max_retries=settings.openai_max_retries,
        timeout=settings.openai_timeout,
        max_tokens=settings.openai_max_tokens,
    )


def _secret(key: SecretStr | None) -> str:
    """Return a key in plain text; a local server needs none, but its SDK does."""
    return "none" if key is None else key.get_secret_value()


def _is_openai_configured(settings: Settings) -> bool:
    return bool(settings.openai_api_key or settings.openai_base_url)


def _friendli_model(settings: Settings) -> str:
    """Return `OPENAI_MODEL` only where it means a model of Friendli."""
    is_meant = settings.openai_base_url == FRIENDLI_BASE_URL or not _is_openai_configured(settings)
    wanted = settings.openai_model if is_meant else None
    return wanted or "Qwen/Qwen3-235B-A22B-Instruct-2507"


PROVIDERS = (
    ProviderRow(
        name="openai",
        title="an OpenAI-compatible server",
        remedy="set OPENAI_API_KEY",
        is_configured=_is_openai_configured,
        default_model=lambda settings: settings.openai_model or "gpt-4.1-mini",
        make=_openai,
    ),
    ProviderRow(
        name="friendli",
        title="Friendli",
        remedy="set FRIENDLI_TOKEN",
        is_configured=lambda settings: bool(settings.friendli_token),
        default_model=_friendli_model,
        make=_friendli,
    ),
    ProviderRow(
        name="anthropic",
        title="Anthropic",
        remedy="set ANTHROPIC_API_KEY",
        is_configured=lambda settings: bool(settings.anthropic_api_key),
        default_model=lambda settings: settings.anthropic_model,
        make=_anthropic,
    ),
)


def configured(rows: Iterable[ProviderRow], settings: Settings) -> list[ProviderRow]:
    """Return the providers that a server has; the first one is its default."""
    return [row for row in rows if row.is_configured(settings)]


def make_router(rows: Iterable[ProviderRow], settings: Settings) -> Router:
    """Return the providers that a server has as one. At least one row has to be configured.

    Raises `settings.BadSettings` for a setting that cannot be used.
    """
    rows = list(rows)
    there = configured(rows, settings)
    return Router(
        {row.name: row.make(settings, row.default_model(settings)) for row in there},
        default=there[0].name,
        remedies={row.name: row.remedy for row in rows if row not in there},
    )
