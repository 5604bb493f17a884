"""The service before servers that are not OpenAI."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

import tests.dialect_servers as servers
from tests.api.support import add, scripted
from tests.service import DEADLINE, Service
from tests.upstream import Reply, status, text

HI: Any = [{"role": "user", "content": "Hi."}]

pytestmark = pytest.mark.usefixtures("no_mistakes")


def sdk(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url=f"{service.url}/v1", max_retries=0, timeout=DEADLINE
    )


async def test_what_no_user_asked_for_costs_one_request_and_then_nothing() -> None:
    async with scripted(
        servers.openai_reasoning, tools=[add], openai_max_tokens=50, openai_temperature=0.3
    ) as (service, upstream):
        config = {"temperature": 0.1, "model": "my-deployment"}
        await service.json("POST", "/agents/a", expect=201, json=config)
        for _ in range(3):
            found = await service.stream(message="hi", agent="a", parallel_tools=False)
            assert found[-1]["final_response"] == "Hello."
    *refused, first, second, third = upstream.requests
    assert len(refused) == 3
    assert first["max_completion_tokens"] == second["max_completion_tokens"] == 50
    assert first.keys() == second.keys() == third.keys()


async def test_a_client_hears_that_what_it_asks_for_is_refused_and_why() -> None:
    async with scripted(servers.kimi) as (service, _), sdk(service) as client:
        with pytest.raises(openai.BadRequestError, match="only 1 is allowed for this model"):
            await client.chat.completions.create(model="chat", messages=HI, temperature=0.7)
        answer = await client.chat.completions.create(model="chat", messages=HI, temperature=1)
        assert answer.choices[0].message.content == "Hello."


async def test_usage_that_a_server_does_not_tell_is_said_to_be_unknown() -> None:
    async with scripted(servers.databricks) as (service, _), sdk(service) as client:
        found = await service.stream(message="hi")
        assert found[-1]["usage"] is None
        answer = await client.chat.completions.create(model="chat", messages=HI)
        assert answer.usage is None


async def test_an_agents_dialect_reaches_the_server() -> None:
    async with scripted([text("<think>Hm.</think>Yes.")]) as (service, upstream):
        config = {"dialect": {"stream_options": False, "think_tags": False}}
        created = await service.json("POST", "/agents/a", expect=201, json=config)
        assert created["dialect"].items() >= config["dialect"].items()
        found = await service.stream(message="hi", agent="a")
    assert "stream_options" not in upstream.requests[0]
    assert found[-1]["final_response"] == "<think>Hm.</think>Yes."


async def test_reasoning_in_tags_is_no_part_of_the_answer_nor_of_later_requests() -> None:
    script = [text("<thi", "nk>Hm.</", "think>\n\nYes."), text("Again.")]
    async with scripted(script) as (service, upstream):
        found = await service.stream(message="hi", conversation_id="c")
        assert [
            event["content"] for event in found if event["event_type"] == "reasoning_chunk"
        ] == ["Hm."]
        assert found[-1]["final_response"] == "Yes."
        await service.stream(message="and?", conversation_id="c")
        stored = await service.json("GET", "/conversations/c")
    sent = [message["content"] for message in upstream.requests[1]["messages"]]
    assert sent[1:] == ["hi", "Yes.", "and?"]
    assert "Hm." not in str(stored)


async def test_a_conversation_that_a_template_refuses_is_one_conversations_trouble() -> None:
    def picky(body: dict[str, object]) -> Reply:
        return servers.llama_cpp_template(body) if "poison" in str(body) else servers.ANSWER

    async with scripted(picky, openai_max_retries=3) as (service, upstream):
        for number in range(8):
            found = await service.stream(message="poison", conversation_id=f"c{number % 2}")
            error = found[-1]
            assert (error["code"], error["retryable"]) == ("upstream_unsupported", False)
            assert "Conversation roles must alternate" in error["message"]
        assert upstream.asked.value <= 9  # none is repeated; one is asked again in turns
        found = await service.stream(message="hi", conversation_id="other")
        assert found[-1]["final_response"] == "Hello."


async def test_answers_that_break_off_in_one_conversation_close_the_way_for_no_other() -> None:
    def crashing(body: dict[str, object]) -> Reply:
        if "poison" in str(body):
            return status(500, "segmentation fault")
        return servers.ANSWER

    async with scripted(crashing, openai_max_retries=0) as (service, _):
        for _ in range(12):
            found = await service.stream(message="poison", conversation_id="c")
            assert found[-1]["code"] == "upstream_error"
        found = await service.stream(message="hi", conversation_id="other")
        assert found[-1]["final_response"] == "Hello."
