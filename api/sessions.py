"""Agents with sessions: `/run`, `/stream`, `/info` and `/session/{id}` of each agent.

Under `/assistant` and `/chat` for the two that come with the service, under `/agents/{name}` for
every one. A session is a conversation whose id the client chose; without one a call has no
memory. The stream's own protocol is `agents-sdk`.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.exports import everything_said
from api.http.keys import IdempotencyKey
from api.http.problems import run_failed
from api.http.services import (
    OwnerOfQuery,
    Protocol,
    Registry,
    RemembersSessions,
    StreamSettings,
    run_to_its_end,
)
from caller import Caller
from errors import Invalid, NotFound
from events import RunError
from models import (
    ID_PATTERN,
    MAX_MESSAGE_CHARS,
    NAME_PATTERN,
    TEXT,
    ChatRequest,
    ChatResponse,
    Identifier,
    PriorMessage,
    RunOptions,
    TokenUsage,
)
from runs.agents import BUILT_IN
from runs.registry import AgentRegistry
from runs.run import Run
from storage.runs import role_of


def _kind(value: Any) -> str:
    """Tell a text from a list; the names are those that no fault's field shows."""
    return "<input>" if isinstance(value, list) else "<message>"


class ContentPart(BaseModel):
    """A piece of an item's content; only text is taken."""

    type: Literal["input_text", "output_text", "text"]
    text: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT]


def _bounded(parts: list[ContentPart]) -> list[ContentPart]:
    if sum(len(part.text) for part in parts) > MAX_MESSAGE_CHARS:
        raise ValueError(f"The texts may have at most {MAX_MESSAGE_CHARS} characters together")
    return parts


class InputItem(BaseModel):
    """A message of the input, its content a text or a list of texts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT, Tag("<message>")]
        | Annotated[list[ContentPart], AfterValidator(_bounded), Tag("<input>")],
        Discriminator(_kind),
    ]

    def prior(self) -> PriorMessage:
        """Return it with one text."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return PriorMessage(role=self.role, content=text)


class InputRequest(RunOptions):
    """What an agent is to answer: a text, or messages of which the last is the user's."""

    input: Annotated[
        Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT, Tag("<message>")]
        | Annotated[list[InputItem], Field(min_length=1, max_length=1000), Tag("<input>")],
        Discriminator(_kind),
    ]
    session_id: Identifier | None = Field(
        None,
        description="The conversation that the agent remembers; none where it is absent. Of an "
        "`input` of several messages the last one is kept there, the others are only read.",
    )


class RunResult(BaseModel):
    """A whole answer: `final_output`, or `error` with its `code` and whether it is `retryable`."""

    final_output: str | None
    success: bool
    error: str | None
    code: str | None
    retryable: bool | None
    usage: TokenUsage | None
    response_id: str
    session_id: str | None


class SessionConfig(BaseModel):
    """What sessions are here."""

    sessions_enabled: bool
    storage: str


class AgentDescription(BaseModel):
    """An agent and where it answers."""

    name: str
    agent_name: str
    instructions: str
    model: str
    tools_count: int
    handoffs_count: int
    endpoints: dict[str, str]
    session_config: SessionConfig


class Session(BaseModel):
    """What was said in a session, oldest first."""

    session_id: str
    messages: list[dict[str, Any]]
    message_count: int
    success: bool = True
    error: str | None = None


class Cleared(BaseModel):
    """A session that was forgotten."""

    session_id: str
    success: bool = True
    message: str = "The session's history was cleared."


SessionId = Annotated[str, Path(pattern=ID_PATTERN)]


async def start_input(
    registry: AgentRegistry, agent: str, request: InputRequest, key: str | None, remembers: bool
) -> Run:
    """Start a run from a text or from messages.

    Args:
        remembers: whether the server has sessions.
    """
    *before, last = _items(request)
    if last.role != "user" or not last.content:
        text = "The last message must be the user's, and not empty."
        raise Invalid(text, errors=[{"field": "input", "message": text}])
    wanted = request.session_id or request.conversation_id
    chat = ChatRequest(
        message=last.content,
        history=before,
        agent=agent,
        conversation_id=wanted if remembers else None,
        user_id=request.user_id,
        parallel_tools=request.parallel_tools,
        if_busy=request.if_busy,
    )
    return await registry.start(chat, key, ephemeral=chat.conversation_id is None)


def _items(request: InputRequest) -> list[PriorMessage]:
    if isinstance(request.input, str):
        return [PriorMessage(role="user", content=request.input)]
    return [item.prior() for item in request.input]


async def _run(
    agent: str, request: InputRequest, registry: AgentRegistry, key: str | None, remembers: bool
) -> Response:
    run = await start_input(registry, agent, request, key, remembers)
    result = await run_to_its_end(registry, run)
    failure = result if isinstance(result, RunError) else None
    answer = result if isinstance(result, ChatResponse) else None
    body = RunResult(
        final_output=answer and answer.response,
        success=failure is None,
        error=failure and failure.message,
        code=failure and failure.code,
        retryable=failure and failure.retryable,
        usage=answer and answer.usage,
        response_id=run.id,
        session_id=None if run.start.ephemeral else run.start.conversation_id,
    )
    headers = {"X-Run-Id": run.id}
    status = run_failed(failure, {}).status_code if failure else 200
    return JSONResponse(body.model_dump(mode="json"), status, headers)


def _describe(
    agent: str, prefix: str, registry: AgentRegistry, remembers: bool
) -> AgentDescription:
    info = registry.agents.info(agent)
    return AgentDescription(
        name=info.name,
        agent_name=agent,
        instructions=info.instructions,
        model=info.model,
        tools_count=len(info.tools),
        handoffs_count=len(info.handoffs),
        endpoints={
            "run": f"{prefix}/run",
            "stream": f"{prefix}/stream",
            "info": f"{prefix}/info",
            "session": f"{prefix}/session/{{session_id}}",
        },
        session_config=SessionConfig(sessions_enabled=remembers, storage=registry.store.kind),
    )


async def _need_sessions(remembers: RemembersSessions) -> None:
    if not remembers:
        raise NotFound("Sessions are turned off here (ENABLE_SESSIONS).", code="sessions_disabled")


async def _session(registry: AgentRegistry, owner: Caller, session_id: str) -> Session:
    found = await everything_said(registry.store, owner, session_id)
    messages = [
        {"role": role_of(stored.message), "content": stored.message.content} for stored in found
    ]
    return Session(session_id=session_id, messages=messages, message_count=len(messages))


async def _clear(registry: AgentRegistry, owner: Caller, session_id: str) -> Cleared:
    await registry.clear(owner, session_id)
    return Cleared(session_id=session_id)


def router_for(name: str | None) -> APIRouter:
    """Return the routes of one agent at the root, or, without a name, of all of them."""
    prefix = f"/{name}" if name else "/agents/{agent_name}"
    tags: list[Any] = [name or "agents"]
    router = APIRouter(prefix=prefix, tags=tags, responses=PROBLEMS)

    async def fixed() -> str:
        return name or ""

    async def named(agent_name: Annotated[str, Path(pattern=NAME_PATTERN)]) -> str:
        return agent_name

    Agent = Annotated[str, Depends(fixed if name else named)]

    @router.post("/run", response_model=RunResult)
    async def run(
        agent: Agent,
        request: InputRequest,
        registry: Registry,
        remembers: RemembersSessions,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Let the agent answer, and return the whole answer."""
        return await _run(agent, request, registry, idempotency_key, remembers)

    if name != "chat":  # that one has two bodies: see api.chat

        @router.post("/stream", response_class=Response, responses=EVENT_STREAM)
        async def stream(
            agent: Agent,
            request: InputRequest,
            registry: Registry,
            remembers: RemembersSessions,
            streaming: StreamSettings,
            protocol: Protocol,
            idempotency_key: IdempotencyKey = None,
        ) -> Response:
            """Let the agent answer, and follow it."""
            started = await start_input(registry, agent, request, idempotency_key, remembers)
            reader = await registry.read(started.id)
            return streaming.response(started.id, reader, protocol or "agents-sdk")

    @router.get("/info")
    async def info(
        agent: Agent, request: Request, registry: Registry, remembers: RemembersSessions
    ) -> AgentDescription:
        """Show the agent and where it answers."""
        prefix = request.url.path.removesuffix("/info")
        return _describe(agent, prefix, registry, remembers)

    @router.get("/session/{session_id}", dependencies=[Depends(_need_sessions)])
    async def session(
        agent: Agent, session_id: SessionId, registry: Registry, owner: OwnerOfQuery
    ) -> Session:
        """Show what was said in a session."""
        registry.agents.find(agent)
        return await _session(registry, owner, session_id)

    @router.delete("/session/{session_id}", dependencies=[Depends(_need_sessions)])
    async def clear(
        agent: Agent, session_id: SessionId, registry: Registry, owner: OwnerOfQuery
    ) -> Cleared:
        """Forget what was said in a session; a run in it is cancelled."""
        registry.agents.find(agent)
        return await _clear(registry, owner, session_id)

    return router


routers = [router_for(name) for name in (*BUILT_IN, None)]
