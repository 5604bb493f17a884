"""`/v1/responses`: answers that are stored, retrieved, continued and resumed (OpenAI).

A response is a run with its own conversation: a copy of the previous response's conversation, and
the new input after it. So a response can be continued more than once, and deleted alone. It is kept
as long as runs are, unless `store` is false.

A stream can continue after any frame, by its number: the log is replayed to an encoder up to the
event of that frame, and from there to the client. Where the log has expired, the client gets
the last frame, which has the whole response; where it was lost in a crash, an `error`.
"""

import sys
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from api.http.documents import EVENT_STREAM
from api.http.identity import OPEN, Who
from api.http.services import ReadRuns, Registry, Runs, StartRuns, json_response
from api.http.streams import replay_to
from api.openai.errors import FAILURES, failed, request_id
from api.openai.items import ResponseRequest
from api.openai.messages import refused
from caller import Caller
from errors import NotFound
from events import ChatComplete, RunError
from hub import Reader, cursor
from hub.replay import ReplayReader
from offload import LARGE, offload
from protocols.responses import (
    EPOCH,
    Head,
    ResponsesEncoder,
    Status,
    WholeResponse,
    end_frame,
    lost_frame,
    run_id_of,
)
from runs.registry import CANCEL_WAIT, AgentRegistry, RunElsewhere
from runs.request import RunRequest, decoded
from storage import StoredRun

router = APIRouter(prefix="/v1/responses", tags=["openai"], responses=FAILURES)


@router.post("", response_class=JSONResponse, responses=EVENT_STREAM)
async def create(body: ResponseRequest, runs: StartRuns) -> Response:
    """Create a response to an input."""
    request, user = await _wanted(body, runs)
    run = await runs.start(request, user=user)
    head = _head(run, request)
    if body.stream:
        return await _stream(runs, run, head, None)
    if body.background:
        return await _present(runs, run, head)
    reader = await runs.read(run)
    whole = await _read(head, reader)
    end = whole.end or (whole.suspended and whole.suspended.as_error())
    if isinstance(end, RunError):
        return failed(end, request_id(run))
    return await _json(whole, "in_progress", run)


@router.get("/{id}", response_class=JSONResponse, responses=EVENT_STREAM)
async def retrieve(
    id: str,
    runs: ReadRuns,
    stream: bool = False,
    starting_after: Annotated[
        int | None, Query(ge=0, lt=2**53, description="The last frame's `sequence_number`.")
    ] = None,
) -> Response:
    """Show a response as it is now, or stream it from its start or after a frame."""
    run, request = await _found(runs.registry, runs.caller, id)
    head = _head(run, request)
    if stream:
        return await _stream(runs, run, head, starting_after)
    return await _present(runs, run, head)


@router.delete("/{id}")
async def delete(id: str, registry: Registry, caller: Who) -> dict[str, str | bool]:
    """Delete a response permanently; if it is active, it is cancelled."""
    run, _ = await _found(registry, caller, id)
    await registry.cancel(caller, run.id)
    if not await registry.delete(run.owner, run.conversation_id):
        raise _none(id)
    return {"id": id, "object": "response", "deleted": True}


@router.post("/{id}/cancel", response_class=JSONResponse)
async def cancel(id: str, runs: ReadRuns) -> Response:
    """Cancel a response, and answer when it has ended. An ended response does not change."""
    run, request = await _found(runs.registry, runs.caller, id)
    run = await runs.registry.cancel(runs.caller, run.id, wait=CANCEL_WAIT)
    return await _present(runs, run, _head(run, request))


async def _wanted(body: ResponseRequest, runs: Runs) -> tuple[RunRequest, str | None]:
    """Return what a request asks for, and the user that it names.

    Raises:
        errors.NotFound: there is no such agent or model, or no such response before.
        errors.Invalid: it cannot be done here, or does not fit the response before.
    """
    registry, caller = runs.registry, runs.caller
    agent, model = registry.agents.resolve(caller, body.model)
    if body.previous_response_id is None:
        return await runs.prepared(body.run_request, agent, model), body.who()
    before, end = await _before(registry, caller, body.previous_response_id)
    owner = before.owner
    if body.who() not in (None, owner.user):
        raise _no_previous(body.previous_response_id)
    user = None if owner.user == OPEN.user else owner.user
    request = await runs.prepared(
        body.run_request,
        agent,
        model,
        follows=before.conversation_id,
        before=end,
        user=user,
    )
    return request, user


async def _before(
    registry: AgentRegistry, caller: Caller, id: str
) -> tuple[StoredRun, ChatComplete]:
    """Return the response that another one follows, and how it ended.

    Raises:
        errors.NotFound: there is none of this id.
        errors.Invalid: it has not ended, or not in order.
    """
    try:
        run, _ = await _found(registry, caller, id)
    except NotFound:
        raise _no_previous(id) from None
    match run.terminal:
        case ChatComplete(finish_reason="cancelled"):
            why = "was cancelled"
        case ChatComplete() as end:
            return run, end
        case RunError():
            why = "has failed"
        case None:
            why = "is still in progress"
    text = f"Previous response with id '{id}' {why}, so it cannot be continued."
    raise refused("previous_response_id", text)


async def _found(registry: AgentRegistry, caller: Caller, id: str) -> tuple[StoredRun, RunRequest]:
    """Return a response's run, and what is known of its request.

    Raises:
        errors.NotFound: there is none of this id, or it is not stored.
    """
    run_id = run_id_of(id)
    if run_id is None:
        raise _none(id)
    try:
        run = await registry.run(caller, run_id)
    except NotFound:
        raise _none(id) from None
    if not run.request:
        raise _none(id)
    is_large = len(run.request) >= LARGE
    request = await offload(decoded, run.request) if is_large else decoded(run.request)
    if not request.is_found_again:
        raise _none(id)
    return run, request


def _none(id: str) -> NotFound:
    return NotFound(f"Response with id '{id}' not found.", code="response_not_found")


def _no_previous(id: str) -> NotFound:
    text = f"Previous response with id '{id}' not found."
    return NotFound(text, code="previous_response_not_found")


def _head(run: StoredRun, request: RunRequest) -> Head:
    return Head(
        run_id=run.id,
        created_at=int(run.created_at.timestamp()),
        model=run.start.model,
        echo=request.echo,
    )


async def _read(head: Head, reader: Reader, *, wait: bool = True) -> WholeResponse:
    """Read a run to its end, or (not `wait`) what there is of it now."""
    whole = WholeResponse(head)
    while not reader.ended:
        if not wait:
            reader.wake()
        events = await reader.read()
        for event in events:
            whole.add(event)
        if not (events or wait):
            break
    return whole


async def _present(runs: Runs, run: StoredRun, head: Head) -> Response:
    """Return a response as it is now; what another process has to say of it comes at its end."""
    try:
        whole = await _read(head, await runs.read(run), wait=False)
    except RunElsewhere:
        whole = WholeResponse(head)
    status: Status = "queued" if run.status == "queued" else "in_progress"
    return await _json(whole, status, run)


async def _json(whole: WholeResponse, status: Status, run: StoredRun) -> Response:
    size = len(run.request) + whole.size
    return await json_response(whole.body(status), size, headers=request_id(run))


async def _stream(runs: Runs, run: StoredRun, head: Head, after: int | None) -> Response:
    """Stream a response from its start, or from after the frame of number `after`."""
    reader = await runs.read(run)
    seen = -1 if after is None else after
    if isinstance(reader, ReplayReader):
        whole = await _read(head, reader)
        frame = await offload(end_frame, whole.body("in_progress"), seen + 1)
        return _frames(run, frame)
    encoder = ResponsesEncoder(reader.epoch, head, seen)
    if after is not None:
        if after // EPOCH + 1 < reader.epoch:
            return _frames(run, lost_frame(after + 1))
        seq = await _replay_before(runs, run, head, encoder, after)
        reader = await runs.read(run, cursor(run.id, reader.epoch, seq))
    return runs.response(run.id, reader, encoder, request_id(run))


def _frames(run: StoredRun, frames: bytes) -> Response:
    """Return a stream of which all is known."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **request_id(run)}
    return Response(frames, media_type=ResponsesEncoder.media_type, headers=headers)


async def _replay_before(
    runs: Runs, run: StoredRun, head: Head, encoder: ResponsesEncoder, after: int
) -> int:
    """Let an encoder see what its client has seen, and return the last event's `seq`.

    An event of which the client has some frames is not among these: the encoder sends the others.

    Raises:
        errors.Invalid: there is no frame of this number yet.
    """
    ruler = ResponsesEncoder(encoder.next // EPOCH + 1, head, sys.maxsize)
    seq = 0
    async for event in await runs.registry.before(runs.caller, run.id, sys.maxsize):
        ruler.encode(event)
        if ruler.next <= after + 1:
            seq = event.seq
    if ruler.next <= after:
        raise refused("starting_after", "There is no frame with this number yet.")
    await replay_to(encoder, await runs.registry.before(runs.caller, run.id, seq))
    return seq
