"""What a model is asked about an exchange, and what it says: facts that are worth remembering.

The question is mem0's (2.2, `ADDITIVE_EXTRACTION_PROMPT`). mem0's own object is not used: it is
made for one vector store, model and history database of all users, works in threads, and keeps at
once what a model says. Here an exchange has to be kept as a whole, once, or not at all.
"""

import asyncio
from collections.abc import Sequence
from types import ModuleType

import msgspec

from memory import Memory
from memory.library import load
from messages import AssistantMessage, Message, OutputSchema, SystemMessage, UserMessage, clean_text

MAX_FACTS = 32
"""Memories that one exchange may make."""

MAX_FACT_CHARS = 1_000
"""Characters of a memory that a model words; what is longer is cut."""

MAX_READ = 20_000
"""Characters of a message that a model reads; what is longer is cut."""

FACTS = OutputSchema(
    "memories",
    {
        "type": "object",
        "properties": {
            "memory": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "text": {"type": "string"},
                        "attributed_to": {"type": "string", "enum": ["user", "assistant"]},
                        "linked_memory_ids": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["id", "text", "attributed_to", "linked_memory_ids"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["memory"],
        "additionalProperties": False,
    },
)
"""The form of a model's answer, as mem0's prompt describes it."""


class Fact(msgspec.Struct, frozen=True):
    """Something that is worth remembering, and who said it."""

    text: str
    attributed_to: str = "user"


class _Facts(msgspec.Struct):
    memory: list[Fact]


async def prompts() -> ModuleType:
    """Return mem0's prompts; raises `MemoryUnavailable` where it is not installed."""
    return await asyncio.to_thread(load, "mem0.configs.prompts")


def for_mem0(message: UserMessage | AssistantMessage) -> dict[str, str]:
    role = "user" if isinstance(message, UserMessage) else "assistant"
    return {"role": role, "content": clean_text(message.content[:MAX_READ])}


def as_text(messages: Sequence[UserMessage | AssistantMessage]) -> str:
    """Return an exchange as one text, in the form that mem0's prompt expects."""
    return "".join("{role}: {content}\n".format(**for_mem0(message)) for message in messages)


async def question(exchange: str, known: Sequence[Memory]) -> list[Message]:
    """Return what to ask a model about an exchange, whose answer has the form `FACTS`.

    `exchange`: as `as_text` makes it. `known`: memories near to it, which are not to be repeated.
    """
    mem0 = await prompts()
    # Short ids, because a model makes mistakes when it copies long ones.
    numbered = [{"id": str(n), "text": memory.text} for n, memory in enumerate(known)]
    asked = mem0.generate_additive_extraction_prompt(
        existing_memories=numbered, new_messages=exchange, last_k_messages=[]
    )
    return [SystemMessage(mem0.ADDITIVE_EXTRACTION_PROMPT), UserMessage(asked)]


def facts_in(answer: str) -> list[Fact]:
    """Return the facts of a model's answer, with or without a fence around its JSON.

    An answer that has another form holds none: to ask again would most likely give the same.
    """
    start, end = answer.find("{"), answer.rfind("}")
    try:
        facts = msgspec.json.decode(answer[start : end + 1], type=_Facts).memory
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return []
    cleaned = (clean_text(fact.text).strip()[:MAX_FACT_CHARS] for fact in facts)
    kept = [Fact(text, fact.attributed_to) for text, fact in zip(cleaned, facts, strict=True)]
    return [fact for fact in kept if fact.text][:MAX_FACTS]
