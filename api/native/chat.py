"""`POST /chat` and `POST /chat/stream`: start a run, and read it whole or as it comes.

Going away ends the reading and not the run: `GET /runs/{run_id}/events` goes on with it, and
`POST /runs/{run_id}/cancel` ends it.

`/chat/stream` has two bodies: one with `message`, and one with `input`, which is that of every
agent's `/stream` and answered as there.
"""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Discriminator, Tag
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.keys import IdempotencyKey
from api.http.services import (
    Protocol,
    Registry,
    RemembersSessions,
    StreamSettings,
    whole_answer,
)
from api.sessions import InputRequest, start_input
from models import ChatRequest, ChatResponse

router = APIRouter(tags=["chat"])


def _kind(body: Any) -> str:
    has_input = isinstance(body, dict) and "input" in body and "message" not in body
    return "<input>" if has_input else "<message>"


ChatBody = Annotated[
    Annotated[ChatRequest, Tag("<message>")] | Annotated[InputRequest, Tag("<input>")],
    Discriminator(_kind),
]


@router.post("/chat/stream", response_class=Response, responses=EVENT_STREAM | PROBLEMS)
async def stream_chat(
    chat: ChatBody,
    registry: Registry,
    streaming: StreamSettings,
    remembers: RemembersSessions,
    protocol: Protocol,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send a message and get the answer as server-sent events."""
    if isinstance(chat, InputRequest):
        run = await start_input(registry, "chat", chat, idempotency_key, remembers)
        default = "agents-sdk"
    else:
        run = await registry.start(chat, idempotency_key)
        default = streaming.chat_protocol
    return streaming.response(run.id, await registry.read(run.id), protocol or default)


@router.post("/chat", response_model=ChatResponse, responses=PROBLEMS)
async def chat(
    chat: ChatRequest, registry: Registry, idempotency_key: IdempotencyKey = None
) -> Response:
    """Send a message and get the whole answer."""
    return await whole_answer(registry, await registry.start(chat, idempotency_key))
