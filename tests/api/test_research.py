"""`POST /research` and `POST /research/stream`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from api.http.identity import OPEN
from errors import ToolError
from events import ChatChunk
from tests.api.support import follow, refused, scripted, types
from tests.service import DEADLINE, Service, running
from tests.upstream import Action, held, status, text
from tools.tool import idempotent

pytestmark = pytest.mark.usefixtures("no_mistakes")

PLAN = text('{"searches": [{"query": "a", "reason": "For a."}, ', '{"query": "b", "reason": ""}]}')
QUESTIONS = text('{"questions": ["Why?", "When?"]}')
SCRIPT = [PLAN, text("It is ", "so [1]."), QUESTIONS]
REPORT = (
    "It is so [1].\n\n## Sources\n\n1. [On a](https://a.org/)\n2. [On b](https://b.org/)\n\n"
    "## Follow-up questions\n\n1. Why?\n2. When?"
)


@idempotent
def search_web(query: str) -> dict[str, Any]:
    """Search the web."""
    page = {"title": f"On {query}", "url": f"https://{query}.org/", "snippet": "Text."}
    return {"query": query, "engine": "fake", "results": [page]}


@idempotent
def no_search(query: str) -> dict[str, Any]:
    """Search the web."""
    raise ToolError("The web search failed: no engine could be reached.")


no_search.__name__ = "search_web"

TOOLS: list[Callable[..., Any]] = [search_web]


async def asked(service: Service, expect: int = 200, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return await service.json("POST", "/research", expect, json=body, headers=headers)


async def test_a_question_is_answered_with_a_report_in_its_parts() -> None:
    async with scripted(SCRIPT, tools=TOOLS) as (service, _):
        answer = await asked(service, query="Is it so?")
    conversation = answer["conversation_id"]
    assert conversation
    assert answer == {
        "report": REPORT,
        "summary": "It is so [1].",
        "sources": [
            {"title": "On a", "url": "https://a.org/"},
            {"title": "On b", "url": "https://b.org/"},
        ],
        "follow_up_questions": ["Why?", "When?"],
        "final_output": REPORT,
        "success": True,
        "error": None,
        "code": None,
        "retryable": None,
        "finish_reason": "stop",
        "run_id": answer["run_id"],
        "conversation_id": conversation,
        "session_id": conversation,
        "usage": {"prompt_tokens": 30, "completion_tokens": 15, "total_tokens": 45},
    }


@pytest.mark.parametrize("name", ["query", "input", "message", "question"])
async def test_the_question_may_have_any_of_its_names(name: str) -> None:
    async with scripted(SCRIPT, tools=TOOLS) as (service, upstream):
        await service.json("POST", "/research", json={name: "Is it so?"})
    assert upstream.requests[0]["messages"][-1] == {"role": "user", "content": "Is it so?"}


@pytest.mark.parametrize("name", ["conversation_id", "session_id"])
async def test_a_report_is_part_of_its_conversation(name: str) -> None:
    async with scripted([*SCRIPT, text("You asked.")], tools=TOOLS) as (service, upstream):
        question = {"query": "Is it so?", "user_id": "ann", name: "c1"}
        answer = await service.json("POST", "/research", json=question)
        assert answer["conversation_id"] == answer["session_id"] == "c1"
        chat = {"message": "What did I ask?", "conversation_id": "c1", "user_id": "ann"}
        await service.json("POST", "/chat", json=chat)
    said = [message["content"] for message in upstream.requests[-1]["messages"]]
    assert "Is it so?" in said
    assert REPORT in said


async def test_the_stream_speaks_the_agents_sdk_protocol_unless_told_otherwise() -> None:
    async with scripted([*SCRIPT, *SCRIPT], tools=TOOLS) as (service, _):
        frames = await service.stream("/research/stream", query="Is it so?")
        found = await service.stream("/research/stream?protocol=events", query="Is it so?")
    assert frames[0]["type"] == "agent_updated"
    assert frames[0]["agent_name"] == "research"
    items = [frame for frame in frames if frame["type"] == "run_item"]
    told = [frame["stage"] for frame in items if frame["name"] == "run_progress"]
    assert told == ["plan", "plan", "search", "search", "write", "write"]
    named = [frame["name"] for frame in items if frame["name"] != "run_progress"]
    assert sorted(named[:4]) == ["tool_called"] * 2 + ["tool_output"] * 2
    assert named[4:] == ["message_output_created"]
    assert frames[-1]["type"] == "stream_complete"
    assert frames[-1]["final_output"] == found[-1]["final_response"] == REPORT
    stages = [event["stage"] for event in found if event["event_type"] == "run_progress"]
    assert stages == ["plan", "plan", "search", "search", "write", "write"]


async def test_a_research_that_fails_says_why_in_the_same_form() -> None:
    script = [PLAN, status(401, "no")]
    async with scripted(script, tools=TOOLS) as (service, _):
        answer = await asked(service, 502, query="Is it so?", session_id="c1")
    assert (answer["success"], answer["report"], answer["final_output"]) == (False, None, None)
    assert "refused the credentials" in answer["error"]
    assert answer["run_id"].startswith("run_")
    assert answer["session_id"] == "c1"
    assert (answer["code"], answer["retryable"]) == ("upstream_unauthorized", False)


async def test_without_sessions_a_report_has_none_and_remembers_none() -> None:
    async with scripted(SCRIPT * 2, tools=TOOLS, enable_sessions=False) as (service, upstream):
        first = await asked(service, query="Is it so?", session_id="s")
        again = await asked(service, query="And now?", session_id="s")
        assert first["session_id"] is again["session_id"] is None
        assert first["conversation_id"] != again["conversation_id"]
        listed = (await service.json("GET", "/conversations"))["conversations"]
    assert {each["conversation_id"] for each in listed} == {
        first["conversation_id"],
        again["conversation_id"],
    }
    later = [str(request["messages"]) for request in upstream.requests[len(SCRIPT) :]]
    assert len(later) == len(SCRIPT)
    assert not any("Is it so?" in messages for messages in later)


async def test_where_the_web_cannot_be_searched_the_answer_says_so() -> None:
    async with running(tools=[no_search]) as service:
        answer = await asked(service, query="What are heat pumps?")
    assert answer["summary"].startswith("The web could not be searched")
    assert "no engine could be reached" in answer["report"]
    assert (answer["sources"], answer["finish_reason"]) == ([], "stop")


async def test_the_demo_answers_with_what_was_found() -> None:
    async with running(tools=TOOLS) as service:
        answer = await asked(service, query="heat pumps")
    assert [each["title"] for each in answer["sources"]] == ["On heat pumps"]
    assert "I searched the web for “heat pumps” and found:" in answer["summary"]
    assert answer["follow_up_questions"] == []


async def test_the_same_key_is_the_same_research_also_under_another_name() -> None:
    async with scripted(SCRIPT, tools=TOOLS) as (service, upstream):
        first = await asked(service, key="k", query="Is it so?")
        assert await asked(service, key="k", input="Is it so?") == first
        assert len(upstream.requests) == 3
        await refused(
            service,
            "POST",
            "/research/stream",
            409,
            "idempotency_conflict",
            json={"query": "Is it?"},
            headers={"Idempotency-Key": "k"},
        )


async def test_a_research_goes_on_without_its_reader_and_can_be_followed() -> None:
    script = [PLAN, held(text("It is ", "so [1].")), QUESTIONS]
    async with scripted(script, tools=TOOLS) as (service, upstream):
        url = service.url + "/research/stream"
        async with service.session.post(url, json={"query": "Is it so?"}) as response:
            run_id = response.headers["X-Run-Id"]
            await upstream.gate.reached()
        upstream.gate.open()
        found = await follow(service, run_id)
    assert types(found)[:2] == ["chat_start", "run_progress"]
    assert found[-1]["final_response"] == REPORT


async def test_a_report_that_was_cancelled_names_no_sources_of_the_models_own() -> None:
    forged = text("It is so.\n\n## Sources\n\n1. [x](https://x.org/)\n", "More.")
    script = [PLAN, replace(forged, steps=(*forged.steps[:2], Action.GATE, *forged.steps[2:]))]
    async with scripted(script, tools=TOOLS) as (service, upstream):
        asking = asyncio.create_task(asked(service, query="Is it so?", session_id="c1"))
        await upstream.gate.reached()
        run = await service.registry.active_run(OPEN, "c1")
        assert run is not None
        reader = await service.registry.read(OPEN, run.id)
        async with asyncio.timeout(DEADLINE):
            while not any(isinstance(event, ChatChunk) for event in await reader.read()):
                pass
        await service.json("POST", f"/runs/{run.id}/cancel")
        answer = await asking
    assert answer["finish_reason"] == "cancelled"
    assert answer["report"].endswith("1. [x](https://x.org/)\n")
    assert answer["summary"] == "It is so."
    assert answer["sources"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"input": "x\u0000"}, "input"),
        ({"query": 1}, "query"),
        ({"query": "x", "session_id": "a b"}, "session_id"),
        ({"query": "x", "if_busy": "maybe"}, "if_busy"),
    ],
)
async def test_a_question_that_is_none_is_refused(body: dict[str, Any], field: str) -> None:
    async with running(tools=TOOLS) as service:
        for path in ("/research", "/research/stream"):
            problem = await refused(service, "POST", path, 422, "invalid_value", json=body)
            assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_report_that_the_model_ended_early_still_has_its_sources(reason: str) -> None:
    script = [PLAN, text("It is ", "so [1].", finish_reason=reason)]
    async with scripted(script, tools=TOOLS) as (service, _):
        answer = await service.json("POST", "/research", json={"query": "Is it so?"})
    assert answer["finish_reason"] == reason
    assert [each["url"] for each in answer["sources"]] == ["https://a.org/", "https://b.org/"]
    assert answer["follow_up_questions"] == []


async def test_a_research_is_its_users_own() -> None:
    async with scripted(SCRIPT, tools=TOOLS) as (service, _):
        question = {"query": "Is it so?", "user_id": "ada", "session_id": "c1"}
        await service.json("POST", "/research", json=question)
        listed = (await service.json("GET", "/conversations?user_id=ada"))["conversations"]
        assert [each["conversation_id"] for each in listed] == ["c1"]
        assert (await service.json("GET", "/conversations"))["conversations"] == []
        shown = await service.json("GET", "/conversations/c1?user_id=ada")
        assert shown["messages"][-1]["content"] == REPORT
