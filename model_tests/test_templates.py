"""Chat templates that refuse what they do not know never get it from the service."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessageParam

from model_tests.conftest import Setting

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
LATER: dict[str, str] = {"role": "system", "content": "Be brief."}
ODD: list[tuple[str, list[ChatCompletionMessageParam]]] = [
    ("late system", [QUESTION, ANSWER, LATER, QUESTION]),  # type: ignore[list-item]
    ("two systems", [LATER, LATER, QUESTION]),  # type: ignore[list-item]
    ("developer", [{"role": "developer", "content": "Be brief."}, QUESTION]),  # type: ignore[list-item]
    ("users in a row", [QUESTION, QUESTION, QUESTION]),  # type: ignore[list-item]
    ("assistant first", [ANSWER, QUESTION]),  # type: ignore[list-item]
    ("empty answer", [QUESTION, {"role": "assistant", "content": " "}, QUESTION]),  # type: ignore[list-item]
]


async def test_the_templates_do_refuse(qwen: Setting, mistral: Setting) -> None:
    for setting, messages, reason in (
        (qwen, [QUESTION, LATER], "System message must be at the beginning"),
        (mistral, [QUESTION, QUESTION], "roles must alternate"),
    ):
        body = {"messages": messages, "max_tokens": 1}
        url = f"{setting.llama}/v1/chat/completions"
        problem: Any = await setting.json("POST", url, 400, json=body)
        assert reason in problem["error"]["message"]


@pytest.mark.parametrize("messages", [odd for _, odd in ODD], ids=[name for name, _ in ODD])
async def test_whatever_order_a_client_has_its_messages_in_it_is_answered(
    strict: Setting, messages: list[ChatCompletionMessageParam]
) -> None:
    async with strict.client() as client:
        done = await client.chat.completions.create(model="plain", messages=messages, max_tokens=4)
    assert done.choices[0].message.content


async def test_a_message_without_an_answer_does_not_spoil_its_conversation(strict: Setting) -> None:
    chat = {"agent": "plain", "conversation_id": "spoilt"}
    await strict.json("POST", "/agents/nowhere", 201, json={"tools": [], "model": "friendli:x"})
    failing = {"message": "2+2?", "conversation_id": "spoilt", "agent": "nowhere"}
    await strict.json("POST", "/chat", 502, json=failing)
    for message in ("3+3?", "4+4?"):
        answer = await strict.json("POST", "/chat", json={**chat, "message": message})
        assert answer["response"]
