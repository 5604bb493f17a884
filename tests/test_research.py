"""The research agent: its stages, what it says of its sources, and its laws."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

import research
from demo import DemoProvider
from errors import ToolError, UpstreamError
from events import (
    ChatChunk,
    ChatComplete,
    ReasoningBlock,
    RunProgress,
    ToolCallComplete,
    ToolCallError,
)
from hub import LogFull
from messages import (
    AssistantMessage,
    ModelRequest,
    ReasoningBlockPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from research import ResearchAgent
from research.report import Found, Source, ending, read_report
from tests.agent.support import BROKEN, Bench, check_history, hang, until
from tests.agent.test_cancelling import CancelledAt
from tests.scripted import DEADLINE, USAGE, Gate, Output, Recorder, Script, asks, says, types
from tools.tool import Tool, idempotent, tool_from
from tools.workers import Workers

PLAN = {"searches": [{"query": "a", "reason": "For a."}, {"query": "b", "reason": "For b."}]}
QUESTIONS = {"questions": ["Why?", " ", "Since\nwhen?", "And c?", "And d?"]}
REFUSED = UpstreamError("No such field.", code="upstream_rejected")


def json_of(value: Any) -> str:
    return msgspec.json.encode(value).decode()


PLANNED, ASKED = says(json_of(PLAN)), says(json_of(QUESTIONS))


def page(title: str, url: Any) -> dict[str, Any]:
    return {"title": title, "url": url, "snippet": f"About {title}."}


@idempotent
def search_web(query: str) -> dict[str, Any]:
    """Search the web."""
    if query == "fails":
        raise ToolError("The web search failed: the engine refused the request.")
    pages = [] if query == "empty" else [page(f"On {query}", f"https://{query}.org/")]
    return {"query": query, "engine": "fake", "results": pages}


def found_at(*urls: Any, title: str = "T") -> Callable[..., Any]:
    """Return a search that finds these addresses."""

    def search_web(query: str) -> dict[str, Any]:
        """Search the web."""
        return {"query": query, "engine": "fake", "results": [page(title, url) for url in urls]}

    return idempotent(search_web)


class Desk(Bench):
    """A research agent, one run of it, and what came of it."""

    def __init__(
        self,
        workers: Workers,
        *replies: Script,
        search: Callable[..., Any] | None = search_web,
        question: str = "What is it?",
        reply_to: Callable[[ModelRequest], Script] | None = None,
    ) -> None:
        super().__init__(workers, *replies, reply_to=reply_to)
        tools: dict[str, Tool] = {"search_web": tool_from(search)} if search else {}
        self.agent = ResearchAgent(self.provider, tools, workers)  # type: ignore[assignment]
        self.state.prompt.messages = (UserMessage(question),)

    def queries(self) -> list[str]:
        """Return what was searched for, in the order of the calls."""
        calls = [call for message in self.said() for call in message.tool_calls]
        return [msgspec.json.decode(call.arguments)["query"] for call in calls]

    def stages(self) -> list[tuple[str, int, int]]:
        return [(each.stage, each.done, each.total) for each in self.sink.of(RunProgress)]


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers(16) as workers:
        yield workers


# Its stages.


async def test_a_question_becomes_searches_a_report_its_sources_and_questions(
    workers: Workers,
) -> None:
    desk = Desk(workers, PLANNED, says("It is ", "so [1]."), ASKED)
    done = await desk.run()
    assert done.final_response == (
        "It is so [1].\n\n"
        "## Sources\n\n1. [On a](https://a.org/)\n2. [On b](https://b.org/)\n\n"
        "## Follow-up questions\n\n1. Why?\n2. Since when?\n3. And c?"
    )
    assert done.finish_reason == "stop"
    assert done.usage == USAGE + USAGE + USAGE
    assert [type(message) for message in desk.state.transcript.messages] == [
        AssistantMessage,
        ToolMessage,
        ToolMessage,
        AssistantMessage,
    ]
    assert desk.state.transcript.messages[-1] == AssistantMessage(done.final_response)
    assert "".join(each.content for each in desk.sink.of(ChatChunk)) == done.final_response


async def test_the_events_tell_of_each_stage_in_its_order(workers: Workers) -> None:
    desk = Desk(workers, PLANNED, says("It is so."), ASKED)
    await desk.run()
    assert desk.stages() == [
        ("plan", 0, 1),
        ("plan", 1, 1),
        ("search", 0, 2),
        ("search", 2, 2),
        ("write", 0, 1),
        ("write", 1, 1),
    ]
    assert desk.sink.of(RunProgress)[1].message == "a: For a.\nb: For b."
    names = types(desk.sink.events)
    assert names[:3] == ["run_progress"] * 3
    assert sorted(names[3:7]) == ["tool_call_complete"] * 2 + ["tool_call_start"] * 2
    assert names[7:] == [
        *["run_progress"] * 2,
        *["chat_chunk"] * 2,
        "run_progress",
        "chat_complete",
    ]


async def test_each_stage_asks_the_model_for_its_own(workers: Workers) -> None:
    desk = Desk(workers, PLANNED, says("It is so."), ASKED)
    desk.state.prompt.messages = (
        UserMessage("Hi."),
        AssistantMessage("Hello."),
        UserMessage("Why?"),
    )
    await desk.run()
    plan, write, follow_up = desk.provider.requests
    forms = [request.options.output for request in desk.provider.requests]
    assert [form and form.name for form in forms] == [
        "search_plan",
        None,
        "follow_up_questions",
    ]
    assert plan.messages[1:] == desk.state.prompt.messages
    assert len({request.messages[0].content for request in (plan, write, follow_up)}) == 3
    assert isinstance(write.messages[-1], ToolMessage)
    assert write.messages[1:4] == desk.state.prompt.messages
    assert [tool.name for tool in write.tools] == ["search_web"]
    assert follow_up.tools == ()
    assert "Why?" in follow_up.messages[1].content
    assert "It is so." in follow_up.messages[1].content


async def test_the_writer_gets_the_number_of_each_source_and_history_does_not(
    workers: Workers,
) -> None:
    desk = Desk(workers, PLANNED, says("It is so."), ASKED, search=found_at("https://a.org/#x"))
    await desk.run()
    told = [msgspec.json.decode(m.content) for m in desk.provider.requests[1].messages[-2:]]
    assert [each["results"] for each in told] == [
        [{"number": 1} | page("T", "https://a.org/#x")]
    ] * 2
    kept = [msgspec.json.decode(result.content) for result in desk.results()]
    assert [each["results"] for each in kept] == [[page("T", "https://a.org/#x")]] * 2


async def test_the_searches_run_together(workers: Workers) -> None:
    first = threading.Event()

    def search_web(query: str) -> dict[str, Any]:
        """Search the web."""
        if query == "b":
            first.set()
        elif not first.wait(DEADLINE):
            raise ToolError("The other search does not run.")
        return {"query": query, "results": [page(query, "https://a.org/")]}

    desk = Desk(workers, PLANNED, says("It is so."), ASKED, search=search_web)
    await desk.run()
    assert desk.errors() == []


# Planning.


@pytest.mark.parametrize(
    "around",
    ["{}", "```json\n{}\n```", "```\n{}\n```", "Here is my plan:\n\n{}\n\nShall I go on?"],
)
async def test_a_plan_is_found_whatever_stands_around_it(workers: Workers, around: str) -> None:
    desk = Desk(workers, says(around.replace("{}", json_of(PLAN))), says("It is so."), ASKED)
    await desk.run()
    assert desk.queries() == ["a", "b"]


@pytest.mark.parametrize(
    "said",
    [
        "I would search the web.",
        "",
        "}{",
        "[1, 2]",
        '{"searches": "a"}',
        '{"searches": []}',
        '{"searches": [{"query": " "}]}',
        '{"searches": [{"reason": "none"}]}',
        '{"searches": [{"query": "a"}',
        '{"searches": [], "more": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
async def test_without_a_plan_the_question_itself_is_searched_for(
    workers: Workers, said: str
) -> None:
    plan = says(said) if said else says()
    desk = Desk(workers, plan, says("It is so."), ASKED, question="What\n is  it?")
    assert (await desk.run()).finish_reason == "stop"
    assert desk.queries() == ["What is it?"]


async def test_a_question_is_cut_to_what_a_search_takes(workers: Workers) -> None:
    desk = Desk(workers, says("No."), says("It is so."), ASKED, question="why " * 1000)
    await desk.run()
    assert len(desk.queries()[0]) == 399


async def test_a_plan_has_at_most_five_searches_each_once(workers: Workers) -> None:
    searches = [{"query": query} for query in ("a", " A ", "b\n", "c", "d", "e\u0000", "f", "g")]
    desk = Desk(workers, says(json_of({"searches": searches})), says("It is so."), ASKED)
    await desk.run()
    assert desk.queries() == ["a", "b", "c", "d", "e"]


async def test_a_model_that_calls_the_tool_instead_has_planned(workers: Workers) -> None:
    block = ReasoningBlock("scripted", "{}")
    plan: list[Output] = [ReasoningBlockPart(block), *asks(("search_web", {"query": "x"}))]
    desk = Desk(workers, plan, says("It is so."), ASKED)
    await desk.run()
    assert desk.queries() == ["x"]
    assert desk.said()[0].reasoning == (block,)


async def test_a_server_that_refuses_to_answer_in_json_is_planned_without(workers: Workers) -> None:
    desk = Desk(workers, [REFUSED], says("It is so."), [REFUSED])
    done = await desk.run()
    assert desk.queries() == ["What is it?"]
    assert read_report(done.final_response).follow_up_questions == []


@pytest.mark.parametrize(
    "error",
    [BROKEN, UpstreamError("No.", retryable=True), UpstreamError("No.", code="upstream_quota")],
)
async def test_another_failure_while_planning_is_the_runs(
    workers: Workers, error: UpstreamError
) -> None:
    desk = Desk(workers, [error])
    await desk.fails(UpstreamError)
    assert desk.state.transcript.messages == []


# Searching and writing.


async def test_one_search_that_fails_does_not_stop_the_report(workers: Workers) -> None:
    plan = {"searches": [{"query": "fails"}, {"query": "b"}]}
    desk = Desk(workers, says(json_of(plan)), says("It is so."), ASKED)
    done = await desk.run()
    assert len(desk.sink.of(ToolCallError)) == len(desk.sink.of(ToolCallComplete)) == 1
    assert [each.is_error for each in desk.results()] == [True, False]
    told = desk.provider.requests[1].messages[-2]
    assert "the engine refused the request" in told.content
    assert read_report(done.final_response).sources == [Source("On b", "https://b.org/")]


async def test_where_all_searches_fail_no_model_writes_and_the_tools_words_are_told(
    workers: Workers,
) -> None:
    desk = Desk(workers, says(json_of({"searches": [{"query": "fails"}]})))
    done = await desk.run()
    assert done.final_response == (
        "The web could not be searched, so there is nothing that I could report.\n\n"
        "- “fails”: The web search failed: the engine refused the request."
    )
    assert done.finish_reason == "stop"
    assert len(desk.provider.requests) == 1


async def test_where_nothing_is_found_that_is_said(workers: Workers) -> None:
    plan = {"searches": [{"query": "fails"}, {"query": "empty"}]}
    desk = Desk(workers, says(json_of(plan)))
    done = await desk.run()
    assert done.final_response.startswith("The searches found nothing that I could report.\n\n")
    assert done.final_response.endswith("- “empty”: Nothing was found.")


async def test_a_service_without_a_search_says_so(workers: Workers) -> None:
    desk = Desk(workers, says("No."), search=None)
    done = await desk.run()
    assert done.final_response.startswith("The web could not be searched")
    assert "There is no tool of the name" in done.final_response
    assert desk.errors()[0][1] == "unknown_tool"


async def test_results_of_another_form_are_the_writers_and_name_no_sources(
    workers: Workers,
) -> None:
    def search_web(query: str) -> str:
        """Search the web."""
        return "It is written that it is so."

    desk = Desk(workers, PLANNED, says("## Sources\n\n1. [x](https://x.org)"), says("No."))
    desk.agent = ResearchAgent(  # type: ignore[assignment]
        desk.provider, {"search_web": tool_from(search_web)}, workers
    )
    done = await desk.run()
    assert done.final_response.endswith("## Sources\n\nThe results of the searches name no pages.")
    assert read_report(done.final_response).sources == []


async def test_a_writer_may_search_once_more_and_its_pages_are_sources_too(
    workers: Workers,
) -> None:
    more = asks(("search_web", {"query": "c"}), text="One more.")
    desk = Desk(workers, PLANNED, more, says("It is so."), ASKED)
    done = await desk.run()
    assert [each.title for each in read_report(done.final_response).sources] == [
        "On a",
        "On b",
        "On c",
    ]
    assert done.final_response.startswith("It is so.")
    assert desk.state.transcript.messages[3].content == "One more."


async def test_a_writer_that_searches_for_ever_meets_the_limit(workers: Workers) -> None:
    numbers = iter(range(100))

    def reply_to(request: ModelRequest) -> Script:
        return asks(("search_web", {"query": f"q{next(numbers)}"}))

    desk = Desk(workers, reply_to=reply_to)
    assert (await desk.run()).finish_reason == "max_turns"


async def test_a_writer_that_breaks_off_fails_the_run_and_its_text_is_kept(
    workers: Workers,
) -> None:
    desk = Desk(workers, PLANNED, [TextPart("It is "), BROKEN])
    await desk.fails(UpstreamError)
    assert desk.state.transcript.messages[-1] == AssistantMessage("It is ")


@pytest.mark.parametrize(
    "reply", [[BROKEN], [TextPart("{"), BROKEN], says("Well."), says('{"questions": [1]}'), says()]
)
async def test_a_report_does_not_need_the_questions(workers: Workers, reply: Script) -> None:
    desk = Desk(workers, PLANNED, says("It is so."), reply)
    done = await desk.run()
    assert done.finish_reason == "stop"
    assert done.final_response.endswith("2. [On b](https://b.org/)")


async def test_a_report_does_not_wait_for_ever_for_the_questions(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(research, "FOLLOW_UP_TIMEOUT", 0.01)
    desk = Desk(workers, PLANNED, says("It is so."), [TextPart('{"quest'), Gate()])
    done = await desk.run()
    assert done.final_response.endswith("2. [On b](https://b.org/)")
    assert done.usage == USAGE + USAGE


async def test_a_report_that_was_cut_has_its_sources_and_no_questions(workers: Workers) -> None:
    cut = msgspec.structs.replace(says("x")[-1], finish_reason="length")  # type: ignore[type-var]
    desk = Desk(workers, PLANNED, [TextPart("It is"), cut])
    done = await desk.run()
    assert done.finish_reason == "length"
    assert done.final_response.startswith("It is\n\n## Sources\n\n1. [On a]")
    assert len(desk.provider.requests) == 2


async def test_an_empty_report_is_not_asked_about(workers: Workers) -> None:
    desk = Desk(workers, PLANNED, says())
    done = await desk.run()
    assert done.final_response.startswith("## Sources\n\n1. [On a]")
    assert len(desk.provider.requests) == 2


async def test_a_full_log_ends_the_run_anywhere_and_closes_the_models_stream(
    workers: Workers,
) -> None:
    full = LogFull("Too long.")
    for limit in range(40):
        desk = Desk(workers, PLANNED, says("It is ", "so."), ASKED)
        desk.sink = desk.state.sink = Recorder(limit=limit, full=full)
        async with asyncio.timeout(DEADLINE):
            if not await ends_with(desk.agent.run(desk.state), full):
                return
        assert desk.provider.open_streams == 0
        check_history(desk.state.transcript.messages)
    pytest.fail("the run has no end")


async def ends_with(run: Awaitable[ChatComplete], error: Exception) -> bool:
    """Tell whether a run fails with this error; any other is a fault."""
    try:
        await run
    except type(error) as raised:
        return raised is error
    return False


async def test_the_demo_gives_an_honest_report(workers: Workers) -> None:
    desk = Desk(workers, question="What are heat pumps?", search=found_at("https://a.org/"))
    tools = {"search_web": tool_from(found_at("https://a.org/"))}
    desk.agent = ResearchAgent(DemoProvider(0), tools, workers)  # type: ignore[assignment]
    done = await desk.run()
    assert "I searched the web for “What are heat pumps?” and found:" in done.final_response
    assert done.final_response.endswith("## Sources\n\n1. [T](https://a.org/)")


# Sources.


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "\x01javascript://a.org/%0aalert(1)",
        "\x01https://a.org/",
        "data:text/html,x",
        "ftp://a.org/",
        "//a.org/",
        "https://",
        "https://[",
        "a.org",
        "",
        None,
        7,
    ],
)
async def test_an_address_that_is_not_http_is_no_source_and_not_told(
    workers: Workers, url: Any
) -> None:
    desk = Desk(workers, PLANNED, says("It is so."), ASKED, search=found_at(url, "https://b.org/"))
    done = await desk.run()
    assert read_report(done.final_response).sources == [Source("T", "https://b.org/")]
    told = [msgspec.json.decode(m.content) for m in desk.provider.requests[1].messages[-2:]]
    assert [len(each["results"]) for each in told] == [1, 1]


async def test_only_unfit_addresses_are_nothing_found(workers: Workers) -> None:
    desk = Desk(workers, PLANNED, search=found_at("javascript:alert(1)"))
    assert (await desk.run()).final_response.startswith("The searches found nothing")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.org/x) [evil](javascript:x", "https://a.org/x%29%20[evil]%28javascript:x"),
        ("https://a.org/\n\n# Head", "https://a.org/%0A%0A#%20Head"),
        ("https://a.org/<b>`\\", "https://a.org/%3Cb%3E%60%5C"),
        ("https://a.org/\u202egpj.exe", "https://a.org/%E2%80%AEgpj.exe"),
        ("HTTPS://a.org/é?a=b&c=d", "HTTPS://a.org/é?a=b&c=d"),
    ],
)
def test_an_address_ends_where_markdown_is_told_it_ends(url: str, shown: str) -> None:
    assert sources_of(page("T", url)) == [Source("T", shown)]
    assert f"1. [T]({shown})" in ending("", sources_of(page("T", url)), [])


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("a](javascript:x) [b", "a\\](javascript:x) \\[b"),
        ("![x](http://y)", "!\\[x\\](http://y)"),
        ("<script>&lt;", "\\<script\\>\\&lt;"),
        ("**bold** `code` ~~x~~ a\\", "\\*\\*bold\\*\\* \\`code\\` \\~\\~x\\~\\~ a\\\\"),
        ("one\n\n## Sources\u2028two\u202e", "one ## Sources two"),
    ],
)
def test_a_title_is_text(title: str, shown: str) -> None:
    found = sources_of(page(title, "https://a.org/"))
    assert f"1. [{shown}](https://a.org/)" in ending("", found, [])
    assert read_report(ending("Text.", found, [])).sources == found


def test_a_page_without_a_title_is_named_by_its_address() -> None:
    found = sources_of({"title": None, "url": "https://a.org/_x_"})
    assert "1. [https://a.org/\\_x\\_](https://a.org/_x_)" in ending("", found, [])


def test_a_page_that_several_searches_found_is_one_source() -> None:
    one, part, other = (page("T", f"https://a.org/{tail}") for tail in ("", "#part", "b"))
    assert sources_of(one, part, other, one) == [
        Source("T", "https://a.org/"),
        Source("T", "https://a.org/b"),
    ]


def test_only_what_was_found_for_the_last_message_is_a_source() -> None:
    before, after = (
        (
            UserMessage("Why?"),
            AssistantMessage("", (ToolCall(name, "search_web", "{}"),)),
            ToolMessage(name, "search_web", json_of({"results": [page(name, f"http://{name}")]})),
        )
        for name in ("old", "new")
    )
    found = Found([SystemMessage(""), *before, *after])
    assert found.sources == [Source("new", "http://new")]
    assert found.numbered[:4] == (SystemMessage(""), *before)


def sources_of(*pages: dict[str, Any]) -> list[Source]:
    result = ToolMessage("c0", "search_web", json_of({"results": pages}))
    return Found([UserMessage("Why?"), result]).sources


def test_a_report_is_read_back_from_its_text() -> None:
    sources = [Source("A [1]", "https://a.org/"), Source("B", "HTTPS://b.org/")]
    questions = ["Why?", "When?"]
    body = "# Title\n\nIt is so [1].\nIndeed.\n\n## Sources\n\n1. [evil](https://evil.org)\n\nEnd."
    report = read_report(body + ending(body, sources, questions))
    assert report == ("It is so [1].\nIndeed.", sources, questions)


def test_a_heading_of_the_models_own_does_not_hide_the_sources() -> None:
    body = "It is so.\n\n## Follow-up questions\n\n1. Mine?"
    found = [Source("A", "https://a.org/")]
    assert read_report(body + ending(body, found, [])) == ("It is so.", found, [])


@pytest.mark.parametrize(
    "text", ["", "It is so.", "# A\n\n## B", "x ## Sources\n\n1. [a](http://a)"]
)
def test_text_without_an_end_has_no_sources(text: str) -> None:
    assert read_report(text)[1:] == ([], [])


# Going on after a crash.


async def test_searches_that_a_crash_interrupted_are_made_again(workers: Workers) -> None:
    desk = Desk(workers, says("It is so."), ASKED)
    call = ToolCall("c9", "search_web", json_of({"query": "a"}))
    desk.state.resumption.pending = AssistantMessage("", (call,))
    done = await desk.run()
    assert desk.queries() == ["a"]
    assert read_report(done.final_response).sources == [Source("On a", "https://a.org/")]


async def test_results_that_are_there_already_are_written_about_at_once(workers: Workers) -> None:
    desk = Desk(workers, says("It is so."), ASKED)
    call = ToolCall("c9", "search_web", json_of({"query": "a"}))
    result = ToolMessage("c9", "search_web", json_of(search_web("a")))
    desk.state.prompt.messages += (AssistantMessage("", (call,)), result)
    done = await desk.run()
    assert desk.queries() == []
    assert read_report(done.final_response).sources == [Source("On a", "https://a.org/")]


async def test_an_interrupted_search_that_must_not_be_repeated_is_not(workers: Workers) -> None:
    def search_web(query: str) -> str:
        """Search the web, for money."""
        raise AssertionError

    desk = Desk(workers, search=search_web)
    desk.state.resumption.pending = AssistantMessage(
        "", (ToolCall("c9", "search_web", '{"query": "a"}'),)
    )
    done = await desk.run()
    assert desk.errors() == [("c9", "interrupted")]
    assert "The service was interrupted" in done.final_response


# Cancelling.


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancel_at_any_await_leaves_no_orphan_and_keeps_the_text(
    workers: Workers, times: int
) -> None:
    for at in range(120):
        desk = Desk(workers, PLANNED, says("It is ", "so."), ASKED)
        coroutine = CancelledAt(desk.agent.run(desk.state), range(at, at + times))

        async def run(cancelled: CancelledAt = coroutine) -> ChatComplete:
            done: ChatComplete = await cancelled
            return done

        task = asyncio.create_task(run())
        await asyncio.wait([task], timeout=DEADLINE)
        desk.check()
        if at >= coroutine.waits:
            assert task.result().finish_reason == "stop"
            return
        assert task.cancelled()
    pytest.fail("the run has no end")


async def test_one_search_can_be_cancelled_and_the_others_go_on(workers: Workers) -> None:
    @idempotent
    async def search_web(query: str) -> dict[str, Any]:
        """Search the web."""
        if query == "a":
            await hang()
        return {"query": query, "results": [page(query, "https://b.org/")]}

    desk = Desk(workers, PLANNED, says("It is so."), ASKED, search=search_web)
    run = asyncio.create_task(desk.run())
    await until(lambda: desk.sink.of(ToolCallComplete))
    next(iter(desk.state.calls.values())).cancel()
    done = await run
    assert [code for _, code in desk.errors()] == ["cancelled"]
    assert read_report(done.final_response).sources == [Source("b", "https://b.org/")]
