"""What the tests of the storage put in."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from caller import Caller
from events import ChatComplete, ChatStart, Usage
from messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from storage import Begin, Entry, StoredRun
from storage.store import Store

ANN = Caller("acme", "ann")

DONE = ChatComplete(final_response="Done.", finish_reason="stop", usage=Usage(1, 2, 3))

CALL = AssistantMessage("Let me see.", (ToolCall("call_1", "clock", "{}"),))
RESULT = ToolMessage("call_1", "clock", "noon")


ENDLESS = """
    WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted)
    SELECT max(n) FROM counted
"""


class Endless:
    """A unit that does not end by itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()

    def __call__(self, db: Connection) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        db.execute(text(ENDLESS))


def a_run(conversation_id: str = "conv", owner: Caller = ANN, **fields: Any) -> StoredRun:
    """Return a new run that nobody has seen."""
    run_id = fields.pop("id", f"run_{secrets.token_hex(6)}")
    agent = fields.pop("agent", "chat")
    start = ChatStart(
        run_id=run_id,
        seq=1,
        conversation_id=conversation_id,
        agent=agent,
        model="demo",
        message_id="msg_1",
    )
    given = {
        "request": '{"message": "Hi"}',
        "status": "queued",
        "created_at": datetime.now(UTC),
        **fields,
    }
    return StoredRun(
        id=run_id,
        owner=owner,
        conversation_id=conversation_id,
        agent=agent,
        start=start,
        **given,
    )


def says(text: str) -> Begin:
    return Begin(messages=(UserMessage(text),))


async def chat(
    store: Store,
    text: str,
    answer: str,
    *,
    conversation_id: str = "conv",
    owner: Caller = ANN,
    title: str | None = None,
    **fields: Any,
) -> StoredRun:
    """Let a run begin and end."""
    ephemeral = fields.pop("ephemeral", False)
    run = a_run(conversation_id, owner, **fields)
    entry = Entry(ephemeral=ephemeral)
    assert await store.accept(run, begin=says(text), entry=entry) is None
    assert await store.finish(run, [AssistantMessage(answer)], DONE, title)
    return run


async def branch(
    store: Store,
    message_id: str,
    *,
    of: str = "conv",
    into: str = "branch",
    owner: Caller = ANN,
    key: str | None = None,
) -> StoredRun | None:
    """Branch off before a message, for a run that says something else there."""
    run = a_run(into, owner, key=key)
    return await store.accept(run, begin=says("Else"), entry=Entry(branch=(of, message_id)))


async def texts(store: Store, conversation_id: str = "conv", owner: Caller = ANN) -> list[str]:
    """Return what was said in a conversation."""
    found: list[Message] = await store.context(owner, conversation_id, 1000)
    return [message.content for message in found]
