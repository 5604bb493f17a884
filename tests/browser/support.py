"""What the tests in a real browser share: a visitor, who sees everything that goes wrong.

A visitor is one profile of a browser: pages that it opens share storage and cookies, another
visitor's do not. It notes what a page must never do, and a test in which that happened fails at its
end unless it said before that it `expects` it:

* a request to anything but the service, which is blocked (`request`),
* something that the Content-Security-Policy forbids (`policy`),
* an error on the console (`console`) or one that nobody caught (`error`),
* a dialog, which is dismissed (`dialog`), and a page that opens by itself (`popup`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    WebError,
)

from tests.browser.chromium import PACKAGES
from tests.service import Service

TIMEOUT = 20_000
"""Milliseconds that a page is given for anything."""

Kind: TypeAlias = Literal["request", "policy", "console", "error", "dialog", "popup"]


@dataclass(frozen=True)
class Trouble:
    """Something that a page must not do; `text` is its address or message."""

    kind: Kind
    text: str


class Visitor:
    """One profile of a browser and what its pages did wrong.

    Attributes:
        context: Playwright's context, for what is not here: offline, permissions, routes.
        troubles: what went wrong so far.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.troubles: list[Trouble] = []
        self._origins: set[str] = set()
        self._expected: list[tuple[Kind, str]] = []
        self._opening = 0
        self._watch()

    async def open_page(self, service: Service, path: str = "/") -> Page:
        """Open a page of the service in a new tab, and return it once it is loaded."""
        self.trust(service)
        self._opening += 1
        page = await self.context.new_page()
        await page.goto(service.url + path)
        return page

    def trust(self, service: Service) -> None:
        """Take requests to a service for what they should be."""
        self._origins.add(urlsplit(service.url).netloc)

    def expects(self, kind: Kind, text: str = "") -> None:
        """Do not mind troubles of a kind whose text contains `text`."""
        self._expected.append((kind, text))

    def unexpected(self) -> list[Trouble]:
        """Return the troubles that the test did not say it expects."""
        return [
            trouble
            for trouble in self.troubles
            if not any(
                trouble.kind == kind and text in trouble.text for kind, text in self._expected
            )
        ]

    def _watch(self) -> None:
        self.context.on("request", self._saw_request)
        self.context.on("requestfailed", self._saw_failure)
        self.context.on("console", self._saw_message)
        self.context.on("weberror", self._saw_error)
        self.context.on("dialog", self._saw_dialog)
        self.context.on("page", self._saw_page)

    def _note(self, kind: Kind, text: str) -> None:
        self.troubles.append(Trouble(kind, text))

    def _saw_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        inside = address.scheme in ("data", "blob", "about")
        if not inside and address.netloc not in self._origins:
            self._note("request", request.url)

    def _saw_failure(self, request: Request) -> None:
        forbidden = Trouble("request", request.url)
        if request.failure == "csp" and forbidden in self.troubles:
            self.troubles.remove(forbidden)
            self._note("policy", request.url)

    def _saw_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            policy = "Content Security Policy" in message.text or "Trusted" in message.text
            self._note("policy" if policy else "console", message.text)

    def _saw_error(self, error: WebError) -> None:
        self._note("error", error.error.stack or error.error.message)

    async def _saw_dialog(self, dialog: Dialog) -> None:
        self._note("dialog", dialog.message)
        await dialog.dismiss()

    def _saw_page(self, page: Page) -> None:
        if self._opening:
            self._opening -= 1
        else:
            self._note("popup", page.url)


@asynccontextmanager
async def visiting(browser: Browser, **options: Any) -> AsyncIterator[Visitor]:
    """Visit with a fresh profile; `options` are those of Playwright's `new_context`.

    Raises:
        AssertionError: something went wrong that the test did not expect.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(TIMEOUT)
    visitor = Visitor(context)
    try:
        yield visitor
        await asyncio.gather(*(_settled(page) for page in context.pages))
    finally:
        await context.close()
    unexpected = visitor.unexpected()
    assert not unexpected, unexpected


async def _settled(page: Page) -> None:
    """Return once the page has told what it did so far."""
    await page.evaluate("new Promise((done) => setTimeout(done))")


async def serious_findings(page: Page, rules: list[str] | None = None) -> list[str]:
    """Return what axe finds serious or critical, as `rule: element`.

    Args:
        page: where to look.
        rules: the names of the rules that are asked for; None: all.
    """
    if not await page.evaluate("'axe' in window"):
        source = (PACKAGES / "axe-core" / "axe.min.js").read_text()
        await page.evaluate(f"() => {{ {source} }}")
    found = await page.evaluate(
        "async (options) => (await axe.run(options)).violations",
        {"resultTypes": ["violations"], **({} if rules is None else {"runOnly": rules})},
    )
    return [
        f"{violation['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
