"""An `input`: a text, or messages of which the last is the user's."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag

from api.http.requests import of_message
from errors import Invalid
from models import (
    MAX_MESSAGE_CHARS,
    TEXT,
    ChatRequest,
    Identifier,
    PriorMessage,
    RunOptions,
)
from runs.request import RunRequest


def _kind(value: Any) -> str:
    return "<input>" if isinstance(value, list) else "<message>"


TEXT_OR_LIST = Discriminator(_kind)
"""Tells a text from a list; the names of both are those that no fault's field shows."""


class ContentPart(BaseModel):
    """A piece of an item's content; only text is supported."""

    type: Literal["input_text", "output_text", "text"]
    text: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT]


def _bounded(parts: list[ContentPart]) -> list[ContentPart]:
    if sum(len(part.text) for part in parts) > MAX_MESSAGE_CHARS:
        raise ValueError(f"The texts may have at most {MAX_MESSAGE_CHARS} characters in total")
    return parts


class InputItem(BaseModel):
    """A message of the input; its content is a text or a list of texts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), TEXT, Tag("<message>")]
        | Annotated[list[ContentPart], AfterValidator(_bounded), Tag("<input>")],
        TEXT_OR_LIST,
    ]

    def prior(self) -> PriorMessage:
        """Return it with one text."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return PriorMessage(role=self.role, content=text)


class InputRequest(RunOptions):
    """A text, or messages of which the last is the user's, for an agent to answer."""

    input: Annotated[
        Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT, Tag("<message>")]
        | Annotated[list[InputItem], Field(min_length=1, max_length=1000), Tag("<input>")],
        TEXT_OR_LIST,
    ]
    session_id: Identifier | None = Field(
        None,
        description="The conversation that is the agent's memory; without it there is no memory. "
        "If `input` has several messages, only the last one is stored; the others are only read.",
    )


def of_input(body: InputRequest, agent: str, *, remembers: bool) -> RunRequest:
    """Return a text, or messages, as what a run is started with.

    Args:
        remembers: whether the server has sessions.

    Raises:
        errors.Invalid: the last message is not the user's, or empty.
    """
    *before, last = _items(body)
    if last.role != "user" or not last.content:
        text = "The last message must be a user message, and not empty."
        raise Invalid(text, errors=[{"field": "input", "message": text}])
    wanted = body.session_id or body.conversation_id
    chat = ChatRequest(
        message=last.content,
        history=before,
        agent=agent,
        conversation_id=wanted if remembers else None,
        parallel_tools=body.parallel_tools,
        if_busy=body.if_busy,
    )
    return of_message(chat, ephemeral=chat.conversation_id is None)


def _items(body: InputRequest) -> list[PriorMessage]:
    if isinstance(body.input, str):
        return [PriorMessage(role="user", content=body.input)]
    return [item.prior() for item in body.input]
