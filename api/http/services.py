"""What the routes work with, as FastAPI dependencies.

They are `async`, though none waits: FastAPI sends a plain function to a thread, which costs a tenth
of a whole chat.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar

from fastapi import Depends, Header, Query
from pydantic import AfterValidator
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from api.http.identity import caller_of
from api.http.problems import run_failed
from api.http.streams import EventStream, replay_to
from caller import Caller
from errors import ClientError
from events import RunError
from hub import Reader
from models import ChatResponse
from offload import LARGE, offload
from protocols import ENCODERS, Encoder
from protocols.answer import WholeAnswer
from runs.registry import AgentRegistry
from runs.request import RunRequest
from storage import StoredRun


class Streaming(NamedTuple):
    """How this server streams; see `api.http.streams`. Durations in seconds.

    `chat_protocol`: the protocol of `/chat/stream` for requests that name none.
    """

    heartbeat: float
    write_timeout: float
    chat_protocol: str


async def _registry(connection: HTTPConnection) -> AgentRegistry:
    registry: AgentRegistry = connection.app.state.registry
    return registry


def _known(protocol: str | None) -> str | None:
    if protocol is not None and protocol not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ClientError(f"Unknown protocol. Known protocols: {known}.")
    return protocol


async def _remembers_sessions(connection: HTTPConnection) -> bool:
    remembers: bool = connection.app.state.remembers_sessions
    return remembers


Protocol = Annotated[
    str | None,
    Query(description="The wire protocol of the stream.", json_schema_extra={"enum": [*ENCODERS]}),
    AfterValidator(_known),
]

MAX_KEY = 255
"""Characters of an idempotency key."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_KEY,
        description="The same key and body give the same run; the same key with another body, 409.",
    ),
]
"""IETF draft "The Idempotency-Key HTTP Header Field"."""

Registry = Annotated[AgentRegistry, Depends(_registry)]
RemembersSessions = Annotated[bool, Depends(_remembers_sessions)]


_P = ParamSpec("_P")
_T = TypeVar("_T")


async def json_response(
    content: Any, size: int, status: int = 200, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return JSON with about `size` characters of text; much of it is written in a thread."""
    if size < LARGE:
        return JSONResponse(content, status, headers)
    return await offload(JSONResponse, content, status, headers)


class Runs(NamedTuple):
    """Starts runs for one request, reads them, and answers with their events.

    `remembers_sessions`: whether a session is a conversation. `key`: the request's idempotency key.
    `is_large`: its body may be.
    """

    registry: AgentRegistry
    caller: Caller
    streaming: Streaming
    remembers_sessions: bool
    key: str | None = None
    is_large: bool = False

    async def prepared(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what a function makes of the body, in a thread where that may be much work."""
        if self.is_large:
            return await offload(work, *args, **kwargs)
        return work(*args, **kwargs)

    async def start(self, request: RunRequest, *, user: str | None = None) -> StoredRun:
        """Start a run, as the user that the request names; see `AgentRegistry.start`."""
        return await self.registry.start(self.caller.named(user), request, self.key)

    async def read(self, run: StoredRun, after: str | None = None) -> Reader:
        return await self.registry.read(self.caller, run.id, after)

    async def stream(
        self, request: RunRequest, protocol: str, *, user: str | None = None
    ) -> Response:
        run = await self.start(request, user=user)
        reader = await self.read(run)
        return self.response(run.id, reader, ENCODERS[protocol](reader.epoch))

    def response(
        self,
        run_id: str,
        reader: Reader,
        encoder: Encoder,
        headers: Mapping[str, str] | None = None,
    ) -> EventStream:
        """Return a run's events from an encoder, which may have seen what was before."""
        return EventStream(
            reader,
            encoder,
            heartbeat=self.streaming.heartbeat,
            write_timeout=self.streaming.write_timeout,
            headers={"X-Run-Id": run_id, **(headers or {})},
        )

    async def resume(self, run_id: str, after: str | None, protocol: str | None) -> Response:
        """Return a run's events after a cursor, from an encoder that has seen those before it.

        After the end that is 204, the one answer after which an EventSource does not come back. It
        has to, where the run is suspended.
        """
        reader = await self.registry.read(self.caller, run_id, after)
        if reader.ended:
            return Response(status_code=204, headers={"X-Run-Id": run_id})
        encoder = ENCODERS[protocol or "events"](reader.epoch)
        if reader.seq and protocol not in (None, "events"):
            before = await self.registry.before(self.caller, run_id, reader.seq)
            await replay_to(encoder, before)
        return self.response(run_id, reader, encoder)

    async def result(
        self, request: RunRequest, *, user: str | None = None
    ) -> tuple[StoredRun, ChatResponse | RunError]:
        """Start a run and wait for its end: its answer, or how it failed, or is suspended."""
        run = await self.start(request, user=user)
        reader = await self.read(run)
        answer = WholeAnswer()
        while not reader.ended:
            for event in await reader.read():
                answer.add(event)
        result = answer.result
        if result is None:
            raise RuntimeError("a run's log ended without a terminal event")
        return run, result

    async def answer(self, request: RunRequest, *, user: str | None = None) -> Response:
        """Start a run, and return its answer, or its failure, as one response."""
        run, result = await self.result(request, user=user)
        headers = {"X-Run-Id": run.id}
        if isinstance(result, ChatResponse):
            size = len(result.response)
            return await json_response(result.model_dump(mode="json"), size, headers=headers)
        return run_failed(result, headers)


def starting(connection: HTTPConnection, key: str | None = None) -> Runs:
    state, caller = connection.app.state, caller_of(connection)
    # A body that does not say how long it is comes in pieces.
    length = connection.headers.get("content-length", "")
    is_large = not length.isdecimal() or len(length) > 15 or int(length) >= LARGE
    return Runs(state.registry, caller, state.streaming, state.remembers_sessions, key, is_large)


# One dependency and not one for each part: each costs 20 µs.
async def _reading(connection: HTTPConnection) -> Runs:
    return starting(connection)


async def _starting(connection: HTTPConnection, idempotency_key: IdempotencyKey = None) -> Runs:
    return starting(connection, idempotency_key)


ReadRuns = Annotated[Runs, Depends(_reading)]
StartRuns = Annotated[Runs, Depends(_starting)]
