"""A whole conversation as a file: the same at every length, and in pieces."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.http import exports
from caller import Caller
from messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from models import ConversationDetail, ConversationView
from storage import Begin, StoredMessage
from storage.store import Store
from tests.service import running
from tests.storage.support import DONE, a_run

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
VIEW = ConversationView(
    conversation_id="c",
    title='A "title"',
    metadata={"a": ["ü", 1, None, {}]},
    created_at=NOON,
    updated_at=NOON,
    message_count=4,
    branched_from=None,
    active_run_id=None,
    agent=None,
)
TURN: list[Message] = [
    UserMessage("Hi\n\u2028🍜"),
    AssistantMessage("", (ToolCall("c1", "add", '{"a": 1}'),)),
    ToolMessage("c1", "add", "42", is_error=False),
    AssistantMessage("It is **42**."),
]


def stored(messages: list[Message]) -> list[StoredMessage]:
    return [
        StoredMessage(id=f"m{at}", message=message, run_id=None, created_at=NOON)
        for at, message in enumerate(messages)
    ]


@pytest.mark.parametrize("turns", [0, 1, 1000])
def test_the_json_is_that_of_a_conversation_at_every_length(turns: int) -> None:
    said = stored(TURN * turns)
    written = b"".join(exports.as_json(VIEW, said))
    detail = ConversationDetail(
        **VIEW.model_dump(), messages=map(exports.message_view, said), has_more=False
    )
    assert written == detail.model_dump_json().encode()


def test_a_file_is_written_in_pieces_that_are_no_longer_than_a_piece_and_a_message() -> None:
    said = stored([UserMessage("x" * 1000)] * 1000)
    for pieces in ([*exports.as_json(VIEW, said)], [*exports.as_markdown("c", said)]):
        assert len(pieces) > 10
        assert max(map(len, pieces)) < exports.PIECE + 1500


def test_the_markdown_says_who_said_what() -> None:
    assert b"".join(exports.as_markdown("A\ntitle", stored(TURN))).decode() == (
        "# A title\n\n"
        "**User** (2026-01-02 12:00 UTC)\n\n> Hi\n> \u2028🍜\n\n"
        "**Tool ` add `** (2026-01-02 12:00 UTC)\n\n```\n42\n```\n\n"
        "**Assistant** (2026-01-02 12:00 UTC)\n\n> It is **42**.\n"
    )


@pytest.mark.parametrize("count", [0, 9, 10, 11, 20, 25])
async def test_all_that_was_said_is_read_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(exports, "PAGE", 10)
    owner, run = Caller("open", "default"), a_run("c", Caller("open", "default"))
    async with Store.open(f"sqlite:///{tmp_path}/x.db", instance="test") as store:
        await store.accept(run, begin=Begin())
        said = [AssistantMessage(str(number)) for number in range(count)]
        await store.finish(run, said, DONE)
        asked: list[int | None] = []
        read = store.messages

        async def messages(
            caller: Caller, id: str, *, limit: int | None = None, before: str | None = None
        ) -> list[StoredMessage]:
            asked.append(limit)
            return await read(caller, id, limit=limit, before=before)

        monkeypatch.setattr(store, "messages", messages)
        found = await exports.everything_said(store, owner, "c")
    assert [each.message for each in found] == said
    assert asked == [10] * (count // 10 + 1)


async def test_an_export_is_a_file_with_every_message() -> None:
    async with running() as service:
        run, store = a_run("c", Caller("open", "default")), service.registry.store
        await store.accept(run, begin=Begin())
        await store.finish(run, [AssistantMessage("more")] * (exports.PAGE + 1), DONE)
        path = f"{service.url}/conversations/c/export"
        async with service.session.get(path) as response:
            assert response.headers["Content-Disposition"] == 'attachment; filename="c.json"'
            assert len((await response.json())["messages"]) == exports.PAGE + 1
        async with service.session.get(f"{path}?format=markdown") as response:
            assert (await response.text()).count("\n> more\n") == exports.PAGE + 1
