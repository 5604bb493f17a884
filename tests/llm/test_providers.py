"""The table of providers: what each row makes of the settings."""

from typing import Any

import pytest
from pydantic import SecretStr

from errors import UpstreamError
from llm.providers import FRIENDLI_BASE_URL, PROVIDERS, ProviderRow, configured, make_router
from messages import ModelRequest, UserMessage
from settings import Settings

CREDENTIALS = {
    "openai": {"openai_api_key": SecretStr("k")},
    "friendli": {"friendli_token": SecretStr("k")},
    "anthropic": {"anthropic_api_key": SecretStr("k")},
}
FRIENDLI = "Qwen/Qwen3-235B-A22B-Instruct-2507"

rows = pytest.mark.parametrize("row", PROVIDERS, ids=lambda row: row.name)


def with_only(row: ProviderRow, **more: Any) -> Settings:
    return settings_of(**CREDENTIALS[row.name], **more)


def settings_of(**values: Any) -> Settings:
    """Return settings that do not come from the environment."""
    return Settings.model_construct(**values)


@rows
def test_a_provider_is_there_where_its_credential_is(row: ProviderRow) -> None:
    settings = with_only(row)
    assert configured(PROVIDERS, settings) == [row]
    router = make_router(PROVIDERS, settings)
    assert router.default_model == row.default_model(settings)
    assert router.answering(f"{row.name}:m") == "m"


@rows
async def test_what_makes_a_provider_be_there_is_told_by_a_server_without_it(
    row: ProviderRow,
) -> None:
    other = next(each for each in PROVIDERS if each is not row)
    router = make_router(PROVIDERS, with_only(other))
    request = ModelRequest(model=f"{row.name}:m", messages=(UserMessage("Go."),))
    with pytest.raises(UpstreamError) as caught:
        await anext(router.stream(request))
    assert caught.value.code == "upstream_not_configured"
    setting = row.remedy.removeprefix("set ")
    assert setting in caught.value.message
    assert setting.lower() in CREDENTIALS[row.name]


def test_the_first_of_several_is_the_default_one() -> None:
    everything = settings_of(
        **{name: v for each in CREDENTIALS.values() for name, v in each.items()}
    )
    assert configured(PROVIDERS, everything) == list(PROVIDERS)
    router = make_router(PROVIDERS, everything)
    assert router.default_model == "gpt-4.1-mini"
    assert router.answering("friendli") == f"friendli:{FRIENDLI}"
    assert router.answering("anthropic") == "anthropic:claude-sonnet-5-5"


@pytest.mark.parametrize(
    ("more", "model"),
    [
        ({}, "m"),
        ({"openai_base_url": FRIENDLI_BASE_URL}, "m"),
        ({"openai_base_url": "http://localhost:1/v1"}, FRIENDLI),
        ({"openai_api_key": SecretStr("k")}, FRIENDLI),
    ],
)
def test_openai_model_means_friendli_only_where_the_default_provider_is_friendli(
    more: dict[str, Any], model: str
) -> None:
    settings = settings_of(friendli_token=SecretStr("t"), openai_model="m", **more)
    friendli = next(row for row in PROVIDERS if row.name == "friendli")
    assert friendli.default_model(settings) == model
