"""The Streamlit front end: its script as Streamlit's own tests run it, and its server's process.

Streamlit's `AppTest` runs a script to its end. What happens in the middle of an answer is seen by
`Page`, which speaks with the server of `streamlit run` as a browser does.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from streamlit.testing.v1 import AppTest

from client_tests.service import Model, Service, running
from client_tests.streamlit_page import DEADLINE, FRONTEND, Page, Relay, serving
from tests.upstream import Action, Gate, Reply, calls, chunk, error_event_after, raw, text

HELLO = "Grüße, 你好 👋"


class Door(Gate):
    """A gate of the model that any thread can open."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    async def wait(self) -> None:
        await asyncio.to_thread(self.opened.wait, DEADLINE)


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.opened.set()


@pytest.fixture
def start(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Open a page of the script, perhaps with an address of the service of its own."""
    monkeypatch.syspath_prepend(str(FRONTEND))

    def started(url: str = service.url, conversation: str = "") -> AppTest:
        monkeypatch.setenv("API_URL", url)
        page = AppTest.from_file(str(FRONTEND / "app.py"), default_timeout=DEADLINE)
        if conversation:
            page.query_params["conversation"] = conversation
        return good(page.run())

    return started


def good(page: AppTest) -> AppTest:
    assert not page.exception, page.exception
    return page


def say(page: AppTest, message: str) -> AppTest:
    return good(page.chat_input(key="message").set_value(message).run())


def conversation_of(page: AppTest) -> str:
    return str(page.query_params["conversation"])


def answers(page: AppTest) -> list[str]:
    """Return the prose of each answer on a page."""
    said = [each for each in page.chat_message if each.name == "assistant"]
    return ["\n".join(piece.value for piece in each.markdown) for each in said]


def values(elements: Any) -> list[str]:
    return [element.value for element in elements]


# A script that runs to its end.


def test_an_answer_streams_and_is_remembered(start: Callable[..., AppTest], model: Model) -> None:
    model.says(text("Hello ", "Ada."), text("You are ", "Ada."))
    page = say(say(start(), "I am Ada."), "Who am I?")
    assert answers(page) == ["Hello Ada.", "You are Ada."]
    said = [m["content"] for m in model.requests[1]["messages"] if m["role"] != "system"]
    assert said == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert page.subheader[0].value == "I am Ada"
    again = start(conversation=conversation_of(page))
    assert answers(again) == ["Hello Ada.", "You are Ada."]
    assert values(again.text) == ["I am Ada.", "Who am I?"]


def test_calls_are_shown_with_their_results_and_failures(
    start: Callable[..., AppTest], model: Model
) -> None:
    wanted = [{"expression": "6 * 7"}, {"expression": "1 / 0"}]
    model.says(calls(*(("calculate", each) for each in wanted)), text("Done."))
    page = say(start(), "Calculate!")
    for shown in (page, start(conversation=conversation_of(page))):
        done, failed = shown.expander
        assert done.label.startswith("**calculate** · done in ")
        assert "42" in done.json[1].value
        assert failed.label.startswith("**calculate** · failed: ")
        assert "zero" in failed.error[0].value
        assert "1 / 0" in failed.json[0].value
        assert answers(shown)[0].endswith("Done.")


def test_a_message_that_is_refused_stands_in_the_input_again(
    start: Callable[..., AppTest], model: Model
) -> None:
    message = "x" * 100_001
    page = say(start(), message)
    assert "100000" in page.error[0].value
    assert page.chat_input(key="message").proto.value == message
    assert not page.chat_message
    model.says(text("Short."))
    assert answers(say(page, "Shorter.")) == ["Short."]
    assert not page.error


def test_a_service_that_is_not_there_is_said(start: Callable[..., AppTest]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    page = start(f"http://127.0.0.1:{port}", "some_conversation")
    assert len(page.error) == 2
    assert all("cannot be reached" in each for each in values(page.error))
    assert conversation_of(page) == "some_conversation"
    assert not page.chat_input


def test_a_message_that_is_sent_again_after_its_answer_was_lost_is_said_once(
    start: Callable[..., AppTest], service: Service, model: Model
) -> None:
    model.says(text("Once."))
    with Relay(service.url, cuts=[]) as relay:
        page = start(relay.url)
        relay.swallow = "POST /chat/stream"
        assert answers(say(page, "How often?")) == ["Once."]
        assert relay.streams == 2
    assert values(page.text) == ["How often?"]
    assert len(model.requests) == 1


def test_a_failed_run_says_why_and_what_came_before_it_stays(
    start: Callable[..., AppTest], model: Model
) -> None:
    model.says(error_event_after(3))
    page = say(start(), "Go on.")
    assert answers(page) == ["one two"]
    assert page.error
    assert not page.button(key="open-" + conversation_of(page)).disabled
    model.says(Reply((b"{}",), 401, {"content-type": "application/json"}))
    page = say(start(), "Nothing came.")
    assert page.error
    again = start(conversation=conversation_of(page))
    assert values(again.error) == values(page.error)


def test_reasoning_is_folded_and_belongs_to_no_answer(
    start: Callable[..., AppTest], model: Model
) -> None:
    thought = chunk({"role": "assistant", "reasoning_content": "Let me see."})
    model.says(Reply((thought, *text("Yes.").steps)))
    page = say(start(), "Well?")
    assert page.expander[0].label == "Reasoning"
    assert values(page.expander[0].markdown) == ["Let me see."]


def test_text_of_models_loads_no_image_and_labels_mean_nothing(
    start: Callable[..., AppTest], model: Model
) -> None:
    image = "![x](http://127.0.0.1:9/x.png)"
    block = f"```md\n{image}\n```"
    model.says(text(f"{image}\n\n- ```\n{image}\n\n{block}\n\n$5 or `$6` ![x][y]\n\n[y]: //z"))
    page = say(start(), f"{image} **bold**")
    assert all("![" not in each.value for each in page.markdown)
    assert [each.value for each in page.code if each.language == "md"] == [image]
    assert "\\$5 or `$6`" in answers(page)[0]
    assert values(page.text) == [f"{image} **bold**"]
    shown = [page.subheader[0].value, page.button(key="open-" + conversation_of(page)).label]
    assert all("![" not in each and "\\*\\*bold" in each for each in shown)


def test_chats_are_listed_opened_and_deleted(start: Callable[..., AppTest], model: Model) -> None:
    model.says(text("First."), text("Second."))
    page = say(start(), "One")
    first = conversation_of(page)
    page.button(key="new").click().run()
    assert not page.chat_message
    assert "conversation" not in page.query_params
    say(page, "Two")
    second = conversation_of(page)
    good(page.button(key=f"open-{first}").click().run())
    assert answers(page) == ["First."]
    good(page.button(key=f"delete-{first}").click().run())
    assert not page.chat_message
    listed = {button.key for button in page.button}
    assert f"open-{second}" in listed
    assert f"open-{first}" not in listed
    assert "There is no conversation" in start(conversation=first).error[0].value


def test_the_picked_agent_answers(
    start: Callable[..., AppTest], service: Service, model: Model
) -> None:
    config = {"instructions": "Speak like a pirate."}
    assert requests.post(f"{service.url}/agents/pirate", json=config, timeout=DEADLINE).ok
    model.says(text("Arr."))
    page = start()
    page.selectbox(key="agent").select("pirate").run()
    say(page, "Hello")
    assert "pirate" in model.requests[0]["messages"][0]["content"]
    assert start(conversation=conversation_of(page)).selectbox(key="agent").value == "pirate"


def test_the_demo_model_is_named_where_it_answers(start: Callable[..., AppTest]) -> None:
    assert not start().info
    with running() as demo:
        page = start(demo.url)
        assert "demo model" in page.info[0].value
        assert "42" in answers(say(page, "What is 15 + 27?"))[0]


def test_the_research_agent_shows_how_far_it_is(start: Callable[..., AppTest]) -> None:
    with running() as demo:
        page = start(demo.url)
        page.selectbox(key="agent").select("research").run()
        say(page, "Tea")
    texts = [each.proto.text for each in page.get("progress")]
    assert any("plan" in text for text in texts)
    assert any("search" in text for text in texts)


# What is drawn while a run is under way.


def drawn(*events: dict[str, Any]) -> AppTest:
    """Return a page after these events of a run."""

    def script(events: list[dict[str, object]]) -> None:
        import json

        import streamlit as st

        from parley_client import Answer
        from parley_client.events import decode_event
        from views import AnswerView

        answer, view = Answer(), AnswerView(st.container())
        for event in events:
            fields = {"run_id": "run_1", "seq": 1} | event
            answer.add(decode_event(json.dumps(fields).encode()))
            view.draw(answer)

    page = AppTest.from_function(script, kwargs={"events": events}, default_timeout=DEADLINE)
    return good(page.run())


def a_call(kind: str, name: str, **more: Any) -> dict[str, Any]:
    call = {"id": f"call_{name}", "name": name, "arguments": {"of": name}, **more}
    return {"event_type": f"tool_call_{kind}", "message_id": "msg_1", "tool_call": call}


THEN = "2026-01-01T00:00:00Z"


@pytest.mark.usefixtures("start")
def test_calls_that_run_side_by_side_show_their_states() -> None:
    page = drawn(
        a_call("queued", "c"),
        a_call("start", "a", started_at=THEN),
        a_call("start", "b", started_at=None),
        a_call("progress", "a", progress=1, total=4, message="A quarter"),
    )
    assert [(each.label.split(",")[0], each.state) for each in page.status] == [
        ("**c** · queued", "running"),
        ("**a** · running", "running"),
        ("**b** · running", "running"),
    ]
    [progress] = page.get("progress")
    assert (progress.proto.value, progress.proto.text) == (25, "A quarter")


@pytest.mark.usefixtures("start")
def test_a_call_that_was_seen_to_run_shows_what_came_of_it() -> None:
    took = {"started_at": THEN, "duration_ms": 1234.5}
    never = {"started_at": None, "duration_ms": 0}
    page = drawn(
        a_call("start", "a", started_at=THEN),
        a_call("start", "b", started_at=THEN),
        a_call("queued", "c"),
        a_call("error", "b", code="timeout", error="It took *too* long.", **took),
        a_call("complete", "a", result="plain", truncated=True, **took),
        a_call("error", "c", code="cancelled", error="Cancelled.", **never),
    )
    assert [(each.label, each.state) for each in page.status] == [
        ("**a** · done in 1.2 s", "complete"),
        ("**b** · failed: It took \\*too\\* long\\.", "error"),
        ("**c** · failed: Cancelled\\.", "error"),
    ]
    assert page.status[0].code[0].value == "plain"
    assert "cut" in page.status[0].caption[1].value
    assert values(page.status[1].error) == ["It took \\*too\\* long\\."]


@pytest.mark.usefixtures("start")
def test_a_reset_begins_the_answer_anew() -> None:
    said = {"event_type": "chat_chunk", "message_id": "msg_1", "content": "Once "}
    page = drawn(
        a_call("start", "a", started_at=THEN),
        said,
        {"event_type": "reset", "epoch": 2, "reason": "epoch_changed"},
        said,
        {"event_type": "agent_updated", "message_id": "m", "agent": "b", "previous_agent": "a"},
        {"event_type": "of_tomorrow"},
        said | {"message_id": "msg_2", "content": "more"},
        {"event_type": "chat_complete", "final_response": "", "finish_reason": "length"},
    )
    assert values(page.markdown) == ["Once", "more"]
    assert not page.status
    assert values(page.caption)[-1].startswith("The answer was cut")
    assert any("b answers from here" in each for each in values(page.caption))


# Connections that break.


def test_a_stream_that_breaks_anywhere_goes_on_from_its_cursor(
    start: Callable[..., AppTest], service: Service, model: Model
) -> None:
    greetings = [f"{HELLO} {number}. " for number in range(100)]
    model.says(text(*greetings))
    with Relay(service.url, cuts=[3000, 5001, 4002]) as relay:
        page = say(start(relay.url), "Greet me!")
    assert answers(page) == ["".join(greetings).strip()]
    assert relay.streams == 4


# The middle of an answer, with the server that `streamlit run` starts.


@pytest.fixture(scope="module")
def server(service: Service) -> Iterator[int]:
    """The port of the front end's server, which asks the service of all tests."""
    with serving(service.url) as port:
        yield port


def test_a_message_waits_for_a_service_that_is_not_there(service: Service, model: Model) -> None:
    model.says(text("Me."))
    with Relay(service.url, cuts=[]) as relay, serving(relay.url) as port:
        relay.is_away = True
        with Page(port) as page:
            page.say("Anybody?")
            page.until(lambda: "The connection is lost." in page.said)
            relay.is_away = False
            page.until(lambda: "Me." in page.said and not page.is_running)
            assert page.said.count("Anybody?") == 1
            assert "connection" not in page.said
            assert "conversation=" in page.query
    assert len(model.requests) == 1


def test_stop_ends_an_answer_in_which_nothing_moves(
    server: int, model: Model, service: Service
) -> None:
    silent = text("uno ", "due").steps[:3]
    model.says(raw(Action.HEAD, *silent, Action.STALL))
    with Page(server) as page:
        page.say("Count!")
        page.until(lambda: "uno due" in page.said)
        page.click("Stop")
        page.until(lambda: "Stopped." in page.said and not page.is_running)
        assert "uno due" in page.said
        assert page.button("Stop") is None
        stored = conversation(service, page)
    assert stored["active_run_id"] is None
    assert [each["content"] for each in stored["messages"]] == ["Count!", "uno due"]


def test_a_stop_is_seen_though_the_run_of_the_script_before_it_still_listens(
    server: int, model: Model
) -> None:
    silent = raw(Action.HEAD, *text("uno ", "due").steps[:3], Action.STALL)
    model.says(*[silent] * 10)
    with Page(server) as page:
        for count in range(1, 11):
            page.say("Count!")
            page.until(partial(_says, page, "uno due", count))
            page.click("Stop")
            page.until(lambda: not page.is_running)
            assert _says(page, "Stopped.", count)


def _says(page: Page, words: str, count: int) -> bool:
    return page.said.count(words) == count


def test_a_page_that_is_loaded_anew_in_mid_answer_goes_on_with_it(
    server: int, model: Model, door: Door
) -> None:
    *before, last, finish, usage, done = text("uno ", "due ", "tre").steps
    answer = Reply((Action.HEAD, *before, door, last, finish, usage, done))
    model.says(calls(("calculate", {"expression": "1 + 1"})), answer)
    with Page(server) as page:
        page.say("Count!")
        page.until(lambda: "uno due" in page.said and "conversation=" in page.query)
        assert page.is_running
    with Page(server, page.query) as page:
        page.until(lambda: "uno due" in page.said)
        door.opened.set()
        page.until(lambda: not page.is_running)
        assert page.said.count("uno due tre") == 1
        assert page.said.count("Count!") == 1
        assert page.said.count("Arguments") == 1


def test_a_message_said_in_mid_answer_waits_and_both_are_answered(
    server: int, model: Model, door: Door
) -> None:
    first, second = text("uno ", "due"), text("tre")
    steps = (Action.HEAD, *first.steps[:2], door, *first.steps[2:])
    model.says(Reply(steps), second)
    with Page(server) as page:
        page.say("Count!")
        page.until(lambda: "uno" in page.said)
        page.say("Go on!")
        page.until(lambda: "Go on!" in page.said and "uno" in page.said)
        door.opened.set()
        page.until(lambda: not page.is_running)
        places = [page.said.index(each) for each in ("uno due", "Go on!", "tre")]
        assert places == sorted(places)


def conversation(service: Service, page: Page) -> Any:
    [found] = parse_qs(page.query)["conversation"]
    return requests.get(f"{service.url}/conversations/{found}", timeout=DEADLINE).json()
