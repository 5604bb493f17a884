"""Answers of any length: a whole conversation as a file, long lists.

They are written in pieces. A response sends the pieces one after the other, each made in a thread
(`starlette.responses.StreamingResponse`), and reads the data from storage in pages. So they block
no other request, and no such answer is in memory as a whole.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from pydantic import BaseModel

from caller import Caller
from messages import AssistantMessage, ToolMessage
from models import ConversationView, MessageView
from storage import StoredMessage
from storage.runs import role_of
from storage.store import Store

PAGE: Final = 1000
"""How many messages are read at a time."""

PIECE: Final = 65_536
"""A piece ends with the message that makes it at least so many characters long."""


async def everything_said(store: Store, owner: Caller, conversation_id: str) -> list[StoredMessage]:
    """Return all messages of a conversation, oldest first.

    Messages that are deleted meanwhile may be missing, and so may those before them.

    Raises:
        storage.StorageUnavailable: the database cannot be read.
    """
    pages: list[list[StoredMessage]] = []
    before: str | None = None
    while True:
        page = await store.messages(owner, conversation_id, limit=PAGE, before=before)
        pages.append(page)
        if len(page) < PAGE:
            return list(chain.from_iterable(reversed(pages)))
        before = page[0].id


def as_json(view: ConversationView, said: Sequence[StoredMessage]) -> Iterator[bytes]:
    """Return the JSON of a `ConversationDetail` with all of its messages."""
    head = view.model_dump_json().removesuffix("}") + ',"messages":['
    return json_list(head, map(message_view, said), '],"has_more":false,"last_run":null}')


def as_markdown(heading: str, said: Sequence[StoredMessage]) -> Iterator[bytes]:
    """Return a conversation as Markdown: each message with its role; tools with name and result.

    Messages are block quotes. The end of a block quote ends every code fence and heading in it
    (CommonMark 0.31, 5.1), so no text can look like the message of somebody else.
    """
    blocks = chain([f"# {' '.join(heading.split())}"], chain.from_iterable(map(_blocks, said)))
    return _pieces(chain(_separated(blocks, "\n\n"), ["\n"]))


def json_list(head: str, items: Iterable[BaseModel], tail: str) -> Iterator[bytes]:
    """Return the JSON of many objects, between a JSON prefix and suffix."""
    texts = (item.model_dump_json() for item in items)
    return _pieces(chain([head], _separated(texts, ","), [tail]))


def message_view(stored: StoredMessage) -> MessageView:
    message = stored.message
    view = MessageView(
        id=stored.id,
        role=role_of(message),
        content=message.content,
        created_at=stored.created_at,
        run_id=stored.run_id,
    )
    if isinstance(message, AssistantMessage) and message.tool_calls:
        view.tool_calls = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        view.tool_call_id, view.name = message.tool_call_id, message.name
        view.is_error = message.is_error
        if message.started_at is not None:
            view.started_at, view.duration_ms = message.started_at, message.duration_ms
    return view


def _blocks(stored: StoredMessage) -> Iterator[str]:
    message = stored.message
    when = f"{stored.created_at:%Y-%m-%d %H:%M} UTC"
    if isinstance(message, ToolMessage):
        fence = _fence(message.content, 3)
        tick = _fence(message.name, 1)
        name = " ".join(message.name.split())
        yield f"**Tool {tick} {name} {tick}** ({when})"
        yield f"{fence}\n{message.content}\n{fence}"
    elif message.content:
        who = "Assistant" if isinstance(message, AssistantMessage) else "User"
        yield f"**{who}** ({when})"
        yield "\n".join(f"> {line}" for line in _LINE_END.split(message.content))


_LINE_END = re.compile(r"\r\n|\r|\n")


def _fence(text: str, least: int) -> str:
    """Return more backticks than stand together anywhere in a text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _separated(texts: Iterable[str], separator: str) -> Iterator[str]:
    """Yield texts, each but the first after a separator."""
    for at, text in enumerate(texts):
        yield separator + text if at else text


def _pieces(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield texts joined to pieces, in UTF-8."""
    piece: list[str] = []
    size = 0
    for text in texts:
        piece.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(piece).encode()
            piece, size = [], 0
    yield "".join(piece).encode()
