"""`POST /chat` and `POST /chat/stream`: start a run, and read it whole or as it comes.

Going away ends the reading and not the run: `GET /runs/{run_id}/events` goes on with it, and
`POST /runs/{run_id}/cancel` ends it.
"""

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse
from starlette.responses import Response

from api.documents import EVENT_STREAM, PROBLEMS
from api.problems import run_failed
from api.services import Protocol, Registry, StreamSettings
from models import ChatRequest, ChatResponse
from protocols.answer import WholeAnswer

router = APIRouter(tags=["chat"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="The same key with the same body is the same run; with another body, 409.",
    ),
]


@router.post("/chat/stream", response_class=Response, responses=EVENT_STREAM | PROBLEMS)
async def stream_chat(
    chat: ChatRequest,
    registry: Registry,
    streaming: StreamSettings,
    protocol: Protocol,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send a message and get the answer as server-sent events."""
    run = await registry.start(chat, idempotency_key)
    reader = await registry.read(run.id)
    return streaming.response(run.id, reader, protocol)


@router.post("/chat", response_model=ChatResponse, responses=PROBLEMS)
async def chat(
    chat: ChatRequest, registry: Registry, idempotency_key: IdempotencyKey = None
) -> Response:
    """Send a message and get the whole answer."""
    run = await registry.start(chat, idempotency_key)
    reader = await registry.read(run.id)
    answer = WholeAnswer()
    while not reader.ended:
        for event in await reader.read():
            answer.add(event)
    headers = {"X-Run-Id": run.id}
    if isinstance(answer.result, ChatResponse):
        return JSONResponse(answer.result.model_dump(mode="json"), headers=headers)
    if answer.result is None:
        raise RuntimeError("a run's log ended without a terminal event")
    return run_failed(answer.result, headers)
