"""What refusals teach: each server is asked as OpenAI is, and answers in the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tests.dialect_servers as servers
import tests.upstream as up
from errors import UpstreamError
from llm import openai
from llm.lessons import lesson_of
from llm.openai import MAX_LESSONS, OpenAIProvider
from messages import (
    EndPart,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    ReplyPart,
    SystemMessage,
    TextPart,
    ToolSpec,
    UserMessage,
)
from tests.dialect_servers import ANSWER, Server
from tests.upstream import Upstream

TOOL = ToolSpec("look", "Looks.", {"type": "object", "properties": {}})
FORM = OutputSchema("plan", {"type": "object", "properties": {"steps": {"type": "array"}}})


@asynccontextmanager
async def provider_for(base_url: str, **changes: Any) -> AsyncIterator[OpenAIProvider]:
    settings: dict[str, Any] = {
        "api_key": "none",
        "base_url": base_url,
        "default_model": "m",
        "max_retries": 0,
        "timeout": 5.0,
        "temperature": 0.2,
        "max_tokens": 100,
    }
    provider = OpenAIProvider(**{**settings, **changes})
    try:
        yield provider
    finally:
        await provider.aclose()


def asking(*, model: str = "m", **more: Any) -> ModelRequest:
    fields = {name: more.pop(name) for name in ModelOptions.__struct_fields__ if name in more}
    options = ModelOptions(**fields)
    messages = (SystemMessage("Be brief."), UserMessage("Hello?"))
    return ModelRequest(model=model, messages=messages, options=options, **more)


async def answered(provider: OpenAIProvider, request: ModelRequest) -> list[ReplyPart]:
    return [part async for batch in provider.stream(request) for part in batch]


EVERYTHING: dict[str, Any] = {
    "tools": (TOOL,),
    "parallel_tools": False,
    "top_p": 0.5,
    "output": FORM,
}


@pytest.mark.parametrize(
    ("server", "learned"),
    [
        (
            servers.openai_reasoning,
            {
                "bound": "max_completion_tokens",
                "temperature": False,
                "top_p": False,
                "parallel_tool_calls": False,
            },
        ),
        (servers.databricks, {"stream_options": False}),
        (servers.bedrock_gateway, {"stream_options": False, "bound": "none"}),
        (servers.refusing_in_its_stream, {"stream_options": False}),
        (
            servers.one_fault_at_a_time,
            {
                "bound": "max_completion_tokens",
                "stream_options": False,
                "temperature": False,
                "top_p": False,
                "parallel_tool_calls": False,
                "json_schema": False,
                "json_object": False,
            },
        ),
        (servers.deepseek, {"json_schema": False}),
        (servers.no_structured_output, {"json_schema": False, "json_object": False}),
        (servers.kimi, {"temperature": False, "top_p": False}),
        (servers.ollama_without_tools, {"tools": False}),
        (servers.vllm_without_tools, {"tools": False}),
        (servers.gemini, {"parallel_tool_calls": False}),
        (servers.openrouter, {"temperature": False}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_server_answers_in_the_end_and_the_next_request_is_right_at_once(
    server: Server, learned: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(server) as upstream, provider_for(upstream.base_url) as provider:
        with caplog.at_level(logging.WARNING, "parley.llm"):
            parts = await answered(provider, asking(**EVERYTHING))
        assert parts[0] == TextPart("Hello.")
        before = upstream.asked.value
        assert 2 <= before <= MAX_LESSONS + 1
        for name, value in learned.items():
            assert getattr(provider.dialect_for("m"), name) == value, name
            assert f"{name}={value}" in caplog.text
        await answered(provider, asking(**EVERYTHING))
        assert upstream.asked.value == before + 1
        assert upstream.requests[-1] == upstream.requests[-2]


async def test_mistral_is_told_the_old_name_although_the_setting_says_nothing() -> None:
    async with (
        Upstream(servers.mistral) as upstream,
        provider_for(upstream.base_url, dialect={"temperature": True}) as provider,
    ):
        # As a model whose name promises the new one.
        await answered(provider, asking(model="gpt-5-by-mistral"))
        assert upstream.requests[0]["max_completion_tokens"] == 100
        assert upstream.requests[1]["max_tokens"] == 100
        await answered(provider, asking(model="gpt-5-by-mistral"))
        assert upstream.asked.value == 3


async def test_faults_that_are_named_together_are_mended_together() -> None:
    async with (
        Upstream(servers.strict_gateway) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        await answered(provider, asking(**EVERYTHING))
        assert upstream.asked.value == 3  # the form of the answer takes two steps
    assert upstream.requests[-1].keys() == {
        "model",
        "messages",
        "stream",
        "tools",
        "max_completion_tokens",
    }


async def test_nothing_is_learned_from_what_did_not_help() -> None:
    async with (
        Upstream(servers.strict_gateway) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        with pytest.raises(UpstreamError, match=r"property stop should not exist"):
            await answered(provider, asking(stop=("x",)))
        assert provider.dialect_for("m").stream_options


async def test_what_has_begun_is_not_asked_again_whatever_it_ends_in() -> None:
    refusal = up.sse({"error": {"code": 400, "message": "Unknown parameter: 'stream_options'."}})
    broken = up.raw(up.chunk({"content": "Hel"}), refusal)
    async with Upstream([broken, ANSWER]) as upstream, provider_for(upstream.base_url) as provider:
        stream = provider.stream(asking())
        assert await anext(stream) == [TextPart("Hel")]
        with pytest.raises(UpstreamError, match="stream_options"):
            await anext(stream)
        assert upstream.asked.value == 1


async def test_an_answer_that_breaks_off_teaches_nothing_for_good() -> None:
    broken = up.raw(up.chunk({"content": "Hel"}))
    script = [databricks_refusal(), broken]
    async with Upstream(script) as upstream, provider_for(upstream.base_url) as provider:
        with pytest.raises(UpstreamError, match="before it was complete"):
            await answered(provider, asking())
        assert upstream.asked.value == 2
        assert provider.dialect_for("m").stream_options


async def test_usage_is_unknown_where_the_server_cannot_be_asked_for_it() -> None:
    async with (
        Upstream(servers.databricks) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        parts = await answered(provider, asking())
    assert parts[-1] == EndPart("stop", None)


async def test_the_bound_keeps_its_value_under_its_other_name_also_where_a_client_set_it() -> None:
    async with (
        Upstream(servers.openai_reasoning) as upstream,
        provider_for(upstream.base_url, temperature=None) as provider,
    ):
        await answered(provider, asking(max_tokens=7, demanded=frozenset({"max_tokens"})))
    assert upstream.requests[0]["max_tokens"] == 7
    assert upstream.requests[1]["max_completion_tokens"] == 7


async def test_a_clients_bound_is_never_left_out() -> None:
    async with (
        Upstream(servers.bedrock_gateway) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        request = asking(max_tokens=7, demanded=frozenset({"max_tokens"}))
        with pytest.raises(UpstreamError, match="max_tokens"):
            await answered(provider, request)
        assert all(7 in body.values() for body in upstream.requests)
        assert upstream.asked.value <= MAX_LESSONS + 1


@pytest.mark.parametrize(
    ("server", "options", "demanded", "words"),
    [
        (servers.kimi, {"temperature": 0.7}, "temperature", "only 1 is allowed"),
        (servers.kimi, {"top_p": 0.7}, "top_p", "only 0.95 is allowed"),
        (servers.deepseek, {"output": FORM}, "output", "response_format type is unavailable"),
        (servers.ollama_without_tools, {"tools": (TOOL,)}, "tools", "does not support tools"),
        (
            servers.gemini,
            {"tools": (TOOL,), "parallel_tools": False},
            "parallel_tools",
            "Cannot find field",
        ),
    ],
)
async def test_what_a_client_demands_is_never_left_out(
    server: Server, options: dict[str, Any], demanded: str, words: str
) -> None:
    async with (
        Upstream(server) as upstream,
        provider_for(upstream.base_url, temperature=None) as provider,
    ):
        with pytest.raises(UpstreamError, match=words) as caught:
            await answered(provider, asking(**options, demanded=frozenset({demanded})))
        assert caught.value.code == "upstream_rejected"
        assert upstream.asked.value == 1


async def test_what_is_known_not_to_be_taken_is_left_out_unless_a_client_demands_it() -> None:
    async with Upstream(lambda _: up.text("ok")) as upstream:
        async with provider_for(upstream.base_url) as provider:
            await answered(provider, asking(model="gpt-5", top_p=0.5))
            await answered(provider, asking(model="gpt-5", demanded=frozenset({"temperature"})))
        first, second = upstream.requests
    assert not {"temperature", "top_p", "max_tokens"} & first.keys()
    assert first["max_completion_tokens"] == 100
    assert second["temperature"] == 0.2


@pytest.mark.parametrize("form", [FORM, OutputSchema("any")])
async def test_a_form_that_cannot_be_demanded_is_asked_for_in_words(form: OutputSchema) -> None:
    async with (
        Upstream(servers.no_structured_output) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        await answered(provider, asking(output=form))
    *_, last = upstream.requests
    assert "response_format" not in last
    assert last["messages"][0]["content"].startswith("Be brief.\n\nAnswer with one JSON object")
    assert ('"steps"' in last["messages"][0]["content"]) == (form is FORM)
    assert [message["role"] for message in last["messages"]] == ["system", "user"]


async def test_deepseek_gets_json_and_the_schema_in_words() -> None:
    async with (
        Upstream(servers.deepseek) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        await answered(provider, asking(output=FORM))
    *_, last = upstream.requests
    assert last["response_format"] == {"type": "json_object"}
    assert '"steps"' in last["messages"][0]["content"]


async def test_what_is_set_is_not_learned_away() -> None:
    async with Upstream(servers.openai_reasoning) as upstream:
        async with provider_for(upstream.base_url, dialect={"bound": "max_tokens"}) as provider:
            with pytest.raises(UpstreamError, match="Use 'max_completion_tokens' instead"):
                await answered(provider, asking())
        assert upstream.asked.value == 1
        async with provider_for(upstream.base_url) as provider:
            with pytest.raises(UpstreamError, match="Use 'max_completion_tokens' instead"):
                await answered(provider, asking(dialect={"bound": "max_tokens"}))
        assert upstream.asked.value == 2


async def test_an_agents_dialect_wins_over_the_setting() -> None:
    async with (
        Upstream(lambda _: ANSWER) as upstream,
        provider_for(upstream.base_url, dialect={"bound": "none"}) as provider,
    ):
        await answered(provider, asking())
        await answered(provider, asking(dialect={"bound": "max_completion_tokens"}))
    first, second = upstream.requests
    assert not {"max_tokens", "max_completion_tokens"} & first.keys()
    assert second["max_completion_tokens"] == 100


async def test_a_server_that_refuses_whatever_is_sent_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(body: dict[str, Any]) -> up.Reply:
        return up.status(400, f"unknown field: {[*body][-1]}")

    async with Upstream(never) as upstream, provider_for(upstream.base_url) as provider:
        for most in (MAX_LESSONS, 1):
            before = upstream.asked.value
            monkeypatch.setattr(openai, "MAX_LESSONS", most)
            with pytest.raises(UpstreamError, match="unknown field"):
                await answered(provider, asking(**EVERYTHING))
            assert upstream.asked.value - before <= most + 1
        assert upstream.asked.value - before == 2
        assert provider.dialect_for("m") == provider.dialect_for("other")


async def test_a_refusal_of_something_else_is_not_asked_again() -> None:
    refusals = [
        up.status(400, "Invalid 'messages[0].content'.", param="messages[0].content"),
        up.status(400, "Unknown field 'x'. Known are: temperature, top_p, tools, response_format."),
        up.status(400, "'max_tokens' is too large: 100. The maximum context length is 8."),
        up.status(429, "The temperature of the rate limit is high."),
    ]
    async with (
        Upstream(refusals) as upstream,
        provider_for(upstream.base_url, temperature=None) as provider,
    ):
        for number in range(1, len(refusals) + 1):
            with pytest.raises(UpstreamError):
                await answered(provider, asking())
            assert upstream.asked.value == number


async def test_what_is_learned_is_learned_of_one_model_and_of_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai, "MAX_LEARNED", 2)
    async with (
        Upstream(servers.databricks) as upstream,
        provider_for(upstream.base_url) as provider,
    ):
        for model in ("a", "b", "c"):
            assert provider.dialect_for(model).stream_options
            await answered(provider, asking(model=model))
        learned = [provider.dialect_for(model).stream_options for model in ("a", "b", "c")]
    assert learned == [True, False, False]


async def test_two_requests_at_once_learn_the_same() -> None:
    async with (
        Upstream([up.held(databricks_refusal())] * 2 + [ANSWER, ANSWER]) as upstream,
        provider_for(upstream.base_url) as provider,
        asyncio.TaskGroup() as group,
    ):
        asked = [group.create_task(answered(provider, asking())) for _ in range(2)]
        await upstream.gate.arrivals.reach(2)
        upstream.gate.open()
        assert [(await task)[0] for task in asked] == [TextPart("Hello.")] * 2
    assert not provider.dialect_for("m").stream_options


def databricks_refusal() -> up.Reply:
    return servers.databricks({"stream_options": {}})


@pytest.mark.parametrize(
    ("refusal", "lesson"),
    [
        ("Missing `reasoning_content` field in the assistant message at message index 2.", "r"),
        ("The `reasoning_content` in the thinking mode must be passed back to the API.", "r"),
        ("Function call is missing a thought_signature in functionCall parts.", "e"),
        ("property 'reasoning_content' is unsupported", "n"),
    ],
)
def test_a_refusal_says_what_has_to_be_given_back(refusal: str, lesson: str) -> None:
    expected = {"r": "reasoning_content", "e": "extra_content", "n": "nothing"}[lesson]
    assert lesson_of({"message": refusal}, {}, ())["echo"] == expected


def test_a_refusal_of_any_depth_teaches_nothing() -> None:
    deep: Any = "temperature"
    for _ in range(10_000):
        deep = [deep]
    assert lesson_of(deep, {}, ()) == {}
