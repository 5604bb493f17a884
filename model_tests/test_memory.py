"""A real model learns from an exchange, in the form that it is asked for."""

import asyncio

from model_tests.conftest import Setting


async def test_what_a_user_says_is_learned_and_told(facts: Setting) -> None:
    await facts.agent("learning", memory=True, max_tokens=4)
    body = {"message": "I live in Oslo.", "agent": "learning", "user_id": "ada"}
    await facts.json("POST", "/chat", json=body)
    async with asyncio.timeout(60):
        memories: list[dict[str, str]] = []
        while not memories:  # the listing waits until all is learned, for a while
            listed = await facts.json("GET", "/memories", params={"user_id": "ada"})
            memories = listed["memories"]
    assert any("Oslo" in memory["memory"] for memory in memories), memories
