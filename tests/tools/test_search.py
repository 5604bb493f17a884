"""The search tool, against a server that answers as DuckDuckGo's HTML page does."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from errors import ToolError
from tests.tools.loopback import refusing, serving
from tools.search import MAX_BODY, Search, SearchResult, SearchResults

ITEM = """
<div class="result results_links results_links_deep web-result">
  <div class="links_main links_deep result__body">
    <h2 class="result__title">
      <a rel="nofollow" class="result__a" href="{url}">{title}</a>
    </h2>
    <div class="result__extras"><div class="result__extras__url">
      <a class="result__url" href="{url}">example.org</a>
    </div></div>
    <a class="result__snippet" href="{url}">{snippet}</a>
    <div class="clear"></div>
  </div>
</div>
"""
NO_RESULTS = (
    '<div class="no-results"><div class="result__title">No results found for <b>x</b>.</div></div>'
)


def page(*items: str) -> str:
    """Return a result page."""
    links = "".join(items) or NO_RESULTS
    return (
        f"<!DOCTYPE html><html><head><title>at DuckDuckGo</title></head>"
        f'<body><div class="serp__results"><div id="links" class="results">{links}</div></div>'
        f"</body></html>"
    )


def item(number: int = 1, **changes: str) -> str:
    """Return one result of a page."""
    fields = {
        "url": f"https://example.org/{number}",
        "title": f"Title <b>{number}</b>",
        "snippet": f"Snippet &amp; <b>text</b>\n {number}",
    }
    return ITEM.format(**(fields | changes))


async def ask(
    answer: str | asyncio.Event,
    query: str = "x",
    *,
    status: int = 200,
    timeout: float = 10.0,
    forms: list[dict[str, Any]] | None = None,
) -> SearchResults:
    """Search at a server that answers with this page."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if forms is not None:
            forms.append({"path": request.path, **await request.post()})
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        return web.Response(text=str(answer), status=status, content_type="text/html")

    async with asyncio.timeout(20), serving(handler) as url:
        search = Search(url=url + "/html/", timeout=timeout)
        return await asyncio.to_thread(search.search_web, query)


async def test_results_come_as_title_address_and_snippet_without_markup() -> None:
    found = await ask(page(item(1), item(2)), "some query")
    assert found == SearchResults(
        query="some query",
        engine="duckduckgo",
        results=(
            SearchResult("Title 1", "https://example.org/1", "Snippet & text 1"),
            SearchResult("Title 2", "https://example.org/2", "Snippet & text 2"),
        ),
    )


async def test_the_configured_address_is_asked_in_duckduckgos_manner() -> None:
    forms: list[dict[str, Any]] = []
    await ask(page(item()), "  naïve   søk ", forms=forms)
    assert [(form["path"], form["q"]) for form in forms] == [("/html/", "naïve søk")]


async def test_at_most_five_results_of_bounded_length_come_back() -> None:
    long = item(url="https://example.org/l", title="t" * 9000, snippet="s" * 9000)
    found = await ask(page(long, *(item(number) for number in range(9))))
    assert len(found.results) == 5
    assert max(len(result.title) for result in found.results) == 200
    assert max(len(result.snippet) for result in found.results) == 500


async def test_a_redirect_through_duckduckgo_is_given_as_its_target() -> None:
    wrapped = "//duckduckgo.com/l/?uddg=https%3A%2F%2Fexample.org%2Fa%3Fb%3D1&amp;rut=abc"
    found = await ask(page(item(url=wrapped)))
    assert [result.url for result in found.results] == ["https://example.org/a?b=1"]


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "/local", "", "https://e.org/" + "x" * 2000]
)
async def test_what_is_no_web_address_is_left_out(url: str) -> None:
    found = await ask(page(item(url=url), item(2)))
    assert [result.url for result in found.results] == ["https://example.org/2"]


async def test_no_results_are_an_answer_and_not_a_failure() -> None:
    assert await ask(page(), "x") == SearchResults("x", "duckduckgo", ())


@pytest.mark.parametrize("status", [202, 403, 429, 500])
async def test_a_refusal_is_not_taken_for_an_empty_answer(status: int) -> None:
    with pytest.raises(ToolError, match="web search failed: duckduckgo refused the request"):
        await ask(page(), status=status)


async def test_an_empty_body_is_not_taken_for_an_empty_answer() -> None:
    with pytest.raises(ToolError, match="web search failed: duckduckgo"):
        await ask("")


async def test_a_page_that_cannot_be_read_is_said_to_be_so() -> None:
    with pytest.raises(ToolError, match="duckduckgo sent a page that cannot be read"):
        await ask("<!-- -->")


async def test_a_page_without_end_is_read_up_to_a_bound() -> None:
    found = await ask(page(item()) + " " * MAX_BODY + page(item(2)))
    assert [result.url for result in found.results] == ["https://example.org/1"]


async def test_a_source_that_never_answers_is_given_up_at_the_deadline() -> None:
    with pytest.raises(ToolError, match="duckduckgo did not answer in time"):
        await ask(asyncio.Event(), timeout=0.2)


def test_a_source_that_is_not_there_is_said_to_be_unreachable() -> None:
    with pytest.raises(ToolError, match="duckduckgo could not be reached"):
        Search(url=refusing()).search_web("x")


@pytest.mark.parametrize("query", ["", "  \n", "x" * 401])
def test_a_query_that_is_none_is_refused_without_a_question(query: str) -> None:
    with pytest.raises(ToolError, match="between 1 and 400"):
        Search(url=refusing()).search_web(query)


async def test_a_query_that_is_not_text_is_sent_as_text() -> None:
    forms: list[dict[str, Any]] = []
    await ask(page(item()), "a\ud800b", forms=forms)
    assert forms[0]["q"] == "a?b"


def test_an_unknown_backend_is_named_together_with_those_that_exist() -> None:
    with pytest.raises(ToolError, match=r"backend 'altavista' is unknown. Known: .*duckduckgo"):
        Search("altavista").search_web("x")


async def test_the_next_engine_is_asked_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddgs.engines import ENGINES

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=page(item()), content_type="text/html")

    async with asyncio.timeout(20), serving(handler) as url:
        monkeypatch.setattr(ENGINES["text"]["mojeek"], "search_url", refusing())
        monkeypatch.setattr(ENGINES["text"]["duckduckgo"], "search_url", url)
        search = Search("mojeek, duckduckgo")
        found = await asyncio.to_thread(search.search_web, "x")
    assert found.engine == "duckduckgo"
    assert len(found.results) == 1


async def test_every_engine_that_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddgs.engines import ENGINES

    for name in ("mojeek", "brave"):
        monkeypatch.setattr(ENGINES["text"][name], "search_url", refusing())
    search = Search("mojeek,brave")
    with pytest.raises(ToolError, match=r"mojeek could not be reached; brave could not be reached"):
        await asyncio.to_thread(search.search_web, "x")
