"""`/assistant`, `/chat` and `/agents/{name}`: agents with sessions."""

from typing import Any

import pytest

from tests.api.support import add, refused, scripted
from tests.service import Service, events, running
from tests.upstream import calls, held, status, text

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
            "code": None,
            "retryable": None,
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
        first = await service.json("POST", "/chat/run", json=told)
        assert "Ada" in (await service.json("POST", "/assistant/run", json=asked))["final_output"]
        session = await service.json("GET", "/assistant/session/s")
        assert (session["message_count"], session["success"], session["error"]) == (4, True, None)
        assert session["messages"][0] == {"role": "user", "content": "My name is Ada."}
        [listed] = (await service.json("GET", "/conversations"))["conversations"]
        assert listed["title"] == "My name is Ada"
        cleared = await service.json("DELETE", "/chat/session/s")
        [listed] = (await service.json("GET", "/conversations"))["conversations"]
        assert listed["title"] is None
        assert (await service.json("GET", "/search?q=ada"))["hits"] == []
        await refused(service, "GET", f"/runs/{first['response_id']}", 404, "run_not_found")
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
        rules, *said = [(m["role"], m["content"]) for m in upstream.requests[0]["messages"]]
        assert rules == ("system", "You are a helpful assistant.\n\nBe brief.")
        assert said == [
            ("user", "My name is Ada."),
            ("assistant", "Hello Ada."),
            ("user", "What is my name?"),
        ]


def said_by_user(content: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": content}]}


def part(text: str, kind: str = "input_text") -> dict[str, str]:
    return {"type": kind, "text": text}


BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({}, "input"),
    ({"input": ""}, "input"),
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": {"role": "user", "content": "x"}}, "input"),
    ({"input": []}, "input"),
    ({"input": STORY[:3]}, "input"),
    ({"input": "a\0"}, "input"),
    ({"input": "\ud800"}, "input"),
    ({"input": ["hi"]}, "input.0"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
    ({"input": [{"role": "user"}]}, "input.0.content"),
    (said_by_user(""), "input"),
    (said_by_user([]), "input"),
    (said_by_user(5), "input.0.content"),
    (said_by_user("a\0"), "input.0.content"),
    (said_by_user([part("x", "input_image")]), "input.0.content.0.type"),
    (said_by_user([part("x"), part("\0")]), "input.0.content.1.text"),
    (said_by_user([part("x" * 60_000)] * 2), "input.0.content"),
    (said_by_user("x" * 100_001), "input.0.content"),
    ({"input": "x" * 100_001}, "input"),
    ({"input": "hi", "session_id": "a b"}, "session_id"),
    ({"input": "hi", "user_id": "a b"}, "user_id"),
]


@pytest.mark.parametrize("path", ["/assistant/run", "/chat/stream"])
async def test_an_input_that_is_none_is_refused_by_the_name_of_its_field(path: str) -> None:
    async with running() as service:
        for body, field in BAD_INPUTS:
            if "input" not in body and path == "/chat/stream":
                field = "message"
            problem = await refused(service, "POST", path, 422, "invalid_value", json=body)
            assert [fault["field"] for fault in problem["errors"]] == [field], body
        assert (await service.json("GET", "/health"))["active_runs"] == 0


async def test_a_user_has_sessions_of_their_own() -> None:
    async with running() as service:
        told = {"input": "My name is Ada.", "session_id": "s", "user_id": "ada"}
        await service.json("POST", "/chat/run", json=told)
        asked = {"input": "What is my name?", "session_id": "s"}
        for whose, name in (({}, False), ({"user_id": "eve"}, False), ({"user_id": "ada"}, True)):
            answer = await service.json("POST", "/assistant/run", json=asked | whose)
            assert ("Ada" in answer["final_output"]) is name
        path = "/assistant/session/s"
        counts = {"": 2, "?user_id=ada": 4, "?user_id=eve": 2, "?user_id=no": 0}
        for query, count in counts.items():
            assert (await service.json("GET", path + query))["message_count"] == count
        await service.json("DELETE", f"{path}?user_id=ada")
        for query, count in (counts | {"?user_id=ada": 0}).items():
            assert (await service.json("GET", path + query))["message_count"] == count


async def test_clearing_a_session_ends_the_run_in_it() -> None:
    async with scripted([held(text("never")), text("new")]) as (service, upstream):
        body = {"input": "hi", "session_id": "s"}
        async with service.session.post(f"{service.url}/chat/stream", json=body) as response:
            await upstream.asked.reach(1)
            await service.json("DELETE", "/chat/session/s")
            found = [event async for event in events(response)]
        assert (found[-1]["type"], found[-1]["finish_reason"]) == ("stream_complete", "cancelled")
        assert (await service.json("GET", "/chat/session/s"))["messages"] == []
        await service.json("POST", "/chat/run", json=body)
        assert [each["content"] for each in upstream.requests[1]["messages"][1:]] == ["hi"]


async def test_a_run_that_is_asked_for_twice_is_made_once() -> None:
    async with scripted([text("one"), text("two")]) as (service, _):
        options: dict[str, Any] = {"headers": {"Idempotency-Key": "k"}, "json": {"input": "hi"}}
        once = await service.json("POST", "/chat/run", **options)
        assert await service.json("POST", "/chat/run", **options) == once


async def first_frame(service: Service, path: str, **body: Any) -> str:
    """Return what a stream begins with, without the cursors."""
    async with service.session.post(service.url + path, json=body) as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return next(line for line in lines if line.startswith(("event: ", "data: ")))


BEGINNINGS = {
    "events": 'data: {"event_type":"chat_start"',
    "tokens": "event: token",
    "chunks": 'data: {"content":',
    "agents-sdk": 'data: {"type":"agent_updated"',
}


async def test_any_stream_is_told_in_any_protocol() -> None:
    async with running() as service:
        for protocol, beginning in BEGINNINGS.items():
            for path in ("/chat/stream", "/assistant/stream", "/agents/chat/stream"):
                told = await first_frame(service, f"{path}?protocol={protocol}", input="hi")
                assert told.startswith(beginning), (path, protocol)


@pytest.mark.parametrize("protocol", BEGINNINGS)
async def test_the_server_says_what_a_stream_of_a_message_is_told_in(protocol: str) -> None:
    async with running(chat_stream_protocol=protocol) as service:
        told = await first_frame(service, "/chat/stream", message="hi")
        assert told.startswith(BEGINNINGS[protocol])
        told = await first_frame(service, "/chat/stream?protocol=chunks", message="hi")
        assert told.startswith(BEGINNINGS["chunks"])
        told = await first_frame(service, "/chat/stream", input="hi")
        assert told.startswith(BEGINNINGS["agents-sdk"])


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
    async with scripted([status(401, "no")] * 2) as (service, _):
        answer = await service.json("POST", "/chat/run", expect=502, json={"input": "hi"})
        assert (answer["success"], answer["final_output"], answer["usage"]) == (False, None, None)
        assert (answer["code"], answer["retryable"]) == ("upstream_unauthorized", False)
        assert "credentials" in answer["error"]
        assert answer["response_id"].startswith("run_")
        *_, last = await service.stream("/assistant/stream", input="hi")
        assert (last["type"], last["success"]) == ("error", False)
        assert (last["code"], last["message"]) == ("upstream_unauthorized", answer["error"])


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


@pytest.mark.parametrize("enabled", [True, False])
async def test_what_is_remembered_of_nothing_has_no_session(enabled: bool) -> None:
    async with running(enable_sessions=enabled) as service:
        bodies: list[dict[str, Any]] = [{"input": "hi"}]
        bodies += [] if enabled else [{"input": "hi", "session_id": "s"}]
        for body in bodies:
            assert (await service.json("POST", "/chat/run", json=body))["session_id"] is None
            *_, last = await service.stream("/assistant/stream", **body)
            assert (last["type"], last["session_id"]) == ("stream_complete", None)
            assert last["current_turn"] == 1
            start, *_ = await service.stream("/chat/stream?protocol=events", **body)
            assert start["ephemeral"] is True


async def test_a_conversation_that_is_gone_on_with_is_the_session() -> None:
    async with running() as service:
        body = {"input": "My name is Ada.", "conversation_id": "c"}
        assert (await service.json("POST", "/chat/run", json=body))["session_id"] == "c"
        start, *_ = await service.stream("/chat/stream?protocol=events", **body)
        assert "ephemeral" not in start


async def test_the_agent_of_research_has_sessions_too() -> None:
    async with running() as service:
        asked = {"input": "Is it so?", "session_id": "s"}
        await service.json("POST", "/agents/research/run", json=asked)
        session = await service.json("GET", "/agents/research/session/s")
        assert session["messages"][0] == {"role": "user", "content": "Is it so?"}
        await service.json("DELETE", "/agents/research/session/s")
        assert (await service.json("GET", "/agents/research/session/s"))["messages"] == []


async def test_a_session_may_be_named_as_a_conversation_and_its_own_name_wins() -> None:
    async with scripted([text("x")] * 3) as (service, _):
        for body in ({"conversation_id": "a"}, {"session_id": "b", "conversation_id": "a"}):
            await service.json("POST", "/assistant/run", json={"input": "hi"} | body)
        for name in "ab":
            session = await service.json("GET", f"/assistant/session/{name}")
            assert session["message_count"] == 2


async def test_an_agent_tells_its_model_and_instructions() -> None:
    async with running() as service:
        config = {"name": "Mine", "model": "demo", "instructions": "Hum.", "tools": ["calculate"]}
        await service.json("POST", "/agents/mine", expect=201, json=config)
        info = await service.json("GET", "/agents/mine/info")
    assert [info[name] for name in ("name", "agent_name", "instructions")] == [
        "Mine",
        "mine",
        "Hum.",
    ]
    assert (info["model"], info["tools_count"]) == ("demo", 1)


async def test_the_texts_of_an_item_are_put_together_as_they_are() -> None:
    async with scripted([text("x")]) as (service, upstream):
        parts = [{"type": "input_text", "text": each} for each in ("15 +", " 27", "?")]
        item = {"role": "user", "content": parts}
        await service.json("POST", "/chat/run", json={"input": [item]})
    assert upstream.requests[0]["messages"][-1]["content"] == "15 + 27?"


async def test_an_input_has_a_thousand_messages_at_most() -> None:
    async with running() as service:
        items = [{"role": "user", "content": "x"}] * 1001
        await service.json("POST", "/chat/run", json={"input": items[1:]})
        problem = await refused(
            service, "POST", "/chat/run", 422, "invalid_value", json={"input": items}
        )
        assert [fault["field"] for fault in problem["errors"]] == ["input"]
