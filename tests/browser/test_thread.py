"""What the page makes of stored messages and of events, in Node, without a page.

The cases are in the files `*.test.mjs`, which Node's own test runner executes. The properties say
what must hold for any legal log, also when it is told again from its beginning at any place.
"""

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import Event
from tests.logs import logs, numbered, unhurried

HERE = Path(__file__).parent
TIMEOUT = 50.0
"""Seconds for all cases of one file, on a machine that does other things too."""

Told: TypeAlias = list[dict[str, Any]]
Applying: TypeAlias = Callable[[Told], dict[str, Any]]

RESET = {"event_type": "reset", "run_id": "run_1", "epoch": 2, "reason": "epoch_changed"}
FINAL = {"tool_call_complete": "done", "tool_call_error": "failed"}


def node() -> str:
    """Return Node's path; where it is absent the test is skipped, or fails."""
    found = shutil.which("node")
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("node is not installed")
    return found


@pytest.fixture(scope="module")
def applying() -> Iterator[Applying]:
    """Applies events to an answer, as `thread.js` does."""
    process = subprocess.Popen(
        [node(), HERE / "applying.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    talking = process.stdin, process.stdout
    assert talking[0] is not None
    assert talking[1] is not None

    def apply(told: Told) -> dict[str, Any]:
        assert talking[0] is not None
        assert talking[1] is not None
        talking[0].write(json.dumps(told) + "\n")
        talking[0].flush()
        answer: dict[str, Any] = json.loads(talking[1].readline())
        return answer

    with process:
        yield apply
        talking[0].close()


def told(log: Sequence[Event]) -> Told:
    """Return a log as a reader gets it."""
    read: Told = msgspec.json.decode(msgspec.json.encode(numbered(log)))
    return read


def calls_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls that are shown."""
    groups = [part["calls"] for part in answer["parts"] if part["kind"] == "calls"]
    return [call for group in groups for call in group]


@unhurried
@given(log=logs())
def test_each_text_is_shown_once_and_whole(applying: Applying, log: Sequence[Event]) -> None:
    events = told(log)
    said: dict[str, str] = defaultdict(str)
    for event in events:
        if event["event_type"] == "chat_chunk":
            said[event["message_id"]] += event["content"]
    shown = [part for part in applying(events)["parts"] if part["kind"] == "text"]
    assert [(part["id"], part["text"]) for part in shown] == list(said.items())


@unhurried
@given(log=logs())
def test_all_reasoning_is_shown_in_its_order(applying: Applying, log: Sequence[Event]) -> None:
    events = told(log)
    thought = [each["content"] for each in events if each["event_type"] == "reasoning_chunk"]
    shown = [part["text"] for part in applying(events)["parts"] if part["kind"] == "reasoning"]
    assert "".join(shown) == "".join(thought)


@unhurried
@given(log=logs())
def test_each_call_is_shown_once_in_its_final_state(
    applying: Applying, log: Sequence[Event]
) -> None:
    events = told(log)
    ends = {
        event["tool_call"]["id"]: (FINAL[event["event_type"]], event["tool_call"].get("error"))
        for event in events
        if event["event_type"] in FINAL
    }
    shown = calls_in(applying(events))
    assert {call["id"]: (call["state"], call["error"]) for call in shown} == ends
    assert len(shown) == len(ends)


@unhurried
@given(log=logs())
def test_an_answer_ends_as_its_run_does(applying: Applying, log: Sequence[Event]) -> None:
    events = told(log)
    answer = applying(events)
    is_failed = events[-1]["event_type"] == "error"
    assert answer["state"] == ("failed" if is_failed else "done")
    assert (answer["error"] is not None) == is_failed
    assert applying(events[:-1])["state"] in ("waiting", "running")


@unhurried
@given(log=logs(), data=st.data())
def test_a_log_that_is_told_again_says_the_same(
    applying: Applying, log: Sequence[Event], data: st.DataObject
) -> None:
    # A call without a time of its own has that of its arrival, which is another one each time.
    events = [each for each in told(log) if (each.get("tool_call") or {}).get("started_at", 1)]
    heard = data.draw(st.lists(st.integers(0, len(events)), min_size=1, max_size=3))
    again = [event for length in heard for event in [*events[:length], RESET]]
    assert applying([*again, *events]) == applying(events)


@pytest.mark.timeout(TIMEOUT + 10)
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_the_cases_in_node_hold(file: str) -> None:
    ran = subprocess.run(
        [
            node(),
            "--test-reporter=tap",
            "--test-reporter-destination=stdout",
            "--unhandled-rejections=strict",
            "--test",
            HERE / file,
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert int(re.findall(r"^# pass (\d+)", said, re.M)[-1]) > 0, said
    for fault in ("fail", "cancelled", "skipped", "todo"):
        assert re.findall(rf"^# {fault} (\d+)", said, re.M)[-1] == "0", said
