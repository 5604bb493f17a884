"""`/api`: one conversation for each user, for very simple clients.

A user is a name that the client chose. The messages belong to the user's conversation
`default`, which `GET /conversations?user_id=…` lists too. The default protocol of the stream is
`chunks`.
"""

import asyncio
import os
import platform
import resource
import sys
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.exports import everything_said
from api.http.identity import Who
from api.http.problems import run_failed
from api.http.services import Protocol, Registry, StartRuns, json_response
from errors import Unavailable
from events import RunError
from memory.learning import LongTermMemory
from messages import AssistantMessage, UserMessage
from models import MAX_MESSAGE_CHARS, TEXT, USER_PATTERN, UserId
from runs.agents import DEFAULT
from runs.registry import AgentRegistry
from runs.request import RunRequest
from storage import StoredMessage

router = APIRouter(prefix="/api", tags=["users"], responses=PROBLEMS)

CONVERSATION = "default"

_STARTED = time.monotonic()

_PACKAGES = ("fastapi", "uvicorn", "pydantic", "sqlalchemy", "openai", "anthropic")

CheckModel = Annotated[
    bool,
    Query(
        description="Asks the model three short questions and shows what of it works, in `check` "
        "of `model_provider`. What was found in the last minute holds for all who ask."
    ),
]

UserIdInPath = Annotated[str, Path(pattern=USER_PATTERN)]


class UserMessageRequest(BaseModel):
    """A message of a user."""

    user_id: UserId
    message: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT]

    def run_request(self) -> RunRequest:
        messages = (UserMessage(self.message),)
        return RunRequest(messages=messages, conversation_id=CONVERSATION, agent=DEFAULT)


class SimpleAnswer(BaseModel):
    """A whole answer."""

    user_id: str
    message: str
    response: str
    timestamp: datetime


class Exchange(BaseModel):
    """A message and its answer; null if there is none."""

    timestamp: datetime
    user_message: str
    assistant_response: str | None


class UserHistory(BaseModel):
    """All exchanges, oldest first."""

    user_id: str
    history: list[Exchange]
    count: int


class Component(BaseModel):
    """A part of the service: its status and details."""

    status: str
    details: dict[str, Any]


class DetailedHealth(BaseModel):
    """The server's state in detail. Sizes in bytes, times in seconds."""

    status: str
    service: str
    timestamp: datetime
    uptime: float
    versions: dict[str, str]
    components: dict[str, Component]


@router.post("/chat", response_class=Response, responses=EVENT_STREAM)
async def stream_chat(
    said: UserMessageRequest, runs: StartRuns, protocol: Protocol = None
) -> Response:
    """Send a message to the user's conversation, and stream the answer."""
    return await runs.stream(said.run_request(), protocol or "chunks", user=said.user_id)


@router.post("/chat/simple", response_model=SimpleAnswer)
async def simple_chat(said: UserMessageRequest, runs: StartRuns) -> Response:
    """Send a message to the user's conversation, and get the whole answer."""
    run, result = await runs.result(said.run_request(), user=said.user_id)
    headers = {"X-Run-Id": run.id}
    if isinstance(result, RunError):
        return run_failed(result, headers)
    answer = SimpleAnswer(
        user_id=said.user_id,
        message=said.message,
        response=result.response,
        timestamp=datetime.now(UTC),
    )
    size = len(result.response)
    return await json_response(answer.model_dump(mode="json"), size, headers=headers)


@router.get("/chat/history/{user_id}")
async def get_history(user_id: UserIdInPath, registry: Registry, caller: Who) -> UserHistory:
    """Show the messages of the user's conversation."""
    found = await everything_said(registry.store, caller.named(user_id), CONVERSATION)
    history = _exchanges(found)
    return UserHistory(user_id=user_id, history=history, count=len(history))


@router.delete("/chat/history/{user_id}")
async def clear_history(user_id: UserIdInPath, registry: Registry, caller: Who) -> dict[str, str]:
    """Delete the messages of the user's conversation; an active run in it is cancelled."""
    await registry.clear(caller.named(user_id), CONVERSATION)
    return {"user_id": user_id, "message": "The conversation's history was cleared."}


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Show that the service is running."""
    return {
        "status": "healthy",
        "service": request.app.title,
        "timestamp": datetime.now(UTC).isoformat(),
    }


@router.get("/health/detailed", responses={503: {"model": DetailedHealth}})
async def detailed_health(
    request: Request, response: Response, registry: Registry, check_model: CheckModel = False
) -> DetailedHealth:
    """Show the state of each part, without secrets.

    The provider is unavailable while its circuit breaker is open, after repeated failures, and
    for a minute after a check found that the model does not work. Without `check_model` no request
    is made to it. `memory` is the long-term memory, `load` what the
    process uses.
    """
    database, memory, model_provider = await asyncio.gather(
        _database(registry),
        _memory(registry, request.app.state.memory),
        _model_provider(registry, request.app.state.model_check.told(check_model)),
    )
    components = {
        "database": database,
        "model_provider": model_provider,
        "memory": memory,
        "load": Component(
            status="draining" if registry.draining else "healthy",
            details={
                "active_runs": registry.active_runs,
                "load_average": [round(each, 2) for each in os.getloadavg()],
                "processors": os.cpu_count(),
                "resident_peak": _peak_memory(),
            },
        ),
    }
    healthy = all(component.status == "healthy" for component in components.values())
    response.status_code = 200 if healthy else 503
    return DetailedHealth(
        status="healthy" if healthy else "degraded",
        service=request.app.title,
        timestamp=datetime.now(UTC),
        uptime=round(time.monotonic() - _STARTED, 1),
        versions={
            "parley": request.app.version,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        components=components,
    )


async def _database(registry: AgentRegistry) -> Component:
    began = time.perf_counter()
    try:
        await registry.store.ping()
        if registry.store.damage is not None:
            raise registry.store.damage
    except Unavailable as error:
        return Component(
            status="unavailable", details={"kind": registry.store.kind, "error": error.message}
        )
    milliseconds = round((time.perf_counter() - began) * 1000, 2)
    return Component(
        status="healthy", details={"kind": registry.store.kind, "latency_ms": milliseconds}
    )


async def _memory(registry: AgentRegistry, memory: LongTermMemory | None) -> Component:
    """Return the state of the long-term memory.

    `lessons_waiting`: exchanges that are still to be learned from; since the start, `not_learned`:
    those that nothing could be learned from, `unread`: facts that a model worded unreadably.
    """
    if memory is None:
        return Component(status="healthy", details={"enabled": False})
    try:
        waiting = await registry.store.count_extraction_jobs()
    except Unavailable as error:
        return Component(status="unavailable", details={"enabled": True, "error": error.message})
    details = {
        "enabled": True,
        "lessons_waiting": waiting,
        "not_learned": memory.not_learned,
        "unread": memory.memories.unread,
    }
    return Component(status="healthy", details=details)


async def _model_provider(
    registry: AgentRegistry, checking: Awaitable[dict[str, Any] | None]
) -> Component:
    provider, checked = registry.provider, await checking
    is_available = provider.is_available and (checked is None or checked["ok"])
    return Component(
        status="healthy" if is_available else "unavailable",
        details={"name": provider.name, "model": provider.default_model, "check": checked},
    )


def _peak_memory() -> int:
    """Return the most memory that the process had resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _exchanges(found: Sequence[StoredMessage]) -> list[Exchange]:
    """Pair each message of the user with the last text of the answer to it."""
    exchanges: list[Exchange] = []
    for stored in found:
        message = stored.message
        if isinstance(message, UserMessage):
            exchanges.append(
                Exchange(
                    timestamp=stored.created_at,
                    user_message=message.content,
                    assistant_response=None,
                )
            )
        elif isinstance(message, AssistantMessage) and message.content and exchanges:
            exchanges[-1].assistant_response = message.content
    return exchanges
