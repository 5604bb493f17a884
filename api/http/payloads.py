"""What callers of an AgentCore runtime send, over HTTP and over a WebSocket alike.

`api.agentcore` says what a payload and a session are.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from api.http.identity import id_of, user_named
from api.http.inputs import InputItem
from api.http.problems import validation_faults
from errors import ClientError, Invalid
from models import ID_PATTERN

SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
USER_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-User-Id"

QUESTIONS = ("prompt", "message", "input", "messages")
"""The fields of a payload that may hold the question."""

_Messages = TypeAdapter(Annotated[list[InputItem], Field(min_length=1, max_length=1000)])


class Session(NamedTuple):
    """The session of the headers or the query, as sent, and the conversation and user for it."""

    sent: str | None
    conversation_id: str | None
    user_id: str | None


def session_of(connection: HTTPConnection) -> Session:
    """Return the session of a request.

    Raises:
        errors.ClientError: an id is too long, or has invalid characters.
    """
    session = _sent(connection, SESSION_HEADER, 256)
    user = _sent(connection, USER_HEADER, 1024)
    return Session(
        session,
        id_of(session, "session", ID_PATTERN) if session else None,
        user_named(user) if user else None,
    )


def _sent(connection: HTTPConnection, name: str, longest: int) -> str | None:
    value = connection.headers.get(name) or connection.query_params.get(name)
    if value and not (value.isascii() and value.isprintable() and len(value) <= longest):
        raise ClientError(f"{name}: at most {longest} printable ASCII characters.")
    return value or None


def asks(payload: Mapping[str, Any]) -> bool:
    """Tell whether a payload has a field that may hold the question."""
    return any(name in payload for name in QUESTIONS)


def chat_fields(payload: Any, session: Session) -> dict[str, Any]:
    """Return a payload as the fields of a `ChatRequest`, not validated but for its messages.

    Raises:
        errors.Invalid: it holds no question or several, or messages that are none.
    """
    fields: Any = {"input": payload} if isinstance(payload, str | list) else payload
    asked = _question(fields)
    chat = {name: value for name, value in fields.items() if name not in QUESTIONS}
    if isinstance(fields[asked], list):
        chat |= _split(fields[asked], asked)
    else:
        chat["message"] = fields[asked]
    place = session.conversation_id or chat.get("session_id")
    known = {"conversation_id": place, "user_id": session.user_id}
    return chat | {name: value for name, value in known.items() if value is not None}


def _question(fields: Any) -> str:
    names = [name for name in QUESTIONS if fields.get(name)] if isinstance(fields, dict) else []
    if len(names) != 1 or not isinstance(fields[names[0]], str | list):
        raise Invalid(f"Send exactly one of {', '.join(QUESTIONS)}: a text or a list of messages.")
    return names[0]


def _split(messages: list[Any], name: str) -> dict[str, Any]:
    try:
        *before, last = [item.prior() for item in _Messages.validate_python(messages)]
    except ValidationError as error:
        raise invalid(error, name) from None
    if last.role != "user" or not last.content:
        text = "The last message must be a user message, and not empty."
        raise Invalid(text, errors=[{"field": name, "message": text}])
    return {"message": last.content, "history": [item.model_dump() for item in before]}


def invalid(error: ValidationError, within: str = "") -> Invalid:
    """Return a fault of a payload; its message names the first five fields at fault.

    Args:
        within: the member in which the fields are.
    """
    faults = validation_faults(error)
    for fault in faults:
        fault["field"] = ".".join(part for part in (within, fault["field"]) if part)
    text = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
    return Invalid(text, errors=faults)
