"""What the routes work with, as FastAPI dependencies.

They are `async`, though none waits: FastAPI sends a plain function to a thread, which costs a tenth
of a whole chat.
"""

import asyncio
from typing import Annotated, NamedTuple

from fastapi import Depends, Query
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from api.http.problems import run_failed
from api.http.streams import EventStream
from caller import Caller
from errors import ClientError
from events import Event, RunError
from hub import Reader
from models import USER_PATTERN, ChatResponse
from protocols import ENCODERS, Encoder
from protocols.answer import WholeAnswer
from runs.registry import AgentRegistry
from runs.run import Run

_BREATH = 1000
"""How many events are encoded before others get their turn."""


class Streaming(NamedTuple):
    """How this server streams: `heartbeat` and `patience` in seconds; see `api.streams`.

    `chat_protocol`: what `/chat/stream` speaks where the request does not say.
    """

    heartbeat: float
    patience: float
    chat_protocol: str

    def response(self, run_id: str, reader: Reader, protocol: str) -> EventStream:
        """Return a run's events in a protocol."""
        return self.response_of(run_id, reader, ENCODERS[protocol](reader.epoch))

    def response_of(self, run_id: str, reader: Reader, encoder: Encoder) -> EventStream:
        """Return a run's events from an encoder, which may have seen what was before."""
        return EventStream(
            reader,
            encoder,
            heartbeat=self.heartbeat,
            patience=self.patience,
            headers={"X-Run-Id": run_id},
        )


async def _registry(connection: HTTPConnection) -> AgentRegistry:
    registry: AgentRegistry = connection.app.state.registry
    return registry


async def _streaming(connection: HTTPConnection) -> Streaming:
    streaming: Streaming = connection.app.state.streaming
    return streaming


async def _protocol(
    protocol: Annotated[
        str | None,
        Query(
            description="The wire protocol of the stream.", json_schema_extra={"enum": [*ENCODERS]}
        ),
    ] = None,
) -> str | None:
    if protocol is not None and protocol not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ClientError(f"There is no protocol of this name; there are: {known}.")
    return protocol


Registry = Annotated[AgentRegistry, Depends(_registry)]
StreamSettings = Annotated[Streaming, Depends(_streaming)]
Protocol = Annotated[str | None, Depends(_protocol)]


async def _owner(
    user_id: Annotated[
        str | None, Query(pattern=USER_PATTERN, description="Whose; the default user's if absent.")
    ] = None,
) -> Caller:
    return Caller("open", user_id or "default")


async def _remembers_sessions(connection: HTTPConnection) -> bool:
    remembers: bool = connection.app.state.remembers_sessions
    return remembers


RemembersSessions = Annotated[bool, Depends(_remembers_sessions)]
OwnerOfQuery = Annotated[Caller, Depends(_owner)]


async def resumed(
    registry: AgentRegistry,
    streaming: Streaming,
    run_id: str,
    after: str | None,
    protocol: str | None,
) -> Response:
    """Return a run's events after a cursor, from an encoder that knows what was before.

    After the end that is 204, the one answer after which an EventSource does not come back. It has
    to, where the run is suspended: then that is still to be read.
    """
    reader = await registry.read(run_id, after)
    if reader.ended:
        return Response(status_code=204, headers={"X-Run-Id": run_id})
    encoder = ENCODERS[protocol or "events"](reader.epoch)
    if reader.seq and protocol not in (None, "events"):
        await _tell_before(encoder, await registry.before(run_id, reader.seq))
    return streaming.response_of(run_id, reader, encoder)


async def _tell_before(encoder: Encoder, events: list[Event]) -> None:
    """Let an encoder with a memory see what its client has seen."""
    for number, event in enumerate(events, 1):
        encoder.encode(event)
        if number % _BREATH == 0:
            await asyncio.sleep(0)


async def run_to_its_end(registry: AgentRegistry, run: Run) -> ChatResponse | RunError:
    """Wait for a run's end, and return its answer or how it failed, or that it is suspended."""
    reader = await registry.read(run.id)
    answer = WholeAnswer()
    while not reader.ended:
        for event in await reader.read():
            answer.add(event)
    if answer.result is None:
        raise RuntimeError("a run's log ended without a terminal event")
    return answer.result


async def whole_answer(registry: AgentRegistry, run: Run) -> Response:
    """Return a run's answer, or its failure, as one response."""
    headers = {"X-Run-Id": run.id}
    result = await run_to_its_end(registry, run)
    if isinstance(result, ChatResponse):
        return JSONResponse(result.model_dump(mode="json"), headers=headers)
    return run_failed(result, headers)
