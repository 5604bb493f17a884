import asyncio
import json
import logging
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from errors import InvalidArguments, ToolError
from tools.tool import (
    ARGUMENTS_LIMIT,
    ERROR_LIMIT,
    PROGRESS_INTERVAL,
    RESULT_LIMIT,
    VALUES_LIMIT,
    Tool,
    ToolContext,
    ToolOutput,
    output_from,
    tool_from,
)
from tools.values import json_value
from tools.workers import Workers

DEADLINE = 10

Report = tuple[float, float | None, str | None]


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What blocking tools wait for; set at the test's end, so that no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def workers(released: threading.Event) -> AsyncIterator[Workers]:
    async with asyncio.timeout(DEADLINE):
        async with Workers(8) as workers:
            yield workers
            released.set()


def context_for(report: Callable[..., None] = lambda *_: None) -> ToolContext:
    return ToolContext(
        run_id="run", conversation_id="conversation", agent="chat", tool_call_id="1", report=report
    )


async def call(
    workers: Workers,
    function: Callable[..., Any],
    report: Callable[..., None] = lambda *_: None,
    **arguments: Any,
) -> ToolOutput:
    tool = tool_from(function, name="tool")
    async with workers.place() as worker:
        return await tool.call(worker, tool.parse(json.dumps(arguments)), context_for(report))


def returning(value: Any) -> Callable[[], Any]:
    def give() -> Any:
        """Give a value."""
        return value

    return give


def raising(error: BaseException, *, style: str = "plain") -> Callable[[], Any]:
    def plain() -> NoReturn:
        """Fail."""
        raise error

    async def asynchronous() -> NoReturn:
        """Fail."""
        await asyncio.sleep(0)
        raise error

    return plain if style == "plain" else asynchronous


# Arguments


class Unit(Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


class Address(BaseModel):
    street: str


def look_up(
    city: Annotated[str, "A city's name"],
    days: Annotated[int, Field(ge=1)] = 1,
    unit: Unit = Unit.METRIC,
    mode: Literal["fast", "exact"] = "fast",
    address: Address | None = None,
    extra: Any = None,
) -> str:
    """Look something up."""
    return f"{city} {days} {unit} {mode} {address!r} {extra!r}"


LOOK_UP = tool_from(look_up)


def ignore(extra: Any = None) -> None:
    """Take anything."""


def test_arguments_are_the_object_that_the_model_sent() -> None:
    text = '{"city": "Oslo", "days": "3", "address": {"street": "A"}}'
    assert LOOK_UP.parse(text) == {"city": "Oslo", "days": "3", "address": {"street": "A"}}


@pytest.mark.parametrize("text", ["", "  \n", "{}"])
def test_nothing_at_all_is_an_object_without_members(text: str) -> None:
    assert tool_from(ignore).parse(text) == {}
    with pytest.raises(InvalidArguments, match="city: is missing"):
        LOOK_UP.parse(text)


REFUSED = [
    ('{"city": "Os', "not JSON: Unterminated string"),
    ('{"city": "Oslo"} and more', "not JSON: Extra data"),
    ("Oslo", "not JSON"),
    ("null", "not an object"),
    ('["Oslo"]', "not an object"),
    (r'"{\"city\": \"Oslo\"}"', "not an object"),
    ('{"city": "Oslo", "extra": NaN}', "contain NaN"),
    ('{"city": "Oslo", "extra": [-Infinity]}', "contain -Infinity"),
    ('{"city": "Oslo", "extra": 1e999}', "contain inf"),
    ('{"city": "Oslo", "extra": %s}' % ("1" * 5000), "too many digits"),
    ('{"city": "Oslo", "extra": %s}' % ("[" * 10_000 + "]" * 10_000), "nested"),
    ('{"city": "Oslo", "extra": %s}' % ("[" * 100_000), "nested"),
    ('{"city": "Oslo", "extra": %s}' % ("[" * 200 + "]" * 200), "nested"),
    (r'{"city": "\ud800"}', "lone surrogate"),
    ('{"city": "\ud800"}', "lone surrogate"),
    (r'{"city": "Oslo\u0000"}', "NUL"),
    (r'{"city": "Oslo", "extra": {"\u0000": 1}}', "NUL"),
    ('{"city": "Oslo", "city": "Rome"}', "name 'city' twice"),
    ('{"city": "Oslo", "extra": [{"a": 1, "b": 2, "a": 3}]}', "name 'a' twice"),
    ('{"city": "%s"}' % ("x" * ARGUMENTS_LIMIT), "longer than 262,144 bytes"),
    ('{"city": "%s"}' % ("ü" * (ARGUMENTS_LIMIT // 2)), "longer than 262,144 bytes"),
    ('{"city": "%s"}' % ("x" * 10_000_000), "longer than 262,144 bytes"),
    ('{"city": "Oslo", "extra": [%s1]}' % ("1," * VALUES_LIMIT), "more than 20,000 values"),
    ('{"days": 2}', "city: is missing"),
    ('{"city": null}', "city: Input should be a valid string"),
    ('{"city": "Oslo", "days": "three"}', "days: Input should be a valid integer"),
    ('{"city": "Oslo", "days": 0}', "days: .* greater than or equal to 1"),
    ('{"city": "Oslo", "unit": "cubits"}', "unit: Input should be 'metric' or 'imperial'"),
    ('{"city": "Oslo", "mode": "slow"}', "mode: Input should be 'fast' or 'exact'"),
    ('{"city": "Oslo", "address": {}}', "address.street: is missing"),
    ('{"city": "Oslo", "town": "Oslo"}', "town: is not an argument of this tool"),
    ('{"city": "Oslo", "context": 1}', "context: is not an argument of this tool"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_bad_arguments_are_refused_with_the_reason_and_the_schema(text: str, reason: str) -> None:
    start = time.thread_time()
    with pytest.raises(InvalidArguments, match=reason) as caught:
        LOOK_UP.parse(text)
    message = str(caught.value)
    schema = msgspec.json.encode(LOOK_UP.spec.parameters).decode()
    assert message.startswith("The arguments for look_up are not valid: ")
    assert message.endswith(schema)
    assert len(message) < len(schema) + ERROR_LIMIT + 150
    message.encode()
    assert time.thread_time() - start < 0.5


def test_long_text_with_many_marks_in_it_is_not_taken_for_many_values() -> None:
    text = 'a[{,\\"' * 30_000
    assert LOOK_UP.parse(json.dumps({"city": text}))["city"] == text


def test_many_faults_are_told_in_a_bounded_message_and_time() -> None:
    def add(numbers: list[int]) -> int:
        """Add."""
        return sum(numbers)

    start = time.thread_time()
    with pytest.raises(InvalidArguments) as caught:
        tool_from(add).parse('{"numbers": [%s""]}' % ('"",' * (VALUES_LIMIT - 10)))
    assert len(str(caught.value)) < 1000
    assert time.thread_time() - start < 0.5


def test_many_names_one_of_them_twice_are_refused_at_once() -> None:
    start = time.thread_time()
    names = ",".join(f'"{number}":1' for number in range(20_000))
    with pytest.raises(InvalidArguments, match="'x' twice"):
        LOOK_UP.parse("{" + names + ',"x":1,"x":2}')
    assert time.thread_time() - start < 0.5


def test_a_validator_that_breaks_is_told_to_the_model() -> None:
    def divide(_: Annotated[int, AfterValidator(lambda number: 1 // number)]) -> None:
        """Divide."""

    with pytest.raises(InvalidArguments, match="ZeroDivisionError"):
        tool_from(divide).parse('{"_": 0}')


PIECES = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', "\\u", "d800", "city", '"city":', "NaN", "1e999", "-", "\0"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("city"), inner),
)


@given(
    st.text(st.characters(categories=None))
    | st.lists(PIECES).map("".join)
    | JSON.map(json.dumps)
    | st.fixed_dictionaries({"city": st.text()}, optional={"extra": JSON}).map(json.dumps)
)
@example('{"city":"\ud800"}')
@settings(deadline=None)
def test_any_text_is_a_dict_that_the_wire_carries_or_invalid(text: str) -> None:
    try:
        arguments = LOOK_UP.parse(text)
    except InvalidArguments as error:
        str(error).encode()
    else:
        assert arguments == json.loads(text)
        assert msgspec.json.decode(msgspec.json.encode(arguments)) == arguments


# Calls


async def test_the_function_gets_what_its_annotations_say(workers: Workers) -> None:
    output = await call(
        workers, look_up, city="Oslo", days="3", unit="imperial", address={"street": "A"}
    )
    assert output.value == "Oslo 3 Unit.IMPERIAL fast Address(street='A') None"


async def test_parameters_may_have_any_name(workers: Workers) -> None:
    def echo(json: int, schema: int, copy: int, self: int, model_config: int) -> list[int]:
        """Echo."""
        return [json, schema, copy, self, model_config]

    arguments = {"json": 1, "schema": 2, "copy": 3, "self": 4, "model_config": 5}
    tool = tool_from(echo)
    async with workers.place() as worker:
        output = await tool.call(worker, arguments, context_for())
    assert output.value == [1, 2, 3, 4, 5]


async def test_the_context_is_filled_in_and_cannot_be_sent(workers: Workers) -> None:
    async def who(context: ToolContext) -> str:
        """Tell."""
        return f"{context.run_id} {context.conversation_id} {context.agent} {context.tool_call_id}"

    assert (await call(workers, who)).value == "run conversation chat 1"
    with pytest.raises(InvalidArguments, match="context: is not an argument"):
        await call(workers, who, context="mine")


async def test_bound_methods_and_objects_are_called(workers: Workers) -> None:
    class Adder:
        def add(self, number: int) -> int:
            """Add one."""
            return number + 1

        async def __call__(self, number: int) -> int:
            """Add two."""
            return number + 2

    assert (await call(workers, Adder().add, number=1)).value == 2
    assert (await call(workers, Adder(), number=1)).value == 3


async def test_arguments_that_were_not_parsed_are_checked_all_the_same(workers: Workers) -> None:
    async with workers.place() as worker:
        with pytest.raises(InvalidArguments, match="city: is missing"):
            await LOOK_UP.call(worker, {}, context_for())


@pytest.mark.parametrize("style", ["plain", "async"])
async def test_an_expected_failure_is_told_in_the_tools_words(
    style: str, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ToolError, match=r"^No such city.$"):
        await call(workers, raising(ToolError("No such city."), style=style))
    assert not caplog.records


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Plain(BaseException):
    pass


FAILURES = [
    (ValueError("wrong \ud800"), "ValueError: wrong \ufffd"),
    (KeyError("city"), "KeyError: 'city'"),
    (TimeoutError(), "TimeoutError"),
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (Plain("x"), "Plain: x"),
    (StopIteration(), "StopIteration"),
    (Unprintable(), "Unprintable"),
    (ExceptionGroup("group", [ExceptionGroup("inner", [ValueError("a")])]), "ValueError: a"),
    (ExceptionGroup("group", [ToolError("No such city.")]), "No such city."),
    (ValueError("x" * 10_000), "ValueError: " + "x" * (ERROR_LIMIT - 13) + "…"),
    (GeneratorExit(), "The tool raised GeneratorExit."),
    (asyncio.CancelledError(), "The tool raised CancelledError."),
]


@pytest.mark.parametrize("style", ["plain", "async"])
@pytest.mark.parametrize(("error", "text"), FAILURES, ids=[text[:40] for _, text in FAILURES])
async def test_every_failure_is_a_tool_error(
    style: str,
    error: BaseException,
    text: str,
    workers: Workers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "parley.tools")  # pytest-xdist cannot carry lone surrogates
    if style == "async" and isinstance(error, StopIteration):
        text = "RuntimeError: coroutine raised StopIteration"
    with pytest.raises(ToolError) as caught:
        await call(workers, raising(error, style=style))
    assert str(caught.value) == text
    assert (await call(workers, returning("next"))).value == "next"


async def test_an_unexpected_failure_is_logged_with_its_traceback(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    def leave() -> None:
        """Leave."""
        sys.exit(3)

    with pytest.raises(ToolError, match="SystemExit: 3"):
        await call(workers, leave)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("parley.tools", logging.WARNING)
    assert "sys.exit(3)" in caplog.text


async def test_a_cancellation_of_the_caller_passes_through(workers: Workers) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        """Hang."""
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(call(workers, hang))
    await asyncio.to_thread(entered.wait, DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def swallow(released: threading.Event) -> None:
    while not released.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


async def block(released: threading.Event) -> None:
    released.wait(DEADLINE)


async def hang(_: threading.Event) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("behaviour", [swallow, block, hang])
async def test_a_deadline_holds_and_siblings_finish(
    behaviour: Any, workers: Workers, released: threading.Event
) -> None:
    async def bad() -> None:
        """Be bad."""
        await behaviour(released)

    async def limited() -> ToolOutput:
        async with asyncio.timeout(0.2):
            return await call(workers, bad)

    start = time.perf_counter()
    siblings = [call(workers, returning(number)) for number in range(5)]
    result, *others = await asyncio.gather(limited(), *siblings, return_exceptions=True)
    assert time.perf_counter() - start < DEADLINE / 2
    assert isinstance(result, TimeoutError)
    assert [other.value for other in others if isinstance(other, ToolOutput)] == [*range(5)]


# Results


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text as it stands", "text as it stands"),
        ("", ""),
        (None, "null"),
        (1.5, "1.5"),
        ({"a": [1, True], "ü": "\n"}, '{"a":[1,true],"ü":"\\n"}'),
        (Address(street="A"), '{"street":"A"}'),
    ],
)
async def test_a_result_is_a_value_and_a_text(value: Any, text: str, workers: Workers) -> None:
    output = await call(workers, returning(value))
    assert output == ToolOutput(json_value(value), text, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"x", "The tool returned bytes, which is not JSON."),
        ([float("nan")], "The tool returned nan, which is not JSON."),
        ({"a": {object()}}, "The tool returned object, which is not JSON."),
    ],
)
async def test_a_result_that_is_not_json_is_a_failure(
    value: Any, text: str, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ToolError, match=f"^{re.escape(text)}$"):
        await call(workers, returning(value))


async def test_a_circular_result_is_a_failure(workers: Workers) -> None:
    circular: list[Any] = []
    circular.append(circular)
    with pytest.raises(ToolError, match="The tool returned a value that is circular"):
        await call(workers, returning(circular))


NOTE = re.compile(r"\n\[Cut at 32,768 bytes: the whole result has ([\d,]+) bytes\.\]$")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("x" * (RESULT_LIMIT + 1), RESULT_LIMIT + 1),
        ("ü" * RESULT_LIMIT, 2 * RESULT_LIMIT),
        ("x" + "😀" * RESULT_LIMIT, 4 * RESULT_LIMIT + 1),
        ("xx" + "😀" * RESULT_LIMIT, 4 * RESULT_LIMIT + 2),
        ("xxx" + "😀" * RESULT_LIMIT, 4 * RESULT_LIMIT + 3),
        (["x" * RESULT_LIMIT], RESULT_LIMIT + 4),
    ],
)
def test_a_long_result_is_cut_on_a_character_and_says_so(value: Any, size: int) -> None:
    output = output_from(value)
    note = NOTE.search(output.text)
    assert note
    assert note[1] == f"{size:,}"
    assert output.truncated
    assert output.value == output.text
    assert RESULT_LIMIT - 4 < len(output.text.encode()) <= RESULT_LIMIT
    whole = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    assert whole.startswith(output.text[: note.start()])


def test_of_a_very_long_result_only_the_beginning_is_looked_at() -> None:
    seen = []

    class Strange(list[int]):
        def __iter__(self) -> Iterator[int]:
            for number in range(10_000_000):
                seen.append(number)
                yield number

    values: tuple[Any, ...] = (
        *(Strange(), {"a": ["x" * 10_000_000]}),
        *("😀" * 10_000_000, [{}] * 1_000_000),
    )
    for value in values:
        began = time.thread_time()
        output = output_from(value)
        assert time.thread_time() - began < 0.5
        note = re.search(r"the whole result has more than ([\d,]+) bytes\.\]$", output.text)
        assert output.truncated
        assert note is not None
        assert int(note[1].replace(",", "")) > RESULT_LIMIT
        assert RESULT_LIMIT - 4 < len(output.text.encode()) <= RESULT_LIMIT
    assert len(seen) < 100_000


def test_a_result_at_the_limit_is_whole() -> None:
    assert output_from("x" * RESULT_LIMIT) == ToolOutput(
        "x" * RESULT_LIMIT, "x" * RESULT_LIMIT, False
    )


@pytest.mark.parametrize("value", ["x" * 10_000_000, list(range(1_500_000))], ids=["str", "list"])
async def test_ten_megabytes_do_not_stall_the_services_loop(value: Any, workers: Workers) -> None:
    async def stall() -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0.005)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now

        ticker = asyncio.create_task(tick())
        output = await call(workers, returning(value))
        ticker.cancel()
        assert output.truncated
        return longest

    # The best of several: another process on the machine does not count.
    assert min([await stall() for _ in range(5)]) < 0.1


@given(JSON)
def test_any_json_that_a_tool_returns_arrives_on_the_wire(value: Any) -> None:
    try:
        output = output_from(value)
    except ToolError:
        assert "NaN" in json.dumps(value) or "Infinity" in json.dumps(value)
        return
    assert output.value == json_value(value)
    assert msgspec.json.decode(msgspec.json.encode(output)) == msgspec.to_builtins(output)
    if not isinstance(value, str):
        assert json.loads(output.text) == output.value


# Progress


@pytest.mark.parametrize("style", ["plain", "async"])
async def test_progress_arrives_on_the_services_loop(style: str, workers: Workers) -> None:
    reports: list[Report] = []
    threads = set()

    def report(*args: Any) -> None:
        threads.add(threading.get_ident())
        reports.append(args)

    def plain(context: ToolContext) -> None:
        """Work."""
        context.progress(1, 3, "one\0")

    async def asynchronous(context: ToolContext) -> None:
        """Work."""
        context.progress(1, 3, "one\0")

    await call(workers, plain if style == "plain" else asynchronous, report)
    assert reports == [(1, 3, "one\ufffd")]
    assert threads == {threading.get_ident()}


async def test_of_a_flood_of_reports_the_newest_counts(workers: Workers) -> None:
    reports: list[Report] = []

    def flood(context: ToolContext) -> None:
        """Work."""
        for number in range(50_000):
            context.progress(number)

    start = time.perf_counter()
    await call(workers, flood, lambda *report: reports.append(report))
    assert reports[-1] == (49_999, None, None)
    assert reports == sorted(set(reports))
    assert len(reports) <= 2 + (time.perf_counter() - start) / PROGRESS_INTERVAL


async def test_a_report_waits_no_longer_than_the_interval() -> None:
    reports: asyncio.Queue[Report] = asyncio.Queue()
    context = context_for(lambda *report: reports.put_nowait(report))
    async with asyncio.timeout(DEADLINE):
        for number in (1, 2, 3):
            context.progress(number)
            assert await reports.get() == (number, None, None)


async def test_after_the_call_nothing_is_reported(
    workers: Workers, released: threading.Event
) -> None:
    reports: list[Report] = []
    entered, ended = threading.Event(), threading.Event()

    def stubborn(context: ToolContext) -> None:
        """Work."""
        context.progress(1)
        entered.set()
        released.wait(DEADLINE)
        context.progress(2)
        ended.set()

    task = asyncio.create_task(call(workers, stubborn, lambda *report: reports.append(report)))
    await asyncio.to_thread(entered.wait, DEADLINE)
    task.cancel()
    await asyncio.wait([task])
    released.set()
    await asyncio.to_thread(ended.wait, DEADLINE)
    await asyncio.sleep(0)
    assert reports == [(1, None, None)]


BAD_REPORTS: list[tuple[Any, ...]] = [
    (float("nan"),),
    (float("inf"), 1),
    (1, float("nan")),
    ("one",),
    (None,),
    (10**400,),
    (1, 2, 3),
    (1, 2, ["text"]),
]


@pytest.mark.parametrize("report", BAD_REPORTS, ids=[str(bad)[:20] for bad in BAD_REPORTS])
async def test_a_report_that_is_no_number_or_text_is_dropped(report: Any) -> None:
    reports: list[Report] = []
    context = context_for(lambda *report: reports.append(report))
    context.progress(*report)
    context.progress(1, 2, "x" * 10_000)
    context.close()
    assert reports == [(1, 2, "x" * ERROR_LIMIT)]


def test_progress_after_the_services_loop_has_closed_is_ignored() -> None:
    reports: list[Report] = []

    async def make() -> ToolContext:
        return context_for(lambda *report: reports.append(report))

    asyncio.run(make()).progress(1)
    assert reports == []


def test_a_tool_has_its_specs_name() -> None:
    assert isinstance(LOOK_UP, Tool)
    assert LOOK_UP.name == LOOK_UP.spec.name == "look_up"
