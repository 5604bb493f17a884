"""`/api`: one conversation for each user; and what the service tells of its health."""

from typing import Any

import pytest

from storage import StorageUnavailable
from tests.api.support import refused, scripted
from tests.service import running
from tests.upstream import status, text

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
        await service.json("DELETE", "/api/chat/history/ada@example.org")
        cleared = await service.json("GET", "/api/chat/history/ada@example.org")
        assert cleared == {"user_id": "ada@example.org", "history": [], "count": 0}
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
    secrets: dict[str, Any] = {"anthropic_api_key": "sk-ant-secret", "friendli_token": "flp-secret"}
    async with running(**secrets) as service:
        assert (await service.json("GET", "/api/health"))["status"] == "healthy"
        async with service.session.get(f"{service.url}/api/health/detailed") as response:
            told = await response.text()
            detail = await response.json()
    assert "secret" not in told
    assert detail["status"] == "healthy"
    assert set(detail["components"]) == {"database", "model_provider", "memory", "load"}
    assert detail["components"]["database"]["details"]["kind"] == "sqlite"
    assert detail["components"]["memory"]["details"]["resident_peak"] > 1_000_000
    assert detail["versions"]["parley"] == "0.1.0"
    assert detail["uptime"] >= 0


async def test_a_database_that_cannot_be_read_is_told() -> None:
    async with running() as service:

        async def fails() -> None:
            raise StorageUnavailable("It is gone.")

        service.registry.store.ping = fails  # type: ignore[method-assign]
        detail = await service.json("GET", "/api/health/detailed", expect=503)
        assert (detail["status"], detail["components"]["database"]["status"]) == (
            "degraded",
            "unavailable",
        )
        assert (await service.json("GET", "/api/health"))["status"] == "healthy"


async def test_the_root_tells_programs_of_its_health_and_shows_browsers_around() -> None:
    async with running(app_name="Sums") as service:
        assert await service.json("GET", "/") == {"status": "healthy", "service": "Sums"}
        browser = {"Accept": "text/html,application/xhtml+xml"}
        async with service.session.get(f"{service.url}/", headers=browser) as response:
            assert (response.status, response.url.path) == (200, "/docs")
