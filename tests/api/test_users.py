"""`/api`: one conversation for each user; and what the service tells of its health."""

import re
from typing import Any

import pytest
from sqlalchemy import make_url

from messages import UserMessage, new_id
from storage import Begin
from tests.api.support import add, refused, scripted
from tests.llm.test_check import good
from tests.service import running
from tests.storage.servers import administer, server_in, start, stop
from tests.storage.support import DONE, a_run
from tests.upstream import calls, held, status, text

pytestmark = pytest.mark.usefixtures("no_mistakes")

ADA = {"user_id": "ada@example.org", "message": "My name is Ada."}
WHO = {"user_id": "ada@example.org", "message": "What is my name?"}


async def test_each_user_has_a_conversation() -> None:
    async with running() as service:
        first = await service.json("POST", "/api/chat/simple", json=ADA)
        assert (first["user_id"], first["message"]) == (ADA["user_id"], ADA["message"])
        assert first["timestamp"].endswith("Z")
        assert "Ada" in (await service.json("POST", "/api/chat/simple", json=WHO))["response"]
        other = await service.json("POST", "/api/chat/simple", json=WHO | {"user_id": "eve"})
        assert "Ada" not in other["response"]
        history = await service.json("GET", "/api/chat/history/ada@example.org")
        assert history["count"] == len(history["history"]) == 2
        assert history["history"][0]["user_message"] == ADA["message"]
        assert history["history"][0]["assistant_response"] == first["response"]
        listed = await service.json("GET", "/conversations?user_id=ada@example.org")
        assert [each["conversation_id"] for each in listed["conversations"]] == ["default"]
        async with service.session.post(f"{service.url}/api/chat/simple", json=WHO) as response:
            run_id = response.headers["X-Run-Id"]
        assert (await service.json("GET", f"/runs/{run_id}"))["status"] == "completed"
        await service.json("DELETE", "/api/chat/history/ada@example.org")
        await refused(service, "GET", f"/runs/{run_id}", 404, "run_not_found")
        cleared = await service.json("GET", "/api/chat/history/ada@example.org")
        assert cleared == {"user_id": "ada@example.org", "history": [], "count": 0}
        [left] = (await service.json("GET", "/conversations?user_id=ada@example.org"))[
            "conversations"
        ]
        assert (left["title"], left["message_count"]) == (None, 0)
        assert (await service.json("GET", "/api/chat/history/eve"))["count"] == 1


async def test_a_stream_comes_in_chunks_and_ends_with_done() -> None:
    async with scripted([text("one", " two")]) as (service, _):
        async with service.session.post(f"{service.url}/api/chat", json=ADA) as response:
            lines = (await response.text()).splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        assert data[0].startswith('{"content":"one","done":false')


async def test_an_answer_that_fails_is_a_problem() -> None:
    async with scripted([status(401, "no")]) as (service, _):
        await refused(service, "POST", "/api/chat/simple", 502, "upstream_unauthorized", json=ADA)
        history = await service.json("GET", "/api/chat/history/ada@example.org")
        assert [each["assistant_response"] for each in history["history"]] == [None]


async def test_clearing_a_history_ends_the_run_in_it() -> None:
    async with scripted([held(text("never"))]) as (service, upstream):
        async with service.session.post(f"{service.url}/api/chat", json=ADA) as response:
            await upstream.asked.reach(1)
            cleared = await service.json("DELETE", "/api/chat/history/ada@example.org")
            assert cleared["user_id"] == ADA["user_id"]
            assert '"finish_reason":"cancelled"' in await response.text()
        history = await service.json("GET", "/api/chat/history/ada@example.org")
        assert history["history"] == []


async def test_a_history_pairs_a_message_with_the_last_text_of_its_answer() -> None:
    script = [calls(("add", {"a": 1, "b": 2}), before="Let me see."), text("3"), status(401)]
    async with scripted(script, tools=[add]) as (service, _):
        for expect in (200, 502):
            await service.json("POST", "/api/chat/simple", expect=expect, json=ADA)
        history = await service.json("GET", "/api/chat/history/ada@example.org")
        assert [each["assistant_response"] for each in history["history"]] == ["3", None]


async def test_a_name_that_is_none_has_no_history() -> None:
    async with running() as service:
        for method in ("GET", "DELETE"):
            problem = await refused(
                service, method, "/api/chat/history/a%20b", 422, "invalid_value"
            )
            assert [fault["field"] for fault in problem["errors"]] == ["user_id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"user_id": ""}, "user_id"), ({"user_id": "a/b"}, "user_id"), ({"message": ""}, "message")],
)
async def test_what_is_none_is_refused(change: dict[str, str], field: str) -> None:
    async with running() as service:
        problem = await refused(
            service, "POST", "/api/chat", 422, "invalid_value", json=ADA | change
        )
        assert [fault["field"] for fault in problem["errors"]] == [field]


async def test_the_health_is_told_in_short_and_in_detail_without_secrets() -> None:
    keys = ("openai_api_key", "anthropic_api_key", "friendli_token")
    secrets: dict[str, Any] = {key: f"secret-{key}" for key in keys}
    async with running(**secrets) as service:
        assert (await service.json("GET", "/api/health"))["status"] == "healthy"
        async with service.session.get(f"{service.url}/api/health/detailed") as response:
            told = await response.text()
            detail = await response.json()
    assert "secret" not in told
    assert detail["status"] == "healthy"
    assert set(detail["components"]) == {"database", "model_provider", "memory", "load"}
    assert detail["components"]["database"]["details"]["kind"] == "sqlite"
    assert detail["components"]["load"]["details"]["resident_peak"] > 1_000_000
    assert detail["versions"]["parley"] == "0.1.0"
    assert detail["uptime"] >= 0


@pytest.mark.slow
async def test_a_server_of_databases_that_is_gone_is_told_without_its_password() -> None:
    server = server_in(new_id("own"))
    try:
        await administer(server, "CREATE ROLE ada SUPERUSER LOGIN PASSWORD 'pa55word'")
        url = make_url(server.get_uri()).set(username="ada", password="pa55word")
        text = url.render_as_string(hide_password=False)
        async with running(database_url=text, storage_timeout=1) as service:
            detail = await service.json("GET", "/api/health/detailed")
            assert detail["components"]["database"]["details"]["kind"] == "postgresql"
            stop(server)
            detail = await service.json("GET", "/api/health/detailed", expect=503)
            database = detail["components"]["database"]
            assert (detail["status"], database["status"]) == ("degraded", "unavailable")
            assert detail["components"]["memory"]["status"] == "unavailable"
            assert not {"pa55word", "ada"} & set(re.split(r"\W+", str(detail)))
            await refused(service, "POST", "/api/chat/simple", 503, "storage_unavailable", json=ADA)
            await refused(service, "GET", "/api/chat/history/ada", 503, "storage_unavailable")
            start(server)
    finally:
        server.cleanup()


async def test_a_service_that_stops_says_so_in_its_health() -> None:
    async with running() as service:
        service.registry.drain()
        detail = await service.json("GET", "/api/health/detailed", expect=503)
        states = {name: each["status"] for name, each in detail["components"].items()}
        assert (detail["status"], states.pop("load")) == ("degraded", "draining")
        assert set(states.values()) == {"healthy"}
        await refused(service, "POST", "/api/chat/simple", 503, "unavailable", json=ADA)


async def test_a_provider_that_is_left_alone_is_told() -> None:
    async with scripted([status(500, "down")] * 5, openai_max_retries=0) as (service, _):
        for _ in range(5):
            await service.json("POST", "/api/chat/simple", expect=502, json=ADA)
        detail = await service.json("GET", "/api/health/detailed", expect=503)
        assert detail["status"] == "degraded"
        assert detail["components"]["model_provider"]["status"] == "unavailable"


async def test_the_health_tells_what_is_still_to_be_learned() -> None:
    async with running() as service:
        path = "/api/health/detailed"
        memory = (await service.json("GET", path))["components"]["memory"]
        assert memory == {
            "status": "healthy",
            "details": {"enabled": True, "lessons_waiting": 0, "not_learned": 0, "unread": 0},
        }
        store = service.registry.store
        run = a_run()
        await store.accept(run, begin=Begin())
        await store.finish(run, [], DONE, learn_from=[UserMessage("I live in Oslo.")])
        assert await store.take_extraction_job()  # so that nobody learns from it meanwhile
        memory = (await service.json("GET", path))["components"]["memory"]
        assert memory["details"]["lessons_waiting"] == 1


async def test_a_memory_that_is_turned_off_is_no_fault() -> None:
    async with running(memory_enabled=False) as service:
        detail = await service.json("GET", "/api/health/detailed")
        assert detail["components"]["memory"] == {
            "status": "healthy",
            "details": {"enabled": False},
        }


async def test_the_health_asks_the_model_only_on_demand_and_tells_what_works() -> None:
    path = "/api/health/detailed"
    async with scripted(good) as (service, upstream):
        details = (await service.json("GET", path))["components"]["model_provider"]["details"]
        assert (details["check"], upstream.requests) == (None, [])
        for _ in range(2):
            detail = await service.json("GET", path, params={"check_model": "true"})
            check = detail["components"]["model_provider"]["details"]["check"]
            assert check["ok"]
            assert check["findings"]["parallel tools"]["works"]
        assert len(upstream.requests) == 3


async def test_a_model_that_does_not_work_is_unavailable_and_others_are_answered() -> None:
    replies = [status(401, "Bad key sk-live-0123456789."), text("Hello.")]
    async with scripted(replies) as (service, _):
        path = "/api/health/detailed"
        detail = await service.json("GET", path, expect=503, params={"check_model": "true"})
        provider = detail["components"]["model_provider"]
        assert provider["status"] == "unavailable"
        assert "OPENAI_API_KEY" in provider["details"]["check"]["error"]
        assert "0123456789" not in str(detail)
        assert (await service.json("POST", "/api/chat/simple", json=ADA))["response"] == "Hello."
