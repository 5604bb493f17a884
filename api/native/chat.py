"""`POST /chat` and `POST /chat/stream`: start a run, and get the whole answer or a stream.

Disconnecting does not end the run: `GET /runs/{run_id}/events` continues reading it, and
`POST /runs/{run_id}/cancel` cancels it.

`/chat/stream` accepts two bodies: one with `message`, and one with `input`, which is the body of
every agent's `/stream` and is answered in the same way.
"""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Discriminator, Tag
from starlette.responses import Response

from api.http.direct import DirectRoute
from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.inputs import InputRequest, of_input
from api.http.requests import of_message
from api.http.services import Protocol, StartRuns
from models import ChatRequest, ChatResponse
from runs.agents import DEFAULT

router = APIRouter(tags=["chat"], route_class=DirectRoute)


def _kind(body: Any) -> str:
    has_input = isinstance(body, dict) and "input" in body and "message" not in body
    return "<input>" if has_input else "<message>"


ChatBody = Annotated[
    Annotated[ChatRequest, Tag("<message>")] | Annotated[InputRequest, Tag("<input>")],
    Discriminator(_kind),
]


@router.post("/chat/stream", response_class=Response, responses=EVENT_STREAM | PROBLEMS)
async def stream_chat(chat: ChatBody, runs: StartRuns, protocol: Protocol = None) -> Response:
    """Send a message and get the answer as server-sent events."""
    if isinstance(chat, InputRequest):
        request = of_input(chat, DEFAULT, remembers=runs.remembers_sessions)
        default = "agents-sdk"
    else:
        request = of_message(chat)
        default = runs.streaming.chat_protocol
    return await runs.stream(request, protocol or default, user=chat.user_id)


@router.post("/chat", response_model=ChatResponse, responses=PROBLEMS)
async def chat(chat: ChatRequest, runs: StartRuns) -> Response:
    """Send a message and get the whole answer."""
    return await runs.answer(of_message(chat), user=chat.user_id)
