"""`/assistant`, `/chat` and `/agents/{name}`: agents with sessions."""

from typing import Any

import pytest

from tests.api.support import add, refused, scripted
from tests.service import running
from tests.upstream import calls, status, text

pytestmark = pytest.mark.usefixtures("no_mistakes")

PREFIXES = ("/assistant", "/chat", "/agents/chat", "/agents/mine")

STORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "My name is Ada."}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hello Ada."}]},
    {"role": "user", "content": "What is my name?"},
]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_agent_runs_streams_and_tells_of_itself(prefix: str) -> None:
    async with scripted([text("one"), text("two", "!")]) as (service, upstream):
        await service.json("POST", "/agents/mine", expect=201, json={"name": "Mine"})
        answer = await service.json("POST", f"{prefix}/run", json={"input": "hi"})
        assert answer == {
            "final_output": "one",
            "success": True,
            "error": None,
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            "response_id": answer["response_id"],
            "session_id": None,
        }
        frames = await service.stream(f"{prefix}/stream", input="hi", session_id="s")
        assert [frame["type"] for frame in frames] == [
            "agent_updated",
            "raw_response",
            "raw_response",
            "run_item",
            "stream_complete",
        ]
        assert (frames[-1]["final_output"], frames[-1]["session_id"]) == ("two!", "s")
        info = await service.json("GET", f"{prefix}/info")
        assert info["endpoints"]["run"] == f"{prefix}/run"
        assert info["session_config"] == {"sessions_enabled": True, "storage": "sqlite"}
        assert (info["tools_count"], info["handoffs_count"]) == (5, 0)
        assert len(upstream.requests) == 2


async def test_a_session_is_remembered_across_agents_until_it_is_cleared() -> None:
    async with running() as service:
        told = {"input": "My name is Ada.", "session_id": "s"}
        asked = {"input": "What is my name?", "session_id": "s"}
        await service.json("POST", "/chat/run", json=told)
        assert "Ada" in (await service.json("POST", "/assistant/run", json=asked))["final_output"]
        session = await service.json("GET", "/assistant/session/s")
        assert (session["message_count"], session["success"], session["error"]) == (4, True, None)
        assert session["messages"][0] == {"role": "user", "content": "My name is Ada."}
        cleared = await service.json("DELETE", "/chat/session/s")
        assert (cleared["session_id"], cleared["success"]) == ("s", True)
        assert (await service.json("GET", "/chat/session/s"))["messages"] == []
        again = await service.json("POST", "/chat/run", json=asked)
        assert "Ada" not in again["final_output"]


async def test_without_a_session_nothing_is_remembered_or_listed() -> None:
    async with running() as service:
        await service.json("POST", "/chat/run", json={"input": "My name is Ada."})
        again = await service.json("POST", "/chat/run", json={"input": "What is my name?"})
        assert "Ada" not in again["final_output"]
        assert (await service.json("GET", "/conversations"))["conversations"] == []


async def test_an_input_of_messages_is_the_history_and_the_question() -> None:
    async with scripted([text("Ada.")]) as (service, upstream):
        await service.json("POST", "/chat/run", json={"input": STORY})
        said = [(each["role"], each["content"]) for each in upstream.requests[0]["messages"][1:]]
        assert said == [
            ("system", "Be brief."),
            ("user", "My name is Ada."),
            ("assistant", "Hello Ada."),
            ("user", "What is my name?"),
        ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": STORY[:3]}, "input"),
        ({"input": "a\0"}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input"),
        ({"input": "hi", "session_id": "a b"}, "session_id"),
    ],
)
async def test_an_input_that_is_none_is_refused(body: dict[str, Any], field: str) -> None:
    async with running() as service:
        problem = await refused(service, "POST", "/assistant/run", 422, "invalid_value", json=body)
        assert problem["errors"][0]["field"].split(".")[0] == field
        assert "<" not in str(problem["errors"][0]["field"])


async def test_a_stream_has_two_bodies_and_says_which_field_it_lacks() -> None:
    async with running() as service:
        as_message = await service.stream(message="hi")
        assert as_message[0]["event_type"] == "chat_start"
        as_input = await service.stream(input="hi")
        assert as_input[0]["type"] == "agent_updated"
        both = await service.stream(message="hi", input="ignored")
        assert both[0]["event_type"] == "chat_start"
        other = await service.stream("/chat/stream?protocol=events", input="hi")
        assert other[0]["event_type"] == "chat_start"
        for body, field in (({}, "message"), ({"input": ""}, "input")):
            problem = await refused(
                service, "POST", "/chat/stream", 422, "invalid_value", json=body
            )
            assert problem["errors"][0]["field"].split(".")[0] == field
        await refused(
            service, "POST", "/chat/stream?protocol=no", 400, "invalid_request", json={"input": "x"}
        )


async def test_a_run_that_fails_says_so_in_the_same_form() -> None:
    async with scripted([status(401, "no")]) as (service, _):
        answer = await service.json("POST", "/chat/run", expect=502, json={"input": "hi"})
        assert (answer["success"], answer["final_output"], answer["usage"]) == (False, None, None)
        assert "credentials" in answer["error"]


async def test_sessions_can_be_turned_off() -> None:
    async with running(enable_sessions=False) as service:
        told = {"input": "My name is Ada.", "session_id": "s"}
        assert (await service.json("POST", "/chat/run", json=told))["session_id"] is None
        asked = {"input": "What is my name?", "session_id": "s"}
        assert "Ada" not in (await service.json("POST", "/chat/run", json=asked))["final_output"]
        for method in ("GET", "DELETE"):
            await refused(service, method, "/chat/session/s", 404, "sessions_disabled")
        info = await service.json("GET", "/chat/info")
        assert info["session_config"]["sessions_enabled"] is False


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/agents/no/run"),
        ("POST", "/agents/no/stream"),
        ("GET", "/agents/no/info"),
        ("GET", "/agents/no/session/s"),
        ("DELETE", "/agents/no/session/s"),
    ],
)
async def test_an_agent_that_is_not_there_is_not_found(method: str, path: str) -> None:
    async with running() as service:
        body = {"input": "hi"} if method == "POST" else None
        await refused(service, method, path, 404, "agent_not_found", json=body)


async def test_an_agent_hands_over_and_says_so_on_the_wire() -> None:
    script = [calls(("transfer_to_sums", {})), text("Sums here.")]
    async with scripted(script, tools=[add]) as (service, upstream):
        sums = {"instructions": "Add.", "tools": ["add"]}
        await service.json("POST", "/agents/sums", expect=201, json=sums)
        front = {"instructions": "Route.", "tools": [], "handoffs": ["sums"]}
        await service.json("POST", "/agents/front", expect=201, json=front)
        frames = await service.stream("/agents/front/stream", input="1 + 1?", session_id="s")
        names = [frame.get("name") or frame["type"] for frame in frames]
        assert names[:4] == [
            "agent_updated",
            "handoff_requested",
            "handoff_occured",
            "agent_updated",
        ]
        assert frames[3]["agent_name"] == "sums"
        systems = [request["messages"][0]["content"] for request in upstream.requests]
        assert systems == ["Route.", "Add."]
        bad = {"handoffs": ["nobody", "loop"]}
        problem = await refused(service, "POST", "/agents/loop", 422, "invalid_value", json=bad)
        assert [fault["field"] for fault in problem["errors"]] == ["handoffs", "handoffs"]
