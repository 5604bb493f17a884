"""A visitor sees what goes wrong in a page, and a test fails on it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Route

from tests.browser.conftest import Visiting
from tests.browser.rendering import open_markdown
from tests.browser.support import Kind
from tests.service import Service, running

PAGE = "<!doctype html><html lang=en><title>Without a policy</title><p>x</p></html>"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ("fetch('https://evil.example/').catch(() => 0)", "policy", "evil.example"),
        ("document.body.setAttribute('style', 'color: red')", "policy", "inline style"),
        ("console.error('broken')", "console", "broken"),
        ("setTimeout(() => { throw new Error('broken'); })", "error", "broken"),
        ("alert('x')", "dialog", "x"),
        ("void window.open('about:blank')", "popup", ""),
    ],
)
async def test_what_a_page_does_wrong_fails_its_test(
    service: Service, visitors: Visiting, script: str, kind: Kind, text: str
) -> None:
    with pytest.raises(AssertionError, match=f"kind='{kind}'"):
        async with visitors() as visitor:
            await (await open_markdown(visitor, service)).evaluate(script)
    async with visitors() as visitor:
        visitor.expects(kind, text)
        await (await open_markdown(visitor, service)).evaluate(script)


async def test_a_page_that_does_nothing_wrong_passes(service: Service, visitors: Visiting) -> None:
    async with visitors() as visitor:
        page = await open_markdown(visitor, service)
        await page.evaluate("document.body.style.color = 'red'")
    assert visitor.troubles == []


async def test_a_request_that_leaves_is_seen_and_finds_nobody(
    service: Service, visitors: Visiting
) -> None:
    async def without_policy(route: Route) -> None:
        await route.fulfill(headers={"Content-Type": "text/html"}, body=PAGE)

    async with visitors() as visitor:
        visitor.expects("request", "https://evil.example/x")
        visitor.expects("console", "ERR_NAME_NOT_RESOLVED")
        await visitor.context.route("**/free", without_policy)
        page = await visitor.open_page(service, "/free")
        refused = await page.evaluate("fetch('https://evil.example/x').then(() => 0, () => 1)")
        assert refused == 1
    assert [trouble.kind for trouble in visitor.troubles].count("request") == 1
