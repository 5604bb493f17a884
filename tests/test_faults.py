"""What goes wrong at the model's side, as a client of the service sees it.

Law, for every fault at every position: the run has exactly one terminal event, with the code of
the fault; the text that came is kept; the next message of the conversation works, and its history
is one that the model accepts (the scripted one refuses others); no credential is in anything sent.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.support import add, follow, said, scripted
from tests.service import Event, Service, running
from tests.upstream import (
    DONE,
    FOUR,
    Reply,
    bad_json_after,
    calls,
    chunk,
    completion,
    eof_after,
    error_event_after,
    held,
    raw,
    refusing,
    reset_after,
    reset_at_once,
    stall_after,
    status,
    text,
)

pytestmark = pytest.mark.slow

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
PIECES = ("one", " two", " three", " four")
BEFORE_THE_END = range(6)
"""Positions in `FOUR` before its finish reason is out: the role, four pieces."""

TERMINAL = ("chat_complete", "error")


def ended(found: list[Event], code: str | None) -> Event:
    """Check that the events are a whole run that ended so (None: in order), and return its end."""
    assert found[0]["event_type"] == "chat_start"
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert [event["event_type"] in TERMINAL for event in found] == [False] * (len(found) - 1) + [
        True
    ]
    assert found[-1].get("code") == code, found[-1]
    assert KEY not in json.dumps(found)
    return found[-1]


Case = tuple[Reply, str, str | None]
"""A reply, the text that is to be kept of it, and the code of the error that it is, if it is."""


async def check(cases: list[Case], **options: Any) -> None:
    """Have a conversation over each reply: by stream, a message after it, and as a whole."""
    script = [reply for wanted, _, _ in cases for reply in (wanted, text("fine"), wanted)]
    options = {"openai_max_retries": 0, "openai_api_key": KEY, "tools": [add]} | options
    async with scripted(script, **options) as (service, upstream):
        for number, (_, kept, code) in enumerate(cases):
            await converse(service, f"c{number}", code, kept)
            told = [m for m in upstream.requests[-2]["messages"] if m["role"] != "system"]
            asked = [m["content"] for m in told if m["role"] == "user"]
            assert asked == (["1", "2"] if kept else ["1\n\n2"])
            assert "".join(m["content"] or "" for m in told if m["role"] == "assistant") == kept


async def converse(service: Service, conversation: str, code: str | None, kept: str) -> None:
    found = await service.stream(message="1", conversation_id=conversation)
    end = ended(found, code)
    assert said(found) == kept
    assert await follow(service, end["run_id"]) == found
    info = await service.json("GET", f"/runs/{end['run_id']}")
    assert info["status"] == ("completed" if code is None else "failed")
    after = await service.stream(message="2", conversation_id=conversation)
    assert ended(after, None)["final_response"] == "fine"
    async with service.session.post(service.url + "/chat", json={"message": "3"}) as response:
        assert KEY not in await response.text() + json.dumps(info)
    assert response.status == (200 if code is None else 504 if "timeout" in code else 502)


def kept_after(position: int) -> str:
    return "".join(PIECES[: max(0, position - 1)])


BREAKS: dict[str, tuple[Callable[[int], Reply], str]] = {
    "a reset": (reset_after, "upstream_disconnected"),
    "an end in the middle": (lambda n: eof_after(n, clean=False), "upstream_disconnected"),
    "a clean end": (eof_after, "upstream_truncated"),
    "an error event": (error_event_after, "upstream_error"),
    "a named error event": (lambda n: error_event_after(n, named=True), "upstream_error"),
    "half a JSON document": (bad_json_after, "upstream_malformed"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_anywhere_is_an_error_that_keeps_its_text(name: str) -> None:
    broken, code = BREAKS[name]
    await check([(broken(at), kept_after(at), code) for at in BEFORE_THE_END])


async def test_a_stream_that_falls_silent_anywhere_is_a_timeout() -> None:
    cases: list[Case] = [
        (stall_after(at), kept_after(at), "upstream_timeout") for at in BEFORE_THE_END
    ]
    await check(cases, openai_timeout=0.15)


async def test_silence_before_the_first_byte_is_a_timeout() -> None:
    await check([(held(FOUR), "", "upstream_timeout")], openai_timeout=0.15)


async def test_what_breaks_behind_the_finish_reason_loses_nothing() -> None:
    breaks = [broken(at) for at in (6, 7, 8) for broken in (reset_after, eof_after)]
    script = [reply for broken in breaks for reply in (broken, text("fine"))]
    async with scripted(script, openai_max_retries=0) as (service, _):
        for number in range(len(breaks)):
            found = await service.stream(message="1", conversation_id=f"c{number}")
            ended(found, found[-1].get("code"))
            assert said(found) == "".join(PIECES)
            after = await service.stream(message="2", conversation_id=f"c{number}")
            assert ended(after, None)["final_response"] == "fine"


REFUSALS: dict[str, list[Reply]] = {
    "upstream_rejected": [
        status(400, "No."),
    ],
    "upstream_unauthorized": [
        status(401, f"Incorrect API key provided: {KEY}."),
        status(403, f"{KEY} may not."),
    ],
    "upstream_model_not_found": [
        status(404, "The model does not exist."),
    ],
    "upstream_rate_limited": [
        status(429, "Slow down."),
        status(429, "Slow down.", retry_after=7),
    ],
    "upstream_quota": [
        status(429, "Pay.", error_code="insufficient_quota"),
    ],
    "upstream_error": [
        status(500, f"Failed for {KEY}"),
        status(503),
        error_event_after(0, message=f"Bearer {KEY}"),
    ],
    "upstream_unreachable": [
        reset_at_once(),
    ],
    "upstream_malformed": [
        raw(b"<html>hello</html>", content_type="text/html"),
        raw(b"data: []\n\n", DONE),
    ],
    "upstream_truncated": [
        raw(b""),
        raw(DONE),
        raw(b"\xff\xfe\x00 not text"),
    ],
}


async def test_a_request_that_is_refused_is_an_error_with_its_code() -> None:
    await check([(reply, "", code) for code in REFUSALS for reply in REFUSALS[code]])


async def test_nobody_listening_is_an_error_that_may_pass() -> None:
    with refusing() as nowhere:
        async with running(upstream=nowhere, openai_max_retries=0) as service:
            end = ended(await service.stream(message="hi"), "upstream_unreachable")
    assert end["retryable"] is True


@pytest.mark.parametrize(
    "reply",
    [status(429, retry_after=0.01), status(500, retry_after=0.01), reset_at_once()],
    ids=["429", "500", "a reset"],
)
async def test_what_fails_before_the_first_token_is_tried_again(reply: Reply) -> None:
    script = [reply, reply, text("at last")]
    async with scripted(script, openai_max_retries=3) as (service, upstream):
        found = await service.stream(message="hi")
    assert ended(found, None)["final_response"] == "at last"
    assert upstream.asked.value == 3


async def test_what_breaks_after_the_first_token_is_not_tried_again() -> None:
    script = [reset_after(2), text("again")]
    async with scripted(script, openai_max_retries=3) as (service, upstream):
        found = await service.stream(message="hi")
    ended(found, "upstream_disconnected")
    assert upstream.asked.value == 1


A_CALL = calls(("add", {"a": 1, "b": 2}), before="I add.", ids=["call_1"])


async def test_a_call_that_is_cut_off_anywhere_is_not_executed() -> None:
    before_the_end = range(2, len(A_CALL.steps) - 3)
    await check(
        [(reset_after(at, A_CALL), "I add.", "upstream_disconnected") for at in before_the_end]
    )


@pytest.mark.parametrize("broken", [reset_after(3), eof_after(3), bad_json_after(3)], ids="abc")
async def test_a_fault_behind_a_tool_call_keeps_the_call_and_its_result(broken: Reply) -> None:
    script = [A_CALL, broken, text("fine")]
    async with scripted(script, tools=[add], openai_max_retries=0) as (service, upstream):
        found = await service.stream(message="1", conversation_id="c")
        assert found[-1]["event_type"] == "error"
        after = await service.stream(message="2", conversation_id="c")
    assert ended(after, None)["final_response"] == "fine"
    told = upstream.requests[-1]["messages"][1:]
    assert [m["role"] for m in told] == ["user", "assistant", "tool", "assistant", "user"]
    assert (told[2]["content"], told[3]["content"]) == ("3", "one two")


ADD = {"name": "add", "arguments": '{"a":1,"b":2}'}
ODD: dict[str, tuple[list[bytes], str]] = {
    "choices that are empty": ([chunk(None), chunk({"content": "x"}), chunk({}, "stop")], "x"),
    "content that is null": (
        [chunk({"content": None}), chunk({"content": "x"}), chunk({}, "stop")],
        "x",
    ),
    "fields that nobody knows": ([chunk({"content": "x", "new": {}}, "stop", more=[1])], "x"),
    "no usage and no end mark": ([chunk({"content": "x"}, "stop")], "x"),
    "reasoning": ([chunk({"reasoning_content": "hm"}), chunk({"content": "x"}, "stop")], "x"),
    "a comment": ([b": hello\n\n", chunk({"content": "x"}, "stop")], "x"),
    "line ends of another kind": ([chunk({"content": "x"}, "stop").replace(b"\n", b"\r\n")], "x"),
    "text of all kinds": ([chunk({"content": "\u2028é😀\\"}, "stop")], "\u2028é😀\\"),
}


async def test_an_odd_stream_is_read_all_the_same() -> None:
    await check([(Reply((*steps, DONE)), answer, None) for steps, answer in ODD.values()])


@pytest.mark.parametrize(
    "deltas",
    [
        [{"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": ADD}]}],
        [{"tool_calls": [{"id": "a", "type": "function", "function": ADD}]}],
        [
            {
                "tool_calls": [
                    {"index": 0, "id": "a", "type": "function", "function": ADD},
                    {"index": 1, "id": "b", "type": "function", "function": ADD},
                ]
            }
        ],
        [{"tool_calls": [{"index": 0, "id": "", "type": "function", "function": ADD}]}],
    ],
    ids=["in one piece", "without an index", "two in one event", "without an id"],
)
@pytest.mark.parametrize("finish_reason", ["tool_calls", "stop"])
async def test_odd_tool_calls_are_executed(
    deltas: list[dict[str, Any]], finish_reason: str
) -> None:
    script = [completion(deltas, finish_reason=finish_reason), text("three"), text("fine")]
    async with scripted(script, tools=[add]) as (service, upstream):
        found = await service.stream(message="1", conversation_id="c")
        done = [event for event in found if event["event_type"] == "tool_call_complete"]
        assert ended(found, None)["final_response"] == "three"
        ended(await service.stream(message="2", conversation_id="c"), None)
    assert len(done) == len(deltas[0]["tool_calls"])
    assert all(event["tool_call"]["result"] == 3 for event in done)
    assert upstream.asked.value == 3
