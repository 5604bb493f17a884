"""The agent loop after a crash and after a hand-off: who goes on, with which model and tools."""

import pytest

from agent import StreamingAgent
from events import AgentUpdated, ChatChunk, ReasoningBlock, ToolCallError
from messages import AssistantMessage, ReasoningBlockPart, SystemMessage, ToolCall
from models import AgentConfig
from tests.agent.support import Bench
from tests.agent.test_turns import Journal
from tests.scripted import Recorder, Script, asks, says
from tools.tool import idempotent, tool_from
from tools.workers import Workers

CROSSING = "transfer_to_billing"


class Counted:
    """Tools that count their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def look(self) -> object:
        @idempotent
        def look() -> str:
            """Look."""
            self.calls.append("look")
            return "seen"

        return look

    @property
    def act(self) -> object:
        def act() -> str:
            """Act."""
            self.calls.append("act")
            return "done"

        return act


def team(workers: Workers, tools: Counted, *replies: Script) -> Bench:
    """Return a bench whose agent hands over to one that acts, and has a model of its own."""
    bench = Bench(workers, *replies)
    acting = [tool_from(tools.look), tool_from(tools.act)]  # type: ignore[arg-type]
    config = AgentConfig(instructions="Bill.", model="small-1", fallback_models=["spare-1"])
    billing = StreamingAgent("billing", config, bench.provider, acting, workers)
    triage = AgentConfig(instructions="Triage.", fallback_models=["spare-2"])
    crossing = {"billing": lambda: billing}
    bench.agent = StreamingAgent("chat", triage, bench.provider, acting[1:], workers, crossing)
    return bench


async def test_who_takes_over_answers_with_its_own_model(workers: Workers) -> None:
    bench = team(workers, Counted(), asks((CROSSING, {})), says("Hi."))
    bench.state.prompt.model = "asked-of-the-first"
    await bench.run()
    asked = [(each.model, each.fallbacks) for each in bench.provider.requests]
    assert asked == [("asked-of-the-first", ()), ("small-1", ("spare-1",))]


async def test_a_turn_with_one_call_that_may_not_be_repeated_is_announced(
    workers: Workers,
) -> None:
    tools = Counted()
    bench = Bench(
        workers,
        asks(("look", {}), ("act", {})),
        says("So."),
        tools=[tools.look, tools.act],  # type: ignore[list-item]
    )
    journal = Journal(bench.state)
    await bench.run()
    assert [pending is not None for _, pending in journal.entries] == [True, False]
    assert sorted(tools.calls) == ["act", "look"]


@pytest.mark.parametrize("names", [("look", "act"), ("act", "look")])
async def test_of_an_interrupted_turn_all_calls_are_repeated_or_none(
    workers: Workers, names: tuple[str, str]
) -> None:
    tools = Counted()
    bench = Bench(workers, says("So."), tools=[tools.look, tools.act])  # type: ignore[list-item]
    calls = tuple(ToolCall(f"c{at}", name, "{}") for at, name in enumerate(names))
    bench.state.resumption.pending = AssistantMessage("", calls)
    await bench.run()
    assert tools.calls == []
    assert bench.errors() == [("c0", "interrupted"), ("c1", "interrupted")]


async def test_a_hand_off_that_a_crash_interrupted_is_made_again(workers: Workers) -> None:
    bench = team(workers, Counted(), says("Hi."))
    journal = Journal(bench.state)
    pending = AssistantMessage("Wait.", (ToolCall("c0", CROSSING, "{}"),))
    bench.state.resumption.pending = pending
    bench.state.prompt.model = "asked-of-the-first"
    await bench.run()
    [request] = bench.provider.requests
    assert (request.messages[0], request.model) == (SystemMessage("Bill."), "small-1")
    [updated] = bench.sink.of(AgentUpdated)
    assert (updated.previous_agent, updated.agent) == ("chat", "billing")
    assert [result.successor for result in bench.results()] == ["billing"]
    assert bench.sink.of(ChatChunk)[0].message_id == updated.message_id
    assert journal.entries[0] == (bench.state.transcript.messages[:2], None)


async def test_a_hand_off_beside_a_call_that_may_not_be_repeated_is_not_made(
    workers: Workers,
) -> None:
    tools = Counted()
    bench = team(workers, tools, says("Shall I?"))
    calls = (ToolCall("c0", CROSSING, "{}"), ToolCall("c1", "act", "{}"))
    bench.state.resumption.pending = AssistantMessage("", calls)
    await bench.run()
    [request] = bench.provider.requests
    assert request.messages[0] == SystemMessage("Triage.")
    assert bench.errors() == [("c0", "interrupted"), ("c1", "interrupted")]
    assert [result.successor for result in bench.results()] == [None, None]
    assert bench.sink.of(AgentUpdated) == []
    assert tools.calls == []


async def test_the_calls_of_who_took_over_are_repeated_with_its_tools(workers: Workers) -> None:
    tools = Counted()
    bench = team(workers, tools, says("Seen."))
    bench.state.resumption.successors = ["billing"]
    bench.state.resumption.pending = AssistantMessage("", (ToolCall("c0", "look", "{}"),))
    await bench.run()
    assert tools.calls == ["look"]
    assert bench.errors() == []
    assert bench.provider.requests[0].messages[0] == SystemMessage("Bill.")


async def test_each_batch_of_the_model_is_given_to_the_readers_before_the_next_one(
    workers: Workers,
) -> None:
    told: list[str] = []

    class Drained(Recorder):
        async def drain(self) -> None:
            told.append("".join(chunk.content for chunk in self.of(ChatChunk)))

    bench = Bench(workers, says("a", "b", "c"), sink=Drained())
    await bench.run()
    assert told == ["a", "ab", "abc", "abc"]


async def test_arguments_that_are_no_json_are_shown_cut_short(workers: Workers) -> None:
    bench = Bench(workers, asks(("add", "{" + "x" * 5000)), says("So."))
    await bench.run()
    [failed] = bench.sink.of(ToolCallError)
    assert failed.tool_call.arguments == "{" + "x" * 1999


async def test_reasoning_that_the_provider_wants_back_is_kept_with_its_message(
    workers: Workers,
) -> None:
    blocks = [ReasoningBlock("scripted", data) for data in ("1", "2")]
    first: Script = [[*map(ReasoningBlockPart, blocks)], *asks(("add", {"a": 1, "b": 2}))]
    bench = Bench(workers, first, [ReasoningBlockPart(blocks[0]), *says("So.")])
    await bench.run()
    assert [message.reasoning for message in bench.said()] == [tuple(blocks), (blocks[0],)]
    assert bench.provider.requests[1].messages[2] == bench.said()[0]


@pytest.mark.parametrize(("rounds", "reason"), [(2, "stop"), (3, "repeated_tool_calls")])
async def test_the_same_calls_are_made_twice_in_a_row_at_most(
    workers: Workers, rounds: int, reason: str
) -> None:
    call = asks(("add", {"a": 1, "b": 2}), ("add", {"a": 1, "b": 3}))
    swapped = asks(("add", {"a": 1, "b": 3}), ("add", {"a": 1, "b": 2}))
    turns = [call, swapped, call][:rounds]
    bench = Bench(workers, *turns, says("So."))
    assert (await bench.run()).finish_reason == reason
    assert [result.is_error for result in bench.results()] == [False] * 4 + [True] * 2 * (
        rounds - 2
    )


async def test_other_calls_in_between_begin_the_count_anew(workers: Workers) -> None:
    one, other = asks(("add", {"a": 1, "b": 2})), asks(("add", {"a": 2, "b": 2}))
    bench = Bench(workers, one, one, other, one, one, says("So."))
    assert (await bench.run()).finish_reason == "stop"
