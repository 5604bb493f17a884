"""`/v1/responses`: answers that are kept, found again, gone on with and resumed (OpenAI).

A response is a run. Its conversation is its own: that of the response before, copied, with the
new input behind it; so a response can be gone on with more than once, and deleted alone. It is
kept for as long as runs are, unless `store` is false.

A stream goes on behind any frame, by its number: the log is told to an encoder once more, up to
the event of that frame, and from there to the client. Where the log has expired, the client gets
the last frame, which has the whole response; where it was lost in a crash, an `error`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from api.http.documents import EVENT_STREAM
from api.http.keys import IdempotencyKey
from api.http.services import Registry, Streaming, StreamSettings
from api.http.streams import EventStream
from api.native.runs import CANCEL_PATIENCE
from api.openai.errors import FAILURES, failed
from api.openai.items import ResponseRequest
from api.openai.messages import refused
from errors import NotFound
from events import ChatComplete, Event, RunError
from hub import Reader, cursor
from hub.replay import ReplayReader
from models import Completion
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
from runs.registry import AgentRegistry
from runs.run import Run

router = APIRouter(prefix="/v1/responses", tags=["openai"], responses=FAILURES)

_BREATH = 1000
"""How many events are told again before others get their turn."""


class _Asked(msgspec.Struct):
    """What is stored of a run's request, as far as it is a completion."""

    completion: Completion | None = None


@router.post("", response_class=JSONResponse, responses=EVENT_STREAM)
async def create(
    body: ResponseRequest,
    registry: Registry,
    streaming: StreamSettings,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer an input."""
    run = await registry.start(await _wanted(body, registry), idempotency_key)
    if body.stream:
        return await _stream(registry, streaming, run, None)
    if body.background:
        return await _present(registry, run)
    reader = await registry.read(run.id)
    whole = await _told(run, reader)
    end = whole.end or (whole.suspended and whole.suspended.as_error())
    if isinstance(end, RunError):
        return failed(end, _ids(run))
    return JSONResponse(whole.body("in_progress"), headers=_ids(run))


@router.get("/{id}", response_class=JSONResponse, responses=EVENT_STREAM)
async def retrieve(
    id: str,
    registry: Registry,
    streaming: StreamSettings,
    stream: bool = False,
    starting_after: Annotated[
        int | None, Query(ge=0, lt=2**53, description="The last frame's `sequence_number`.")
    ] = None,
) -> Response:
    """Show a response as it is now, or stream it from its start or from behind a frame."""
    run = await _found(registry, id)
    if stream:
        return await _stream(registry, streaming, run, starting_after)
    return await _present(registry, run)


@router.delete("/{id}")
async def delete(id: str, registry: Registry) -> dict[str, str | bool]:
    """Delete a response for good; one under way is cancelled."""
    run = await _found(registry, id)
    registry.check_here(run)
    place = (run.stored.owner, run.start.conversation_id)
    await registry.quiet(*place, CANCEL_PATIENCE)
    if not await registry.store.delete(*place):
        raise _none(id)
    await registry.forget(*place)
    return {"id": id, "object": "response", "deleted": True}


@router.post("/{id}/cancel", response_class=JSONResponse)
async def cancel(id: str, registry: Registry) -> Response:
    """Cancel a response; one that has ended stays as it is. Answers when it has ended."""
    run = await registry.cancel((await _found(registry, id)).id)
    await run.wait(CANCEL_PATIENCE)
    return await _present(registry, run)


async def _wanted(body: ResponseRequest, registry: AgentRegistry) -> Completion:
    """Return what a request asks for.

    Raises:
        errors.NotFound: there is no such agent or model, or no such response before.
        errors.Invalid: it cannot be done here, or does not fit the response before.
    """
    agent, model = registry.agents.resolve(body.model)
    if body.previous_response_id is None:
        return body.completion(agent, model)
    before, end = await _before(registry, body.previous_response_id)
    owner = before.stored.owner
    if body.who() not in (None, owner.user):
        raise _no_previous(body.previous_response_id)
    return body.completion(
        agent,
        model,
        follows=before.start.conversation_id,
        calls=end.tool_calls,
        user=None if owner.user == "default" else owner.user,
    )


async def _before(registry: AgentRegistry, id: str) -> tuple[Run, ChatComplete]:
    """Return the response that another one follows, and how it ended.

    Raises:
        errors.NotFound: there is none of this id.
        errors.Invalid: it has not ended, or not in order.
    """
    try:
        run = await _found(registry, id)
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
    text = f"Previous response with id '{id}' {why}, so it cannot be gone on with."
    raise refused("previous_response_id", text)


async def _found(registry: AgentRegistry, id: str) -> Run:
    """Return a response's run.

    Raises:
        errors.NotFound: there is none of this id, or it is not stored.
    """
    run_id = run_id_of(id)
    if run_id is None:
        raise _none(id)
    try:
        run = await registry.run(run_id)
    except NotFound:
        raise _none(id) from None
    asked = _asked(run)
    if asked is None or not asked.is_kept:
        raise _none(id)
    return run


def _asked(run: Run) -> Completion | None:
    said = run.stored.request
    return msgspec.json.decode(said, type=_Asked).completion if said else None


def _none(id: str) -> NotFound:
    return NotFound(f"Response with id '{id}' not found.", code="response_not_found")


def _no_previous(id: str) -> NotFound:
    text = f"Previous response with id '{id}' not found."
    return NotFound(text, code="previous_response_not_found")


def _head(run: Run) -> Head:
    asked = _asked(run)
    return Head(
        run_id=run.id,
        created_at=int(run.stored.created_at.timestamp()),
        model=run.start.model,
        echo=asked.echo if asked else {},
    )


def _ids(run: Run) -> dict[str, str]:
    return {"X-Run-Id": run.id, "X-Request-Id": run.id}


async def _told(run: Run, reader: Reader, *, wait: bool = True) -> WholeResponse:
    """Read a run to its end, or (not `wait`) what there is of it now."""
    whole = WholeResponse(_head(run))
    while not reader.ended:
        if not wait:
            reader.wake()
        events = await reader.read()
        for event in events:
            whole.add(event)
        if not (events or wait):
            break
    return whole


async def _present(registry: AgentRegistry, run: Run) -> Response:
    """Return a response as it is now; what another process has to tell is told when it ends."""
    whole = WholeResponse(_head(run))
    if run.work is not None or run.terminal is not None:
        whole = await _told(run, await registry.read(run.id), wait=False)
    status: Status = "queued" if run.status == "queued" else "in_progress"
    return JSONResponse(whole.body(status), headers=_ids(run))


async def _stream(
    registry: AgentRegistry, streaming: Streaming, run: Run, after: int | None
) -> Response:
    """Stream a response from its start, or behind the frame of number `after`."""
    reader = await registry.read(run.id)
    seen = -1 if after is None else after
    if isinstance(reader, ReplayReader):
        whole = await _told(run, reader)
        return _frames(run, end_frame(whole.body("in_progress"), seen + 1))
    encoder = ResponsesEncoder(reader.epoch, _head(run), seen)
    if after is not None:
        if after // EPOCH + 1 < reader.epoch:
            return _frames(run, lost_frame(after + 1))
        seq = await _tell_before(registry, run, encoder, after)
        reader = await registry.read(run.id, cursor(run.id, reader.epoch, seq))
    return EventStream(
        reader,
        encoder,
        heartbeat=streaming.heartbeat,
        patience=streaming.patience,
        headers=_ids(run),
    )


def _frames(run: Run, frames: bytes) -> Response:
    """Return a stream of which all is known."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **_ids(run)}
    return Response(frames, media_type=ResponsesEncoder.media_type, headers=headers)


async def _tell_before(
    registry: AgentRegistry, run: Run, encoder: ResponsesEncoder, after: int
) -> int:
    """Let an encoder see what its client has seen, and return the last event's `seq`.

    An event of which the client has some frames is not among these: the encoder sends the others.

    Raises:
        errors.Invalid: there is no frame of this number yet.
    """
    events = await registry.before(run.id, sys.maxsize)
    ruler = ResponsesEncoder(encoder.next // EPOCH + 1, _head(run), sys.maxsize)
    seq = 0
    async for event in _breathing(events):
        ruler.encode(event)
        if ruler.next <= after + 1:
            seq = event.seq
    if ruler.next <= after:
        raise refused("starting_after", "There is no frame of this number yet.")
    async for event in _breathing(events[:seq]):
        encoder.encode(event)
    return seq


async def _breathing(events: list[Event]) -> AsyncIterator[Event]:
    """Yield events, and let others have their turn now and then."""
    for number, event in enumerate(events, 1):
        yield event
        if number % _BREATH == 0:
            await asyncio.sleep(0)
