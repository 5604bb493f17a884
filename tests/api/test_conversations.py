"""`/conversations` and `/search`: what was said, and going on from any point of it."""

import base64
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.api.support import add, fail, refused, rest, scripted, streaming, types
from tests.service import Service, events, running
from tests.upstream import calls, eof_after, held, paced, status, text
from tests.wsclient import connected

pytestmark = pytest.mark.usefixtures("no_mistakes")


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
            await chat(service, f"What about {name}, my friend? And more.", name)
        await chat(service, "Again.", "a")
        page = await service.json("GET", "/conversations?limit=2")
        assert [each["conversation_id"] for each in page["conversations"]] == ["a", "c"]
        assert page["conversations"][0]["title"] == "What about a, my friend?"
        assert page["conversations"][0]["message_count"] == 4
        following = await service.json("GET", f"/conversations?limit=2&before={page['next']}")
        assert [each["conversation_id"] for each in following["conversations"]] == ["b"]
        assert following["next"] is None
        for place in (b"nonsense", b'["0001-01-01T00:00:00+14:00","a"]', b'["2026-01-01","a"]'):
            cursor = base64.urlsafe_b64encode(place).decode()
            await refused(service, "GET", f"/conversations?before={cursor}", 400, "invalid_cursor")


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


def nested(levels: int) -> dict[str, Any]:
    """Return so many objects in each other."""
    return {"a": nested(levels - 1)} if levels > 1 else {}


BAD_CHANGES: list[dict[str, Any]] = [
    {"title": ""},
    {"title": "x" * 201},
    {"title": "a\0b"},
    {"title": "\ud800"},
    {"metadata": {"a": "x" * 20_000}},
    {"metadata": {"a": "\0"}},
    {"metadata": {"a": "\ud800"}},
    {"metadata": []},
    {"metadata": nested(33)},
    {"metadata": nested(500)},
    {"owner": "me"},
]


async def test_a_change_that_cannot_be_kept_is_refused() -> None:
    async with running() as service:
        await chat(service, "hi")
        path = "/conversations/c"
        for change in BAD_CHANGES:
            problem = await refused(service, "PATCH", path, 422, "invalid_value", json=change)
            assert [fault["field"] for fault in problem["errors"]] == [*change]
            [listed] = (await service.json("GET", "/conversations"))["conversations"]
            assert (listed["title"], listed["metadata"]) == ("hi", {}), change


async def test_metadata_of_the_deepest_kind_is_kept_and_shown() -> None:
    async with running() as service:
        await chat(service, "hi")
        change = {"metadata": nested(32)}
        await service.json("PATCH", "/conversations/c", json=change)
        assert (await shown(service))["metadata"] == change["metadata"]


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


async def test_a_deleted_conversation_is_gone_and_its_run_is_cancelled() -> None:
    async with scripted([held(text("never")), text("new")]) as (service, upstream):
        async with streaming(service, message="hi", conversation_id="c") as (run_id, incoming):
            await upstream.asked.reach(1)
            deleted = await service.json("DELETE", "/conversations/c")
            assert deleted == {"status": "deleted"}
            assert (await rest(incoming))[-1]["finish_reason"] == "cancelled"
        await refused(service, "GET", "/conversations/c", 404, "conversation_not_found")
        for place in ("", "/events"):
            await refused(service, "GET", f"/runs/{run_id}{place}", 404, "run_not_found")
        assert (await chat(service, "again"))["response"] == "new"
        assert contents(await shown(service)) == ["again", "new"]


async def test_a_deletion_ends_what_waits_too() -> None:
    async with scripted([held(text("never"))]) as (service, upstream):
        async with (
            streaming(service, message="one", conversation_id="c") as (_, first),
            streaming(service, message="two", conversation_id="c") as (_, second),
        ):
            await upstream.asked.reach(1)
            await service.json("DELETE", "/conversations/c")
            for incoming in (first, second):
                assert (await rest(incoming))[-1]["finish_reason"] == "cancelled"
        assert upstream.asked.value == 1
        assert (await service.json("GET", "/conversations"))["conversations"] == []


async def test_a_run_under_way_is_joined_by_its_conversation() -> None:
    async with scripted([paced(text("one", " two"))]) as (service, upstream):
        path = f"{service.url}/conversations/c/stream"
        async with streaming(service, message="hi", conversation_id="c") as (run_id, incoming):
            await upstream.asked.reach(1)
            assert (await shown(service))["active_run_id"] == run_id
            async with (
                service.session.get(path) as joined,
                service.session.get(f"{path}?protocol=tokens") as tokens,
            ):
                assert (joined.status, joined.headers["X-Run-Id"]) == (200, run_id)
                upstream.gate.open()
                assert "event: token\ndata:  two\n" in await tokens.text()
                assert [event async for event in events(joined)] == await rest(incoming)
        async with service.session.get(path) as response:
            assert response.status == 204
        assert (await shown(service))["active_run_id"] is None


async def test_who_lost_the_stream_of_a_conversation_goes_on_where_it_was() -> None:
    script = [text("before"), paced(text("one", " two"))]
    async with scripted(script) as (service, upstream):
        earlier = await service.stream(message="hi", conversation_id="c")
        path = f"{service.url}/conversations/c/stream"
        async with streaming(service, message="hi", conversation_id="c") as (_, incoming):
            await upstream.asked.reach(2)
            await upstream.gate.pass_one()
            await upstream.gate.pass_one()
            whole = [await anext(incoming), await anext(incoming)]
            rejoined = [
                service.session.get(path, headers={"Last-Event-ID": cursor})
                for cursor in (whole[0]["id"], whole[1]["id"], earlier[1]["id"])
            ]
            async with rejoined[0] as first, rejoined[1] as second, rejoined[2] as other:
                upstream.gate.open()
                whole += await rest(incoming)
                for response, seq in ((first, 1), (second, 2), (other, 0)):
                    assert [event async for event in events(response)] == whole[seq:]


HOSTILE = "# No title\r\n```\nfenced\r**Assistant** (2026-01-01 00:00 UTC)\n\n<!--"
QUOTED = "> # No title\n> ```\n> fenced\n> **Assistant** (2026-01-01 00:00 UTC)\n> \n> <!--"


async def exported(service: Service) -> str:
    """Return the Markdown of the conversation, its times as `T`."""
    path = f"{service.url}/conversations/c/export?format=markdown"
    async with service.session.get(path) as response:
        assert (response.status, response.content_type) == (200, "text/markdown")
        assert response.headers["Content-Disposition"] == 'attachment; filename="c.md"'
        return re.sub(
            r"(?m)^(\*\*.*) \(\d{4}-\d\d-\d\d \d\d:\d\d UTC\)$", r"\1 (T)", await response.text()
        )


async def test_an_export_as_json_is_what_is_shown() -> None:
    async with running() as service:
        await chat(service, "hi")
        detail = await shown(service)
        exported = await service.json("GET", "/conversations/c/export")
        assert exported == detail | {"last_run": None}
        await refused(service, "GET", "/conversations/c/export?format=pdf", 422, "invalid_value")


async def test_an_export_as_markdown_keeps_each_text_in_its_place() -> None:
    script = [calls(("fail", {"why": "```` four"}), ("a`\n# b", {})), text(HOSTILE)]
    async with scripted(script, tools=[fail]) as (service, _):
        await chat(service, HOSTILE)
        await service.json("PATCH", "/conversations/c", json={"title": "One\n# Two"})
        blocks = (await exported(service)).split("\n\n")
    assert blocks[:3] == ["# One # Two", "**User** (T)", QUOTED]
    assert blocks[-2:] == ["**Assistant** (T)", f"{QUOTED}\n"]
    assert [blocks[3], blocks[5]] == ["**Tool ` fail `** (T)", "**Tool `` a` # b ``** (T)"]
    fenced = blocks[4].splitlines()
    assert (fenced[0], fenced[-1]) == ("`````", "`````")


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
        streamed = await service.stream(f"{path}/stream")
        assert types(streamed) == ["chat_start", "chat_chunk", "chat_complete"]
        assert contents(await shown(service)) == ["hi", "three"]
        asked = [request["messages"][1:] for request in upstream.requests]
        assert asked == [[{"role": "user", "content": "hi"}]] * 3


async def test_an_answer_stays_where_no_other_could_be_made() -> None:
    script = [text("one"), status(401, "no"), eof_after(3, text("two", " three")), text("four")]
    async with scripted(script, openai_max_retries=0) as (service, upstream):
        await chat(service, "hi")
        path = "/conversations/c/regenerate"
        await refused(service, "POST", path, 502, "upstream_unauthorized", json={})
        assert contents(await shown(service)) == ["hi", "one"]
        *_, piece, end = await service.stream(f"{path}/stream")
        assert (piece["content"], end["code"]) == (" three", "upstream_truncated")
        assert contents(await shown(service)) == ["hi", "one"]
        assert (await service.json("POST", path, json={}))["response"] == "four"
        assert contents(await shown(service)) == ["hi", "four"]
        asked = [request["messages"][1:] for request in upstream.requests]
        assert asked == [[{"role": "user", "content": "hi"}]] * 4


async def test_the_agent_that_answered_last_answers_anew_unless_another_is_named() -> None:
    async with running() as service:
        for name in ("b", "d"):
            await service.json("POST", f"/agents/{name}", expect=201, json={})
        await chat(service, "hi")
        assert (await shown(service))["agent"] == "chat"
        await chat(service, "ho", agent="b")
        path = "/conversations/c"
        first = (await shown(service))["messages"][0]["id"]
        edit = {"message_id": first, "message": "he"}
        edited = await service.json("POST", f"{path}/edit", json=edit)
        assert edited["agent"] == "b"
        assert (await shown(service, edited["conversation_id"]))["agent"] == "b"
        assert (await service.json("POST", f"{path}/regenerate"))["agent"] == "b"
        named = await service.json("POST", f"{path}/regenerate", json={"agent": "d"})
        assert named["agent"] == "d"
        streamed = await service.stream(f"{path}/regenerate/stream")
        assert streamed[0]["agent"] == "d"
        async with connected(service) as client:
            await client.send("regenerate", conversation_id="c")
            assert (await client.until("chat_complete"))[0]["data"]["agent"] == "d"
            await client.send("edit", **edit, conversation_id="c")
            assert (await client.until("chat_complete"))[0]["data"]["agent"] == "d"


async def test_the_last_message_is_what_an_answer_made_anew_names_the_conversation_by() -> None:
    async with scripted([status(401, "no"), text("one"), text("two")]) as (service, _):
        await service.json("POST", "/chat", 502, json={"message": "Sums?", "conversation_id": "c"})
        assert (await shown(service))["title"] is None
        await service.json("POST", "/conversations/c/regenerate")
        assert (await shown(service))["title"] == "Sums?"
        first = (await shown(service))["messages"][0]["id"]
        edit = {"message_id": first, "message": "Verse?"}
        branch = await service.json("POST", "/conversations/c/edit", json=edit)
        assert (await shown(service, branch["conversation_id"]))["title"] == "Verse?"


async def test_while_a_run_is_under_way_another_answer_waits_or_is_refused() -> None:
    async with scripted([held(text("one")), text("two")]) as (service, upstream):
        path = "/conversations/c/regenerate"
        async with streaming(service, message="hi", conversation_id="c") as (_, incoming):
            await upstream.asked.reach(1)
            reject = {"if_busy": "reject"}
            for place in (path, f"{path}/stream"):
                await refused(service, "POST", place, 409, "conversation_busy", json=reject)
            async with service.session.post(f"{service.url}{path}/stream") as waiting:
                assert waiting.status == 200
                upstream.gate.open()
                assert (await rest(incoming))[-1]["final_response"] == "one"
                assert (await rest(events(waiting)))[-1]["final_response"] == "two"
        assert contents(await shown(service)) == ["hi", "two"]


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
        streamed = await service.stream("/conversations/c/edit/stream", **body)
        assert streamed[0]["conversation_id"] not in ("c", branch)


@pytest.mark.parametrize("wanted", ["answer", "unknown"])
async def test_only_a_message_of_the_user_is_edited(wanted: str) -> None:
    async with running() as service:
        await chat(service, "hi")
        answer = (await shown(service))["messages"][1]["id"]
        body = {"message_id": answer if wanted == "answer" else "msg_no", "message": "x"}
        await refused(service, "POST", "/conversations/c/edit", 404, "message_not_found", json=body)
        assert len((await service.json("GET", "/conversations"))["conversations"]) == 1


async def test_an_edit_that_is_sent_twice_is_made_once() -> None:
    async with scripted([text("one"), text("two")]) as (service, _):
        await chat(service, "hi")
        first = (await shown(service))["messages"][0]["id"]
        body = {"message_id": first, "message": "ho"}
        path, key = "/conversations/c/edit", {"Idempotency-Key": "k"}
        once = await service.json("POST", path, json=body, headers=key)
        assert await service.json("POST", path, json=body, headers=key) == once
        other = body | {"message": "he"}
        await refused(service, "POST", path, 409, "idempotency_conflict", json=other, headers=key)
        listed = (await service.json("GET", "/conversations"))["conversations"]
        assert [each["conversation_id"] for each in listed] == [once["conversation_id"], "c"]


async def test_an_edit_that_is_refused_leaves_no_branch() -> None:
    async with running(max_message_chars=10) as service:
        await chat(service, "hi")
        body = {"message_id": (await shown(service))["messages"][0]["id"], "message": "ho"}
        path = "/conversations/c/edit"
        nobody = body | {"agent": "nobody"}
        await refused(service, "POST", path, 404, "agent_not_found", json=nobody)
        long = body | {"message": "x" * 11}
        await refused(service, "POST", f"{path}/stream", 422, "invalid_value", json=long)
        await refused(
            service, "POST", f"{path}/stream?protocol=no", 400, "invalid_request", json=body
        )
        assert len((await service.json("GET", "/conversations"))["conversations"]) == 1


PLACES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("PATCH", "", {"title": "mine"}),
    ("DELETE", "", None),
    ("GET", "/stream", None),
    ("GET", "/export", None),
    ("POST", "/regenerate", {}),
    ("POST", "/regenerate/stream", {}),
    ("POST", "/edit", {"message": "x"}),
    ("POST", "/edit/stream", {"message": "x"}),
]


def aimed(place: str) -> str:
    """Return the code with which a place of a conversation that is not there is refused."""
    return "message_not_found" if "edit" in place else "conversation_not_found"


async def test_what_is_not_there_is_not_found() -> None:
    async with running() as service:
        for method, place, body in PLACES:
            path = f"/conversations/never{place}"
            sent = body and ({"message_id": "m"} if "edit" in place else {}) | body
            await refused(service, method, path, 404, aimed(place), json=sent)
        assert (await service.json("GET", "/conversations"))["conversations"] == []


async def test_another_users_conversation_is_not_there() -> None:
    async with running() as service:
        await chat(service, "My name is Ada.", user_id="ada")
        before = await shown(service, query="?user_id=ada")
        first = {"message_id": before["messages"][0]["id"]}
        for (method, place, body), whose in product(PLACES, ({}, {"user_id": "eve"})):
            options: dict[str, Any] = {"params": whose}
            if body is not None:
                more = first | whose if method == "POST" else {}
                options["json"] = body | more
            await refused(service, method, f"/conversations/c{place}", 404, aimed(place), **options)
            assert await shown(service, query="?user_id=ada") == before, (method, place)
        for path in ("/conversations", "/search?q=ada"):
            assert [] in (await service.json("GET", path, params={"user_id": "eve"})).values()


async def test_users_have_conversations_of_the_same_name() -> None:
    async with running() as service:
        await chat(service, "My name is Ada.", user_id="ada")
        other = await chat(service, "What is my name?", user_id="eve")
        assert "Ada" not in other["response"]
        assert "Ada" in (await chat(service, "What is my name?", user_id="ada"))["response"]
        assert (await service.json("GET", "/conversations"))["conversations"] == []
        assert len((await shown(service, query="?user_id=ada"))["messages"]) == 4
        assert len((await shown(service, query="?user_id=eve"))["messages"]) == 2


async def test_everything_is_as_it_was_after_a_restart(tmp_path: Path) -> None:
    asks: tuple[Callable[[Service], Any], ...] = (
        lambda service: service.json("GET", "/conversations"),
        lambda service: shown(service),
        lambda service: service.json("GET", "/search?q=grace"),
        lambda service: service.json("GET", "/agents/mine"),
        lambda service: service.json("GET", "/conversations?user_id=eve"),
    )
    async with running(data_dir=tmp_path) as service:
        config = {"instructions": "Hum.", "tools": [], "temperature": 0.5}
        await service.json("POST", "/agents/mine", expect=201, json=config)
        await chat(service, "My name is Grace.", agent="mine")
        await chat(service, "hello", user_id="eve")
        await service.json("PATCH", "/conversations/c", json={"title": "T", "metadata": {"a": 1}})
        first = (await shown(service))["messages"][0]["id"]
        body = {"message_id": first, "message": "My name is Ada."}
        branch = await service.json("POST", "/conversations/c/edit", json=body)
        before = [await ask(service) for ask in asks]
    async with running(data_dir=tmp_path) as service:
        assert [await ask(service) for ask in asks] == before
        for place, name in (("c", "Grace"), (branch["conversation_id"], "Ada")):
            answer = await chat(service, "What is my name?", place, agent="mine")
            assert (name in answer["response"], answer["agent"]) == (True, "mine")


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
        rules, *said = [message["content"] for message in upstream.requests[0]["messages"]]
        assert rules == "You are a helpful assistant.\n\nRhyme."
        assert said == ["Before.", "Yes.", "Now."]
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


async def test_a_socket_is_told_what_cannot_be_answered_anew() -> None:
    async with scripted([held(text("one"))]) as (service, upstream), connected(service) as client:
        await client.send("chat", "r1", message="hi", conversation_id="c")
        await client.until("chat_start")
        await upstream.asked.reach(1)
        user, *_ = (await shown(service))["messages"]
        for kind, code, data in (
            ("regenerate", "conversation_busy", {"if_busy": "reject"}),
            ("regenerate", "conversation_not_found", {"conversation_id": "never"}),
            ("regenerate", "invalid_value", {"conversation_id": None}),
            ("edit", "message_not_found", {"message_id": "msg_no", "message": "x"}),
            ("edit", "invalid_value", {"message_id": user["id"]}),
            ("edit", "agent_not_found", {"message_id": user["id"], "message": "x", "agent": "no"}),
        ):
            await client.send(kind, "r2", **({"conversation_id": "c"} | data))
            [frame] = await client.until("error")
            assert (frame["request_id"], frame["data"]["code"]) == ("r2", code)
        upstream.gate.open()
        assert (await client.until("chat_complete"))[-1]["data"]["final_response"] == "one"
        assert len((await service.json("GET", "/conversations"))["conversations"]) == 1


async def test_a_message_names_its_run_its_call_and_its_tool() -> None:
    script = [calls(("add", {"a": 1, "b": 2})), text("3")]
    async with scripted(script, tools=[add]) as (service, _):
        run_id = (await chat(service, "1 + 2?"))["run_id"]
        messages = (await service.json("GET", "/conversations/c"))["messages"]
    assert {each["run_id"] for each in messages} == {run_id}
    _, asked, result, _ = messages
    assert asked["tool_calls"][0]["arguments"] == '{"a": 1, "b": 2}'
    assert (result["name"], result["content"], result["is_error"]) == ("add", "3", False)


async def test_a_conversation_says_how_its_last_run_ended() -> None:
    async with scripted([text("One."), status(500)], openai_max_retries=0) as (service, _):
        await chat(service, "Hi.")
        run = (await shown(service))["last_run"]
        assert (run["finish_reason"], run["error"], run["agent"]) == ("stop", None, "chat")
        body = {"message": "Again.", "conversation_id": "c"}
        await refused(service, "POST", "/chat", 502, "upstream_error", json=body)
        detail = await shown(service)
        assert detail["last_run"]["error"]["code"] == "upstream_error"
        assert detail["last_run"]["run_id"] == detail["messages"][-1]["run_id"]
        earlier = await shown(service, query=f"?before={detail['messages'][-1]['id']}")
        assert earlier["last_run"] is None
