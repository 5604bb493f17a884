"""What a server or a model wants of a chat completion that another one does not: its dialect.

A dialect is plain data. What the address or the model's name tells beforehand is a row of
`ROWS`; what a refusal tells is learned (`llm.lessons`); the setting `OPENAI_DIALECT` and an
agent's configuration overrule both.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from pydantic import ValidationError

from models import Bound, CallIds, DialectChanges, Echo
from settings import BadSettings


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is written and its answer read; the defaults are OpenAI's own.

    `models.DialectChanges` says what each field means.
    """

    bound: Bound = "max_completion_tokens"
    stream_options: bool = True
    temperature: bool = True
    top_p: bool = True
    tools: bool = True
    parallel_tool_calls: bool = True
    json_schema: bool = True
    json_object: bool = True
    call_ids: CallIds = "nine"
    echo: Echo = "given"
    think_tags: bool = True


class Row(NamedTuple):
    """What is known of servers or models.

    Args:
        changes: how they differ from OpenAI.
        source: where that is written.
        host: matches the host's name, from its end; any host where empty.
        model: is found in the model's name, in small letters; any model where empty.
    """

    changes: Mapping[str, Any]
    source: str
    host: str = ""
    model: str = ""


# Other vendors have an "o1" in the middle of a name.
_O_SERIES = r"(?:^|[/:]|openai[.-])o[1-9](?![\w.])"

ROWS = (
    Row(
        {"bound": "max_tokens"},
        "The old name is the one that everybody knows; Mistral refuses the new one "
        "(docs.mistral.ai/api, 422 extra_forbidden).",
    ),
    Row(
        {"bound": "max_completion_tokens"},
        "platform.openai.com/docs/api-reference/chat/create: max_tokens is deprecated; Azure: "
        "learn.microsoft.com/azure/ai-services/openai/how-to/reasoning",
        host=r"(?:openai\.com|azure\.com|azure\.us)",
    ),
    Row(
        {"bound": "max_completion_tokens"},
        "platform.openai.com/docs/guides/reasoning: GPT-5 and o-series refuse max_tokens, at any "
        "address that leads to them",
        model=rf"\bgpt-[5-9]|{_O_SERIES}",
    ),
    Row(
        {"temperature": False, "top_p": False},
        "learn.microsoft.com/azure/ai-services/openai/how-to/reasoning; which of them take others: "
        "@ai-sdk/openai, openai-language-model-capabilities.ts",
        model=rf"\bgpt-5(?![.\d]|-chat)|{_O_SERIES}",
    ),
    Row(
        {"parallel_tool_calls": False},
        "community.openai.com/t/1310788: o-series refuse parallel_tool_calls",
        model=_O_SERIES,
    ),
    Row(
        {"json_schema": False},
        "api-docs.deepseek.com/guides/json_mode: response_format is text or json_object",
        host=r"deepseek\.com",
    ),
    Row(
        {"echo": "reasoning_content"},
        "api-docs.deepseek.com/guides/thinking_mode#tool-calls",
        model=r"deepseek",
    ),
    Row(
        {"echo": "reasoning_content"},
        "platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model: 400 'reasoning_content is "
        "missing in assistant tool call message'",
        host=r"(?:moonshot\.(?:ai|cn)|kimi\.com)",
    ),
    Row(
        {"echo": "reasoning_content"},
        "as the row before, at other addresses",
        model=r"kimi|moonshot",
    ),
    Row(
        {"call_ids": "functions"},
        "MoonshotAI/Kimi-K2, docs/tool_call_guidance.md; with other ids the models end their turn "
        "without a word (getkimchi/kimchi#1066)",
        model=r"kimi-k2",
    ),
    Row(
        {"temperature": False, "top_p": False},
        "platform.kimi.com/docs/api/models-overview: Kimi K2.5 and later take one value only",
        model=r"kimi-(?:k2[.-]?[5-9]|k[3-9]|for-coding)",
    ),
    Row(
        {"echo": "extra_content"},
        "ai.google.dev/gemini-api/docs/thought-signatures, section 'OpenAI compatibility'",
        model=r"gemini",
    ),
    Row(
        {"echo": "reasoning_details", "call_ids": "any"},
        "openrouter.ai/docs, 'Reasoning tokens': preserving reasoning; encrypted details name the "
        "call that they belong to",
        host=r"openrouter\.ai",
    ),
    Row(
        {"echo": "reasoning_content"},
        "OpenRouter passes on that DeepSeek and Kimi refuse to go on without it "
        "(UKGovernmentBEIS/inspect_ai#4079)",
        host=r"openrouter\.ai",
        model=r"deepseek|kimi|moonshot",
    ),
)
"""Later rows win."""


@lru_cache(maxsize=1024)
def dialect_of(base_url: str | None, model: str) -> Dialect:
    """Return what is known beforehand of a model at an address (None: OpenAI's own)."""
    host = "api.openai.com" if base_url is None else urlsplit(base_url).hostname or ""
    name = model.lower()
    changes: dict[str, Any] = {}
    for row in ROWS:
        at_host = not row.host or re.search(rf"(?:^|\.){row.host}$", host)
        if at_host and (not row.model or re.search(row.model, name)):
            changes |= row.changes
    return Dialect(**changes)


def read_setting(text: str) -> dict[str, Any]:
    """Return the changes that `OPENAI_DIALECT` asks for: `name=value` with commas between.

    Raises `BadSettings` for a name or a value that does not exist.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    try:
        changes = DialectChanges.model_validate(
            {name.strip(): value.strip() for name, _, value in pairs}
        )
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        known = ", ".join(Dialect.__struct_fields__)
        raise BadSettings(
            f"Bad settings: OPENAI_DIALECT: {faults}. It is name=value with commas between; "
            f"the names are {known}. See .env.example."
        ) from None
    return changes.as_set()
