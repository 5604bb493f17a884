"""`/agents`."""

from typing import Any

import pytest

from loop.calls import handoff_tool
from tests.api.support import add, fail, refused, scripted
from tests.service import running
from tests.upstream import calls, held, text

pytestmark = pytest.mark.usefixtures("no_mistakes")


async def test_the_default_agent_is_there_with_every_default_filled_in() -> None:
    async with running(tools=[add, fail]) as service:
        listed = await service.json("GET", "/agents")
        shown = await service.json("GET", "/agents/chat")
    assert [agent["agent_name"] for agent in listed["agents"]] == ["assistant", "chat"]
    assert listed["agents"][1] == shown
    assert shown == {
        "agent_name": "chat",
        "name": "chat",
        "instructions": "You are a helpful assistant.",
        "model": "demo",
        "fallback_models": [],
        "handoffs": [],
        "memory": False,
        "temperature": None,
        "max_tokens": None,
        "dialect": None,
        "tools": ["add", "fail"],
        "max_parallel_tools": 5,
        "tool_call_timeout": 30.0,
        "max_turns": 20,
        "max_tool_calls": 100,
        "built_in": True,
    }


async def test_a_long_list_of_agents_comes_in_pieces() -> None:
    async with running() as service:
        for number in range(20):
            config = {"instructions": f"{number}" * 20_000}
            await service.json("POST", f"/agents/a{number}", expect=201, json=config)
        async with service.session.get(service.url + "/agents") as response:
            assert response.content_type == "application/json"
            sizes = [len(data) async for data, _ in response.content.iter_chunks()]
        listed = await service.json("GET", "/agents")
        shown = [
            await service.json("GET", f"/agents/{agent['agent_name']}")
            for agent in listed["agents"]
        ]
    assert listed["agents"] == shown
    assert len(shown) == 22
    assert len(sizes) >= 5


async def test_an_agent_is_created_replaced_and_deleted() -> None:
    config = {
        "name": "MyAssistant",
        "instructions": "You are a specialized assistant for sums.",
        "model": "gpt-4-turbo-preview",
        "max_parallel_tools": 3,
        "tool_call_timeout": 30.0,
    }
    async with running(tools=[add]) as service:
        path = "/agents/my_custom_agent"
        created = await service.json("POST", path, expect=201, json=config)
        assert config.items() <= created.items()
        assert (created["agent_name"], created["built_in"]) == ("my_custom_agent", False)
        assert await service.json("GET", path) == created
        replaced = await service.json("POST", path, expect=200, json={"tools": []})
        assert (replaced["name"], replaced["tools"]) == ("my_custom_agent", [])
        listed = await service.json("GET", "/agents")
        assert [agent["agent_name"] for agent in listed["agents"]] == [
            "assistant",
            "chat",
            "my_custom_agent",
        ]
        await service.json("DELETE", path, expect=204)
        await refused(service, "GET", path, 404, "agent_not_found")
        await refused(service, "DELETE", path, 404, "agent_not_found")


async def test_an_agents_configuration_reaches_the_model() -> None:
    config: dict[str, Any] = {
        "instructions": "Count in threes.",
        "model": "small-model",
        "temperature": 0.25,
        "max_tokens": 7,
        "tools": ["add"],
    }
    async with scripted([text("3 6 9")], tools=[add, fail]) as (service, upstream):
        await service.json("POST", "/agents/counter", expect=201, json=config)
        found = await service.stream(message="go", agent="counter")
    sent = upstream.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Count in threes."}
    assert (sent["model"], sent["temperature"]) == ("small-model", 0.25)
    assert 7 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["add"]
    assert (found[0]["agent"], found[0]["model"]) == ("counter", "small-model")


async def test_an_agents_limit_of_turns_ends_the_run_by_its_name() -> None:
    script = [calls(("add", {"a": n, "b": n})) for n in range(3)]
    async with scripted(script, tools=[add]) as (service, _):
        await service.json("POST", "/agents/brief", expect=201, json={"max_turns": 2})
        found = await service.stream(message="add on", agent="brief")
    assert found[-1]["finish_reason"] == "max_turns"


async def test_a_run_under_way_keeps_the_agent_that_it_began_with() -> None:
    script = [held(calls(("add", {"a": 1, "b": 1}))), text("two")]
    async with scripted(script, tools=[add]) as (service, upstream):
        await service.json("POST", "/agents/a", expect=201, json={"instructions": "old"})
        async with service.session.post(
            service.url + "/chat/stream", json={"message": "hi", "agent": "a"}
        ) as response:
            await upstream.asked.reach(1)
            await service.json("POST", "/agents/a", expect=200, json={"instructions": "new"})
            await service.json("DELETE", "/agents/a", expect=204)
            upstream.gate.open()
            assert b'"final_response":"two"' in await response.read()
    assert [body["messages"][0]["content"] for body in upstream.requests] == ["old", "old"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"tools": ["no_such_tool"]}, "tools"),
        ({"tools": ["\u00e4"]}, "tools.0"),
        ({"max_parallel_tools": 0}, "max_parallel_tools"),
        ({"max_parallel_tools": 65}, "max_parallel_tools"),
        ({"tool_call_timeout": 0}, "tool_call_timeout"),
        ({"tool_call_timeout": "soon"}, "tool_call_timeout"),
        ({"temperature": 2.1}, "temperature"),
        ({"max_turns": -1}, "max_turns"),
        ({"name": ""}, "name"),
        ({"instructions": "x" * 100_001}, "instructions"),
        ({"dialect": {"bound": "tokens"}}, "dialect.bound"),
        ({"dialect": {"stream_options": "perhaps"}}, "dialect.stream_options"),
        ({"dialect": {"temprature": False}}, "dialect.temprature"),
        ({"dialect": "openai"}, "dialect"),
        ({"instructons": "a slip of the pen"}, "instructons"),
    ],
)
async def test_a_bad_configuration_is_refused_and_says_which_field(
    config: dict[str, Any], field: str
) -> None:
    async with running(tools=[add]) as service:
        problem = await refused(service, "POST", "/agents/x", 422, "invalid_value", json=config)
        await refused(service, "GET", "/agents/x", 404, "agent_not_found")
    assert [fault["field"] for fault in problem["errors"]] == [field]
    assert all(fault["message"] for fault in problem["errors"])
    assert len(problem["detail"]) < 1000


async def test_every_fault_of_a_configuration_is_listed() -> None:
    config = {"temperature": 9, "max_turns": 0, "tool_call_timeout": -1}
    async with running() as service:
        problem = await refused(service, "POST", "/agents/x", 422, "invalid_value", json=config)
    assert {fault["field"] for fault in problem["errors"]} == set(config)


async def test_hand_offs_that_cannot_be_told_apart_are_refused() -> None:
    twin = handoff_tool("a.b").removeprefix("transfer_to_")
    async with running() as service:
        for name in ("a_b", "a.b", twin):
            await service.json("POST", f"/agents/{name}", expect=201, json={})
        front = {"handoffs": ["a_b", "a.b"]}
        await service.json("POST", "/agents/front", expect=201, json=front)
        front = {"handoffs": ["a_b", "a.b", twin, "a_b"]}
        problem = await refused(service, "POST", "/agents/front", 422, "invalid_value", json=front)
    assert [fault["field"] for fault in problem["errors"]] == ["handoffs", "handoffs"]
    assert "'a.b' cannot be told from" in problem["errors"][0]["message"]


@pytest.mark.parametrize("name", ["-x", "a b", "a" * 65, "%C3%A4", "%00", ".."])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    async with (
        running() as service,
        service.session.post(f"{service.url}/agents/{name}", json={}) as response,
    ):
        assert response.status in (404, 405, 422)
        assert response.content_type == "application/problem+json"


async def test_a_model_outside_the_allowlist_is_refused() -> None:
    async with scripted([], allowed_models=("good", "better")) as (service, _):
        problem = await refused(
            service, "POST", "/agents/x", 422, "invalid_value", json={"model": "dear"}
        )
        await service.json("POST", "/agents/x", expect=201, json={"model": "better"})
    assert problem["errors"][0]["field"] == "model"
    assert "better, good" in problem["errors"][0]["message"]


async def test_the_default_agent_can_be_replaced_and_not_deleted() -> None:
    async with running() as service:
        await refused(service, "DELETE", "/agents/chat", 409, "conflict")
        shown = await service.json("POST", "/agents/chat", json={"instructions": "Be brief."})
    assert (shown["instructions"], shown["built_in"]) == ("Be brief.", True)


async def test_there_are_at_most_so_many_agents() -> None:
    async with running(max_agents=3) as service:
        await service.json("POST", "/agents/a", expect=201, json={})
        await refused(service, "POST", "/agents/b", 429, "too_many_requests", json={})
        await service.json("POST", "/agents/a", expect=200, json={})
        await service.json("DELETE", "/agents/a", expect=204)
        await service.json("POST", "/agents/b", expect=201, json={})


async def test_a_model_in_the_allowlist_may_be_named_with_its_provider() -> None:
    async with running(
        openai_api_key="k", anthropic_api_key="k", allowed_models=("good", "anthropic:fine")
    ) as service:
        for number, model in enumerate(("good", "openai:good", "anthropic:fine")):
            path = f"/agents/a{number}"
            await service.json("POST", path, expect=201, json={"model": model})
        for model in ("fine", "anthropic:good", "demo"):
            await refused(service, "POST", "/agents/x", 422, "invalid_value", json={"model": model})
