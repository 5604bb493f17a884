"""What a request asks for: whose run it is, which conversation it goes into, and how.

Requests are stored with their runs as JSON, so that a run can be taken up again after a crash.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from caller import Caller
from errors import ParleyError
from messages import AS_CONFIGURED, Message, UserMessage
from models import ChatRequest, Completion, EditRequest, RegenerateRequest, RunRequest
from storage import UNREADABLE, Begin, Entry


def owner_of(request: RunRequest) -> Caller:
    """Return whose conversation a request is about."""
    return Caller("open", request.user_id or "default")


def place_of(request: RunRequest) -> str | None:
    """Return the conversation that a request goes into, where it names one that may be there."""
    match request:
        case ChatRequest() | RegenerateRequest():
            return request.conversation_id
        case EditRequest() | Completion():
            return None


def entry_of(request: RunRequest, *, ephemeral: bool) -> Entry:
    """Return how a run comes into its conversation.

    Args:
        ephemeral: for a message: its conversation serves this run only.
    """
    match request:
        case ChatRequest():
            return Entry(ephemeral=ephemeral)
        case EditRequest():
            return Entry(branch=(request.conversation_id, request.message_id))
        case RegenerateRequest():
            return Entry(must_exist=True)
        case Completion():
            return Entry(
                ephemeral=True, branch=(request.follows, None) if request.follows else None
            )


def begin_of(request: RunRequest) -> Begin:
    """Return what a run does to its conversation when it gets the floor."""
    match request:
        case ChatRequest():
            said = UserMessage(request.message)
            return Begin(messages=(said,), reset=request.reset_history)
        case EditRequest():
            return Begin(messages=(UserMessage(request.message),))
        case RegenerateRequest():
            return Begin()
        case Completion():
            return Begin(messages=request.messages if request.is_kept else ())


def text_of(request: RunRequest) -> str:
    """Return the text that a person typed for this request; what was said before is none."""
    match request:
        case ChatRequest() | EditRequest():
            return request.message
        case RegenerateRequest():
            return ""
        case Completion():
            return last_said(request.messages)


def last_said(messages: Sequence[Message]) -> str:
    """Return the last text of a user."""
    said = (each.content for each in reversed(messages) if isinstance(each, UserMessage))
    return next(said, "")


def encoded(request: RunRequest) -> str:
    """Return a request as it is stored; the same requests make the same text."""
    if isinstance(request, Completion):
        return msgspec.json.encode({"completion": request}).decode()
    return request.model_dump_json(exclude_defaults=True, exclude={"idempotency_key"})


def remains_of(request: RunRequest) -> str:
    """Return what is stored of a request when its run has ended.

    That is nothing, except of a completion that can be gone on with: what its client wants to find
    again.
    """
    if not isinstance(request, Completion) or not request.is_kept:
        return ""
    rest = msgspec.structs.replace(
        request, messages=(), instructions="", tools=(), options=AS_CONFIGURED
    )
    return encoded(rest)


def is_passing(request: RunRequest) -> bool:
    """Tell whether nothing of an exchange is to stay behind its run but the run's outcome."""
    return isinstance(request, Completion) and not request.is_kept


def decoded(said: str) -> RunRequest:
    """Return a stored request.

    Raises:
        errors.ParleyError: it was stored by another version, and says nothing here.
    """
    try:
        return _decoded(msgspec.json.decode(said, type=dict[str, Any]))
    except (msgspec.MsgspecError, ValidationError):
        raise ParleyError(UNREADABLE, code="interrupted") from None


def _decoded(fields: dict[str, Any]) -> RunRequest:
    if "completion" in fields:
        return msgspec.convert(fields["completion"], Completion)
    if "message_id" in fields:
        return EditRequest.model_validate(fields)
    kind = ChatRequest if "message" in fields else RegenerateRequest
    return kind.model_validate(fields)
