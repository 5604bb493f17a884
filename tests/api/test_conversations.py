"""`/conversations` and `/search`: what was said, and going on from any point of it."""

import base64
from typing import Any

import pytest

from tests.api.support import fail, refused, rest, scripted, streaming, types
from tests.service import Service, running
from tests.upstream import calls, held, paced, text
from tests.wsclient import connected

pytestmark = pytest.mark.usefixtures("no_mistakes")

NEVER = "/conversations/never"


async def chat(service: Service, message: str, conversation_id: str = "c", **more: Any) -> Any:
    body = {"message": message, "conversation_id": conversation_id, **more}
    return await service.json("POST", "/chat", json=body)


async def shown(service: Service, conversation_id: str = "c", query: str = "") -> Any:
    return await service.json("GET", f"/conversations/{conversation_id}{query}")


def contents(detail: Any) -> list[str]:
    return [message["content"] for message in detail["messages"]]


async def test_conversations_are_listed_newest_first_and_page_by_page() -> None:
    async with running() as service:
        for name in "abc":
            await chat(service, f"Hello from {name}. And more.", name)
        await chat(service, "Again.", "a")
        page = await service.json("GET", "/conversations?limit=2")
        assert [each["conversation_id"] for each in page["conversations"]] == ["a", "c"]
        assert page["conversations"][0]["title"] == "Hello from a"
        assert page["conversations"][0]["message_count"] == 4
        following = await service.json("GET", f"/conversations?limit=2&before={page['next']}")
        assert [each["conversation_id"] for each in following["conversations"]] == ["b"]
        assert following["next"] is None
        for place in (b"nonsense", b'["0001-01-01T00:00:00+14:00","a"]', b'["2026-01-01","a"]'):
            cursor = base64.urlsafe_b64encode(place).decode()
            path = f"/conversations?before={cursor}"
            await refused(service, "GET", path, 400, "invalid_cursor")


async def test_a_title_appears_by_itself_and_a_chosen_one_stays() -> None:
    async with running() as service:
        await chat(service, "What's 15 + 27?")
        assert (await shown(service))["title"] == "What's 15 + 27?"
        change = {"title": "Sums", "metadata": {"color": "blue", "pins": [1]}}
        changed = await service.json("PATCH", "/conversations/c", json=change)
        assert (changed["title"], changed["metadata"]) == ("Sums", change["metadata"])
        await chat(service, "And 1 + 1?")
        await service.json("PATCH", "/conversations/c", json={})
        detail = await shown(service)
        assert (detail["title"], detail["metadata"]) == ("Sums", change["metadata"])


@pytest.mark.parametrize(
    "change",
    [
        {"title": ""},
        {"title": "x" * 201},
        {"title": "a\0b"},
        {"title": "\ud800"},
        {"metadata": {"a": "x" * 20_000}},
        {"metadata": {"a": "\0"}},
        {"metadata": {"a": "\ud800"}},
        {"metadata": []},
        {"owner": "me"},
    ],
)
async def test_a_change_that_cannot_be_kept_is_refused(change: dict[str, Any]) -> None:
    async with running() as service:
        await chat(service, "hi")
        await refused(service, "PATCH", "/conversations/c", 422, "invalid_value", json=change)
        assert (await shown(service))["metadata"] == {}


async def test_the_messages_come_with_their_calls_and_results_and_page_by_page() -> None:
    script = [calls(("fail", {"why": "no"})), text("It failed.")]
    async with scripted(script, tools=[fail]) as (service, _):
        await chat(service, "go")
        detail = await shown(service)
        user, asked, result, answer = detail["messages"]
        assert [each["role"] for each in detail["messages"]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
        [call] = asked["tool_calls"]
        assert (call["name"], result["tool_call_id"]) == ("fail", call["id"])
        assert result["is_error"]
        assert not detail["has_more"]
        assert len({each["id"] for each in detail["messages"]}) == 4
        last = await shown(service, query="?limit=1")
        assert (last["messages"], last["has_more"]) == ([answer], True)
        before = await shown(service, query=f"?limit=2&before={answer['id']}")
        assert before["messages"] == [asked, result]
        first = await shown(service, query=f"?before={asked['id']}")
        assert (first["messages"], first["has_more"]) == ([user], False)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", NEVER, None),
        ("PATCH", NEVER, {"title": "x"}),
        ("DELETE", NEVER, None),
        ("GET", f"{NEVER}/stream", None),
        ("GET", f"{NEVER}/export", None),
        ("POST", f"{NEVER}/regenerate", {}),
        ("POST", f"{NEVER}/regenerate/stream", None),
    ],
)
async def test_what_is_not_there_is_not_found(method: str, path: str, body: Any) -> None:
    async with running() as service:
        await refused(service, method, path, 404, "conversation_not_found", json=body)
        assert (await service.json("GET", "/conversations"))["conversations"] == []


async def test_a_deleted_conversation_is_gone_and_its_run_is_cancelled() -> None:
    async with scripted([held(text("never")), text("new")]) as (service, upstream):
        async with streaming(service, message="hi", conversation_id="c") as (_, incoming):
            await upstream.asked.reach(1)
            deleted = await service.json("DELETE", "/conversations/c")
            assert deleted == {"status": "deleted"}
            assert (await rest(incoming))[-1]["finish_reason"] == "cancelled"
        await refused(service, "GET", "/conversations/c", 404, "conversation_not_found")
        assert (await chat(service, "again"))["response"] == "new"
        assert contents(await shown(service)) == ["again", "new"]


async def test_a_run_under_way_is_joined_by_its_conversation() -> None:
    async with scripted([paced(text("one", " two"))]) as (service, upstream):
        path = f"{service.url}/conversations/c/stream"
        async with streaming(service, message="hi", conversation_id="c") as (run_id, incoming):
            await upstream.asked.reach(1)
            assert (await shown(service))["active_run_id"] == run_id
            async with service.session.get(path) as joined:
                assert (joined.status, joined.headers["X-Run-Id"]) == (200, run_id)
                upstream.gate.open()
                assert "two" in await joined.text()
            await rest(incoming)
        async with service.session.get(path) as response:
            assert response.status == 204
        assert (await shown(service))["active_run_id"] is None


HOSTILE = "# Not a title\n```\nfenced\n```\n"


async def test_a_conversation_is_exported_whole_as_json_and_markdown() -> None:
    script = [calls(("fail", {"why": "```` four"})), text(HOSTILE)]
    async with scripted(script, tools=[fail]) as (service, _):
        await chat(service, "go")
        exported = await service.json("GET", "/conversations/c/export")
        assert exported == await shown(service)
        path = f"{service.url}/conversations/c/export?format=markdown"
        async with service.session.get(path) as response:
            assert response.content_type == "text/markdown"
            assert 'filename="c.md"' in response.headers["Content-Disposition"]
            markdown = await response.text()
    assert markdown.startswith("# go\n\n**User** (")
    quoted = "".join(f"> {line}\n" for line in HOSTILE.splitlines())
    assert f"\n\n{quoted}" in markdown
    fence = "`````"
    assert markdown.count(f"\n{fence}\n") == 2


async def test_words_are_found_in_texts_and_titles_of_ones_own() -> None:
    async with running() as service:
        await chat(service, "My name is Ada Lovelace.", "a")
        await chat(service, "My name is Ada Byron.", "b", user_id="else")
        hits = (await service.json("GET", "/search?q=love"))["hits"]
        assert {hit["conversation_id"] for hit in hits} == {"a"}
        assert any(hit["role"] == "user" and "Lovelace" in hit["snippet"] for hit in hits)
        assert (await service.json("GET", "/search?q=byron"))["hits"] == []
        theirs = (await service.json("GET", "/search?q=byron&user_id=else"))["hits"]
        assert {hit["conversation_id"] for hit in theirs} == {"b"}
        await refused(service, "GET", "/search?q=", 422, "invalid_value")


async def test_the_last_message_is_answered_anew() -> None:
    async with scripted([text("one"), text("two"), text("three")]) as (service, upstream):
        await chat(service, "hi")
        path = "/conversations/c/regenerate"
        again = await service.json("POST", path, json={})
        assert (again["response"], again["conversation_id"]) == ("two", "c")
        assert contents(await shown(service)) == ["hi", "two"]
        events = await service.stream(f"{path}/stream")
        assert types(events) == ["chat_start", "chat_chunk", "chat_complete"]
        assert contents(await shown(service)) == ["hi", "three"]
        asked = [request["messages"][1:] for request in upstream.requests]
        assert asked == [[{"role": "user", "content": "hi"}]] * 3


async def test_where_nothing_was_asked_there_is_nothing_to_answer() -> None:
    async with scripted([text("one")]) as (service, _):
        await chat(service, "hi")
        await service.json("DELETE", "/chat/session/c")
        path = "/conversations/c/regenerate"
        await refused(service, "POST", path, 409, "nothing_to_answer", json={})


async def test_an_edit_goes_on_in_a_branch_and_leaves_the_rest_as_it_was() -> None:
    async with scripted([text(f"answer {n}") for n in range(4)]) as (service, upstream):
        await chat(service, "one")
        await chat(service, "two")
        before = await shown(service)
        second = before["messages"][2]
        body = {"message_id": second["id"], "message": "other"}
        edited = await service.json("POST", "/conversations/c/edit", json=body)
        branch = edited["conversation_id"]
        assert branch != "c"
        detail = await shown(service, branch)
        assert contents(detail) == ["one", "answer 0", "other", "answer 2"]
        assert detail["branched_from"] == {"conversation_id": "c", "message_id": second["id"]}
        assert await shown(service) == before
        last = [message["content"] for message in upstream.requests[-1]["messages"][1:]]
        assert last == ["one", "answer 0", "other"]
        events = await service.stream("/conversations/c/edit/stream", **body)
        assert events[0]["conversation_id"] not in ("c", branch)


@pytest.mark.parametrize("wanted", ["answer", "unknown"])
async def test_only_a_message_of_the_user_is_edited(wanted: str) -> None:
    async with running() as service:
        await chat(service, "hi")
        answer = (await shown(service))["messages"][1]["id"]
        body = {"message_id": answer if wanted == "answer" else "msg_no", "message": "x"}
        await refused(service, "POST", "/conversations/c/edit", 404, "message_not_found", json=body)
        assert len((await service.json("GET", "/conversations"))["conversations"]) == 1


OWNED = [
    ("GET", "/conversations/c", None),
    ("PATCH", "/conversations/c", {"title": "mine"}),
    ("GET", "/conversations/c/stream", None),
    ("GET", "/conversations/c/export", None),
    ("DELETE", "/conversations/c", None),
]


@pytest.mark.parametrize(("method", "path", "body"), OWNED)
async def test_another_users_conversation_is_not_there(method: str, path: str, body: Any) -> None:
    async with running() as service:
        await chat(service, "My name is Ada.", user_id="ada")
        for query in ("", "?user_id=eve"):
            where = f"{path}{query}"
            await refused(service, method, where, 404, "conversation_not_found", json=body)
        regenerate = {"user_id": "eve"}
        await refused(
            service,
            "POST",
            "/conversations/c/regenerate",
            404,
            "conversation_not_found",
            json=regenerate,
        )
        whose = await chat(service, "What is my name?", user_id="eve")
        assert "Ada" not in whose["response"]
        assert "Ada" in (await chat(service, "What is my name?", user_id="ada"))["response"]
        assert (await service.json("GET", "/conversations"))["conversations"] == []
        mine = await service.json("GET", "/conversations/c?user_id=ada")
        assert len(mine["messages"]) == 4


async def test_a_model_sees_the_newest_messages_within_both_bounds() -> None:
    script = [text("a" * 400) for _ in range(4)]
    async with scripted(script, history_messages=5, history_tokens=230) as (service, upstream):
        for number in range(4):
            await chat(service, f"{number}")
        seen = [len(request["messages"]) for request in upstream.requests]
    assert seen == [2, 4, 6, 6]


async def test_what_a_client_remembers_itself_is_shown_to_the_model_and_not_kept() -> None:
    async with scripted([text("x")]) as (service, upstream):
        history = [
            {"role": "system", "content": "Rhyme."},
            {"role": "user", "content": "Before."},
            {"role": "assistant", "content": "Yes."},
        ]
        await chat(service, "Now.", history=history)
        said = [message["content"] for message in upstream.requests[0]["messages"][1:]]
        assert said == ["Rhyme.", "Before.", "Yes.", "Now."]
        assert contents(await shown(service)) == ["Now.", "x"]


async def test_a_socket_answers_anew_and_edits_too() -> None:
    script = [text("one"), text("two"), text("three")]
    async with scripted(script) as (service, _), connected(service) as client:
        await client.send("chat", "r1", message="hi", conversation_id="c", user_id="ada")
        await client.until("chat_complete")
        await client.send("regenerate", "r2", conversation_id="c", user_id="ada")
        frames = await client.until("chat_complete")
        assert frames[-1]["data"]["final_response"] == "two"
        assert {frame["request_id"] for frame in frames} == {"r2"}
        first = (await shown(service, query="?user_id=ada"))["messages"][0]["id"]
        edit = {"conversation_id": "c", "message_id": first, "message": "yo", "user_id": "ada"}
        await client.send("edit", "r3", **edit)
        frames = await client.until("chat_complete")
        assert frames[0]["data"]["conversation_id"] != "c"
        assert frames[-1]["data"]["final_response"] == "three"
        for kind, data in (
            ("regenerate", {"conversation_id": "c"}),
            ("edit", edit | {"user_id": "eve"}),
        ):
            await client.send(kind, "r4", **data)
            [frame] = await client.until("error")
            assert frame["data"]["code"].endswith("not_found")
