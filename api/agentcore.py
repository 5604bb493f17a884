"""`POST /invocations` and `GET /ping`: the contract of an AWS Bedrock AgentCore runtime.

The platform, or a client of it, talks to a container that listens on `HOST=0.0.0.0` and
`PORT=8080`. This follows "HTTP protocol contract" of the AgentCore developer guide, and
`BedrockAgentCoreApp` of its SDK; `/ws` is `api.native.socket`. Both routes also exist under
`/runtimes/{arn}`, for any ARN: the platform's clients expect them there, so a client can use this
service as its endpoint, without the platform.

* **The payload** is JSON, whatever its `Content-Type` is. The question is in exactly one of
  `prompt`, `message`, `input` and `messages`: a text, or a list of messages of which the last is
  the user's and the others are earlier messages. A payload that is a text or a list is an `input`.
  Its other fields are those of `/chat`.
* **The session** of the header is the conversation; in a signed URL it is in the query. A session
  id of the platform has up to 256 characters. A conversation id has up to 128, of fewer kinds: a
  session id that is not a valid conversation id becomes `session_<SHA-256>`. User ids likewise
  (1024 characters, `user_<SHA-256>`). The headers take precedence over the payload, because the
  platform vouches for them. Without a session there is no memory.
* **The answer** is that of `/chat` with `result`, `status` and `session_id`, or an event stream
  if `Accept` names one and does not prefer JSON. The answer has both id headers of the request.
* **A failure** is `{"error": title, "details": text}` if the caller can correct it, and
  `{"error": text}` if not. `message` is the text in both, because AWS's SDKs show it; `code` and
  `retryable` are for programs. An invalid payload is a 400.
* **A stream that fails** ends in one frame that is both the native `error` event and the
  platform's `{"error", "error_type", "message"}`. With another protocol (`?protocol=`), it ends
  with the error of that protocol.
* **A ping** is answered on the event loop, which no tool can block. As in the SDK, its time
  changes when a ping finds another status than the one before.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.http.documents import EVENT_STREAM
from api.http.payloads import (
    QUESTIONS,
    SESSION_HEADER,
    Session,
    chat_fields,
    invalid,
    session_of,
)
from api.http.problems import validation_faults
from api.http.requests import of_message
from api.http.services import Protocol, Registry, StartRuns, json_response
from errors import ClientError, Invalid, ParleyError, run_status
from events import ReaderEvent, RunError, Suspended
from models import ChatRequest, ChatResponse
from protocols.native import EventsEncoder

REQUEST_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id"

_TITLES = {
    "invalid_json": "Invalid JSON",
    "invalid_encoding": "Invalid encoding",
    "invalid_value": "Invalid payload",
}

_CODES = {413: "too_large", 503: "unavailable"}

logger = logging.getLogger("parley.api")


class Invoked(ChatResponse):
    """A whole answer: the fields of `/chat`, and those of an AgentCore runtime."""

    result: str
    status: Literal["success"] = "success"
    session_id: str | None


class FailedInvocation(BaseModel):
    """A failure, with `details` if the caller can correct it."""

    error: str
    details: str | None = None
    message: str
    code: str
    retryable: bool


class StreamError(RunError, frozen=True, kw_only=True, tag="error"):
    """The native `error` event with the fields of the platform's."""

    error: str
    error_type: str


class InvocationEncoder(EventsEncoder):
    """The native events, the last of a failed run in both shapes."""

    def encode(self, event: ReaderEvent) -> bytes:
        if isinstance(event, Suspended):  # callers of a runtime do not come back
            event = event.as_error()
        if isinstance(event, RunError):
            event = StreamError(
                run_id=event.run_id,
                seq=event.seq,
                code=event.code,
                message=event.message,
                retryable=event.retryable,
                error=event.message,
                error_type=event.code,
            )
        return super().encode(event)


class InvocationRoute(APIRoute):
    """A route whose every failure has the platform's shape, and that returns the caller's ids."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_invocation(request: Request) -> Response:
            try:
                response = await handle(request)
            except (ParleyError, RequestValidationError, HTTPException, ClientDisconnect) as error:
                response = _refusal(error)
            except Exception:  # whatever went wrong, the caller reads this surface's shape
                logger.exception("%s %s failed", request.method, request.url.path)
                text = "The service made a mistake; it has been logged."
                response = _failure(500, text, "internal_error")
            response.headers.update(_ids(request))
            return response

        return handle_invocation


def _ids(request: Request) -> dict[str, str]:
    """Return the headers of ids for a response: a session as sent, a request also if it is new."""
    request_id = request.headers.get(REQUEST_HEADER) or str(uuid4())
    session = request.headers.get(SESSION_HEADER)
    return {REQUEST_HEADER: request_id} | ({SESSION_HEADER: session} if session else {})


def _refusal(error: Exception) -> JSONResponse:
    match error:
        case ParleyError():
            status = 400 if isinstance(error, Invalid) else error.status
            faults = error.errors if isinstance(error, Invalid) else []
            texts = [f"{fault['field']}: {fault['message']}" for fault in faults[:5]]
            response = _failure(
                status, "; ".join(texts) or error.message, error.code, retryable=error.retryable
            )
            if error.retry_after is not None:
                response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
            return response
        case RequestValidationError():
            text = "; ".join(f"{f['field']}: {f['message']}" for f in validation_faults(error))
            return _failure(400, text, "invalid_value")
        case HTTPException():
            code = _CODES.get(error.status_code, "invalid_request")
            response = _failure(
                error.status_code, str(error.detail), code, retryable=error.status_code == 503
            )
            response.headers.update(error.headers or {})
            return response
        case _:
            return _failure(400, "The body is incomplete.", "invalid_request")


def _failure(status: int, text: str, code: str, *, retryable: bool = False) -> JSONResponse:
    title = _TITLES.get(code) or HTTPStatus(status).phrase
    failure = FailedInvocation(
        error=title if status < 500 else text,
        details=text if status < 500 else None,
        message=text,
        code=code,
        retryable=retryable,
    )
    return JSONResponse(failure.model_dump(exclude_none=True), status)


class PingStatus(BaseModel):
    """Whether there are active runs. `time_of_last_update`: since when, in Unix seconds."""

    status: Literal["Healthy", "HealthyBusy"]
    time_of_last_update: int


class Pulse:
    """What the last ping found, and since when it has been so."""

    def __init__(self) -> None:
        self._last = PingStatus(status="Healthy", time_of_last_update=int(time.time()))

    def beat(self, *, busy: bool) -> PingStatus:
        status: Literal["Healthy", "HealthyBusy"] = "HealthyBusy" if busy else "Healthy"
        if status != self._last.status:
            self._last = PingStatus(status=status, time_of_last_update=int(time.time()))
        return self._last


@asynccontextmanager
async def _with_pulse(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"pulse": Pulse()}


router = APIRouter(tags=["agentcore"], lifespan=_with_pulse, route_class=InvocationRoute)


async def _payload(request: Request) -> Any:
    """Return the body's JSON. `errors.ClientError`: it is none."""
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise ClientError(str(error), code="invalid_encoding") from None
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise ClientError(str(error), code="invalid_json") from None


def _wants_stream(accept: str) -> bool:
    """Tell whether an `Accept` header names an event stream and does not prefer JSON."""
    weights = {"text/event-stream": 0.0, "application/json": 0.0}
    for part in accept.lower().split(","):
        kind, _, parameters = part.partition(";")
        weight = re.search(r"\bq\s*=\s*([01](?:\.\d{0,3})?)", parameters)
        weights[kind.strip()] = float(weight[1]) if weight else 1.0
    stream = weights["text/event-stream"]
    return stream > 0 and stream >= weights["application/json"]


@router.post(
    "/invocations",
    response_model=Invoked,
    responses={
        200: {"content": EVENT_STREAM[200]["content"]},
        "default": {"description": "A failure.", "model": FailedInvocation},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"One of {', '.join(QUESTIONS)}, and any other field of `/chat`.",
            "content": {"application/json": {"schema": {}, "example": {"prompt": "Hello!"}}},
        }
    },
)
@router.post("/runtimes/{arn:path}/invocations", include_in_schema=False)
async def invoke(
    request: Request,
    runs: StartRuns,
    protocol: Protocol = None,
) -> Response:
    """Send a message to an agent; get JSON, or events with `Accept: text/event-stream`."""
    session = session_of(request)
    chat = _chat(await _payload(request), session, remembers=runs.remembers_sessions)
    wanted = of_message(chat, ephemeral=chat.conversation_id is None)
    if _wants_stream(request.headers.get("accept", "")):
        if protocol not in (None, "events"):
            return await runs.stream(wanted, protocol, user=chat.user_id)
        run = await runs.start(wanted, user=chat.user_id)
        reader = await runs.read(run)
        return runs.response(run.id, reader, InvocationEncoder(reader.epoch))
    run, result = await runs.result(wanted, user=chat.user_id)
    response = await _answer(result, session.sent or chat.conversation_id)
    response.headers["X-Run-Id"] = run.id
    return response


async def _answer(result: ChatResponse | RunError, session_id: str | None) -> JSONResponse:
    if isinstance(result, RunError):
        status = run_status(result.code)
        return _failure(status, result.message, result.code, retryable=result.retryable)
    invoked = Invoked(**result.model_dump(), result=result.response, session_id=session_id)
    return await json_response(invoked.model_dump(mode="json"), 2 * len(result.response))


def _chat(payload: Any, session: Session, *, remembers: bool) -> ChatRequest:
    fields = chat_fields(payload, session)
    if not remembers:
        fields["conversation_id"] = None
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from None


@router.get("/ping")
async def ping(request: Request, registry: Registry) -> PingStatus:
    """Show whether there are active runs."""
    pulse: Pulse = request.state.pulse
    return pulse.beat(busy=registry.active_runs > 0)
