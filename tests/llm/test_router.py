"""Several providers behind one."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import UpstreamError
from llm.circuit import Circuit
from llm.providers import PROVIDERS
from llm.router import Router
from messages import ModelRequest, ReplyPart, TextPart, UserMessage
from tests.scripted import DEADLINE, Gate, Script, ScriptedProvider, says

HI = says("hi")
REMEDIES = {"demo": "name a model"} | {row.name: row.remedy for row in PROVIDERS}

DOWN = UpstreamError("Down.", retryable=True, retry_after=7.0)
REJECTED = UpstreamError("Rejected.", code="upstream_rejected")


class Named(ScriptedProvider):
    """A scripted provider with a default model of its own."""

    def __init__(self, default_model: str, *replies: Script) -> None:
        super().__init__(*replies)
        self.default_model = default_model


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(model: str, *fallbacks: str) -> ModelRequest:
    return ModelRequest(model=model, fallbacks=fallbacks, messages=(UserMessage("Go."),))


async def batches(router: Router, asked: ModelRequest) -> list[list[ReplyPart]]:
    async with asyncio.timeout(DEADLINE), aclosing(router.stream(asked)) as stream:
        return [batch async for batch in stream]


async def failure(router: Router, asked: ModelRequest) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await batches(router, asked)
    return caught.value


# Names.


def routed(*replies: Script) -> tuple[Router, dict[str, Named]]:
    providers = {
        "openai": Named("gpt", *replies),
        "anthropic": Named("claude", *replies),
        "demo": Named("demo", *replies),
    }
    return Router(providers, "openai", remedies=REMEDIES), providers


NAMES = [
    ("gpt-4.1", "openai", "gpt-4.1", "gpt-4.1"),
    ("openai:gpt-4.1", "openai", "gpt-4.1", "gpt-4.1"),
    ("openai", "openai", "gpt", "gpt"),
    ("anthropic:claude-9", "anthropic", "claude-9", "anthropic:claude-9"),
    ("anthropic", "anthropic", "claude", "anthropic:claude"),
    ("anthropic:", "anthropic", "claude", "anthropic:claude"),
    ("demo", "demo", "demo", "demo:demo"),
    ("llama3:8b", "openai", "llama3:8b", "llama3:8b"),
    ("openai:llama3:8b", "openai", "llama3:8b", "llama3:8b"),
    ("openai:anthropic:claude", "openai", "anthropic:claude", "openai:anthropic:claude"),
    ("openai:friendli:x", "openai", "friendli:x", "openai:friendli:x"),
    ("Qwen/Qwen3", "openai", "Qwen/Qwen3", "Qwen/Qwen3"),
    (":x", "openai", ":x", ":x"),
]
"""A name, whom it asks for which model, and the name by which that one is told."""


@pytest.mark.parametrize(("wanted", "name", "model", "told"), NAMES)
async def test_a_name_says_whom_to_ask_for_what(
    wanted: str, name: str, model: str, told: str
) -> None:
    router, providers = routed(HI)
    assert await batches(router, request(wanted)) == [[part] for part in HI]
    assert {key: len(provider.requests) for key, provider in providers.items()} == {
        key: int(key == name) for key in providers
    }
    assert providers[name].requests[0] == request(model)
    assert router.answering(wanted) == told


@given(st.lists(st.sampled_from(["openai", "anthropic", "friendli", "llama", ":", ""]), min_size=1))
def test_a_name_that_was_told_may_be_asked_for_again(parts: list[str]) -> None:
    router, _ = routed()
    told = router.answering("".join(parts))
    assert router.answering(told) == told


def test_the_default_is_the_default_providers() -> None:
    router, _ = routed()
    assert (router.name, router.default_model) == ("scripted", "gpt")
    assert router.answering(None) == "gpt"
    odd = Router({"openai": Named("demo:1"), "demo": Named("demo")}, "openai")
    assert odd.default_model == odd.answering(None) == "openai:demo:1"


@pytest.mark.parametrize(
    ("wanted", "setting"),
    [
        ("openai:gpt", "OPENAI_API_KEY"),
        ("anthropic:claude", "ANTHROPIC_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("friendli:Qwen/Qwen3", "FRIENDLI_TOKEN"),
        ("demo", "name a model"),
    ],
)
async def test_a_provider_that_is_not_there_is_told_with_its_setting(
    wanted: str, setting: str
) -> None:
    router = Router({"local": ScriptedProvider()}, "local", remedies=REMEDIES)
    error = await failure(router, request(wanted))
    assert (error.code, error.retryable) == ("upstream_not_configured", False)
    assert setting in error.message
    assert router.answering(wanted) == wanted


# Fall-backs.


def code(name: str, *, retryable: bool = False) -> UpstreamError:
    return UpstreamError("It failed.", code=name, retryable=retryable)


HELPED = [
    DOWN,
    code("upstream_rate_limited", retryable=True),
    code("upstream_timeout", retryable=True),
    code("upstream_unauthorized"),
    code("upstream_quota"),
    code("upstream_model_not_found"),
    code("upstream_unsupported"),
]


@pytest.mark.parametrize("error", HELPED, ids=lambda error: error.code)
async def test_what_another_model_may_not_have_is_asked_of_it(error: UpstreamError) -> None:
    first, second = Named("a", [error]), Named("b", HI)
    router = Router({"first": first, "second": second}, "first")
    assert await batches(router, request("a-1", "second:b-1", "a-2")) == [[part] for part in HI]
    assert first.requests == [request("a-1")]
    assert second.requests == [request("b-1")]


async def test_a_model_of_a_provider_that_is_not_there_has_its_fall_back() -> None:
    provider = Named("a", HI)
    router = Router({"first": provider}, "first", remedies=REMEDIES)
    await batches(router, request("anthropic:claude", "a-1"))
    assert provider.requests == [request("a-1")]


@pytest.mark.parametrize("error", [REJECTED, code("upstream_error")], ids=lambda error: error.code)
async def test_what_is_wrong_with_every_model_is_asked_of_one(error: UpstreamError) -> None:
    provider = Named("a", [error], HI)
    router = Router({"first": provider}, "first")
    assert await failure(router, request("a-1", "a-2")) is error
    assert len(provider.requests) == 1


async def test_fall_backs_are_asked_in_their_order_and_all_failures_counted() -> None:
    last = UpstreamError("Slow down.", code="upstream_rate_limited", retryable=True, retry_after=3)
    provider = Named("a", [DOWN], [DOWN], [last])
    router = Router({"first": provider}, "first")
    error = await failure(router, request("a-1", "a-2", "a-3"))
    assert [asked.model for asked in provider.requests] == ["a-1", "a-2", "a-3"]
    assert error.message.startswith("Slow down. ")
    assert "3 models" in error.message
    assert (error.code, error.retryable, error.retry_after) == ("upstream_rate_limited", True, 3)


async def test_the_failure_of_a_single_model_is_as_it_was() -> None:
    assert await failure(Router({"a": Named("a", [DOWN])}, "a"), request("a-1")) is DOWN


async def test_a_fall_back_that_rejects_the_request_is_the_last() -> None:
    provider = Named("a", [DOWN], [REJECTED], HI)
    error = await failure(Router({"a": provider}, "a"), request("a-1", "a-2", "a-3"))
    assert error.code == "upstream_rejected"
    assert "2 models" in error.message


async def test_after_the_first_batch_there_is_no_way_back() -> None:
    provider = Named("a", [TextPart("Once"), DOWN], HI)
    stream = Router({"a": provider}, "a").stream(request("a-1", "a-2"))
    async with asyncio.timeout(DEADLINE), aclosing(stream):
        assert await anext(stream) == [TextPart("Once")]
        with pytest.raises(UpstreamError) as caught:
            await anext(stream)
    assert caught.value is DOWN
    assert len(provider.requests) == 1


async def test_each_batch_is_passed_on_as_it_is_and_when_it_comes() -> None:
    gate = Gate()
    batch: list[ReplyPart] = [TextPart("a"), TextPart("b")]
    router = Router({"a": Named("a", [batch, gate, *HI])}, "a")
    async with asyncio.timeout(DEADLINE), aclosing(router.stream(request("a"))) as stream:
        assert await anext(stream) is batch
        gate.open()
        assert [part async for part in stream] == [[part] for part in HI]


# Ends.


async def test_a_cancel_passes_at_once_and_closes_the_stream() -> None:
    gate = Gate()
    provider = Named("a", [gate], HI)
    router = Router({"a": provider}, "a")
    task = asyncio.create_task(batches(router, request("a-1", "a-2")))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(provider.requests) == 1
    assert provider.open_streams == 0


async def test_closing_the_stream_closes_the_providers() -> None:
    provider = Named("a", [*HI])
    stream = Router({"a": provider}, "a").stream(request("a"))
    await anext(stream)
    assert provider.open_streams == 1
    await stream.aclose()
    assert provider.open_streams == 0


async def test_a_failed_stream_is_closed_before_the_fall_back_is_asked() -> None:
    provider = Named("a", [DOWN], HI)
    seen: list[int] = []
    ask = provider.stream

    def watched(asked: ModelRequest) -> object:
        seen.append(provider.open_streams)
        return ask(asked)

    provider.stream = watched  # type: ignore[method-assign, assignment]
    await batches(Router({"a": provider}, "a"), request("a-1", "a-2"))
    assert seen == [0, 0]


# Circuits.


def breaking(clock: Clock) -> Callable[[], Circuit]:
    return lambda: Circuit(failures=2, clock=clock)


async def test_a_provider_that_keeps_failing_is_not_asked_for_a_while() -> None:
    clock = Clock()
    provider = Named("a", [DOWN], [DOWN], HI)
    router = Router({"a": provider}, "a", circuit=breaking(clock))
    for _ in range(2):
        assert await failure(router, request("a-1")) is DOWN
    clock.now += 0.25
    error = await failure(router, request("a-1"))
    assert (error.code, error.retryable) == ("upstream_circuit_open", True)
    assert error.retry_after == 0.75
    assert "'a'" in error.message
    assert len(provider.requests) == 2
    clock.now += 0.75
    assert await batches(router, request("a-1")) == [[part] for part in HI]


async def test_one_conversation_that_a_provider_cannot_stand_opens_it_for_nobody_else() -> None:
    crash = UpstreamError("Crash.", retryable=True, is_doubtful=True)
    provider = Named("a", *[[crash]] * 20, HI)
    router = Router({"a": provider}, "a", circuit=breaking(Clock()))
    for number in range(10):  # as a stored conversation, and as one that its client keeps
        asked = msgspec.structs.replace(request("a-1"), conversation="conv_1")
        assert await failure(router, asked) is crash
        asked = msgspec.structs.replace(request("a-1"), conversation=f"chatcmpl_{number}")
        assert await failure(router, asked) is crash
    assert await batches(router, request("a-1")) == [[part] for part in HI]


async def test_a_conversation_is_the_same_when_its_beginning_is_cut_off() -> None:
    crash = UpstreamError("Crash.", retryable=True, is_doubtful=True)
    provider = Named("a", *[[crash]] * 5, HI)
    router = Router({"a": provider}, "a", circuit=breaking(Clock()))
    for number in range(5):
        asked = ModelRequest(
            model="a-1", messages=(UserMessage(f"{number}"),), conversation="conv_1"
        )
        assert await failure(router, asked) is crash
    assert await batches(router, request("a-1")) == [[part] for part in HI]


async def test_conversations_that_all_fail_open_it() -> None:
    crash = UpstreamError("Crash.", retryable=True, is_doubtful=True)
    provider = Named("a", [crash], [crash])
    router = Router({"a": provider}, "a", circuit=breaking(Clock()))
    for said in ("Hi.", "Ho."):
        asked = ModelRequest(model="a-1", messages=(UserMessage(said),))
        assert await failure(router, asked) is crash
    assert (await failure(router, request("a-1"))).code == "upstream_circuit_open"


async def test_a_set_dialect_is_the_one_of_the_first_model() -> None:
    first, second = Named("a", [DOWN]), Named("b", HI)
    router = Router({"a": first, "b": second}, "a")
    asked = msgspec.structs.replace(request("a-1", "b:b-1"), dialect={"bound": "none"})
    await batches(router, asked)
    assert first.requests[0].dialect == {"bound": "none"}
    assert second.requests[0].dialect == {}


async def test_a_fall_back_is_asked_at_once_while_a_circuit_is_open() -> None:
    first, second = Named("a", [DOWN], [DOWN]), Named("b", HI, HI, HI)
    router = Router({"a": first, "b": second}, "a", circuit=breaking(Clock()))
    for _ in range(3):
        await batches(router, request("a-1", "b:b-1"))
    assert (len(first.requests), len(second.requests)) == (2, 3)


async def test_answers_that_break_off_open_it_too() -> None:
    provider = Named("a", [TextPart("a"), DOWN], [TextPart("a"), DOWN])
    router = Router({"a": provider}, "a", circuit=breaking(Clock()))
    for _ in range(2):
        assert await failure(router, request("a-1")) is DOWN
    assert (await failure(router, request("a-1"))).code == "upstream_circuit_open"


async def test_faults_of_the_request_do_not_open_it() -> None:
    provider = Named("a", [REJECTED], [REJECTED], [code("upstream_unauthorized")], HI)
    router = Router({"a": provider}, "a", circuit=breaking(Clock()))
    for _ in range(3):
        await failure(router, request("a-1"))
    assert await batches(router, request("a-1")) == [[part] for part in HI]


async def test_a_trial_is_alone_until_it_answers() -> None:
    clock, before, behind = Clock(), Gate(), Gate()
    provider = Named("a", [DOWN], [DOWN], [before, TextPart("a"), behind, *HI], HI)
    router = Router({"a": provider}, "a", circuit=breaking(clock))
    for _ in range(2):
        await failure(router, request("a-1"))
    clock.now += 5.0
    async with asyncio.timeout(DEADLINE), aclosing(router.stream(request("a-1"))) as trial:
        first = asyncio.ensure_future(anext(trial))
        await before.reached()
        assert (await failure(router, request("a-1"))).code == "upstream_circuit_open"
        before.open()
        assert await first == [TextPart("a")]
        assert await batches(router, request("a-1")) == [[part] for part in HI]


async def test_a_cancelled_trial_frees_its_place() -> None:
    clock, gate = Clock(), Gate()
    provider = Named("a", [DOWN], [DOWN], [gate], HI)
    router = Router({"a": provider}, "a", circuit=breaking(clock))
    for _ in range(2):
        await failure(router, request("a-1"))
    clock.now += 5.0
    trial = asyncio.create_task(batches(router, request("a-1")))
    await gate.reached()
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert await batches(router, request("a-1")) == [[part] for part in HI]


# Beginning and end of the service.


class Warming(Named):
    """Warms up while another does, or fails to."""

    def __init__(self, meeting: asyncio.Barrier, error: Exception | None = None) -> None:
        super().__init__("w")
        self.is_warm = False
        self._meeting = meeting
        self._error = error

    async def warm(self) -> None:
        await self._meeting.wait()
        if self._error is not None:
            raise self._error
        self.is_warm = True

    async def aclose(self) -> None:
        await super().aclose()
        if self._error is not None:
            raise self._error


async def test_all_are_warmed_at_the_same_time_and_a_failure_stops_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    meeting = asyncio.Barrier(3)
    broken, second, third = Warming(meeting, DOWN), Warming(meeting), Warming(meeting)
    router = Router({"a": broken, "b": second, "c": third}, "b")
    with caplog.at_level(logging.WARNING, "parley.llm"):
        async with asyncio.timeout(DEADLINE):
            await router.warm()
    assert second.is_warm
    assert third.is_warm
    assert "provider a " in caplog.text


@pytest.mark.parametrize("error", [DOWN, RuntimeError()], ids=["default", "mistake"])
async def test_what_the_default_fails_with_is_raised_and_so_is_a_mistake(error: Exception) -> None:
    meeting = asyncio.Barrier(2)
    broken, other = Warming(meeting, error), Warming(meeting)
    default = "a" if error is DOWN else "b"
    with pytest.raises(type(error)):
        async with asyncio.timeout(DEADLINE):
            await Router({"a": broken, "b": other}, default).warm()
    assert other.is_warm


async def test_all_are_closed_also_where_one_fails_to() -> None:
    meeting = asyncio.Barrier(1)
    providers = {"a": Named("a"), "b": Warming(meeting, RuntimeError("stuck")), "c": Named("c")}
    with pytest.raises(RuntimeError, match="stuck"):
        await Router(providers, "a").aclose()
    assert [provider.is_closed for provider in providers.values()] == [True] * 3


async def test_only_what_the_default_provider_fails_makes_it_unavailable() -> None:
    clock = Clock()
    providers = {"a": Named("a", [DOWN], [DOWN], HI), "b": Named("b", [DOWN], [DOWN])}
    router = Router(providers, "a", circuit=breaking(clock))
    for model in ("b:x", "b:x", "a-1"):
        await failure(router, request(model))
    assert router.is_available
    await failure(router, request("a-1"))
    assert not router.is_available
    clock.now += 5
    assert router.is_available


async def test_what_fails_in_the_background_closes_no_way_for_others() -> None:
    broken = UpstreamError("Down.", retryable=True)
    router, _ = routed(*[[broken] for _ in range(20)], says("Ok"))
    apart = router.apart()
    for _ in range(20):
        await failure(apart, request("gpt"))
        if not apart.is_available:
            break
    assert not apart.is_available
    assert router.is_available
    assert (await failure(apart, request("gpt"))).code == "upstream_circuit_open"
    assert (await failure(router, request("gpt"))).code != "upstream_circuit_open"
