"""The agent loop: storing turns, going on after a crash, handing over."""

import asyncio
import re
from collections.abc import Sequence
from functools import partial

import pytest

from agent import StreamingAgent
from errors import NotFound, Unavailable
from events import AgentUpdated, ChatChunk
from loop.calls import handoff_tool
from loop.state import RunState
from messages import AssistantMessage, Message, SystemMessage, ToolCall
from models import AgentConfig
from tests.agent.support import Bench
from tests.scripted import Script, asks, says
from tools.tool import idempotent
from tools.workers import Workers


class Journal:
    """What was stored, in order."""

    def __init__(self, state: RunState) -> None:
        self.entries: list[tuple[list[Message], AssistantMessage | None]] = []
        self.fails = False
        state.transcript.journal = self.store

    async def store(self, messages: Sequence[Message], pending: AssistantMessage | None) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise Unavailable("No.")
        self.entries.append(([*messages], pending))


async def test_a_turn_is_stored_with_its_results_before_the_model_is_asked_again(
    workers: Workers,
) -> None:
    bench = Bench(workers, asks(("add", {"a": 1, "b": 2}), text="Well:"), says("3"))
    journal = Journal(bench.state)
    await bench.run()
    call, result, answer = bench.state.transcript.messages
    assert journal.entries == [([], call), ([call, result], None)]
    assert bench.state.transcript.saved == 2
    assert bench.state.transcript.messages[2:] == [answer]


async def test_calls_that_may_be_repeated_are_not_announced(workers: Workers) -> None:
    @idempotent
    def look() -> str:
        """Look."""
        return "seen"

    bench = Bench(workers, asks(("look", {})), says("3"), tools=[look])
    journal = Journal(bench.state)
    await bench.run()
    assert [pending for _, pending in journal.entries] == [None]


async def test_calls_that_could_not_be_announced_are_not_executed(workers: Workers) -> None:
    called = []

    def act() -> None:
        """Act."""
        called.append(1)

    bench = Bench(workers, asks(("act", {}), text="Well:"), tools=[act])
    Journal(bench.state).fails = True
    await bench.fails(Unavailable)
    assert called == []
    assert [result.is_error for result in bench.results()] == [True]


PENDING = AssistantMessage("Well:", (ToolCall("c0", "add", '{"a": 1, "b": 2}'),))


@pytest.mark.parametrize("harmless", [True, False])
async def test_interrupted_calls_are_repeated_only_where_that_does_no_harm(
    workers: Workers, harmless: bool
) -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    bench = Bench(workers, says("3"), tools=[idempotent(add) if harmless else add])
    journal = Journal(bench.state)
    bench.state.resumption.pending = PENDING
    await bench.run()
    assert bench.state.transcript.messages[0] == PENDING
    assert bench.errors() == ([] if harmless else [("c0", "interrupted")])
    assert bench.results()[0].is_error is not harmless
    assert journal.entries[0] == (bench.state.transcript.messages[:2], None)
    assert bench.provider.requests[0].messages[-1] == bench.results()[0]


BILLING = handoff_tool("billing.eu")


def team(workers: Workers, *replies: Script) -> tuple[Bench, StreamingAgent]:
    """Return a bench whose agent may hand over to another one."""
    bench = Bench(workers, *replies, tools=[])
    billing = StreamingAgent(
        "billing.eu", AgentConfig(instructions="Bill."), bench.provider, [], workers
    )
    bench.agent = StreamingAgent(
        "chat",
        AgentConfig(instructions="Triage."),
        bench.provider,
        [],
        workers,
        {"billing.eu": lambda: billing},
    )
    return bench, billing


async def test_an_agent_hands_over_to_another_which_goes_on(workers: Workers) -> None:
    bench, _ = team(workers, asks((BILLING, {}), text="One moment."), says("Hi."))
    done = await bench.run()
    assert done.final_response == "Hi."
    first, second = bench.provider.requests
    assert [tool.name for tool in first.tools] == [BILLING]
    assert (second.tools, second.messages[0]) == ((), SystemMessage("Bill."))
    assert not bench.results()[0].is_error
    [updated] = bench.sink.of(AgentUpdated)
    assert (updated.agent, updated.previous_agent) == ("billing.eu", "chat")
    texts = bench.sink.of(ChatChunk)
    assert [text.message_id == updated.message_id for text in texts] == [True, False]


async def test_of_two_hand_offs_in_one_turn_the_first_counts(workers: Workers) -> None:
    twice = asks((BILLING, {}), (BILLING, {}))
    bench, _ = team(workers, twice, says("Hi."))
    await bench.run()
    assert [result.is_error for result in bench.results()] == [False, True]
    assert len(bench.sink.of(AgentUpdated)) == 1


async def test_an_agent_that_is_gone_is_not_handed_over_to(workers: Workers) -> None:
    def gone() -> StreamingAgent:
        raise NotFound("There is no agent of the name 'x'.")

    bench = Bench(workers, asks(("transfer_to_x", {})), says("Sorry."), tools=[])
    bench.agent = StreamingAgent(
        "chat", AgentConfig(instructions="T."), bench.provider, [], workers, {"x": gone}
    )
    await bench.run()
    assert bench.results()[0].is_error
    assert bench.sink.of(AgentUpdated) == []
    assert bench.provider.requests[1].messages[0] == SystemMessage("T.")


async def test_the_result_of_a_hand_off_says_who_took_over(workers: Workers) -> None:
    bench, _ = team(workers, asks((BILLING, {})), says("Here."))
    await bench.run()
    assert [result.successor for result in bench.results()] == ["billing.eu"]


async def test_a_run_goes_on_with_the_agent_that_had_taken_over(workers: Workers) -> None:
    bench, _ = team(workers, says("Here."))
    bench.state.resumption.successors, bench.state.prompt.model = (
        ["billing.eu"],
        "asked-of-the-first",
    )
    await bench.run()
    [request] = bench.provider.requests
    assert request.messages[0] == SystemMessage("Bill.")
    assert request.model == bench.provider.default_model


def test_no_two_agents_are_handed_over_to_by_one_tool() -> None:
    agents = ["a_b", "a.b", "a-b", "x" * 52, "x" * 53, "x" * 64, "x" * 63 + "y", "x" * 63 + "."]
    tools = [handoff_tool(agent) for agent in agents]
    assert len({*tools}) == len(agents)
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", tool) for tool in tools)
    assert tools[0] == "transfer_to_a_b"
    assert tools[3] == "transfer_to_" + "x" * 52


async def test_each_of_two_agents_of_nearly_the_same_name_takes_over(workers: Workers) -> None:
    for wanted in ("a.b", "a_b"):
        bench = Bench(workers, asks((handoff_tool(wanted), {})), says("Hi."), tools=[])
        others = {
            name: StreamingAgent(name, AgentConfig(), bench.provider, [], workers)
            for name in ("a.b", "a_b")
        }
        bench.agent = StreamingAgent(
            "chat",
            AgentConfig(),
            bench.provider,
            [],
            workers,
            {name: partial(others.__getitem__, name) for name in others},
        )
        await bench.run()
        assert len(bench.provider.requests[0].tools) == 2
        [updated] = bench.sink.of(AgentUpdated)
        assert updated.agent == wanted


@pytest.mark.parametrize("text", ["", " \n"])
async def test_a_blank_answer_is_not_kept(workers: Workers, text: str) -> None:
    bench = Bench(workers, says(text))
    await bench.run()
    assert bench.state.transcript.messages == []
