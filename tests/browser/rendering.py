"""A page with nothing but an element for Markdown, under the policy of the chat page."""

from collections.abc import Mapping

from playwright.async_api import Page, Route

from api.native.page import HEADERS
from tests.browser.support import Visitor
from tests.service import Service

EMPTY = """<!doctype html><html lang="en"><head><title>Markdown</title>
<link rel="stylesheet" href="/web/markdown.css"></head>
<body><main><h1>Chat</h1><h2>Answer</h2><div id="shown" class="markdown"></div></main></body></html>
"""

LOAD = """async () => {
  const { loadMarkdown } = await import('/web/page/markdown.js');
  window.markdown = await loadMarkdown();
  window.shown = document.getElementById('shown');
  window.pwned = () => { window.isPwned = true; };
}"""


async def open_markdown(
    visitor: Visitor, service: Service, replaced: Mapping[str, str | None] | None = None
) -> Page:
    """Open a page whose `markdown` renders into `shown`.

    Args:
        visitor: who opens it.
        service: where the modules are.
        replaced: JavaScript that is served in place of a library, by its name; None: a 404.
    """

    async def empty(route: Route) -> None:
        await route.fulfill(headers=HEADERS | {"Content-Type": "text/html"}, body=EMPTY)

    async def library(route: Route) -> None:
        source = (replaced or {}).get(route.request.url.rpartition("/")[2], "")
        if source is None:
            await route.fulfill(status=404, body="")
        elif source:
            headers = HEADERS | {"Content-Type": "text/javascript"}
            await route.fulfill(headers=headers, body=source)
        else:
            await route.continue_()

    await visitor.context.route("**/empty", empty)
    if replaced:
        await visitor.context.route("**/web/vendor/*", library)
    page = await visitor.open_page(service, "/empty")
    await page.evaluate(LOAD)
    return page
