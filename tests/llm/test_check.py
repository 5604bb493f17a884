"""What a check of a model finds, with scripted servers; `model_tests/` has a real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm import check as checking
from llm.check import Checked, ModelCheck, check, in_words
from llm.openai import OpenAIProvider
from llm.router import Router
from tests import dialect_servers
from tests import upstream as up

BOTH = up.calls(("temperature", {"city": "Oslo"}), ("temperature", {"city": "Rome"}))
FORM = '{"city": "Oslo", "country": "Norway"}'


def good(body: dict[str, Any]) -> up.Reply:
    """A model that can do all that is asked."""
    if "response_format" in body or "JSON" in str(body["messages"]):
        return up.text(FORM)
    if body["messages"][-1]["role"] == "tool":
        return up.completion(
            [{"reasoning_content": "Hm."}, {"content": "Both "}, {"content": "are 12."}]
        )
    return BOTH if "tools" in body else up.text("I cannot know.")


def behind(refusing: dialect_servers.Server) -> dialect_servers.Server:
    """Return `good` behind a server that refuses what it does not know."""

    def answer(body: dict[str, Any]) -> up.Reply:
        reply = refusing(body)
        return reply if reply.status != 200 else good(body)

    return answer


@asynccontextmanager
async def asked(script: up.Script, **options: Any) -> AsyncIterator[tuple[Router, up.Upstream]]:
    async with up.Upstream(script) as upstream:
        given: dict[str, Any] = {
            "api_key": "sk-test",
            "base_url": upstream.base_url,
            "default_model": "some-model",
            "max_retries": 0,
            "timeout": 5,
            "temperature": None,
            "max_tokens": None,
        }
        router = Router({"openai": OpenAIProvider(**(given | options))}, "openai")
        try:
            yield router, upstream
        finally:
            await router.aclose()


async def checked(script: up.Script, **options: Any) -> Checked:
    async with asked(script, **options) as (router, _):
        return await check(router)


def works(found: Checked) -> dict[str, bool | None]:
    return {name: finding.works for name, finding in found.findings.items()}


ALL = {
    "stream": True,
    "tools": True,
    "parallel tools": True,
    "tool results": True,
    "usage": True,
    "reasoning": True,
    "structured output": True,
}


async def test_all_that_works_is_found_with_three_requests() -> None:
    async with asked(good) as (router, upstream):
        found = await check(router)
        bodies = upstream.requests
    assert (found.ok, found.error, works(found)) == (True, None, ALL)
    assert len(bodies) == 3
    assert [len(body.get("tools", [])) for body in bodies] == [1, 1, 0]
    assert all(body["max_tokens"] == checking.MAX_TOKENS for body in bodies)


async def test_it_is_told_in_lines_that_a_person_reads() -> None:
    lines = in_words(await checked(good)).splitlines()
    assert lines[0] == "The model some-model works."
    assert lines[1].split(maxsplit=2) == ["stream", "yes", "an answer came in 3 pieces"]
    assert lines[-1] == "Dialect: bound=max_tokens."


@pytest.mark.parametrize(
    ("server", "learned"),
    [
        (dialect_servers.databricks, {"stream_options"}),
        (dialect_servers.ollama_without_tools, {"tools"}),
        (dialect_servers.vllm_without_tools, {"tools"}),
        (dialect_servers.deepseek, {"json_schema"}),
        (dialect_servers.no_structured_output, {"json_schema", "json_object"}),
        (dialect_servers.openai_reasoning, {"bound"}),
    ],
)
async def test_what_a_server_refuses_is_learned_and_told(
    server: dialect_servers.Server, learned: set[str]
) -> None:
    found = await checked(behind(server))
    assert found.ok
    assert set(found.learned) == learned
    assert found.dialect is not None
    if "tools" in learned:
        assert works(found)["tools"] is False
        assert "without them" in found.findings["tools"].told
        assert works(found)["tool results"] is None
    else:
        assert works(found)["tools"]
    assert works(found)["structured output"]
    for name in learned:
        assert name in in_words(found)


async def test_usage_that_a_server_does_not_tell_is_said_to_be_unknown() -> None:
    def silent(body: dict[str, Any]) -> up.Reply:
        return up.text("Well.", usage=None)

    found = await checked(silent)
    assert works(found)["usage"] is False
    assert works(found)["tools"] is None
    assert works(found)["structured output"] is False


async def test_one_call_where_two_were_asked_for_is_no_parallel_call() -> None:
    def slow(body: dict[str, Any]) -> up.Reply:
        return up.calls(("temperature", {"city": "Oslo"})) if len(body["messages"]) < 3 else FORMED

    FORMED = up.text(FORM)
    found = await checked(slow)
    assert works(found)["tools"]
    assert works(found)["parallel tools"] is False


async def test_calls_that_do_not_fit_are_told_and_nothing_is_given_back() -> None:
    found = await checked([up.calls(("temperature", {"town": "Oslo"})), up.text(FORM)])
    assert found.ok
    assert works(found)["tools"] is False
    assert works(found)["tool results"] is None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (up.status(401, "Bad key."), "OPENAI_API_KEY: Bad key."),
        (up.status(404, "No such model."), "OPENAI_MODEL and OPENAI_BASE_URL: No such model."),
        (up.status(400, "Too hot."), "OPENAI_DIALECT"),
        (up.reset_at_once(), "Check that the server runs"),
        (dialect_servers.llama_cpp_template({}), "chat template"),
        (up.status(429, "Slow down."), "Try again later."),
        (up.raw(b"<html>", content_type="text/html"), "check OPENAI_BASE_URL"),
    ],
)
async def test_a_failure_says_why_and_what_to_do(reply: up.Reply, said: str) -> None:
    found = await checked([reply])
    assert not found.ok
    assert found.findings == {}
    assert said in in_words(found)
    assert "does not work" in in_words(found)


async def test_a_model_that_does_not_take_its_calls_back_does_not_work() -> None:
    refusal = up.status(400, "The results come too late.")
    found = await checked([BOTH, refusal, up.text(FORM)])
    assert not found.ok
    assert found.error is not None
    assert "too late" in found.error
    assert works(found)["tools"]
    assert works(found)["tool results"] is False
    assert works(found)["structured output"]


async def test_an_answer_without_end_is_looked_at_as_far_as_it_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "TIMEOUT", 0.2)
    async with asked([up.stall_after(3), up.text(FORM)]) as (router, upstream):
        found = await check(router)
        await upstream.closed_by_client()
    assert found.ok
    assert works(found)["stream"]
    assert "cut off" in found.findings["tools"].told
    silent = await checked([up.stall_after(0), up.text(FORM)])
    assert not silent.ok


async def test_a_model_of_a_provider_that_is_not_there_says_what_is_missing() -> None:
    async with up.Upstream([]) as upstream:
        provider = OpenAIProvider(
            api_key="k",
            base_url=upstream.base_url,
            default_model="m",
            max_retries=0,
            timeout=5,
            temperature=None,
            max_tokens=None,
        )
        remedies = {"anthropic": "set ANTHROPIC_API_KEY"}
        found = await check(
            Router({"openai": provider}, "openai", remedies=remedies), "anthropic:c"
        )
    assert not found.ok
    assert "ANTHROPIC_API_KEY" in in_words(found)
    assert found.dialect is None


async def test_who_asks_at_the_same_time_or_soon_again_gets_the_same_result() -> None:
    async with asked(good) as (router, upstream):
        model = ModelCheck(router.apart)
        assert await model.told(False) is None
        first, second = await asyncio.gather(model.told(True), model.told(True))
        assert first is not None
        assert first["ok"]
        assert first == second == await model.told(False) == await model.told(True)
        assert len(upstream.requests) == 3


async def test_an_old_result_is_not_told() -> None:
    async with asked(good) as (router, upstream):
        model = ModelCheck(router.apart, ttl=0)
        assert await model.told(True)
        assert await model.told(False) is None
        assert await model.told(True)
        assert len(upstream.requests) == 6
