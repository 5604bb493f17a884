"""What the tests of a conversation share: who asks, what is shown, tools that take their time.

A test moves what it waits for itself: a model says its next piece when its gate lets it pass, a
tool returns when the `Bench` lets it go. So nothing depends on how fast the machine is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Locator, Page, expect

from errors import ToolError
from tests.api.support import scripted
from tests.browser.support import TIMEOUT, Visitor
from tests.service import Service
from tests.upstream import Gate, Reply, Script, Upstream, paced, text
from tools.tool import ToolContext

expect.set_options(timeout=TIMEOUT)


@asynccontextmanager
async def talking(
    visitor: Visitor, script: Script, **options: Any
) -> AsyncIterator[tuple[Page, Service, Upstream]]:
    """Open the page of a service whose model is scripted; a failure of it is not tried again."""
    options = {"openai_max_retries": 0} | options
    async with (
        scripted(script, **options) as (service, upstream),
        opened(visitor, service) as page,
    ):
        yield page, service, upstream


@asynccontextmanager
async def opened(visitor: Visitor, service: Service) -> AsyncIterator[Page]:
    """Open the page; it is connected, and closed before its service ends."""
    page = await visitor.open_page(service)
    try:
        await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        yield page
        await page.evaluate("new Promise((done) => setTimeout(done))")
    finally:
        await page.close()


def field(page: Page) -> Locator:
    """Return where one types."""
    return page.get_by_label("Your message", exact=True)


async def ask(page: Page, message: str) -> None:
    """Send a message."""
    await field(page).fill(message)
    await field(page).press("Enter")


def answers(page: Page) -> Locator:
    """Return the answers that are shown, oldest first."""
    return page.locator(".answer")


def asked(page: Page) -> Locator:
    """Return the user's messages that are shown, oldest first."""
    return page.locator(".bubble")


async def is_complete(answer: Locator) -> None:
    """Wait until an answer has ended."""
    await expect(answer).to_have_attribute("aria-busy", "false")


def said(page: Page) -> Locator:
    """Return the texts of the answers that are shown."""
    return page.locator(".answer .markdown")


def chats(page: Page) -> Locator:
    """Return the list of chats' links."""
    return page.get_by_role("navigation", name="Chats").get_by_role("link")


def card(page: Page, brief: str) -> Locator:
    """Return the card of the call whose arguments are shown as `brief`."""
    return page.locator(".call-item", has=page.get_by_text(brief, exact=True))


def slowly(*pieces: str) -> tuple[Reply, Gate]:
    """Return a reply that says a piece for each `gate.pass_one()`, once its head has passed."""
    gate = Gate()
    reply = paced(text(*pieces), gate)
    return Reply(reply.steps[:1] + reply.steps[2:], reply.status, reply.headers), gate


def by_message(replies: dict[str, Reply]) -> Callable[[dict[str, Any]], Reply]:
    """Return a script that answers by what was said last."""
    return lambda body: replies[body["messages"][-1]["content"]]


class Bench:
    """Tools that work until they are let go. `tools` are what a service is given."""

    def __init__(self) -> None:
        self._ends: dict[str, Future[None]] = {}

    @property
    def tools(self) -> list[Callable[..., Any]]:
        """All tools of the bench."""
        return [self.work, self.copy]

    async def work(self, what: str) -> str:
        """Work until it is done."""
        await self._end_of(what)
        if what.startswith("bad"):
            raise ToolError(f"There is no {what} here.")
        return f"{what} is ready"

    async def copy(self, files: int, context: ToolContext) -> str:
        """Copy files and tell how far it is."""
        context.progress(1, files, "the first file")
        await self._end_of("the first file")
        context.progress(files, None, "a last look")
        await self._end_of("the last look")
        return "copied"

    async def _end_of(self, what: str) -> None:
        await asyncio.wrap_future(self._ends.setdefault(what, Future()))

    def finish(self, what: str) -> None:
        """Let what works, or will work, on `what` be done."""
        self._ends.setdefault(what, Future()).set_result(None)
