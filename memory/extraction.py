"""What a model is asked about an exchange, and what it says: facts that are worth remembering.

The question is mem0's (2.2, `ADDITIVE_EXTRACTION_PROMPT`). mem0's own object is not used: it is
made for one vector store, model and history database of all users, works in threads, and keeps at
once what a model says. Here an exchange has to be kept as a whole, once, or not at all.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from llm.think import CLOSING_TAGS
from memory import Memory, Unreadable
from memory.library import load
from messages import AssistantMessage, Message, OutputSchema, SystemMessage, UserMessage, clean_text

MAX_FACTS = 32
"""Memories that one exchange may make."""

MAX_FACT_CHARS = 1_000
"""Characters of a memory that a model words; what is longer is cut."""

MAX_READ = 20_000
"""Characters of a message that a model reads; what is longer is cut."""

MAX_BRACKETS = 200
"""Brackets of an answer at which JSON may begin."""

_DECODER = json.JSONDecoder()
_BRACKET = re.compile(r"[{\[]")
_LISTS = ("memory", "memories", "facts")
_LIST_TYPES = (list, dict, type(None))  # also a fact alone, and null for none
_TEXTS = ("text", "memory", "fact", "content")
"""Names that models give to all facts, and to the text of one."""

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


class Reading(NamedTuple):
    """What was read of a model's answer. `unread`: how many of its items could not be."""

    facts: list[Fact]
    unread: int


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


def facts_in(answer: str) -> Reading:
    """Return the facts of a model's answer; raises `Unreadable` where it has another form.

    Small models say them in their own ways: with words, fences or a draft around the JSON, as a
    list or one by one, as texts, under other names. Of JSON that is broken or was cut, the whole
    objects in it are taken.
    """
    items, broken = _items_in(_without_reasoning(clean_text(answer)))
    facts = [fact for fact in map(_fact, items) if fact is not None]
    return Reading(facts[:MAX_FACTS], len(items) - len(facts) + broken)


def _without_reasoning(answer: str) -> str:
    """Return what follows the end of the reasoning, whose begin a chat template may have had."""
    for tag in CLOSING_TAGS:
        answer = answer.rpartition(tag)[2]
    return answer


def _items_in(answer: str) -> tuple[list[Any], int]:
    """Return what stands for facts, and how many objects beside are broken."""
    single: list[Any] = []
    end, broken = 0, 0
    for start in islice(_BRACKET.finditer(answer), MAX_BRACKETS):
        at = start.start()
        if at < end:
            continue
        try:
            value, stop = _DECODER.raw_decode(answer, at)
        except (ValueError, RecursionError):  # words, or something broken that holds what is whole
            broken += start[0] == "{"
            continue
        if (items := _list_in(value, "{" in answer[:at])) is not None:
            return items, 0
        if "text" in value and _text_in(value):
            single.append(value)
            end = stop
    if not single:
        raise Unreadable("The model's answer has not the form that it was asked for.")
    return single, max(0, broken - 1)  # the first one is what the others stand in


def _list_in(value: Any, is_inside: bool) -> list[Any] | None:
    """Return the list of facts that a value has or is; None where there is none.

    `is_inside`: the value may be a part of another one, so that a list may be one of anything.
    """
    if isinstance(value, dict):
        lists = [value[name] for name in _LISTS if isinstance(value.get(name, ""), _LIST_TYPES)]
        if not lists:
            return None
        value = lists[0] if isinstance(lists[0], list) else [lists[0]]
    elif is_inside or not isinstance(value, list):
        return None
    items = [item for item in value if item not in (None, {}, "")]
    # One without any fact is a schema, or a number in brackets.
    return items if not items or any(map(_text_in, items)) else None


def _text_in(item: Any) -> str:
    """Return the text of a fact; empty where there is none."""
    if isinstance(item, dict):
        item = next((item[name] for name in _TEXTS if isinstance(item.get(name), str)), "")
    return clean_text(item).strip()[:MAX_FACT_CHARS] if isinstance(item, str) else ""


def _fact(item: Any) -> Fact | None:
    text = _text_in(item)
    by = item.get("attributed_to") if isinstance(item, dict) else None
    return Fact(text, "assistant" if by == "assistant" else "user") if text else None
