"""Requests, responses, agent configuration (Pydantic), and messages (msgspec).

What comes from outside is validated by Pydantic with a bound on every size; what the service
builds itself is a frozen msgspec struct.
"""

import re
import secrets
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from events import Usage

_SLICE = 65_536  # characters that one call into the regular expression engine looks at

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


def new_id(prefix: str) -> str:
    """Return `<prefix>_` and 24 random hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def clean_text(text: str) -> str:
    """Return `text` with U+FFFD in the place of NUL and lone surrogates."""
    if len(text) <= _SLICE:
        return _NOT_TEXT.sub("\ufffd", text)
    slices = range(0, len(text), _SLICE)
    return "".join(_NOT_TEXT.sub("\ufffd", text[start : start + _SLICE]) for start in slices)


def _text(value: str) -> str:
    if _NOT_TEXT.search(value):
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


class Owner(NamedTuple):
    """Whose a conversation or a run is: a name within a tenant.

    Without credentials there is one tenant, and a user is whoever the request says.
    """

    tenant: str = "open"
    user: str = "default"


RunStatus: TypeAlias = Literal["queued", "running", "completed", "cancelled", "failed"]


# Messages: provider-neutral, in the order in which the model sees them.


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model asked for. `arguments` is JSON text, not necessarily valid."""

    id: str
    name: str
    arguments: str


class SystemMessage(msgspec.Struct, frozen=True, tag="system", tag_field="role"):
    """Instructions."""

    content: str


class TextContent(msgspec.Struct, frozen=True, tag="text"):
    """A piece of a message."""

    text: str


class ImageContent(msgspec.Struct, frozen=True, tag="image", omit_defaults=True):
    """A picture, at an address or in the `url` itself (`data:image/…;base64,…`).

    `detail` is how closely the model is to look, in OpenAI's words.
    """

    url: str
    detail: str | None = None


Content: TypeAlias = TextContent | ImageContent


class UserMessage(msgspec.Struct, frozen=True, tag="user", tag_field="role", omit_defaults=True):
    """What the user said. `parts`: all of it, where it is more than the text `content`.

    `name` tells several who speak as the user apart.
    """

    content: str
    parts: tuple[Content, ...] = ()
    name: str | None = None


class ReasoningBlock(msgspec.Struct, frozen=True):
    """Reasoning that `provider` wants back unchanged in the next request. `data` is its JSON."""

    provider: str
    data: str


class AssistantMessage(msgspec.Struct, frozen=True, tag="assistant", tag_field="role"):
    """What the model said in one turn, and the calls that it asked for."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: tuple[ReasoningBlock, ...] = ()


class ToolMessage(msgspec.Struct, frozen=True, tag="tool", tag_field="role", omit_defaults=True):
    """The result of one call, as text for the model. `is_error`: the text says what failed.

    `successor`: the agent to which the call handed the conversation over. `started_at` and
    `duration_ms`, in milliseconds: of a call that was executed.
    """

    tool_call_id: str
    name: str
    content: str
    is_error: bool = False
    successor: str | None = None
    started_at: datetime | None = None
    duration_ms: float = 0.0


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class ToolSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool as the model is told of it. `parameters` is a JSON Schema of type object.

    `strict`: whether the provider is to hold the model to it, where it can.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None


class OutputSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form that an answer has to have. `schema` is a JSON Schema of type object.

    Without one, any JSON object will do. `strict`: whether the provider is to enforce it, where
    it can; None: as it does by itself.
    """

    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


ToolChoice: TypeAlias = Literal["auto", "none", "required"]


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the model is to answer; what is None is as the agent or the provider has it.

    Args:
        temperature, top_p: as the provider understands them.
        max_tokens: of one reply.
        stop: texts before which a reply ends.
        seed: for providers that can repeat an answer.
        output: the form of the answer.
        tool_choice: whether it may, must not or must call a tool.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    output: OutputSchema | None = None
    tool_choice: ToolChoice = "auto"


AS_CONFIGURED = ModelOptions()


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One question to a model: everything a provider needs to answer it.

    `fallbacks` are asked in their order while the one before has streamed nothing and failed.
    """

    model: str
    fallbacks: tuple[str, ...] = ()
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    parallel_tools: bool = True
    options: ModelOptions = AS_CONFIGURED


# What a provider's stream becomes.


class TextPart(msgspec.Struct, frozen=True):
    """A piece of the answer, never empty."""

    content: str


class ReasoningPart(msgspec.Struct, frozen=True):
    """A piece of the model's reasoning, never empty."""

    content: str


class ToolCallPart(msgspec.Struct, frozen=True):
    """One whole call, its fragments assembled. `truncated`: the arguments exceeded the limit."""

    call: ToolCall
    truncated: bool = False


class ReasoningBlockPart(msgspec.Struct, frozen=True):
    """Reasoning to keep with the message, of which `ReasoningPart`s may have told the text."""

    block: ReasoningBlock


class EndPart(msgspec.Struct, frozen=True):
    """The reply is complete; exactly one, last. A stream that breaks raises instead."""

    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]
    usage: Usage | None = None


ReplyPart: TypeAlias = TextPart | ReasoningPart | ReasoningBlockPart | ToolCallPart | EndPart


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
        description="Whether what was learned of the user in other conversations is told to the "
        "model, and learned from this one; as the agent is configured where it is absent.",
    )


class RunOptions(AnswerOptions):
    """The same, with the agent that is asked."""

    agent: Name = Field("chat", description="An agent's name.")


class AnewOptions(AnswerOptions):
    """The same, where an answer is made anew."""

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


class RegenerateRequest(AnewOptions):
    """A wish for another answer to the last message of a conversation."""

    conversation_id: Identifier


class Edit(AnewOptions):
    """A message in the place of an earlier one, from where the conversation goes on anew."""

    message_id: Annotated[str, Field(max_length=128), TEXT]
    message: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT]


class EditRequest(Edit):
    """The same, with the conversation."""

    conversation_id: Identifier


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Messages to be answered as they are: the client decides what the model gets to see.

    Args:
        messages: what the model sees behind the agent's own instructions.
        instructions: more of these, for this answer only.
        model: answers in the place of the agent's own.
        options: how it is to answer.
        tools: those that the client executes.
        memory: whether the user is remembered; None: as the agent has it.
        is_kept: the messages and the answer can be gone on with, in another request that
            `follows` their conversation.
        echo: what the one who asked wants to find again with the run.
    """

    messages: tuple[Message, ...]
    instructions: str = ""
    agent: str = "chat"
    model: str | None = None
    options: ModelOptions = AS_CONFIGURED
    tools: tuple[ToolSpec, ...] = ()
    parallel_tools: bool = True
    user_id: str | None = None
    memory: bool | None = None
    is_kept: bool = False
    follows: str | None = None
    echo: dict[str, Any] = {}

    @property
    def if_busy(self) -> IfBusy:
        """What to do while the conversation has a run under way: it is a new one."""
        return "enqueue"


RunRequest: TypeAlias = ChatRequest | RegenerateRequest | EditRequest | Completion
"""What a run is started with."""


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
    """A message that waits until the runs before it have ended; null where one is answered anew."""

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
