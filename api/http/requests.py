"""The service's own bodies as `RunRequest`s."""

from typing import TypedDict

from messages import SystemMessage, UserMessage
from models import AnswerOptions, ChatRequest, EditRequest, IfBusy, RegenerateRequest
from runs.request import RunRequest


class _Options(TypedDict):
    parallel_tools: bool
    memory: bool | None
    if_busy: IfBusy


def of_message(chat: ChatRequest, *, ephemeral: bool = False) -> RunRequest:
    """Return a message to an agent.

    Args:
        ephemeral: its conversation serves this run only.
    """
    before = [prior.message() for prior in chat.history]
    return RunRequest(
        messages=(UserMessage(chat.message),),
        history=tuple(each for each in before if not isinstance(each, SystemMessage)),
        instructions=tuple(each.content for each in before if isinstance(each, SystemMessage)),
        conversation_id=chat.conversation_id,
        ephemeral=ephemeral,
        reset=chat.reset_history,
        agent=chat.agent,
        **_options(chat),
    )


def of_edit(edit: EditRequest) -> RunRequest:
    """Return the request to replace an earlier message, in a new conversation."""
    return RunRequest(
        messages=(UserMessage(edit.message),),
        branch=(edit.conversation_id, edit.message_id),
        agent=edit.agent,
        **_options(edit),
    )


def of_regeneration(wish: RegenerateRequest) -> RunRequest:
    return RunRequest(
        conversation_id=wish.conversation_id,
        must_exist=True,
        regenerates=True,
        agent=wish.agent,
        **_options(wish),
    )


def _options(body: AnswerOptions) -> _Options:
    return {
        "parallel_tools": body.parallel_tools,
        "memory": body.memory,
        "if_busy": body.if_busy,
    }
