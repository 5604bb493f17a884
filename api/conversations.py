"""`/conversations`: what was said, and going on from any point of it."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse
from starlette.responses import PlainTextResponse, Response

from api.documents import EVENT_STREAM, PROBLEMS
from api.keys import IdempotencyKey
from api.services import OwnerOfQuery, Protocol, Registry, StreamSettings, whole_answer
from models import (
    ID_PATTERN,
    AssistantMessage,
    BranchPoint,
    ChatResponse,
    ConversationChange,
    ConversationDetail,
    ConversationPage,
    ConversationView,
    Edit,
    EditRequest,
    MessageView,
    Owner,
    RegenerateRequest,
    RunOptions,
    SearchHit,
    SearchResult,
    ToolMessage,
)
from registry import AgentRegistry
from storage import ConversationRecord, NoSuchConversation, StoredMessage

router = APIRouter(tags=["conversations"], responses=PROBLEMS)

QUIET_PATIENCE = 5.0
"""Seconds that a deletion waits for the end of the runs that it cancels."""

ConversationId = Annotated[str, Path(pattern=ID_PATTERN)]


async def _regeneration(
    conversation_id: ConversationId, options: RunOptions | None = None
) -> RegenerateRequest:
    fields = (options or RunOptions()).model_dump(exclude={"conversation_id"})
    return RegenerateRequest(**fields, conversation_id=conversation_id)


Regeneration = Annotated[RegenerateRequest, Depends(_regeneration)]


@router.get("/conversations")
async def list_conversations(
    registry: Registry,
    owner: OwnerOfQuery,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(max_length=500, description="`next` of a page.")] = None,
) -> ConversationPage:
    """List conversations, the one that changed last first."""
    records, following = await registry.store.conversations(owner, limit=limit, before=before)
    return ConversationPage(
        conversations=[_view(registry, owner, record) for record in records], next=following
    )


@router.get("/search")
async def search(
    registry: Registry,
    owner: OwnerOfQuery,
    q: Annotated[str, Query(min_length=1, max_length=1000, description="Words; all must occur.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> SearchResult:
    """Find words in titles and texts of conversations; the last one may be a beginning."""
    hits = await registry.store.search(owner, q, limit=limit)
    return SearchResult(hits=[SearchHit.model_validate(hit, from_attributes=True) for hit in hits])


@router.get("/conversations/{conversation_id}")
async def get_conversation(
    conversation_id: ConversationId,
    registry: Registry,
    owner: OwnerOfQuery,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    before: Annotated[str | None, Query(pattern=ID_PATTERN, description="A message's id.")] = None,
) -> ConversationDetail:
    """Show a conversation with its newest messages, or those before one of them."""
    record = await _found(registry, owner, conversation_id)
    found = await registry.store.messages(owner, conversation_id, limit=limit + 1, before=before)
    return ConversationDetail(
        **_view(registry, owner, record).model_dump(),
        messages=[_message(message) for message in found[-limit:]],
        has_more=len(found) > limit,
    )


@router.patch("/conversations/{conversation_id}")
async def change_conversation(
    conversation_id: ConversationId,
    change: ConversationChange,
    registry: Registry,
    owner: OwnerOfQuery,
) -> ConversationView:
    """Set the title, or the metadata as a whole."""
    record = await registry.store.update(
        owner, conversation_id, title=change.title, metadata=change.metadata
    )
    if record is None:
        raise _none()
    return _view(registry, owner, record)


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(
    conversation_id: ConversationId, registry: Registry, owner: OwnerOfQuery
) -> dict[str, str]:
    """Delete a conversation for good; a run in it is cancelled."""
    await registry.quiet(owner, conversation_id, QUIET_PATIENCE)
    if not await registry.store.delete(owner, conversation_id):
        raise _none()
    return {"status": "deleted"}


@router.get(
    "/conversations/{conversation_id}/stream",
    response_class=Response,
    responses=EVENT_STREAM | {204: {"description": "No run is under way."}},
)
async def join_conversation(
    conversation_id: ConversationId,
    registry: Registry,
    owner: OwnerOfQuery,
    streaming: StreamSettings,
    protocol: Protocol,
) -> Response:
    """Follow the run that is under way, from its start."""
    run = registry.active_run(owner, conversation_id)
    if run is None:
        await _found(registry, owner, conversation_id)
        return Response(status_code=204)
    await run.accepted.wait()
    return streaming.response(run.id, await registry.read(run.id), protocol or "events")


@router.get(
    "/conversations/{conversation_id}/export",
    response_class=Response,
    responses={200: {"model": ConversationDetail, "content": {"text/markdown": {}}}},
)
async def export_conversation(
    conversation_id: ConversationId,
    registry: Registry,
    owner: OwnerOfQuery,
    format: Literal["json", "markdown"] = "json",
) -> Response:
    """Download a whole conversation."""
    record = await _found(registry, owner, conversation_id)
    found = await registry.store.messages(owner, conversation_id)
    extension = "json" if format == "json" else "md"
    headers = {"Content-Disposition": f'attachment; filename="{conversation_id}.{extension}"'}
    if format == "markdown":
        text = _markdown(record, found)
        return PlainTextResponse(text, media_type="text/markdown", headers=headers)
    detail = ConversationDetail(
        **_view(registry, owner, record).model_dump(),
        messages=[_message(message) for message in found],
        has_more=False,
    )
    return JSONResponse(detail.model_dump(mode="json"), headers=headers)


@router.post("/conversations/{conversation_id}/regenerate", response_model=ChatResponse)
async def regenerate(
    request: Regeneration, registry: Registry, idempotency_key: IdempotencyKey = None
) -> Response:
    """Drop what followed the last message of a conversation, and answer it anew."""
    return await whole_answer(registry, await registry.start(request, idempotency_key))


@router.post(
    "/conversations/{conversation_id}/regenerate/stream",
    response_class=Response,
    responses=EVENT_STREAM,
)
async def stream_regeneration(
    request: Regeneration,
    registry: Registry,
    streaming: StreamSettings,
    protocol: Protocol,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer the last message of a conversation anew, as it comes."""
    run = await registry.start(request, idempotency_key)
    return streaming.response(run.id, await registry.read(run.id), protocol or "events")


@router.post("/conversations/{conversation_id}/edit", response_model=ChatResponse)
async def edit(
    conversation_id: ConversationId,
    change: Edit,
    registry: Registry,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put another message in the place of an earlier one, in a conversation branched off there."""
    run = await registry.start(_edit(conversation_id, change), idempotency_key)
    return await whole_answer(registry, run)


@router.post(
    "/conversations/{conversation_id}/edit/stream",
    response_class=Response,
    responses=EVENT_STREAM,
)
async def stream_edit(
    conversation_id: ConversationId,
    change: Edit,
    registry: Registry,
    streaming: StreamSettings,
    protocol: Protocol,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """The same, as the answer comes; `chat_start` names the new conversation."""
    run = await registry.start(_edit(conversation_id, change), idempotency_key)
    return streaming.response(run.id, await registry.read(run.id), protocol or "events")


def _edit(conversation_id: str, change: Edit) -> EditRequest:
    fields = change.model_dump(exclude={"conversation_id"})
    return EditRequest(**fields, conversation_id=conversation_id)


async def _found(registry: AgentRegistry, owner: Owner, conversation_id: str) -> ConversationRecord:
    record = await registry.store.conversation(owner, conversation_id)
    if record is None:
        raise _none()
    return record


def _none() -> NoSuchConversation:
    return NoSuchConversation("There is no conversation of this id.")


def _view(registry: AgentRegistry, owner: Owner, record: ConversationRecord) -> ConversationView:
    run = registry.active_run(owner, record.id)
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
        active_run_id=run.id if run else None,
    )


def _message(stored: StoredMessage) -> MessageView:
    message = stored.message
    view = MessageView(
        id=stored.id,
        role=str(message.__struct_config__.tag),
        content=message.content,
        created_at=stored.created_at,
        run_id=stored.run_id,
    )
    if isinstance(message, AssistantMessage) and message.tool_calls:
        view.tool_calls = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        view.tool_call_id, view.name = message.tool_call_id, message.name
        view.is_error = message.is_error
    return view


def _markdown(record: ConversationRecord, found: Sequence[StoredMessage]) -> str:
    """Return a conversation for people: who said what; tools by their name and result.

    What was said stands in block quotes, whose end ends every fence and heading in them
    (CommonMark 0.31, 5.1), so that no text can pass for another's.
    """
    parts = [f"# {' '.join((record.title or record.id).split())}"]
    for stored in found:
        message = stored.message
        when = f"{stored.created_at:%Y-%m-%d %H:%M} UTC"
        if isinstance(message, ToolMessage):
            fence = _fence(message.content, 3)
            tick = _fence(message.name, 1)
            name = " ".join(message.name.split())
            parts.append(f"**Tool {tick} {name} {tick}** ({when})")
            parts.append(f"{fence}\n{message.content}\n{fence}")
        elif message.content:
            who = "Assistant" if isinstance(message, AssistantMessage) else "User"
            parts.append(f"**{who}** ({when})")
            parts.append("\n".join(f"> {line}" for line in _LINE_END.split(message.content)))
    return "\n\n".join(parts) + "\n"


_LINE_END = re.compile(r"\r\n|\r|\n")


def _fence(text: str, least: int) -> str:
    """Return more backticks than stand together anywhere in a text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
