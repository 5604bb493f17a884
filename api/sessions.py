"""Agents with sessions: `/run`, `/stream`, `/info` and `/session/{id}` of each agent.

Under `/assistant` and `/chat` for the two built-in agents, under `/agents/{name}` for every agent.
A session is a conversation whose id the client chose; without one a call has no memory. The default
protocol of the stream is `agents-sdk`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.exports import everything_said
from api.http.identity import Who, WhoInQuery
from api.http.inputs import InputRequest, of_input
from api.http.services import Protocol, Registry, RemembersSessions, Runs, StartRuns, json_response
from caller import Caller
from errors import NotFound, run_status
from events import RunError
from models import ID_PATTERN, NAME_PATTERN, ChatResponse, TokenUsage
from runs.agents import BUILT_IN
from runs.registry import AgentRegistry
from storage.runs import role_of


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
    """The kind of sessions that the service has."""

    sessions_enabled: bool
    storage: str


class AgentDescription(BaseModel):
    """An agent and its addresses."""

    name: str
    agent_name: str
    instructions: str
    model: str
    tools_count: int
    handoffs_count: int
    endpoints: dict[str, str]
    session_config: SessionConfig


class Session(BaseModel):
    """The messages of a session, oldest first."""

    session_id: str
    messages: list[dict[str, Any]]
    message_count: int
    success: bool = True
    error: str | None = None


class Cleared(BaseModel):
    """A session whose history was deleted."""

    session_id: str
    success: bool = True
    message: str = "The session's history was cleared."


SessionId = Annotated[str, Path(pattern=ID_PATTERN)]


async def _run(agent: str, body: InputRequest, runs: Runs) -> Response:
    request = of_input(body, agent, remembers=runs.remembers_sessions)
    run, result = await runs.result(request, user=body.user_id)
    failure = result if isinstance(result, RunError) else None
    answer = result if isinstance(result, ChatResponse) else None
    content = RunResult(
        final_output=answer and answer.response,
        success=failure is None,
        error=failure and failure.message,
        code=failure and failure.code,
        retryable=failure and failure.retryable,
        usage=answer and answer.usage,
        response_id=run.id,
        session_id=None if run.start.ephemeral else run.start.conversation_id,
    )
    status = run_status(failure.code) if failure else 200
    size = len(content.final_output or "")
    headers = {"X-Run-Id": run.id}
    return await json_response(content.model_dump(mode="json"), size, status, headers)


def _describe(
    agent: str, prefix: str, registry: AgentRegistry, caller: Caller, remembers: bool
) -> AgentDescription:
    info = registry.agents.info(caller, agent)
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
        raise NotFound("Sessions are turned off (ENABLE_SESSIONS).", code="sessions_disabled")


async def _session(registry: AgentRegistry, caller: Caller, session_id: str) -> Session:
    found = await everything_said(registry.store, caller, session_id)
    messages = [
        {"role": role_of(stored.message), "content": stored.message.content} for stored in found
    ]
    return Session(session_id=session_id, messages=messages, message_count=len(messages))


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
    async def run(agent: Agent, request: InputRequest, runs: StartRuns) -> Response:
        """Send a message to the agent, and get the whole answer."""
        return await _run(agent, request, runs)

    if name != "chat":  # that one has two bodies: see api.native.chat

        @router.post("/stream", response_class=Response, responses=EVENT_STREAM)
        async def stream(
            agent: Agent,
            request: InputRequest,
            runs: StartRuns,
            protocol: Protocol = None,
        ) -> Response:
            """Send a message to the agent, and stream the answer."""
            wanted = of_input(request, agent, remembers=runs.remembers_sessions)
            return await runs.stream(wanted, protocol or "agents-sdk", user=request.user_id)

    @router.get("/info")
    async def info(
        agent: Agent,
        request: Request,
        registry: Registry,
        caller: Who,
        remembers: RemembersSessions,
    ) -> AgentDescription:
        """Show the agent and its addresses."""
        prefix = request.url.path.removesuffix("/info")
        return _describe(agent, prefix, registry, caller, remembers)

    @router.get("/session/{session_id}", dependencies=[Depends(_need_sessions)])
    async def session(
        agent: Agent, session_id: SessionId, registry: Registry, caller: WhoInQuery
    ) -> Session:
        """Show the messages of a session."""
        registry.agents.find(caller, agent)
        return await _session(registry, caller, session_id)

    @router.delete("/session/{session_id}", dependencies=[Depends(_need_sessions)])
    async def clear(
        agent: Agent, session_id: SessionId, registry: Registry, caller: WhoInQuery
    ) -> Cleared:
        """Delete the messages of a session; an active run in it is cancelled."""
        registry.agents.find(caller, agent)
        await registry.clear(caller, session_id)
        return Cleared(session_id=session_id)

    return router


routers = [router_for(name) for name in (*BUILT_IN, None)]
