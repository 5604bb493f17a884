"""What a request asks for: whose run it is, which conversation it goes into, and how.

Requests are stored with their runs as JSON, so that a run can be taken up again after a crash.
"""

from collections.abc import Sequence

import msgspec

from models import (
    ChatRequest,
    Completion,
    EditRequest,
    Message,
    Owner,
    RegenerateRequest,
    RunRequest,
    UserMessage,
)
from storage import Begin, Entry


def owner_of(request: RunRequest) -> Owner:
    """Return whose conversation a request is about."""
    return Owner(user=request.user_id) if request.user_id else Owner()


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

    That is nothing, except for whoever asked for a completion: what they wanted to find again.
    """
    if not isinstance(request, Completion):
        return ""
    rest = msgspec.structs.replace(request, messages=(), instructions="", tools=())
    return encoded(rest)


def decoded(said: str) -> RunRequest:
    """Return a stored request."""
    fields = msgspec.json.decode(said)
    if "completion" in fields:
        return msgspec.convert(fields["completion"], Completion)
    if "message_id" in fields:
        return EditRequest.model_validate(fields)
    kind = ChatRequest if "message" in fields else RegenerateRequest
    return kind.model_validate(fields)
