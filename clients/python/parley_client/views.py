"""What the service answers to questions, as frozen values. Times are UTC."""

from datetime import datetime
from typing import Any

import msgspec


class Waiting(msgspec.Struct, frozen=True):
    """A message that waits for the runs before it; None where an answer is regenerated."""

    run_id: str
    message: str | None = None


class ToolRequest(msgspec.Struct, frozen=True):
    """A call as a stored message of the model asks for it."""

    id: str
    name: str
    arguments: Any = None


class Message(msgspec.Struct, frozen=True):
    """A stored message; `role` is `user`, `assistant` or `tool`.

    `tool_calls`: what a message of the model asked for. Of the result of a call: `tool_call_id`,
    `name`, `is_error`, and, where it was executed, `started_at` and `duration_ms`.
    """

    id: str
    role: str
    content: str
    created_at: datetime
    run_id: str | None = None
    tool_calls: tuple[ToolRequest, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    is_error: bool | None = None
    started_at: datetime | None = None
    duration_ms: float | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation; `waiting` is what waits behind `active_run_id`.

    `messages`, oldest first, with `has_more` before them: where one conversation was asked for.
    """

    conversation_id: str
    title: str | None = None
    agent: str | None = None
    created_at: datetime
    updated_at: datetime
    message_count: int = 0
    metadata: dict[str, Any] = {}
    active_run_id: str | None = None
    waiting: tuple[Waiting, ...] = ()
    messages: tuple[Message, ...] = ()
    has_more: bool = False


class ConversationPage(msgspec.Struct, frozen=True):
    """Conversations, the one that changed last first; `next` is `before` of the next page."""

    conversations: tuple[Conversation, ...]
    next: str | None = None


class SearchHit(msgspec.Struct, frozen=True):
    """Where words were found; without a message, in the title."""

    conversation_id: str
    snippet: str
    created_at: datetime
    title: str | None = None
    message_id: str | None = None
    role: str | None = None


class SearchResult(msgspec.Struct, frozen=True):
    """What was found, newest first."""

    hits: tuple[SearchHit, ...]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """What can be talked to: `agent_name` is its name in requests, `name` one for people."""

    agent_name: str
    name: str
    instructions: str = ""
    model: str = ""
    tools: tuple[str, ...] = ()
    built_in: bool = False


class AgentList(msgspec.Struct, frozen=True):
    """All agents, by name; `fixed`: those that can be asked and not configured."""

    agents: tuple[Agent, ...]
    fixed: tuple[str, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    name: str
    description: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The service's state: `status` is `healthy` or, while it stops, `draining`."""

    status: str
    version: str = ""
    provider: str = ""
    model: str = ""
    tools: tuple[Tool, ...] = ()
    active_runs: int = 0
