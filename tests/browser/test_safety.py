"""What others make the page show executes nothing, asks for nothing and looks like nothing else.

A visitor notes each request that leaves, each violation of the policy, each error and each dialog,
and a test in which there was one fails at its end. A payload that runs calls `pwned()`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, Route, expect

from api.native.page import HEADERS, POLICY
from errors import ToolError
from tests.browser.conftest import Visiting
from tests.browser.hostile import MARKDOWN, RAW
from tests.browser.support import Visitor
from tests.browser.talking import answers, ask, asked, chats, field, is_complete, opened, said
from tests.browser.talking import talking as scripted_talk
from tests.service import running
from tests.upstream import calls, status, text

pytestmark = pytest.mark.timeout(120)

PAYLOADS = [*RAW.values(), *(each for each in MARKDOWN.values() if "\ud800" not in each)]
ALL = "\n".join(PAYLOADS).replace("\0", "")
SHORT = "<img src=x onerror=pwned()>\u202e<b onmouseover=pwned()>x</b>"
ARMED = "window.pwned = () => { window.isPwned = true; }"


def echo(said: str) -> str:
    """Say it again."""
    return said


def refuse(said: str) -> str:
    """Fail with what was said."""
    raise ToolError(said)


async def shows_as_text(found: Locator, shown: str) -> None:
    """Wait until an element shows just this text, and has no element in it."""
    await expect(found).to_have_text(shown, use_inner_text=False)
    assert await found.evaluate("(element) => element.childElementCount") == 0


async def is_harmless(page: Page) -> None:
    """Move over and focus all that is shown, and see that nothing ran."""
    await page.evaluate(
        """() => {
          for (const each of document.querySelectorAll('.thread *, .sidebar *, dialog *')) {
            for (const type of ['mouseover', 'pointerenter', 'focus', 'click']) {
              if (type === 'click' && each.closest('a, button, summary, label')) continue;
              each.dispatchEvent(new Event(type, { bubbles: false }));
            }
          }
          return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        }"""
    )
    assert await page.evaluate("window.isPwned") is None
    assert await page.locator("main form:not(#composer):not(.editor)").count() == 0
    assert await page.locator("img, iframe, script:not([src]), object, embed, base").count() == 0


@pytest_asyncio.fixture(loop_scope="session")
async def armed(visitor: Visitor) -> Visitor:
    """A visitor whose pages note what runs."""
    await visitor.context.add_init_script(ARMED)
    return visitor


async def test_hostile_calls_are_shown_as_text(armed: Visitor) -> None:
    wanted = [("echo", {"said": ALL}), ("refuse", {"said": ALL}), ("no_such<b>", {"said": SHORT})]
    script = [calls(*wanted, piece_length=5000), text("Done.")]
    async with scripted_talk(armed, script, tools=[echo, refuse]) as (page, _, _):
        await ask(page, "Go")
        await expect(said(page)).to_have_text(["Done."])
        cards = page.locator(".call-item")
        await expect(cards).to_have_count(3)
        for shown in range(2):
            for number in range(3):
                await cards.nth(number).locator("summary").click()
            await shows_as_text(cards.nth(0).get_by_role("region", name="Result"), ALL)
            for number in range(3):
                arguments = cards.nth(number).get_by_role("region", name="Arguments")
                assert await arguments.evaluate("(element) => element.childElementCount") == 0
            error = cards.nth(1).get_by_role("region", name="Error")
            await expect(error).to_contain_text("<script>pwned()</script>")
            assert await error.evaluate("(element) => element.childElementCount") == 0
            await expect(cards.nth(2).locator(".call-name")).to_have_text("no_such<b>")
            await is_harmless(page)
            if shown == 0:
                await page.reload()


async def test_hostile_messages_titles_and_snippets_are_shown_as_text(armed: Visitor) -> None:
    title = SHORT * 3
    message = f"needle {SHORT}\n{ALL}"
    async with scripted_talk(armed, [text(ALL), text("Fine.")]) as (page, service, _):
        await ask(page, message)
        await is_complete(answers(page))
        await shows_as_text(asked(page), message)
        chat = await page.evaluate("location.hash.slice(2)")
        await service.json("PATCH", f"/conversations/{chat}", 200, json={"title": title})
        await page.reload()
        await shows_as_text(page.get_by_role("heading", level=1), title)
        await expect(page).to_have_title(f"{title} · Parley")
        await shows_as_text(page.locator(".chat-title"), title)
        await page.locator(".chat-item").hover()
        await page.get_by_role("button", name="Delete “").click()
        await shows_as_text(page.get_by_role("dialog").locator("bdi"), title)
        await is_harmless(page)
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Rename “").click()
        await expect(page.get_by_label("Title of the chat")).to_have_value(title)
        await page.keyboard.press("Escape")
        await page.get_by_label("Search chats").fill("needle")
        snippet = page.locator(".chat-snippet")
        await expect(snippet).to_contain_text("needle")
        assert await snippet.evaluate("(element) => element.childElementCount") == 0
        await is_harmless(page)


async def test_a_hostile_agent_and_a_hostile_provider_are_shown_as_text(armed: Visitor) -> None:
    agent = {"name": SHORT, "instructions": ALL, "model": SHORT[:60]}
    script = [status(400, ALL[:2000], error_code=SHORT)]
    async with scripted_talk(armed, script) as (page, service, _):
        await service.json("POST", "/agents/odd", 201, json=agent)
        await page.reload()
        await page.get_by_role("combobox", name="Agent").select_option("odd")
        await page.get_by_role("button", name="Change this agent").click()
        await expect(page.get_by_label("Instructions")).to_have_value(ALL)
        await is_harmless(page)
        await page.keyboard.press("Escape")
        await page.get_by_role("combobox", name="Agent").select_option("chat")
        await ask(page, "Go")
        failure = page.locator(".answer-end.fault span")
        await expect(failure).to_contain_text("<script>pwned()</script>")
        assert await failure.evaluate("(element) => element.childElementCount") == 0
        await is_harmless(page)


ADDRESSES = [
    "#/<img src=x onerror=pwned()>",
    "#/%3Cscript%3Epwned()%3C/script%3E",
    "#javascript:pwned()",
    "#/..",
    "#/../users",
    "#//evil.example/x?y=z",
    "#/" + "x" * 5000,
    "#/__proto__",
]


async def test_an_address_leads_to_a_chat_or_to_none(armed: Visitor) -> None:
    armed.expects("console", "404")
    async with running() as service, opened(armed, service) as page:
        none = page.get_by_text("There is no chat at this address.")
        lost = page.get_by_text("This chat is not there. It may have been deleted.")
        for address in ADDRESSES:
            await page.goto("about:blank")
            await page.goto(f"{service.url}/{address}")
            await expect(none.or_(lost)).to_be_visible()
            assert await page.evaluate("window.isPwned") is None
        await page.get_by_role("link", name="New chat", exact=True).first.click()
        await expect(page.get_by_text("What shall we talk about?")).to_be_visible()
        await ask(page, "Hello")
        await is_complete(answers(page))


KEPT = ["{", "5", "{}", '[null, {"chatId": 5}]', '"constructor"']
"""What something else may have written where the page keeps its own."""

PLACES = ["choice.theme", "choice.agent", "choice.banner", "draft.new", "outbox"]


async def test_what_is_kept_may_be_anything(armed: Visitor) -> None:
    async with running() as service, opened(armed, service) as page:
        for value in KEPT:
            await page.evaluate(
                "(kept) => Object.assign(localStorage, kept)",
                {f"parley.{place}": value for place in PLACES},
            )
            await page.goto("about:blank")
            await page.goto(service.url)
            await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
            await page.get_by_role("button", name="Colours: auto").click()
            await ask(page, "Hello")
            await is_complete(answers(page))
            await page.reload()
            await expect(asked(page)).to_have_text(["Hello"])
            await expect(answers(page)).to_have_count(1)
            await page.get_by_role("button", name="Colours: light").click()


# The policy.


async def test_all_that_is_served_has_the_policy_and_normal_use_violates_nothing(
    armed: Visitor,
) -> None:
    async with running() as service:
        served: dict[str, dict[str, str]] = {}
        armed.context.on("response", lambda each: served.update({each.url: each.headers}))
        async with opened(armed, service) as page:
            await page.get_by_role("button", name="Formatted answers").click()
            await is_complete(answers(page))
            files = {url: found for url, found in served.items() if "/web/" in url}
            assert len(files) > 10
            for headers in [served[service.url + "/"], *files.values()]:
                assert headers["content-security-policy"] == POLICY
                assert headers["x-content-type-options"] == "nosniff"
            with pytest.raises(Exception, match="TrustedHTML"):
                await page.evaluate("document.body.innerHTML = '<p>x</p>'")
            armed.expects("policy", "TrustedHTML")


async def test_the_page_is_not_shown_in_a_frame_of_another_origin(visitors: Visiting) -> None:
    async with visitors() as visitor, running() as service, running() as other:
        visitor.trust(other)
        visitor.expects("policy", "frame-ancestors")
        visitor.expects("console", "frame")
        body = f"<!doctype html><title>Thief</title><iframe src='{service.url}/'></iframe>"

        async def thief(route: Route) -> None:
            await route.fulfill(headers={"Content-Type": "text/html"}, body=body)

        await visitor.context.route(f"{other.url}/thief", thief)
        async with asyncio.timeout(20):
            page = await visitor.open_page(service, "/docs/protocol.md")
            await page.goto(f"{other.url}/thief")
        frame = page.frames[1]
        assert not frame.url.startswith(service.url)
        assert await frame.locator("#message").count() == 0
        await page.close()


# What a browser may lack.


async def no_libraries(visitor: Visitor) -> None:
    async def missing(route: Route) -> None:
        await route.fulfill(status=404, headers=HEADERS, body="")

    visitor.expects("console", "404")
    await visitor.context.route("**/web/vendor/*", missing)


async def no_sockets(visitor: Visitor) -> None:
    await visitor.context.add_init_script("delete window.WebSocket")


async def no_storage(visitor: Visitor) -> None:
    await visitor.context.add_init_script(
        """Object.defineProperty(window, 'localStorage', {
          get() { throw new DOMException('blocked', 'SecurityError'); },
        });"""
    )


async def no_channel(visitor: Visitor) -> None:
    await visitor.context.add_init_script("delete window.BroadcastChannel")


@pytest.mark.parametrize("lack", [no_libraries, no_sockets, no_storage, no_channel])
async def test_the_page_does_without(
    visitor: Visitor, lack: Callable[[Visitor], Awaitable[None]]
) -> None:
    await lack(visitor)
    async with running() as service:
        page = await visitor.open_page(service)
        await expect(page.get_by_text("Connected")).to_be_visible()
        await field(page).fill("Show me a table")
        await page.get_by_role("button", name="Send").click()
        await is_complete(answers(page))
        await expect(answers(page)).to_contain_text(
            "| Protocol |" if lack is no_libraries else "ProtocolDirection"
        )
        await ask(page, "Show me some code")
        await expect(answers(page)).to_have_count(2)
        await is_complete(answers(page).nth(1))
        await expect(chats(page)).to_have_count(1)
        await page.reload()
        await expect(asked(page)).to_have_text(["Show me a table", "Show me some code"])
        await expect(answers(page)).to_have_count(2)
        await page.close()


async def test_an_answer_is_copied_without_a_clipboard(visitor: Visitor) -> None:
    await visitor.context.add_init_script(
        """Object.defineProperty(navigator, 'clipboard', { value: undefined });
        document.addEventListener('copy', () => { window.copied = String(getSelection()); });"""
    )
    async with scripted_talk(visitor, [text("**Gold**")]) as (page, _, _):
        await ask(page, "Go")
        await is_complete(answers(page))
        button = answers(page).get_by_role("button", name="Copy")
        await button.press("Enter")
        await page.wait_for_function("window.copied === '**Gold**'")
        await expect(button).to_be_focused()


def test_all_payloads_are_tried() -> None:
    known: list[Any] = [each for each in PAYLOADS if each]
    assert len(known) > 100
