"""Tools that the client executes, and what a request says about how it is answered."""

from typing import Any

import pytest

from events import ReasoningBlock
from messages import (
    AssistantMessage,
    EndPart,
    ModelOptions,
    OutputSchema,
    ReasoningBlockPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
)
from tests.agent.support import Bench
from tests.scripted import Output, asks, says, types
from tools.workers import Workers

SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
NOTE = ToolSpec("take_note", "Keep a note.", SCHEMA)
ADD_TOO = ToolSpec("add", "The client's own.", SCHEMA)


def offered(bench: Bench, number: int = 0) -> list[str]:
    return [tool.name for tool in bench.provider.requests[number].tools]


async def test_what_the_client_executes_ends_the_run_and_is_left_to_it(workers: Workers) -> None:
    bench = Bench(workers, asks(("take_note", '{"a": 1}'), text="I note it."))
    bench.state.prompt.client_tools = (NOTE,)
    done = await bench.run()
    assert done.finish_reason == "tool_calls"
    assert [(c.id, c.name, c.arguments) for c in done.tool_calls] == [
        ("c0", "take_note", '{"a": 1}')
    ]
    assert done.final_response == "I note it."
    # No call without a result may be kept; the client says both in its next request.
    assert bench.state.transcript.messages == [AssistantMessage("I note it.")]
    assert types(bench.sink.events) == ["chat_chunk", "chat_complete"]


async def test_the_agents_own_calls_of_the_same_turn_are_left_to_be_asked_for_again(
    workers: Workers,
) -> None:
    bench = Bench(
        workers,
        asks(("add", {"a": 1, "b": 2}), ("take_note", {}), text="Both."),
        max_tool_calls=1,
        max_turns=1,
    )
    bench.state.prompt.client_tools = (NOTE,)
    done = await bench.run()
    assert (done.finish_reason, [call.id for call in done.tool_calls]) == ("tool_calls", ["c1"])
    assert bench.state.transcript.messages == [AssistantMessage("Both.")]
    assert types(bench.sink.events) == ["chat_chunk", "chat_complete"]


async def test_the_clients_tools_stand_first_and_hide_those_of_their_names(
    workers: Workers,
) -> None:
    bench = Bench(workers, asks(("add", {"a": 1})))
    bench.state.prompt.client_tools = (NOTE, ADD_TOO)
    done = await bench.run()
    assert offered(bench) == ["take_note", "add", "hang", "fail", "crash", "leave", "count"]
    assert [call.name for call in done.tool_calls] == ["add"]


async def test_a_client_that_demands_a_call_wants_one_of_its_own(workers: Workers) -> None:
    bench = Bench(workers, asks(("take_note", {})))
    bench.state.prompt.client_tools = (NOTE,)
    bench.state.prompt.options = ModelOptions(tool_choice="required")
    await bench.run()
    assert offered(bench) == ["take_note"]
    assert bench.provider.requests[0].options.tool_choice == "required"


async def test_a_demand_is_met_by_the_first_call(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2})), says("3"))
    bench.state.prompt.options = ModelOptions(tool_choice="required")
    await bench.run()
    assert [each.options.tool_choice for each in bench.provider.requests] == ["required", "auto"]


async def test_a_request_wins_over_the_agents_configuration(workers: Workers) -> None:
    bench = Bench(
        workers,
        says("Ok"),
        says("Ok"),
        temperature=0.5,
        max_tokens=9,
        model="own",
        fallback_models=["other"],
    )
    form = OutputSchema("form", SCHEMA)
    bench.state.prompt.model = "wanted"
    bench.state.prompt.options = ModelOptions(temperature=0.0, top_p=0.1, stop=(".",), output=form)
    await bench.run()
    asked = bench.provider.requests[0]
    assert (asked.model, asked.fallbacks) == ("wanted", ())
    assert asked.options == ModelOptions(
        temperature=0.0, top_p=0.1, max_tokens=9, stop=(".",), output=form
    )
    bench.state.prompt.model, bench.state.prompt.options = None, ModelOptions(max_tokens=2)
    await bench.agent.run(bench.state)
    asked = bench.provider.requests[1]
    assert (asked.model, asked.fallbacks) == ("own", ("other",))
    assert (asked.options.temperature, asked.options.max_tokens) == (0.5, 2)


async def test_the_provider_is_told_what_the_client_itself_demands(workers: Workers) -> None:
    bench = Bench(workers, says("Ok"), says("Ok"), temperature=0.5, max_tokens=9)
    await bench.run()
    bench.state.prompt.options = ModelOptions(temperature=0.0, output=OutputSchema("any"))
    bench.state.prompt.client_tools = (NOTE,)
    await bench.agent.run(bench.state)
    agents, clients = bench.provider.requests
    assert agents.demanded == frozenset()
    assert clients.demanded == {"temperature", "output", "tools", "parallel_tools"}


@pytest.mark.parametrize(
    ("instructions", "knowledge", "told"),
    [
        ("Be brief.", "The user is Ann.", "Be brief.\n\nThe user is Ann."),
        ("Be brief.", "", "Be brief."),
        (None, "The user is Ann.", "The user is Ann."),
    ],
)
async def test_what_is_known_about_the_user_follows_the_instructions(
    workers: Workers, instructions: str | None, knowledge: str, told: str
) -> None:
    bench = Bench(workers, says("Ok"), instructions=instructions)
    bench.state.prompt.knowledge = knowledge
    await bench.run()
    assert bench.provider.requests[0].messages[0] == SystemMessage(told)


async def test_a_call_of_the_client_has_an_id_of_its_own(workers: Workers) -> None:
    bench = Bench(workers, asks(("take_note", {})))
    bench.state.prompt.client_tools = (NOTE,)
    bench.state.counts.reserve(AssistantMessage("", (ToolCall("c0", "add", "{}"),)))
    done = await bench.run()
    assert done.tool_calls[0].id not in ("", "c0")


async def test_what_the_provider_wants_back_goes_with_the_clients_calls(workers: Workers) -> None:
    thought, signature = ReasoningBlock("p", '{"a":1}'), ReasoningBlock("p", '{"b":2}')
    call = ToolCall("c0", "take_note", "{}", signature)
    reply: list[Output] = [
        TextPart("I note it."),
        ReasoningBlockPart(thought),
        [ToolCallPart(call), EndPart("tool_calls")],
    ]
    bench = Bench(workers, reply)
    bench.state.prompt.client_tools = (NOTE,)
    done = await bench.run()
    assert done.reasoning == (thought,)
    assert [call.reasoning for call in done.tool_calls] == [signature]
    # The client says all of it in its next request; kept as well, it would be there twice.
    assert bench.state.transcript.messages == [AssistantMessage("I note it.")]


async def test_an_end_that_asks_for_nothing_gives_nothing_to_give_back(workers: Workers) -> None:
    block = ReasoningBlock("p", "{}")
    bench = Bench(workers, [ReasoningBlockPart(block), *says("Ok")])
    done = await bench.run()
    assert done.reasoning == ()
    assert bench.state.transcript.messages == [AssistantMessage("Ok", (), (block,))]
