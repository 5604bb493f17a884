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
        raise ValueError("must be JSON in UTF-8, not nested too deep") from None
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
ModelName = Annotated[str, Field(min_length=1, max_length=200), TEXT]
UserId = Annotated[str, Field(pattern=USER_PATTERN, examples=["user123"])]

IfBusy: TypeAlias = Literal["enqueue", "reject", "interrupt"]
RunStatus: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed"]


# Agents.

Bound: TypeAlias = Literal["max_completion_tokens", "max_tokens", "none"]
CallIds: TypeAlias = Literal["nine", "any", "functions"]
Echo: TypeAlias = Literal[
    "given", "nothing", "reasoning_content", "extra_content", "reasoning_details"
]


class DialectChanges(BaseModel):
    """What a server or model takes, where it differs from what is known or learned of it.

    For OpenAI-compatible servers; Anthropic's API has no dialects.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bound: Bound | None = Field(
        None, description="The name of the bound on a reply's tokens; `none`: it takes no bound."
    )
    stream_options: bool | None = Field(
        None, description="Whether it tells the usage of a stream. Without, usage is unknown."
    )
    temperature: bool | None = Field(
        None, description="Whether it takes another temperature than its own."
    )
    top_p: bool | None = Field(None, description="Whether it takes another `top_p` than its own.")
    tools: bool | None = Field(None, description="Whether it can call tools.")
    parallel_tool_calls: bool | None = Field(
        None, description="Whether parallel tool calls can be forbidden."
    )
    json_schema: bool | None = Field(
        None, description="Whether an answer can be held to a JSON Schema."
    )
    json_object: bool | None = Field(None, description="Whether an answer can be held to JSON.")
    call_ids: CallIds | None = Field(
        None,
        description="The ids of tool calls: nine letters and digits, `any` as the model made them, "
        "or `functions.<name>:<number>`.",
    )
    echo: Echo | None = Field(
        None,
        description="What it refuses to go on without: the message's `reasoning_content` or "
        "`reasoning_details`, or the `extra_content` of tool calls. `given`: it gets back what it "
        "gave; `nothing`: not even that.",
    )
    think_tags: bool | None = Field(
        None,
        description="Whether `<think>…</think>` at the beginning of an answer is reasoning. "
        "False: it stays in the answer.",
    )

    def as_set(self) -> dict[str, bool | str]:
        """Return what is set, by its names."""
        return self.model_dump(exclude_none=True)


class AgentConfig(BaseModel):
    """How an agent behaves. `POST /agents/{agent_name}` takes this object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=200), TEXT] | None = Field(
        None, description="The display name. Default: the name in the path."
    )
    instructions: Annotated[str, Field(min_length=1, max_length=100_000), TEXT] | None = Field(
        None, description="The system prompt. Default: `SYSTEM_PROMPT`."
    )
    model: ModelName | None = Field(
        None,
        description="A model, alone or as `<provider>:<model>` (`openai:`, `anthropic:`, "
        "`friendli:`), or `demo`. Default: the server's model.",
    )
    fallback_models: Annotated[list[ModelName], Field(max_length=8)] = Field(
        [],
        description="Models that are tried in this order, each if the one before failed before it "
        "streamed anything.",
    )
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    dialect: DialectChanges | None = Field(
        None, description="What the model takes, where the service is wrong about it."
    )
    tools: Annotated[list[Name], Field(max_length=128)] | None = Field(
        None, description="Names of tools. Default: all tools."
    )
    handoffs: Annotated[list[Name], Field(max_length=32)] = Field(
        [], description="Agents to which this agent may hand over the conversation."
    )
    memory: bool = Field(
        False, description="Whether the agent remembers users across conversations."
    )
    max_parallel_tools: int = Field(5, ge=1, le=64)
    tool_call_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds for each tool call.")
    max_turns: int = Field(20, ge=1, le=200, description="Requests to the model in one run.")
    max_tool_calls: int = Field(100, ge=1, le=1000, description="Tool calls in one run.")


class AgentInfo(AgentConfig):
    """An agent as `GET /agents` shows it, with all defaults filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agent_name: str
    name: str
    instructions: str
    model: str
    tools: list[str]
    built_in: bool


class AgentList(BaseModel):
    """All agents, in order of their names. `fixed`: agents that cannot be configured."""

    agents: list[AgentInfo]
    fixed: list[str]


# Chat.

MAX_MESSAGE_CHARS = 100_000


class AnswerOptions(BaseModel):
    """The options of every request for an answer. Unknown fields are ignored."""

    conversation_id: Identifier | None = Field(
        None, description="The conversation to continue. Default: a new one."
    )
    user_id: UserId | None = Field(
        None, description="The user who owns the conversation, within the caller's tenant."
    )
    parallel_tools: bool = Field(True, description="False: tool calls run one after another.")
    if_busy: IfBusy = Field(
        "enqueue",
        description="What happens if the conversation has an active run: `enqueue` waits until it "
        "has ended, `reject` answers 409, `interrupt` cancels it and all waiting messages.",
    )
    memory: bool | None = Field(
        None,
        description="Whether the model gets what was learned about the user in other "
        "conversations, and the service learns from this one. Default: the agent's `memory`.",
    )


class RunOptions(AnswerOptions):
    """The options of a message, with the agent that answers it."""

    agent: Name = Field("chat", description="An agent's name.")


class RegenerateOptions(AnswerOptions):
    """The options of a regenerated answer."""

    agent: Name | None = Field(
        None, description="An agent's name. Default: the last one of the conversation."
    )


class PriorMessage(BaseModel):
    """An earlier message, which the client keeps."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT]

    def message(self) -> Message:
        if self.role == "user":
            return UserMessage(self.content)
        return (AssistantMessage if self.role == "assistant" else SystemMessage)(self.content)


class ChatRequest(RunOptions):
    """A message to an agent."""

    message: Annotated[
        str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS, examples=["What's 15 + 27?"]), TEXT
    ]
    reset_history: bool = Field(False, description="Delete the conversation's earlier messages.")
    history: Annotated[list[PriorMessage], Field(max_length=1000)] = Field(
        [], description="Earlier messages, if the client keeps them. They are not stored."
    )


class RegenerateRequest(RegenerateOptions):
    """A request to regenerate the answer to the last message of a conversation."""

    conversation_id: Identifier


class Edit(RegenerateOptions):
    """A message that replaces an earlier one; the conversation continues in a branch."""

    message_id: Annotated[str, Field(max_length=128), TEXT]
    message: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT]


class EditRequest(Edit):
    """An edit of a message, with its conversation."""

    conversation_id: Identifier


class ToolCallRecord(BaseModel):
    """One tool call of an answer, with either `result` or `error`."""

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
    """Why a run failed, as in its `error` event."""

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
    """Which agent and model answered in a run, and how it ended."""

    run_id: str
    status: RunStatus
    agent: str
    model: str
    finish_reason: str | None
    error: RunFailure | None


class MessageView(BaseModel):
    """A message of a conversation. `tool_calls`: the calls that the model asks for in it."""

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
    """The message before which a conversation was branched."""

    conversation_id: str
    message_id: str


class WaitingMessage(BaseModel):
    """A message that waits for earlier runs. `message` is null if an answer is regenerated."""

    run_id: str
    message: str | None


class ConversationView(BaseModel):
    """A conversation without its messages. `agent` is the one that was last used in it.

    `active_run_id`: the active run, or null. `waiting`: the messages that wait for it, in order.
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
    """A conversation with its messages, oldest first. `has_more`: there are earlier messages.

    `last_run`: the run of the last message, while it is known: who answered, and how it ended.
    """

    messages: list[MessageView]
    has_more: bool
    last_run: RunOutcome | None = None


class ConversationPage(BaseModel):
    """Conversations, newest first. `next`: the value of `before` for the next page."""

    conversations: list[ConversationView]
    next: str | None


class ConversationChange(BaseModel):
    """What `PATCH` changes; absent fields stay as they are."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(min_length=1, max_length=200), TEXT] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] | None = None


class SearchHit(BaseModel):
    """A search result; without `message_id`, it is in the conversation's title."""

    conversation_id: str
    title: str | None
    message_id: str | None
    role: str | None
    snippet: str
    created_at: datetime


class SearchResult(BaseModel):
    """All search results, newest first."""

    hits: list[SearchHit]


class ToolInfo(BaseModel):
    """A tool as `GET /health` lists it."""

    name: str
    description: str


class Health(BaseModel):
    """The server's state. `max_message_chars`: the limit of one message; `time`: its clock.

    `problem`: what is wrong and what to do, where the status is `damaged`.
    """

    status: Literal["healthy", "draining", "damaged"]
    problem: str | None = None
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
