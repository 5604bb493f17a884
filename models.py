"""Requests, responses and agent configuration, validated by Pydantic with a bound on every size."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    UserMessage,
    is_text,
)


def _text(value: str) -> str:
    if not is_text(value):
        raise ValueError("must not contain NUL or lone surrogate characters")
    return value


def is_deep(value: Any, levels: int) -> bool:
    """Tell whether JSON is nested deeper than so many levels; Pythons differ in where they stop."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


METADATA_BYTES = 16_384
METADATA_DEPTH = 32


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encoded = msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("must be JSON in UTF-8 that is not nested too deep") from None
    if is_deep(value, METADATA_DEPTH):
        raise ValueError(f"may be nested at most {METADATA_DEPTH} levels deep")
    if len(encoded) > METADATA_BYTES:
        raise ValueError(f"may have at most {METADATA_BYTES} bytes as JSON")
    if b"\\u0000" in encoded:
        raise ValueError("must not contain NUL characters")
    return value


TEXT = AfterValidator(_text)
"""For a string: every store and every wire can carry it."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
ID_PATTERN = r"^[A-Za-z0-9_.-]{1,128}$"
USER_PATTERN = r"^[A-Za-z0-9_.@+:-]{1,128}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["chat"])]
Identifier = Annotated[str, Field(pattern=ID_PATTERN)]
UserId = Annotated[str, Field(pattern=USER_PATTERN, examples=["user123"])]

IfBusy: TypeAlias = Literal["enqueue", "reject", "interrupt"]


RunStatus: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed"]


# Agents.


class AgentConfig(BaseModel):
    """How an agent behaves. `POST /agents/{agent_name}` takes this object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200), TEXT] | None = Field(
        None, description="A display name; the path's name where it is absent."
    )
    instructions: Annotated[str, Field(min_length=1, max_length=100_000), TEXT] | None = Field(
        None, description="The system prompt; `SYSTEM_PROMPT` where it is absent."
    )
    model: Annotated[str, Field(min_length=1, max_length=200), TEXT] | None = Field(
        None,
        description="A model, alone or as `<provider>:<model>` (`openai:`, `anthropic:`, "
        "`friendli:`) or `demo`; the server's default where it is absent.",
    )
    fallback_models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200), TEXT]], Field(max_length=8)
    ] = Field(
        [], description="Models that are asked, in this order, where the one before fails at once."
    )
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    tools: Annotated[list[Name], Field(max_length=128)] | None = Field(
        None, description="Names of tools; all of them where it is absent."
    )
    handoffs: Annotated[list[Name], Field(max_length=32)] = Field(
        [], description="Names of agents that it may hand the conversation to."
    )
    memory: bool = Field(False, description="Whether it remembers its users across conversations.")
    max_parallel_tools: int = Field(5, ge=1, le=64)
    tool_call_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds, for each call.")
    max_turns: int = Field(20, ge=1, le=200, description="Questions to the model in one run.")
    max_tool_calls: int = Field(100, ge=1, le=1000, description="Tool calls in one run.")


class AgentInfo(AgentConfig):
    """An agent as `GET /agents` shows it: every default filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent_name: str
    name: str
    instructions: str
    model: str
    tools: list[str]
    built_in: bool


class AgentList(BaseModel):
    """All agents, by name. `fixed`: those that can be asked and not configured."""

    agents: list[AgentInfo]
    fixed: list[str]


# Chat.

MAX_MESSAGE_CHARS = 100_000


class AnswerOptions(BaseModel):
    """What every request for an answer may say. Unknown fields are ignored, as clients expect."""

    conversation_id: Identifier | None = Field(
        None, description="The conversation to go on with; a new one where it is absent."
    )
    user_id: UserId | None = Field(
        None, description="Whose conversation it is, within what the caller may see."
    )
    parallel_tools: bool = Field(True, description="False: tool calls run one after another.")
    if_busy: IfBusy = Field(
        "enqueue", description="What to do while the conversation has a run under way."
    )
    memory: bool | None = Field(
        None,
        description="Whether the model gets to know what was learned of the user in other "
        "conversations, and this one is learned from; absent: as the agent is configured.",
    )


class RunOptions(AnswerOptions):
    """The same, with the agent that is asked."""

    agent: Name = Field("chat", description="An agent's name.")


class RegenerateOptions(AnswerOptions):
    """The same, where an answer is regenerated."""

    agent: Name | None = Field(
        None, description="An agent's name; the one that was last asked there where it is absent."
    )


class PriorMessage(BaseModel):
    """A message that the client remembers."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT]

    def message(self) -> Message:
        """Return it as the model sees it."""
        if self.role == "user":
            return UserMessage(self.content)
        return (AssistantMessage if self.role == "assistant" else SystemMessage)(self.content)


class ChatRequest(RunOptions):
    """A message to an agent."""

    message: Annotated[
        str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS, examples=["What's 15 + 27?"]), TEXT
    ]
    reset_history: bool = Field(False, description="Forget what was said in the conversation.")
    history: Annotated[list[PriorMessage], Field(max_length=1000)] = Field(
        [], description="What was said before, where the client keeps it. It is not stored."
    )


class RegenerateRequest(RegenerateOptions):
    """A wish for another answer to the last message of a conversation."""

    conversation_id: Identifier


class Edit(RegenerateOptions):
    """A message in the place of an earlier one, from where the conversation goes on."""

    message_id: Annotated[str, Field(max_length=128), TEXT]
    message: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT]


class EditRequest(Edit):
    """The same, with the conversation."""

    conversation_id: Identifier


class ToolCallRecord(BaseModel):
    """One tool call of an answer: either `result` or `error`."""

    id: str
    name: str
    arguments: Any
    result: Any = None
    error: str | None = None
    duration_ms: float


class TokenUsage(BaseModel):
    """Tokens as the provider counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """A whole answer."""

    response: str
    conversation_id: str
    run_id: str
    agent: str
    model: str
    finish_reason: str
    tool_calls: list[ToolCallRecord]
    usage: TokenUsage | None


# Runs.


class RunFailure(BaseModel):
    """Why a run failed: what its `error` event says."""

    code: str
    message: str
    retryable: bool


class RunInfo(BaseModel):
    """The state of a run, as `GET /runs/{run_id}` shows it. Times are UTC."""

    run_id: str
    status: RunStatus
    agent: str
    model: str
    conversation_id: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    finish_reason: str | None
    final_response: str | None
    usage: TokenUsage | None
    error: RunFailure | None


class RunOutcome(BaseModel):
    """Who answered in a run, and how it ended."""

    run_id: str
    status: RunStatus
    agent: str
    model: str
    finish_reason: str | None
    error: RunFailure | None


class MessageView(BaseModel):
    """A message of a conversation. `content` is text; `tool_calls` those that it asked for."""

    id: str
    role: str
    content: str
    created_at: datetime
    run_id: str | None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    is_error: bool | None = None
    started_at: datetime | None = None
    duration_ms: float | None = None


class BranchPoint(BaseModel):
    """Where a conversation was branched off: before this message."""

    conversation_id: str
    message_id: str


class WaitingMessage(BaseModel):
    """A message that waits for the runs before it; null where an answer is regenerated."""

    run_id: str
    message: str | None


class ConversationView(BaseModel):
    """A conversation without its messages. `agent` is the one that was last asked there.

    `waiting`: what was sent while `active_run_id` is under way, in its order.
    """

    conversation_id: str
    title: str | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    message_count: int
    branched_from: BranchPoint | None
    active_run_id: str | None
    waiting: list[WaitingMessage] = []
    agent: str | None = None


class ConversationDetail(ConversationView):
    """A conversation with its messages, oldest first; `has_more` earlier ones.

    `last_run`: that of the last message, while it is known: who answered, and how it ended.
    """

    messages: list[MessageView]
    has_more: bool
    last_run: RunOutcome | None = None


class ConversationPage(BaseModel):
    """Conversations, newest first; `next` is `before` of the next page."""

    conversations: list[ConversationView]
    next: str | None


class ConversationChange(BaseModel):
    """What `PATCH` sets; what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(min_length=1, max_length=200), TEXT] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] | None = None


class SearchHit(BaseModel):
    """Where words were found; without a message, in the conversation's title."""

    conversation_id: str
    title: str | None
    message_id: str | None
    role: str | None
    snippet: str
    created_at: datetime


class SearchResult(BaseModel):
    """What was found, newest first."""

    hits: list[SearchHit]


class ToolInfo(BaseModel):
    """A tool as `GET /health` lists it."""

    name: str
    description: str


class Health(BaseModel):
    """The server's state. `max_message_chars`: the bound on a message; `time`: its clock."""

    status: Literal["healthy", "draining"]
    service: str
    version: str
    model: str
    provider: str
    tools: list[ToolInfo]
    active_runs: int
    max_message_chars: int
    time: datetime


class Problem(BaseModel):
    """An error over HTTP (RFC 9457), `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    errors: list[dict[str, Any]] | None = None
