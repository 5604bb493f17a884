"""Lists of conversations, of hits and of messages come in pages."""

from typing import Any

import pytest

from tests.api.support import refused
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

LISTS = (("/conversations?", 100), ("/search?q=hello&", 100), ("/conversations/c?", 1000))


async def chat(service: Service, message: str, conversation_id: str = "c") -> Any:
    body = {"message": message, "conversation_id": conversation_id}
    return await service.json("POST", "/chat", json=body)


async def test_a_page_has_one_entry_at_least_and_a_bound() -> None:
    async with running() as service:
        await chat(service, "hello")
        for path, most in LISTS:
            await service.json("GET", f"{path}limit={most}")
            for limit in (0, most + 1):
                await refused(service, "GET", f"{path}limit={limit}", 422, "invalid_value")
        path = "/conversations/c?before=a%20b"
        problem = await refused(service, "GET", path, 422, "invalid_value")
        assert [fault["field"] for fault in problem["errors"]] == ["before"]


async def test_a_page_has_twenty_entries_unless_told_otherwise() -> None:
    async with running() as service:
        for number in range(21):
            await chat(service, "hello", f"c{number}")
        page = await service.json("GET", "/conversations")
        assert (len(page["conversations"]), page["next"] is None) == (20, False)
        assert len((await service.json("GET", "/search?q=hello"))["hits"]) == 20
        assert len((await service.json("GET", "/search?q=hello&limit=3"))["hits"]) == 3


async def test_a_page_that_is_just_full_has_no_more() -> None:
    async with running() as service:
        await chat(service, "hello")
        detail = await service.json("GET", "/conversations/c?limit=2")
        assert (len(detail["messages"]), detail["has_more"]) == (2, False)
