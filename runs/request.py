"""What a run is started with: one frozen value, which every surface builds from its own body.

A request is stored with its run as JSON, so that the run can go on after a crash. The JSON has a
`version`; `runs.older` reads what earlier versions stored.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from errors import Conflict, ParleyError
from messages import AS_CONFIGURED, Message, ModelOptions, ToolSpec, UserMessage
from models import IfBusy
from runs.older import upgraded
from storage import UNREADABLE, Begin, Entry

VERSION = 2


class RunRequest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="version",
    tag=VERSION,
):
    """What is asked for.

    Args:
        messages: what is added to the conversation when the run begins.
        history: what the model sees before them and the conversation does not keep, because the
            client does.
        instructions: system messages before all others, for this run only.
        conversation_id: the conversation that it goes into; None: a new one.
        must_exist: no conversation is made for it.
        branch: the new conversation begins as a copy of another one: its id, and the message of a
            user before which the copy ends; None: it is a whole copy.
        ephemeral: a new conversation serves this run only, and is not listed.
        reset: what was said in the conversation is forgotten first.
        regenerates: the answer takes the place of what follows the last message of the user.
        is_kept: the messages and the answer stay in the conversation. Otherwise nothing stays
            after the run but how it ended.
        is_whole: the client decides what the model sees; nothing of it is cut.
        agent: its name; None: the one that was last asked in the conversation.
        model: answers in the place of the agent's own.
        options: how it is to answer.
        tools: those that the client executes.
        parallel_tools: False: tool calls run one after another.
        memory: whether the user is remembered; None: as the agent is configured.
        if_busy: what to do while the conversation has a run under way.
        echo: what whoever asked wants to find again with the run.
    """

    messages: tuple[Message, ...] = ()
    history: tuple[Message, ...] = ()
    instructions: tuple[str, ...] = ()
    conversation_id: str | None = None
    must_exist: bool = False
    branch: tuple[str, str | None] | None = None
    ephemeral: bool = False
    reset: bool = False
    regenerates: bool = False
    is_kept: bool = True
    is_whole: bool = False
    agent: str | None = None
    model: str | None = None
    options: ModelOptions = AS_CONFIGURED
    tools: tuple[ToolSpec, ...] = ()
    parallel_tools: bool = True
    memory: bool | None = None
    if_busy: IfBusy = "enqueue"
    echo: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The last text of the user in the request; empty where an answer is regenerated."""
        return last_said(self.messages) or last_said(self.history)

    @property
    def begin(self) -> Begin:
        """What the run does to its conversation when its turn comes."""
        return Begin(messages=self.messages, reset=self.reset)

    @property
    def entry(self) -> Entry:
        return Entry(ephemeral=self.ephemeral, must_exist=self.must_exist, branch=self.branch)

    @property
    def is_found_again(self) -> bool:
        """Whether its client can ask for it again, with what it said, after its end."""
        return self.is_whole and self.is_kept

    def after_its_end(self) -> str:
        """Return what stays stored of the request when its run has ended."""
        if not self.is_found_again:
            return ""
        rest = msgspec.structs.replace(
            self, messages=(), history=(), instructions=(), tools=(), options=AS_CONFIGURED
        )
        return encoded(rest)


def last_said(messages: Sequence[Message]) -> str:
    said = (each.content for each in reversed(messages) if isinstance(each, UserMessage))
    return next(said, "")


def encoded(request: RunRequest) -> str:
    """Return a request as it is stored; the same requests make the same text."""
    return msgspec.json.encode(request).decode()


def fingerprint_of(request: RunRequest) -> bytes:
    """Return what a key stands for: the version of the request's form, and a hash of it.

    Whether its conversation is listed is its surface's business, and no part of it.
    """
    said = encoded(msgspec.structs.replace(request, ephemeral=False))
    return bytes([VERSION]) + hashlib.sha256(said.encode()).digest()


def check_same(before: bytes, fingerprint: bytes) -> None:
    """Raise `errors.Conflict` where an idempotency key was used for another request."""
    # What an older version's was made of cannot be compared; then the key counts.
    is_comparable = len(before) == len(fingerprint) and before[:1] == fingerprint[:1]
    if is_comparable and before != fingerprint:
        raise Conflict(
            "This idempotency key was used for another request.", code="idempotency_conflict"
        )


def decoded(said: str) -> RunRequest:
    """Return a stored request; `errors.ParleyError` where no known version has stored it."""
    try:
        fields = msgspec.json.decode(said, type=dict[str, Any])
        return msgspec.convert(fields if "version" in fields else upgraded(fields), RunRequest)
    except (msgspec.MsgspecError, AttributeError, KeyError, TypeError):
        raise ParleyError(UNREADABLE, code="interrupted") from None
