"""`/runs`: the state, the events and the cancelling of runs."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.identity import Who
from api.http.services import Protocol, ReadRuns, Registry
from events import ChatComplete, RunError
from models import ID_PATTERN, RunFailure, RunInfo, TokenUsage
from runs.registry import CANCEL_WAIT
from storage import StoredRun

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"], responses=PROBLEMS)

RunId = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("")
async def get_run(run_id: RunId, registry: Registry, caller: Who) -> RunInfo:
    """Show the state of a run."""
    return run_info(await registry.run(caller, run_id))


@router.get(
    "/events",
    response_class=Response,
    responses=EVENT_STREAM | {204: {"description": "All events were sent before."}},
)
async def read_run(
    run_id: RunId,
    runs: ReadRuns,
    protocol: Protocol = None,
    after: Annotated[
        str | None,
        Query(
            max_length=200,
            description="A frame's `id`, or only a `seq`; the answer has the events after it.",
        ),
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Follow the events of a run, from its start or after a cursor."""
    # An EventSource repeats the address it began with, and says in the header how far it came.
    return await runs.resume(run_id, last_event_id or after, protocol)


@router.post("/cancel")
async def cancel_run(run_id: RunId, registry: Registry, caller: Who) -> RunInfo:
    """Cancel a run, and answer when it has ended. A run that has ended does not change."""
    return run_info(await registry.cancel(caller, run_id, wait=CANCEL_WAIT))


@router.post("/tool_calls/{tool_call_id}/cancel", status_code=204)
async def cancel_tool_call(
    run_id: RunId,
    tool_call_id: Annotated[str, Path(max_length=200)],
    registry: Registry,
    caller: Who,
) -> None:
    """Cancel one tool call; the other calls and the run continue."""
    await registry.cancel_call(caller, run_id, tool_call_id)


def run_info(run: StoredRun) -> RunInfo:
    done = run.terminal if isinstance(run.terminal, ChatComplete) else None
    failed = run.terminal if isinstance(run.terminal, RunError) else None
    return RunInfo(
        run_id=run.id,
        status=run.status,
        agent=run.start.agent,
        model=run.start.model,
        conversation_id=run.start.conversation_id,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        finish_reason=done.finish_reason if done else None,
        final_response=done.final_response if done else None,
        usage=TokenUsage.model_validate(done.usage, from_attributes=True)
        if done and done.usage
        else None,
        error=RunFailure(code=failed.code, message=failed.message, retryable=failed.retryable)
        if failed
        else None,
    )
