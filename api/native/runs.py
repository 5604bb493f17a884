"""`/runs`: what happens with a message after it was sent."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.services import Protocol, Registry, StreamSettings, resumed
from models import ID_PATTERN, RunInfo

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"], responses=PROBLEMS)

CANCEL_PATIENCE = 5.0
"""Seconds that an answer to a cancel waits for the run's end; tools get two."""

RunId = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("")
async def get_run(run_id: RunId, registry: Registry) -> RunInfo:
    """Show a run's state."""
    return (await registry.run(run_id)).info()


@router.get(
    "/events",
    response_class=Response,
    responses=EVENT_STREAM | {204: {"description": "All of it was told."}},
)
async def read_run(
    run_id: RunId,
    registry: Registry,
    streaming: StreamSettings,
    protocol: Protocol,
    after: Annotated[
        str | None,
        Query(max_length=200, description="A frame's `id`, or a plain `seq`: what follows it."),
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Follow a run's events from its start, or from a cursor."""
    # An EventSource repeats the address it began with, and says in the header how far it came.
    return await resumed(registry, streaming, run_id, last_event_id or after, protocol)


@router.post("/cancel")
async def cancel_run(run_id: RunId, registry: Registry) -> RunInfo:
    """Cancel a run; one that has ended stays as it is. Answers when it has ended."""
    run = await registry.cancel(run_id)
    await run.wait(CANCEL_PATIENCE)
    return run.info()


@router.post("/tool_calls/{tool_call_id}/cancel", status_code=204)
async def cancel_tool_call(
    run_id: RunId, tool_call_id: Annotated[str, Path(max_length=200)], registry: Registry
) -> None:
    """Cancel one tool call; its siblings and the run go on."""
    await registry.cancel_tool(run_id, tool_call_id)
