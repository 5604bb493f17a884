"""mem0, as this service runs it. Importing this module imports mem0: a second, in a thread.

mem0 says what is worth to be remembered of an exchange: it words what a model is asked, reads the
answer and makes the payloads. mem0 is one object for all users, with a vector store, an embedder,
a model and a history database of its own. Here one call has one object, which costs nothing: its
vector store shows the memories of one owner and collects what is inserted as drafts, so that the
service can keep them together, once, or not at all. mem0 calls from a thread; where that has to
wait for the event loop, the functions that it is given do so.

What mem0 does besides is turned off: telemetry and notices (`MEM0_TELEMETRY`), its folder in the
user's home (`MEM0_DIR`), the download of a spaCy model where spaCy happens to be installed (its
entities and lemmas), its log of everybody's words, and its history, which would keep what was
deleted.

mem0 2.2 is written for; its own constructor is not called.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mem0
import mem0.exceptions
import msgspec
from mem0.configs.base import MemoryConfig
from mem0.utils import spacy_models

from memory import Memory, MemoryUnavailable
from memory.rows import Draft
from messages import Message, OutputSchema, SystemMessage, UserMessage, clean_text

MAX_FACTS = 32
"""Memories that one exchange may make."""

MAX_FACT_CHARS = 1_000
"""Characters of a memory that a model words; what is longer is cut."""

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

Embed = Callable[[Sequence[str]], list[list[float]]]
Nearest = Callable[[Sequence[float], int], Sequence[Memory]]
Ask = Callable[[Sequence[Message], OutputSchema], str]

logging.getLogger("mem0").setLevel(logging.CRITICAL)
spacy_models._load_failed_full = spacy_models._load_failed_lemma = True
_CONFIG = MemoryConfig()

_LEMMAS = "text_lemmatized"
"""What mem0 puts beside a text for a search by words, which is not done here: without spaCy it is
the text once more."""


class OwnMemory(mem0.Memory):  # type: ignore[misc] # mem0 has no types
    """mem0 for one owner and one call.

    Args:
        owner: whose memories it makes.
        embed: makes vectors.
        nearest: finds the memories that the owner has, where something is to be inferred.
        ask: asks the model, where something is to be inferred.
    """

    def __init__(
        self,
        owner: str,
        embed: Embed,
        nearest: Nearest | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.config = _CONFIG
        self.embedding_model = _Embeddings(embed)
        self.vector_store = _Drafts(nearest)
        self.llm = _Model(ask)
        self.db = _NoHistory()
        self.collection_name = "memories"
        self.api_version = _CONFIG.version
        self.custom_instructions = None
        self.reranker = None
        self._entity_store = None
        self._owner = owner

    def drafts(
        self, messages: list[dict[str, str]], infer: bool, metadata: dict[str, Any]
    ) -> list[Draft]:
        """Return what mem0 would keep of messages.

        Args:
            messages: `{"role": …, "content": …}` each.
            infer: False keeps each as it is.
            metadata: goes into each payload.

        Raises:
            MemoryUnavailable: the model, the embedder or the database failed.
        """
        try:
            self.add(messages, user_id=self._owner, metadata=metadata, infer=infer)
        except mem0.exceptions.LLMError as error:
            text = "The model that reads an exchange for what to remember did not answer."
            raise MemoryUnavailable(text, retry_after=1) from error
        if self.embedding_model.failure is not None:
            raise self.embedding_model.failure
        drafts: list[Draft] = self.vector_store.drafts
        return drafts


class _Found(msgspec.Struct, frozen=True):
    """A memory as mem0 wants it of a vector store."""

    id: str
    payload: dict[str, str]


class _Drafts:
    """What mem0 needs of a vector store to add something."""

    def __init__(self, nearest: Nearest | None) -> None:
        self._nearest = nearest
        self.drafts: list[Draft] = []

    def insert(
        self,
        vectors: Sequence[Sequence[float]],
        payloads: Sequence[dict[str, Any]],
        ids: Sequence[str],
    ) -> None:
        for memory_id, payload, vector in zip(ids, payloads, vectors, strict=True):
            kept = {name: value for name, value in payload.items() if name != _LEMMAS}
            self.drafts.append(Draft(memory_id, kept, vector))

    def search(
        self, query: str, vectors: Sequence[float], top_k: int = 5, filters: object = None
    ) -> list[_Found]:
        assert self._nearest is not None  # noqa: S101 - mem0 looks only where it is to infer
        return [
            _Found(memory.id, {"data": memory.text}) for memory in self._nearest(vectors, top_k)
        ]


class _Embeddings:
    """An embedder as mem0 calls it, which passes over its failures and goes on without a text."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self.failure: MemoryUnavailable | None = None

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str = "add") -> list[list[float]]:
        try:
            return self._embed(texts)
        except MemoryUnavailable as error:
            self.failure = error
            raise


class _Model:
    """A model as mem0 calls it. Its answer comes clean, because mem0 stumbles over any other."""

    def __init__(self, ask: Ask | None) -> None:
        self._ask = ask

    def generate_response(
        self, messages: Sequence[Mapping[str, str]], response_format: object = None
    ) -> str:
        assert self._ask is not None  # noqa: S101 - mem0 asks only where it is to infer
        kinds = {"system": SystemMessage, "user": UserMessage}
        asked = [kinds[message["role"]](message["content"]) for message in messages]
        return msgspec.json.encode({"memory": facts_in(self._ask(asked, FACTS))}).decode()


class _Fact(msgspec.Struct):
    text: str
    attributed_to: str = "user"


class _Facts(msgspec.Struct):
    memory: list[_Fact]


def facts_in(answer: str) -> list[dict[str, str]]:
    """Return the facts of a model's answer, with or without a fence around its JSON.

    An answer that has another form holds none: to ask again would most likely give the same.
    """
    start, end = answer.find("{"), answer.rfind("}")
    try:
        facts = msgspec.json.decode(answer[start : end + 1], type=_Facts).memory
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return []
    texts = [(clean_text(fact.text).strip()[:MAX_FACT_CHARS], fact.attributed_to) for fact in facts]
    return [{"text": text, "attributed_to": by} for text, by in texts if text][:MAX_FACTS]


class _NoHistory:
    """In the place of mem0's history database: what was said before is the caller's to pass."""

    def get_last_messages(self, session_scope: str, limit: int = 10) -> list[dict[str, Any]]:
        return []

    def save_messages(self, messages: object, session_scope: str) -> None:
        pass

    def add_history(self, *change: object, **details: object) -> None:
        pass

    def batch_add_history(self, records: object) -> None:
        pass

    def close(self) -> None:
        pass
