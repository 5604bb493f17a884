"""What a run is started with: how it is stored, and what earlier versions stored."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from errors import ParleyError
from events import ChatComplete
from messages import (
    AssistantMessage,
    ImageContent,
    ModelOptions,
    OutputSchema,
    SystemMessage,
    TextContent,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from runs.request import RunRequest, check_same, decoded, encoded, fingerprint_of
from storage.store import Store
from tests.runs.support import ask, echo, ended, opened
from tests.scripted import ScriptedProvider

HI = (UserMessage("Hi."),)
SAID = (
    UserMessage("Look.", (TextContent("Look."), ImageContent("data:x")), "ann"),
    AssistantMessage("", (ToolCall("c1", "add", '{"a":1}'),)),
    ToolMessage("c1", "add", "3"),
    UserMessage("And?"),
)
COMPLETION = r"""{"completion":{"messages":[{"role":"user","content":"Look.","parts":[
{"type":"text","text":"Look."},{"type":"image","url":"data:x"}],"name":"ann"},
{"role":"assistant","content":"","tool_calls":[{"id":"c1","name":"add","arguments":"{\"a\":1}"}],
"reasoning":[]},{"role":"tool","tool_call_id":"c1","name":"add","content":"3"},
{"role":"user","content":"And?"}],"instructions":"Rhyme.","model":"m","options":{"temperature":0.5,
"stop":["x"],"output":{"name":"f","schema":{"type":"object"}},"tool_choice":"none"},"tools":[
{"name":"t","description":"d","parameters":{}}],"user_id":"ann","memory":true,"is_kept":true,
"follows":"conv_1","echo":{"metadata":{"a":1}}}}"""
MESSAGE = """{"conversation_id":"c","user_id":"ann","if_busy":"interrupt","message":"Hi.",
"reset_history":true,"history":[{"role":"system","content":"Rhyme."},
{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}"""

# What version 0.1.0 stored, and what it means.
ROWS: list[tuple[str, RunRequest]] = [
    ('{"message":"Hi."}', RunRequest(messages=HI, agent="chat")),
    (
        MESSAGE,
        RunRequest(
            messages=HI,
            history=(UserMessage("A"), AssistantMessage("B")),
            instructions=("Rhyme.",),
            conversation_id="c",
            reset=True,
            if_busy="interrupt",
            agent="chat",
        ),
    ),
    (
        '{"conversation_id":"c","parallel_tools":false,"agent":"b","message_id":"msg_1",'
        '"message":"Hi."}',
        RunRequest(messages=HI, branch=("c", "msg_1"), agent="b", parallel_tools=False),
    ),
    (
        '{"conversation_id":"c","memory":true}',
        RunRequest(conversation_id="c", must_exist=True, regenerates=True, memory=True),
    ),
    (
        COMPLETION,
        RunRequest(
            messages=SAID,
            instructions=("Rhyme.",),
            branch=("conv_1", None),
            ephemeral=True,
            is_whole=True,
            agent="chat",
            model="m",
            options=ModelOptions(
                temperature=0.5,
                stop=("x",),
                output=OutputSchema("f", {"type": "object"}),
                tool_choice="none",
            ),
            tools=(ToolSpec("t", "d", {}),),
            memory=True,
            echo={"metadata": {"a": 1}},
        ),
    ),
    (
        '{"completion":{"messages":[{"role":"user","content":"Hi."}]}}',
        RunRequest(history=HI, ephemeral=True, is_kept=False, is_whole=True, agent="chat"),
    ),
    (
        '{"completion":{"messages":[],"model":"m","is_kept":true,"echo":{"metadata":{"a":1}}}}',
        RunRequest(
            ephemeral=True, is_whole=True, agent="chat", model="m", echo={"metadata": {"a": 1}}
        ),
    ),
]


@pytest.mark.parametrize(("row", "request_"), ROWS)
def test_what_an_older_version_stored_is_read(row: str, request_: RunRequest) -> None:
    assert decoded(row) == request_


@pytest.mark.parametrize("request_", [request_ for _, request_ in ROWS])
def test_a_request_is_read_as_it_was_stored_and_says_its_version(request_: RunRequest) -> None:
    assert decoded(encoded(request_)) == request_
    assert json.loads(encoded(request_))["version"] == 2


@pytest.mark.parametrize(
    "row",
    [
        "",
        "[]",
        "not JSON",
        '{"version":3}',
        '{"version":2,"messages":7}',
        '{"completion":{}}',
        '{"completion":7}',
        '{"message":7}',
        '{"message":"Hi.","history":[7]}',
        '{"message_id":"m","message":"Hi."}',
    ],
)
def test_what_is_no_request_says_so(row: str) -> None:
    with pytest.raises(ParleyError) as caught:
        decoded(row)
    assert caught.value.code == "interrupted"


def test_what_stays_after_the_end_is_what_a_client_finds_again() -> None:
    whole = ROWS[4][1]
    left = decoded(whole.after_its_end())
    assert (left.echo, left.model, left.is_found_again) == (whole.echo, "m", True)
    assert (left.messages, left.instructions, left.tools) == ((), (), ())
    assert [request_.after_its_end() for _, request_ in ROWS[:4]] == [""] * 4
    assert ROWS[5][1].after_its_end() == ""


def test_the_key_of_an_older_request_is_trusted() -> None:
    check_same(b"a" * 32, b"\x02" + b"b" * 32)
    check_same(b"\x01" + b"a" * 32, b"\x02" + b"b" * 32)
    check_same(b"\x02" + b"b" * 32, b"\x02" + b"b" * 32)
    with pytest.raises(ParleyError) as caught:
        check_same(b"\x02" + b"a" * 32, b"\x02" + b"b" * 32)
    assert caught.value.code == "idempotency_conflict"


def test_a_key_does_not_ask_whether_the_conversation_is_listed() -> None:
    listed = RunRequest(messages=HI)
    assert fingerprint_of(listed) == fingerprint_of(RunRequest(messages=HI, ephemeral=True))
    assert fingerprint_of(listed) != fingerprint_of(RunRequest(messages=HI, reset=True))


async def test_a_run_that_an_older_version_left_goes_on(tmp_path: Path) -> None:
    path, fields = tmp_path / "p.db", dict[str, Any]()
    provider = ScriptedProvider(reply_to=echo)
    async with opened(path=path) as registry:
        agent = registry.agents.find(registry.caller, "chat")
        request = ask(conversation_id="c")
        stored = registry.inner._stored(registry.caller, request, agent, "c")
        fields["request"] = MESSAGE
    async with Store.open(f"sqlite:///{path}", instance="older") as store:
        await store.accept(msgspec.structs.replace(stored, **fields), begin=None)
    async with opened(provider, path=path) as registry:
        run = await registry.run(stored.id)
        await ended(registry, run)
        assert isinstance(run.terminal, ChatComplete)
        assert run.terminal.final_response == "You said: Hi."
    rules, *said = provider.requests[0].messages[1:]
    assert rules == SystemMessage("Rhyme.")
    assert said == [UserMessage("A"), AssistantMessage("B"), UserMessage("Hi.")]
