"""What is remembered of a user: over `/memories`, `/callbacks`, and in the next conversation."""

import asyncio
import base64
import struct
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.api.support import scripted
from tests.api.test_completions import sdk
from tests.service import DEADLINE, Service, running
from tests.upstream import Upstream, status, text

LOVE = "I love cooking Italian food!"
ASK = "What pasta recipe would you recommend?"


async def memories_of(service: Service, user: str, **query: Any) -> list[str]:
    body = {"user_id": user, **query}
    answer = await service.json("POST", "/callbacks/get_memories", json=body)
    assert answer["count"] == len(answer["memories"])
    return [memory["memory"] for memory in answer["memories"]]


async def learned(service: Service, user: str, count: int) -> list[str]:
    """Wait until so much is remembered."""
    async with asyncio.timeout(DEADLINE * 2):
        while len(found := await memories_of(service, user)) < count:  # noqa: ASYNC110 - a worker
            await asyncio.sleep(0.02)
    return found


async def say(client: AsyncOpenAI, message: str, **options: Any) -> str:
    done = await client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": message}], **options
    )
    return str(done.choices[0].message.content)


def system(upstream: Upstream, number: int = -1) -> str:
    said: str = upstream.requests[number]["messages"][0]["content"]
    return said


def extraction(body: dict[str, Any]) -> bool:
    return "Italian" in str(body["messages"]) and len(str(body["messages"][0])) > 5000


async def test_what_a_user_said_is_in_the_prompt_of_another_conversation_after_a_restart(
    tmp_path: Path,
) -> None:
    kept: dict[str, Any] = {"data_dir": tmp_path, "memory_recall_timeout": 10}
    facts = '{"memory": [{"text": "Loves cooking Italian food", "event": "ADD"}]}'

    def script(body: dict[str, Any]) -> Any:
        return text(facts) if extraction(body) else text("Ok")

    async with scripted(script, **kept) as (service, upstream), sdk(service) as client:
        await say(client, LOVE, user="ann")
        found = await learned(service, "ann", 1)
        assert any("Italian" in memory for memory in found)
    async with scripted(script, **kept) as (service, upstream), sdk(service) as client:
        await say(client, ASK, user="ann")
        assert "<user_memories>" in system(upstream, 0)
        assert "Italian food" in system(upstream, 0)
        asked = len(upstream.requests)
        await say(client, ASK, user="ben")
        await say(client, ASK, user="ann", extra_body={"memory": False})
        await say(client, ASK)
        requests = [each["messages"] for each in upstream.requests[asked:]]
        plain = [said[0]["content"] for said in requests if said[-1]["content"] == ASK]
        assert len(plain) == 3
        assert all("<user_memories>" not in said for said in plain)


async def test_the_stand_in_keeps_what_was_said_as_it_was(tmp_path: Path) -> None:
    async with running(data_dir=tmp_path) as service, sdk(service) as client:
        await say(client, LOVE, user="ann")
        await say(client, ASK, user="ann")
        assert await learned(service, "ann", 1) == [LOVE]
        assert await memories_of(service, "ben") == []
    patient: dict[str, Any] = {"data_dir": tmp_path, "memory_recall_timeout": 10}
    async with running(**patient) as service, sdk(service) as client:
        assert await memories_of(service, "ann", query="pasta") == [LOVE]
        likes = "You love cooking Italian food."
        assert await say(client, "What do I like?", user="ann") == likes
        assert await say(client, "What do I like?", user="ben") != likes


async def test_an_agent_or_a_request_may_remember(tmp_path: Path) -> None:
    async with running(data_dir=tmp_path) as service:
        await service.json("POST", "/agents/friend", expect=201, json={"memory": True})
        wishes: dict[str, dict[str, Any]] = {
            "a": {"agent": "friend"},
            "b": {"memory": True},
            "c": {"agent": "friend", "memory": False},
            "d": {},
        }
        for user, fields in wishes.items():
            body = {"message": LOVE, "user_id": user, **fields}
            await service.json("POST", "/chat", json=body)
        await service.json("POST", "/chat", json={"message": LOVE, "user_id": "e", "memory": True})
        for user in ("a", "b", "e"):
            assert await learned(service, user, 1) == [LOVE]
        assert await memories_of(service, "c") == await memories_of(service, "d") == []


async def test_a_run_that_failed_teaches_nothing() -> None:
    script = [status(400), text("Ok")]
    async with scripted(script, openai_max_retries=0) as (service, _):
        body = {"message": LOVE, "user_id": "ann", "memory": True}
        await service.json("POST", "/chat", expect=502, json=body)
        assert await service.registry.store.count_extraction_jobs() == 0


async def test_memories_can_be_read_changed_and_deleted() -> None:
    async with running() as service:
        made = await service.json(
            "POST", "/memories", expect=201, json={"memory": LOVE, "user_id": "ann"}
        )
        place, own = f"/memories/{made['id']}", {"user_id": "ann"}
        assert (await service.json("GET", place, params=own)) == made
        changed = await service.json("PATCH", place, params=own, json={"memory": "Likes rice."})
        assert (changed["id"], changed["memory"]) == (made["id"], "Likes rice.")
        assert changed["updated_at"] >= made["updated_at"]
        listed = await service.json("GET", "/memories", params=own)
        assert [memory["memory"] for memory in listed["memories"]] == ["Likes rice."]
        near = await service.json("GET", "/memories", params=own | {"query": "rice dishes"})
        assert 0 < near["memories"][0]["score"] <= 1
        assert await service.json("DELETE", place, params=own) == {"status": "deleted"}
        for method in ("GET", "DELETE"):
            gone = await service.json(method, place, params=own, expect=404)
            assert gone["code"] == "memory_not_found"


async def test_nobody_reaches_anothers_memories() -> None:
    async with running() as service:
        made = await service.json(
            "POST", "/memories", expect=201, json={"memory": LOVE, "user_id": "ann"}
        )
        place, other = f"/memories/{made['id']}", {"user_id": "ben"}
        await service.json("GET", place, params=other, expect=404)
        await service.json("PATCH", place, params=other, expect=404, json={"memory": "Mine"})
        await service.json("DELETE", place, params=other, expect=404)
        await service.json("GET", place, expect=404)
        listed = await service.json("GET", "/memories", params=other | {"query": LOVE})
        assert listed["memories"] == []
        assert (await service.json("DELETE", "/memories", params=other))["cleared"] == 0
        assert await memories_of(service, "ann") == [LOVE]


async def test_what_is_cleared_is_gone_from_every_file(tmp_path: Path) -> None:
    secret = "The code word is xylophone-4711."
    async with running(data_dir=tmp_path) as service:
        for user in ("ann", "ben"):
            await service.json(
                "POST", "/memories", expect=201, json={"memory": secret, "user_id": user}
            )
        cleared = await service.json("POST", "/callbacks/clear_memories", json={"user_id": "ann"})
        assert (cleared["user_id"], cleared["status"], cleared["cleared"]) == ("ann", "success", 1)
        assert await memories_of(service, "ann") == []
        assert await memories_of(service, "ben") == [secret]
        await service.json("DELETE", "/memories", params={"user_id": "ben"})
        files = await asyncio.to_thread(files_with, tmp_path, b"")
        assert files
        assert await asyncio.to_thread(files_with, tmp_path, b"xylophone-4711") == []


def files_with(folder: Path, words: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if words in path.read_bytes()]


async def test_a_user_may_have_any_name() -> None:
    async with running() as service, sdk(service) as client:
        name = "Ann Müller <ann@example.com>"
        await say(client, LOVE, user=name)
        assert await learned(service, name, 1) == [LOVE]
        assert await memories_of(service, "Ann") == []


BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/memories", {"memory": ""}),
    ("POST", "/memories", {"memory": "  \n"}),
    ("POST", "/memories", {"memory": "x" * 10_001}),
    ("POST", "/memories", {"memory": "a\0"}),
    ("POST", "/memories", {}),
    ("POST", "/memories", {"memory": "a", "user_id": ""}),
    ("PATCH", "/memories/x", {"memory": "a", "more": 1}),
    ("POST", "/callbacks/get_memories", {}),
    ("POST", "/callbacks/get_memories", {"user_id": "a", "limit": 0}),
    ("POST", "/callbacks/clear_memories", {}),
    ("GET", "/memories?limit=0", {}),
    ("GET", "/memories?user_id=", {}),
]


async def test_bad_input_is_refused() -> None:
    async with running() as service:
        for method, path, body in BAD:
            problem = await service.json(method, path, expect=422, json=body)
            assert problem["errors"], (method, path, body)


async def test_memory_can_be_turned_off() -> None:
    async with running(memory_enabled=False) as service, sdk(service) as client:
        problem = await service.json("GET", "/memories", expect=404)
        assert problem["code"] == "memory_disabled"
        assert (await service.json("POST", "/callbacks/health"))["memory"] == "disabled"
        await say(client, LOVE, user="ann")
        assert await service.registry.store.count_extraction_jobs() == 0


async def test_the_callback_tells_of_the_services_health() -> None:
    async with running() as service:
        health = await service.json("POST", "/callbacks/health")
        assert (health["status"], health["memory"]) == ("healthy", "enabled")


async def test_embeddings_are_unit_vectors_that_know_what_is_near() -> None:
    async with running() as service, sdk(service) as client:
        made = await client.embeddings.create(
            model="any", input=["I love pasta", "Italian food is great", "The car broke down"]
        )
        one, near, far = (item.embedding for item in made.data)
        assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)
        assert dot(one, near) > dot(one, far) + 0.1
        assert made.model.startswith("wordllama")
        assert made.usage.prompt_tokens == made.usage.total_tokens > 8
        short = await client.embeddings.create(model="any", input="I love pasta", dimensions=64)
        assert len(short.data[0].embedding) == 64
        assert sum(value * value for value in short.data[0].embedding) == pytest.approx(1, abs=1e-4)
        body = {"model": "any", "input": "I love pasta"}
        plain = await service.json("POST", "/v1/embeddings", json=body)
        packed = await service.json(
            "POST", "/v1/embeddings", json=body | {"encoding_format": "base64"}
        )
        raw = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(
            plain["data"][0]["embedding"], abs=1e-6
        )


def dot(one: list[float], other: list[float]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "change", [{"input": [[1, 2]]}, {"input": []}, {"input": ""}, {"dimensions": 9999}]
)
async def test_what_cannot_be_embedded_is_refused(change: dict[str, Any]) -> None:
    async with running() as service, sdk(service) as client:
        with pytest.raises(openai.BadRequestError):
            await client.embeddings.create(**({"model": "any", "input": "a"} | change))
