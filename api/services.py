"""What the routes work with, as FastAPI dependencies."""

from typing import Annotated, NamedTuple

from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from api.streams import EventStream
from errors import ClientError
from hub import Reader
from protocols import ENCODERS
from registry import AgentRegistry


class Streaming(NamedTuple):
    """How this server streams: `heartbeat` and `patience` in seconds; see `api.streams`."""

    heartbeat: float
    patience: float

    def response(self, run_id: str, reader: Reader, protocol: str) -> EventStream:
        """Return a run's events in a protocol."""
        return EventStream(
            reader,
            ENCODERS[protocol](reader.epoch),
            heartbeat=self.heartbeat,
            patience=self.patience,
            headers={"X-Run-Id": run_id},
        )


def _registry(connection: HTTPConnection) -> AgentRegistry:
    registry: AgentRegistry = connection.app.state.registry
    return registry


def _streaming(connection: HTTPConnection) -> Streaming:
    streaming: Streaming = connection.app.state.streaming
    return streaming


def _protocol(
    protocol: Annotated[
        str,
        Query(
            description="The wire protocol of the stream.", json_schema_extra={"enum": [*ENCODERS]}
        ),
    ] = "events",
) -> str:
    if protocol not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ClientError(f"There is no protocol of this name; there are: {known}.")
    return protocol


Registry = Annotated[AgentRegistry, Depends(_registry)]
StreamSettings = Annotated[Streaming, Depends(_streaming)]
Protocol = Annotated[str, Depends(_protocol)]
