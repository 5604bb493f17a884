"""`/ws`: several chats at a time on one socket, in the service's own protocol.

A client's message is `{"type", "request_id"?, "data"?}`. What the service sends in answer to
it has the same `request_id`, so that a client can tell its chats apart. Invalid content gets an
`error` message and the socket stays open; only a framing error closes it. Each subscription has
a task that reads the run and sends its events. The socket owns these tasks: when it closes, they
end, and the runs go on.

A client of an AgentCore runtime brings its session and user, see `api.agentcore`: the session is
the conversation of the socket's chats, the user that of all its messages. What such a client
sends, an object without `type` that holds a question, is a `chat`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.http.documents import PROBLEMS
from api.http.identity import caller_of
from api.http.payloads import Session, asks, chat_fields, session_of
from api.http.problems import refusal, validation_faults
from api.http.requests import of_edit, of_message, of_regeneration
from api.http.streams import WriteTimeout, cut_off, offer_of
from caller import Caller
from errors import ClientError, Conflict, Invalid, NotFound, ParleyError, TooLarge, TooMany
from events import Suspended
from hub import Reader
from messages import new_id
from models import TEXT, ChatRequest, EditRequest, Identifier, RegenerateRequest
from protocols.native import WebSocketEncoder
from runs.registry import AgentRegistry
from runs.request import RunRequest

logger = logging.getLogger("parley.api")

TOO_SLOW = 1013
"""The close code for a client that accepts no data: try again later (IANA registry)."""

RESTARTS = 1012
"""The close code of a service that restarts (IANA registry)."""

router = APIRouter(tags=["websocket"])

Key: TypeAlias = Annotated[str, Field(min_length=1, max_length=255), TEXT] | None
"""A caller's name for a request; over HTTP a header, which cannot hold what no store takes."""


class SocketChat(ChatRequest):
    """`chat`: as over HTTP, with the idempotency key in the message."""

    idempotency_key: Key = None


class SocketRegeneration(RegenerateRequest):
    """`regenerate`: likewise."""

    idempotency_key: Key = None


class SocketEdit(EditRequest):
    """`edit`: likewise."""

    idempotency_key: Key = None


class RunReference(BaseModel):
    """`cancel`, `unsubscribe`."""

    run_id: Identifier


class ToolCallReference(RunReference):
    """`cancel_tool`."""

    tool_call_id: Annotated[str, Field(max_length=200)]


class Subscription(RunReference):
    """`subscribe`."""

    after: Annotated[str, Field(max_length=200)] | int | None = None


_RequestId = TypeAdapter(Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,256}$")] | None)

RESERVED = ("tool_result", "approve", "deny")
"""Messages of the protocol that no agent expects yet."""


class SocketLimits(NamedTuple):
    """The bounds of one socket.

    `max_bytes` of one message of the client, `max_chats` runs that it may follow at a time,
    `write_timeout` in seconds for one send.
    """

    max_bytes: int
    max_chats: int
    write_timeout: float


class _Restart(Exception):
    """A run that the client follows is suspended: it has to come back after the restart."""


class Socket:
    def __init__(
        self,
        websocket: WebSocket,
        registry: AgentRegistry,
        limits: SocketLimits,
        caller: Caller,
        session: Session,
    ) -> None:
        self._websocket = websocket
        self._registry = registry
        self._limits = limits
        self._caller = caller
        self._session = session
        self._conversation_id = session.conversation_id or new_id("conv")
        self._following: dict[asyncio.Task[None], tuple[str, str | None]] = {}

    async def serve(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a socket is served by a task")
        await self._websocket.accept()
        self._writing = WriteTimeout(self._limits.write_timeout, task)
        self._tick()
        try:
            await self._serve_all()
        except asyncio.CancelledError:
            if not self._writing.exceeded or task.uncancel() > 0:
                raise
            logger.info(
                "A socket took nothing for %g s and was cut off", self._limits.write_timeout
            )
            with suppress(TimeoutError, WebSocketDisconnect):
                async with asyncio.timeout(1):
                    await self._websocket.close(TOO_SLOW, "too slow; resume with subscribe")
            await cut_off(self._websocket.scope)
        finally:
            self._timer.cancel()

    async def _serve_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._receive_all()
                for following in self._following:
                    following.cancel()
        except* WebSocketDisconnect:
            logger.debug("A client left in the middle of a message")
        except* _Restart:
            with suppress(WebSocketDisconnect):
                await self._websocket.close(RESTARTS, "the service restarts; subscribe again")

    def _tick(self) -> None:
        self._writing.check()
        self._timer = asyncio.get_running_loop().call_later(
            self._limits.write_timeout / 2, self._tick
        )

    async def _receive_all(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            request_id: str | None = None
            try:
                kind, request_id, data = self._parsed(message.get("text"))
                handler = Socket._invoke if kind is None else _HANDLERS.get(kind)
                if handler is None:
                    known = ", ".join(_HANDLERS)
                    text = f"Unknown message type. Known types: {known}."
                    raise ClientError(text, code="unknown_type")
                await handler(self, data, request_id)
            except ValidationError as error:
                await self._send_error(_invalid(error), request_id)
            except ParleyError as error:
                await self._send_error(error, request_id)

    def _parsed(self, text: str | None) -> tuple[str | None, str | None, Any]:
        """Return a message's type, request and data; without a type all of it is the data."""
        if text is None:
            raise ClientError("Messages must be text, not binary.")
        if len(text.encode()) > self._limits.max_bytes:
            raise TooLarge(f"A message may have at most {self._limits.max_bytes} bytes.")
        try:
            message = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            raise ClientError("The message is not valid JSON.", code="invalid_json") from None
        kind = _kind(message)
        request_id = _RequestId.validate_python(message.get("request_id"))
        data = message if kind is None else message.get("data")
        if self._session.user_id is not None and isinstance(data, dict):
            data["user_id"] = self._session.user_id
        return kind, request_id, data

    async def _invoke(self, payload: Any, request_id: str | None) -> None:
        await self._chat(chat_fields(payload, self._session), request_id)

    async def _chat(self, data: Any, request_id: str | None) -> None:
        chat = SocketChat.model_validate(data)
        self._check_room()
        own = self._conversation_id
        if chat.conversation_id is None and chat.reset_history and self._session.sent is None:
            own = new_id("conv")
        caller, key = self._caller.named(chat.user_id), chat.idempotency_key
        run = await self._registry.start(caller, of_message(chat), key, conversation_id=own)
        self._conversation_id = own
        self._follow(run.id, await self._registry.read(caller, run.id), request_id)

    async def _regenerate(self, data: Any, request_id: str | None) -> None:
        wish = SocketRegeneration.model_validate(data)
        await self._start(of_regeneration(wish), wish, request_id)

    async def _edit(self, data: Any, request_id: str | None) -> None:
        edit = SocketEdit.model_validate(data)
        await self._start(of_edit(edit), edit, request_id)

    async def _start(
        self,
        request: RunRequest,
        body: SocketRegeneration | SocketEdit,
        request_id: str | None,
    ) -> None:
        self._check_room()
        caller = self._caller.named(body.user_id)
        run = await self._registry.start(caller, request, body.idempotency_key)
        self._follow(run.id, await self._registry.read(caller, run.id), request_id)

    async def _subscribe(self, data: Any, request_id: str | None) -> None:
        wish = Subscription.model_validate(data)
        self._check_room()
        if (wish.run_id, request_id) in self._following.values():
            text = "This request_id already follows the run; another request_id may follow it too."
            raise Conflict(text, code="already_subscribed")
        after = None if wish.after is None else str(wish.after)
        reader = await self._registry.read(self._caller, wish.run_id, after)
        await self._send("ack", request_id, {"type": "subscribe", "run_id": wish.run_id})
        self._follow(wish.run_id, reader, request_id)

    async def _unsubscribe(self, data: Any, request_id: str | None) -> None:
        run_id = RunReference.model_validate(data).run_id
        following = [task for task, (run, _) in self._following.items() if run == run_id]
        if not following:
            raise NotFound("This socket does not follow the run.", code="not_subscribed")
        for task in following:
            task.cancel()
            del self._following[task]
        await self._send("ack", request_id, {"type": "unsubscribe", "run_id": run_id})

    async def _cancel(self, data: Any, request_id: str | None) -> None:
        run_id = RunReference.model_validate(data).run_id
        await self._registry.cancel(self._caller, run_id)
        await self._send("ack", request_id, {"type": "cancel", "run_id": run_id})

    async def _cancel_tool(self, data: Any, request_id: str | None) -> None:
        call = ToolCallReference.model_validate(data)
        await self._registry.cancel_call(self._caller, call.run_id, call.tool_call_id)
        await self._send("ack", request_id, {"type": "cancel_tool", **call.model_dump()})

    async def _ping(self, data: Any, request_id: str | None) -> None:
        await self._send("pong", request_id, {})

    async def _reserved(self, data: Any, request_id: str | None) -> None:
        raise ClientError("No agent of this service expects this message.", code="not_expected")

    def _check_room(self) -> None:
        if len(self._following) >= self._limits.max_chats:
            raise TooMany(f"One socket follows at most {self._limits.max_chats} runs at a time.")

    def _follow(self, run_id: str, reader: Reader, request_id: str | None) -> None:
        if (run_id, request_id) in self._following.values():
            return
        task = self._tasks.create_task(self._send_run(reader, request_id))
        self._following[task] = (run_id, request_id)
        task.add_done_callback(lambda ended: self._following.pop(ended, None))

    async def _send_run(self, reader: Reader, request_id: str | None) -> None:
        encode = WebSocketEncoder(reader.epoch, request_id).encode
        offer = offer_of(self._websocket.scope, encode)
        try:
            while not reader.ended:
                for event in await reader.read(offer):
                    if isinstance(event, Suspended):
                        raise _Restart
                    await self._send_text(encode(event).decode())
        except ParleyError as error:
            await self._send_error(error, request_id)

    async def _send(self, kind: str, request_id: str | None, data: dict[str, Any]) -> None:
        message: dict[str, Any] = {"type": kind}
        if request_id is not None:
            message["request_id"] = request_id
        message["data"] = data
        await self._send_text(msgspec.json.encode(message).decode())

    async def _send_text(self, text: str) -> None:
        self._writing.begin()
        try:
            await self._websocket.send_text(text)
        finally:
            self._writing.end()

    async def _send_error(self, error: ParleyError, request_id: str | None) -> None:
        data: dict[str, Any] = {
            "event_type": "error",
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
        }
        if isinstance(error, Invalid) and error.errors:
            data["errors"] = error.errors
        if error.retry_after is not None:
            data["retry_after"] = error.retry_after
        await self._send("error", request_id, data)


_HANDLERS: Mapping[str, Callable[[Socket, Any, str | None], Awaitable[None]]] = {
    "chat": Socket._chat,
    "regenerate": Socket._regenerate,
    "edit": Socket._edit,
    "cancel": Socket._cancel,
    "cancel_tool": Socket._cancel_tool,
    "subscribe": Socket._subscribe,
    "unsubscribe": Socket._unsubscribe,
    "ping": Socket._ping,
} | dict.fromkeys(RESERVED, Socket._reserved)


def _kind(message: Any) -> str | None:
    """Return a message's type, or None for a payload that is no message."""
    if isinstance(message, dict):
        if isinstance(kind := message.get("type"), str):
            return kind
        if "type" not in message and asks(message):
            return None
    raise ClientError('A message must be an object: {"type": …, "request_id"?: …, "data"?: …}.')


def _invalid(error: ValidationError) -> Invalid:
    faults = validation_faults(error)
    text = "; ".join(f"{fault['field'] or 'data'}: {fault['message']}" for fault in faults[:5])
    return Invalid(text, errors=faults)


@router.get("/ws", status_code=101, response_class=Response, responses=PROBLEMS)
async def upgrade(request: Request) -> Response:
    """Open a WebSocket."""
    return refusal(
        request.scope,
        426,
        "This address needs a WebSocket connection (RFC 6455).",
        "upgrade_required",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


@router.websocket_route("/ws")
@router.websocket_route("/runtimes/{arn:path}/ws")
async def serve_socket(websocket: WebSocket) -> None:
    """Serve one connection."""
    state = websocket.app.state
    session = session_of(HTTPConnection(websocket.scope))
    if not state.remembers_sessions:
        session = session._replace(sent=None, conversation_id=None)
    caller = caller_of(websocket)
    await Socket(websocket, state.registry, state.socket_limits, caller, session).serve()
