"""`/conversations`: stored conversations, and continuing from any message of them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.exports import as_json, as_markdown, everything_said, message_view
from api.http.identity import WhoInQuery
from api.http.requests import of_edit, of_regeneration
from api.http.services import Protocol, ReadRuns, Registry, StartRuns
from api.http.waiting import while_waited_for
from api.native.runs import run_info
from caller import Caller
from errors import NotFound
from models import (
    ID_PATTERN,
    BranchPoint,
    ChatResponse,
    ConversationChange,
    ConversationDetail,
    ConversationPage,
    ConversationView,
    Edit,
    EditRequest,
    RegenerateOptions,
    RegenerateRequest,
    RunOutcome,
    SearchHit,
    SearchResult,
    WaitingMessage,
)
from runs.registry import AgentRegistry
from storage import ConversationRecord, NoSuchConversation, StoredMessage

router = APIRouter(tags=["conversations"], responses=PROBLEMS)

ConversationId = Annotated[str, Path(pattern=ID_PATTERN)]


async def _regeneration(
    conversation_id: ConversationId, options: RegenerateOptions | None = None
) -> RegenerateRequest:
    fields = (options or RegenerateOptions()).model_dump(exclude={"conversation_id"})
    return RegenerateRequest(**fields, conversation_id=conversation_id)


async def _edit(conversation_id: ConversationId, change: Edit) -> EditRequest:
    fields = change.model_dump(exclude={"conversation_id"})
    return EditRequest(**fields, conversation_id=conversation_id)


Regeneration = Annotated[RegenerateRequest, Depends(_regeneration)]
Edited = Annotated[EditRequest, Depends(_edit)]


@router.get("/conversations")
async def list_conversations(
    request: Request,
    registry: Registry,
    caller: WhoInQuery,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(max_length=500, description="`next` of a page.")] = None,
) -> ConversationPage:
    """List conversations, the most recently changed first."""
    listing = registry.store.conversations(caller, limit=limit, before=before)
    records, following = await while_waited_for(request, listing)
    return ConversationPage(
        conversations=[await _view(registry, caller, record) for record in records], next=following
    )


@router.get("/search")
async def search(
    request: Request,
    registry: Registry,
    caller: WhoInQuery,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="Words; all must occur.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> SearchResult:
    """Find words in titles and texts of conversations; the last word may be incomplete."""
    searching = registry.store.search(caller, q, limit=limit)
    hits = await while_waited_for(request, searching)
    return SearchResult(hits=[SearchHit.model_validate(hit, from_attributes=True) for hit in hits])


@router.get("/conversations/{conversation_id}")
async def get_conversation(
    conversation_id: ConversationId,
    registry: Registry,
    caller: WhoInQuery,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    before: Annotated[str | None, Query(pattern=ID_PATTERN, description="A message's id.")] = None,
) -> ConversationDetail:
    """Show a conversation with its newest messages, or those before one of them."""
    while True:
        under_way = await _under_way(registry, caller, conversation_id)
        record = await _found(registry, caller, conversation_id)
        found = await registry.store.messages(
            caller, conversation_id, limit=limit + 1, before=before
        )
        if under_way == await _under_way(registry, caller, conversation_id):
            break  # else a run that began or ended meanwhile could be shown twice, or not at all
    return ConversationDetail(
        **(await _view(registry, caller, record)).model_dump(),
        messages=[message_view(message) for message in found[-limit:]],
        has_more=len(found) > limit,
        last_run=await _last_run(registry, caller, found) if before is None else None,
    )


@router.patch("/conversations/{conversation_id}")
async def change_conversation(
    conversation_id: ConversationId,
    change: ConversationChange,
    registry: Registry,
    caller: WhoInQuery,
) -> ConversationView:
    """Set the title, or replace the metadata."""
    record = await registry.store.update(
        caller, conversation_id, title=change.title, metadata=change.metadata
    )
    if record is None:
        raise _none()
    return await _view(registry, caller, record)


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(
    conversation_id: ConversationId, registry: Registry, caller: WhoInQuery
) -> dict[str, str]:
    """Delete a conversation permanently; an active run in it is cancelled."""
    if not await registry.delete(caller, conversation_id):
        raise _none()
    return {"status": "deleted"}


@router.get(
    "/conversations/{conversation_id}/stream",
    response_class=Response,
    responses=EVENT_STREAM | {204: {"description": "There is no active run."}},
)
async def join_conversation(
    conversation_id: ConversationId,
    runs: ReadRuns,
    caller: WhoInQuery,
    protocol: Protocol = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Follow the active run, from its start or after a cursor."""
    run = await runs.registry.active_run(caller, conversation_id)
    if run is None:
        await _found(runs.registry, caller, conversation_id)
        return Response(status_code=204)
    # The cursor of an EventSource may be one of the run before, which says nothing of this one.
    is_its = last_event_id is not None and last_event_id.startswith(f"{run.id}:")
    after = last_event_id if is_its else None
    return await runs.resume(run.id, after, protocol)


@router.get(
    "/conversations/{conversation_id}/export",
    response_class=Response,
    responses={200: {"model": ConversationDetail, "content": {"text/markdown": {}}}},
)
async def export_conversation(
    conversation_id: ConversationId,
    registry: Registry,
    caller: WhoInQuery,
    format: Literal["json", "markdown"] = "json",
) -> Response:
    """Download a whole conversation."""
    record = await _found(registry, caller, conversation_id)
    said = await everything_said(registry.store, caller, conversation_id)
    extension = "json" if format == "json" else "md"
    headers = {"Content-Disposition": f'attachment; filename="{conversation_id}.{extension}"'}
    if format == "markdown":
        pieces = as_markdown(record.title or record.id, said)
        return StreamingResponse(pieces, media_type="text/markdown", headers=headers)
    pieces = as_json(await _view(registry, caller, record), said)
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


@router.post("/conversations/{conversation_id}/regenerate", response_model=ChatResponse)
async def regenerate(wish: Regeneration, runs: StartRuns) -> Response:
    """Regenerate the answer to the last message of a conversation."""
    return await runs.answer(of_regeneration(wish), user=wish.user_id)


@router.post(
    "/conversations/{conversation_id}/regenerate/stream",
    response_class=Response,
    responses=EVENT_STREAM,
)
async def stream_regeneration(
    wish: Regeneration, runs: StartRuns, protocol: Protocol = None
) -> Response:
    """Regenerate the answer to the last message, and stream it."""
    return await runs.stream(of_regeneration(wish), protocol or "events", user=wish.user_id)


@router.post("/conversations/{conversation_id}/edit", response_model=ChatResponse)
async def edit(change: Edited, runs: StartRuns) -> Response:
    """Replace an earlier message, in a new conversation that branches there."""
    return await runs.answer(of_edit(change), user=change.user_id)


@router.post(
    "/conversations/{conversation_id}/edit/stream",
    response_class=Response,
    responses=EVENT_STREAM,
)
async def stream_edit(change: Edited, runs: StartRuns, protocol: Protocol = None) -> Response:
    """Replace an earlier message, and stream the answer; `chat_start` has the new id."""
    return await runs.stream(of_edit(change), protocol or "events", user=change.user_id)


async def _found(
    registry: AgentRegistry, caller: Caller, conversation_id: str
) -> ConversationRecord:
    record = await registry.store.conversation(caller, conversation_id)
    if record is None:
        raise _none()
    return record


async def _last_run(
    registry: AgentRegistry, caller: Caller, found: list[StoredMessage]
) -> RunOutcome | None:
    run_id = found[-1].run_id if found else None
    if run_id is None:
        return None
    try:
        info = run_info(await registry.run(caller, run_id))
    except NotFound:
        return None
    return RunOutcome.model_validate(info, from_attributes=True)


def _none() -> NoSuchConversation:
    return NoSuchConversation("There is no conversation of this id.")


async def _view(
    registry: AgentRegistry, caller: Caller, record: ConversationRecord
) -> ConversationView:
    active, waiting = await _under_way(registry, caller, record.id)
    branched = record.branched_from
    return ConversationView(
        conversation_id=record.id,
        title=record.title,
        metadata=record.metadata,
        created_at=record.created_at,
        updated_at=record.updated_at,
        message_count=record.message_count,
        branched_from=BranchPoint(conversation_id=branched[0], message_id=branched[1])
        if branched
        else None,
        agent=record.agent,
        active_run_id=active,
        waiting=waiting,
    )


async def _under_way(
    registry: AgentRegistry, caller: Caller, conversation_id: str
) -> tuple[str | None, list[WaitingMessage]]:
    """Return the run that has begun, if one has, and the messages that are not stored yet."""
    runs = await registry.open_runs(caller, conversation_id)
    active = next((run.id for run in runs if run.stored.status == "running"), None)
    waiting = [
        WaitingMessage(run_id=run.id, message=run.request.text or None)
        for run in runs
        if run.stored.status == "queued"
    ]
    return active, waiting
