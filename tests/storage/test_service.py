"""The whole service on both databases."""

import pytest

from tests.service import running


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Return a database of one kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_what_was_said_is_there_after_a_restart(url: str) -> None:
    async with running(database_url=url) as service:
        await service.json("POST", "/agents/sums", expect=201, json={"tools": ["calculate"]})
        asked = {"message": "My name is Ada.", "conversation_id": "c", "agent": "sums"}
        first = await service.json("POST", "/chat", json=asked)
        sums = {"message": "What is 15 + 27?", "conversation_id": "c"}
        got = await service.stream(**sums)
        assert [event["event_type"] for event in got].count("tool_call_complete") == 1
    async with running(database_url=url) as service:
        assert (await service.json("GET", "/agents/sums"))["tools"] == ["calculate"]
        question = {"message": "What is my name?", "conversation_id": "c"}
        assert "Ada" in (await service.json("POST", "/chat", json=question))["response"]
        run = await service.json("GET", f"/runs/{first['run_id']}")
        assert (run["status"], run["final_response"]) == ("completed", first["response"])
        events = await service.json("GET", "/api/health/detailed")
        kind = events["components"]["database"]["details"]["kind"]
        assert kind == ("sqlite" if url.startswith("sqlite") else "postgresql")
        shown = await service.json("GET", "/conversations/c")
        roles = [message["role"] for message in shown["messages"]]
        chat, tools = ["user", "assistant"], ["user", "assistant", "tool", "assistant"]
        assert roles == [*chat, *tools, *chat]
        hits = (await service.json("GET", "/search?q=ada"))["hits"]
        assert {hit["conversation_id"] for hit in hits} == {"c"}
