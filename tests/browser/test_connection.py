"""The thread is never lost: not by a reload, a lost network, a restart, another tab or window.

A test moves what it waits for itself: the model says its next piece when `Stage.let` lets it pass,
and the network between page and service is that of `Stage.network`. What the page shows in the end
is what `GET /conversations/{id}` says is stored, before and after a reload.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import pytest
from playwright.async_api import Locator, Page, expect
from playwright.async_api import TimeoutError as TooLate

from tests.browser.conftest import Visiting
from tests.browser.support import TIMEOUT, Visitor
from tests.browser.talking import answers, ask, asked, chats, field, is_complete, said, talking
from tests.service import DEADLINE, Service
from tests.upstream import FOUR, eof_after
from tests.web.stage import Stage

pytestmark = pytest.mark.timeout(120)

Entry: TypeAlias = tuple[str, str]
"""`user` or `answer`, and what is said."""

SHOWN = """() => [...document.querySelectorAll('.thread > .entry')].flatMap((entry) => {
  const bubble = entry.querySelector('.bubble');
  if (bubble) return [['user', bubble.textContent]];
  return [...entry.querySelectorAll('.markdown')].map((each) => ['answer', each.innerText.trim()]);
})"""

UNHURRIED = "Math.random = () => 1000"
"""Makes the page wait for minutes before it connects again, so that a test says when it does."""

WORDS: dict[str, Any] = {"text": ["one", " two", " three", " four"], "paced": True}


@dataclass(frozen=True)
class Door:
    """An address that a visitor opens in place of the service's own."""

    url: str


@asynccontextmanager
async def staged(
    visitor: Visitor, *script: dict[str, Any], is_process: bool = False
) -> AsyncIterator[Stage]:
    """Have a stage whose model answers so (see `tests.web.stage`) for as long as a visit to it."""
    replies = list(script) or [{"text": ["Good day."]}]
    async with Stage(replies, {}, is_process=is_process) as stage:
        yield stage
        await asyncio.gather(*(page.goto("about:blank") for page in visitor.context.pages))
        stage.proxy.cut_all()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*stage.proxy._tasks)


async def opened(visitor: Visitor, stage: Stage, path: str = "/") -> Page:
    """Open the page behind the stage's network and return it once it is connected."""
    page = await visitor.open_page(cast(Service, Door(stage.proxy.url)), path)
    await expect(page.get_by_text(re.compile("^Connected"))).to_be_visible()
    return page


def chat_of(page: Page) -> str:
    """Return the id of the chat that is shown."""
    return page.url.rpartition("#/")[2]


async def stored(page: Page, stage: Stage) -> list[Entry]:
    """Return what is stored of the chat that is shown."""
    response = await page.request.get(f"{stage.proxy.url}/conversations/{chat_of(page)}")
    detail = json.loads(await response.text())
    kinds = {"user": "user", "assistant": "answer"}
    return [
        (kinds[each["role"]], each["content"])
        for each in detail["messages"]
        if each["role"] in kinds and each["content"]
    ]


async def shows(page: Page, entries: list[Entry]) -> None:
    """Wait until the page shows exactly these entries, in this order."""
    wanted = [list(each) for each in entries]
    equal = f"(wanted) => JSON.stringify(({SHOWN})()) === JSON.stringify(wanted)"
    try:
        await page.wait_for_function(equal, arg=wanted, timeout=TIMEOUT)
    except TooLate:
        assert await page.evaluate(SHOWN) == wanted


async def is_kept(page: Page, stage: Stage, entries: list[Entry]) -> None:
    """Check that these entries are shown, that they are stored, and that a reload keeps them."""
    await is_complete(answers(page).last)
    await shows(page, entries)
    assert await stored(page, stage) == entries
    await page.reload()
    await shows(page, entries)


def button(page: Page, name: str) -> Locator:
    """Return a button by its name."""
    return page.get_by_role("button", name=name, exact=True)


def sending(page: Page) -> Locator:
    """Return the notes that a message is on its way to the service."""
    return page.get_by_text("Sending…").filter(visible=True)


async def goes_away(stage: Stage) -> None:
    """Break the way to the service off."""
    await stage.network(is_down=True, cut=True)


async def test_an_answer_goes_on_through_reloads(visitor: Visitor) -> None:
    async with staged(visitor, WORDS) as stage:
        page = await opened(visitor, stage)
        await ask(page, "Count.")
        await stage.let(2)
        for text in ("one", "one two", "one two three"):
            await shows(page, [("user", "Count."), ("answer", text)])
            await page.reload()
            await shows(page, [("user", "Count."), ("answer", text)])
            await stage.let()
        await stage.open()
        await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])
        assert stage.upstream.asked.value == 1


async def test_an_answer_is_there_when_its_tab_was_closed(visitor: Visitor) -> None:
    async with staged(visitor, WORDS) as stage:
        page = await opened(visitor, stage)
        await ask(page, "Count.")
        await stage.let(3)
        await shows(page, [("user", "Count."), ("answer", "one two")])
        address = f"/#/{chat_of(page)}"
        await page.close()
        await stage.let()
        page = await opened(visitor, stage, address)
        await shows(page, [("user", "Count."), ("answer", "one two three")])
        await stage.open()
        await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])


@pytest.mark.parametrize("is_polite", [False, True], ids=["killed", "stopped"])
async def test_an_answer_goes_on_when_the_service_is_started_again(
    visitor: Visitor, is_polite: bool
) -> None:
    visitor.expects("console")
    await visitor.context.add_init_script(UNHURRIED)
    work = {"calls": [["calculate", {"expression": "15 + 27"}]]}
    script = [work, WORDS, {"text": ["It", " is", " **42**."]}]
    async with staged(visitor, *script, is_process=True) as stage:
        page = await opened(visitor, stage)
        await ask(page, "What is 15 + 27?")
        await stage.let(3)
        await shows(page, [("user", "What is 15 + 27?"), ("answer", "one two")])
        await stage.stop(politely=is_polite)
        await expect(button(page, "Try now")).to_be_visible()
        await stage.start()
        await button(page, "Try now").click()
        await shows(page, [("user", "What is 15 + 27?"), ("answer", "It is 42.")])
        await is_complete(answers(page))
        for _ in ("live", "reloaded"):
            await expect(answers(page)).to_have_count(1)
            await expect(page.locator(".call-item")).to_have_count(1)
            await expect(page.locator(".call-item")).to_have_attribute("data-state", "done")
            await page.reload()
        said = [("user", "What is 15 + 27?"), ("answer", "It is **42**.")]
        assert await stored(page, stage) == said


async def test_the_connection_is_shown_honestly(visitor: Visitor) -> None:
    visitor.expects("console")
    await visitor.context.add_init_script(UNHURRIED)
    async with staged(visitor) as stage:
        page = await opened(visitor, stage)
        await expect(button(page, "Try now")).to_be_hidden()
        await goes_away(stage)
        await expect(
            page.get_by_text(re.compile(r"^Offline\. Trying again in \d+ s$"))
        ).to_be_visible()
        first = await page.get_by_text(re.compile("^Offline")).inner_text()
        await expect(page.get_by_text(first, exact=True)).to_be_hidden()  # it counts
        await expect(page.get_by_text(re.compile("^Offline"))).to_be_visible()
        await button(page, "Try now").click()
        await expect(
            page.get_by_text(re.compile(r"^Offline\. Trying again in \d+ s$"))
        ).to_be_visible()
        await stage.network(is_down=False)
        await button(page, "Try now").click()
        await expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        await expect(button(page, "Try now")).to_be_hidden()


@pytest.mark.parametrize("blocked", [None, "refused"], ids=["websocket", "sse"])
async def test_an_answer_goes_on_when_the_network_is_back(
    visitor: Visitor, blocked: str | None
) -> None:
    visitor.expects("console")
    async with staged(visitor, WORDS) as stage:
        await stage.network(blocked=blocked)
        page = await opened(visitor, stage)
        await ask(page, "Count.")
        await stage.let(2)
        for text in ("one", "one two", "one two three"):
            await shows(page, [("user", "Count."), ("answer", text)])
            await goes_away(stage)
            await stage.let()
            await expect(page.get_by_text(re.compile("^Offline"))).to_be_visible()
            await stage.network(is_down=False)
        await stage.open()
        await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])
        assert stage.upstream.asked.value == 1


async def test_without_websockets_all_goes_on_over_http(visitor: Visitor) -> None:
    visitor.expects("console", "WebSocket")
    async with staged(visitor, WORDS, {"text": ["five"]}) as stage:
        await stage.network(blocked="refused")
        page = await opened(visitor, stage)
        await expect(page.get_by_text("Connected (without WebSocket)")).to_be_visible()
        await ask(page, "Count.")
        await stage.let(2)
        await ask(page, "Go on.")
        waits = [("user", "Count."), ("answer", "one"), ("user", "Go on.")]
        await shows(page, waits)
        await page.reload()
        await shows(page, waits)
        await stage.open()
        await expect(answers(page).last).to_contain_text("five")
        await is_kept(
            page,
            stage,
            [
                ("user", "Count."),
                ("answer", "one two three four"),
                ("user", "Go on."),
                ("answer", "five"),
            ],
        )


@pytest.mark.parametrize("way", ["same page", "reload", "another address"])
async def test_a_message_that_was_sent_offline_is_answered_once(visitor: Visitor, way: str) -> None:
    visitor.expects("console")
    await visitor.context.add_init_script(UNHURRIED)
    async with staged(visitor, {"text": ["Hello."]}, {"text": ["Good day."]}) as stage:
        page = await opened(visitor, stage)
        await ask(page, "First.")
        await is_complete(answers(page))
        await goes_away(stage)
        await expect(button(page, "Try now")).to_be_visible()
        await ask(page, "Are you there?")
        await expect(sending(page)).to_have_count(1)
        await expect(page.get_by_text("Waits to be sent")).to_be_visible()
        await expect(field(page)).to_have_value("")
        await stage.network(is_down=False)
        address = page.url
        if way == "same page":
            await button(page, "Try now").click()
        elif way == "reload":
            await page.reload()
        else:
            await page.close()
            page = await opened(visitor, stage)
            await stage.asked(2)
            await page.goto(address)
        await expect(answers(page)).to_have_count(2)
        await expect(sending(page)).to_have_count(0)
        first = [("user", "First."), ("answer", "Hello.")]
        await is_kept(page, stage, [*first, ("user", "Are you there?"), ("answer", "Good day.")])
        assert stage.upstream.asked.value == 2


async def test_a_new_chat_that_was_begun_offline_is_found_by_the_next_visit(
    visitor: Visitor,
) -> None:
    visitor.expects("console")
    await visitor.context.add_init_script(UNHURRIED)
    async with staged(visitor) as stage:
        page = await opened(visitor, stage)
        await goes_away(stage)
        await expect(button(page, "Try now")).to_be_visible()
        await ask(page, "Are you there?")
        await expect(sending(page)).to_have_count(1)
        await page.close()
        await stage.network(is_down=False)
        page = await opened(visitor, stage)
        await chats(page).first.click()
        await expect(answers(page)).to_have_count(1)
        await is_kept(page, stage, [("user", "Are you there?"), ("answer", "Good day.")])


async def test_what_was_typed_and_not_sent_is_kept_for_each_chat(visitor: Visitor) -> None:
    async with staged(visitor) as stage:
        page = await opened(visitor, stage)
        await field(page).fill("For a new chat")
        await page.reload()
        await expect(field(page)).to_have_value("For a new chat")
        await ask(page, "Hello.")
        await is_complete(answers(page))
        await field(page).fill("For this chat")
        await page.reload()
        await expect(field(page)).to_have_value("For this chat")
        await page.get_by_role("link", name="New chat", exact=True).click()
        await expect(field(page)).to_have_value("")
        await page.go_back()
        await expect(field(page)).to_have_value("For this chat")


async def test_what_is_done_in_one_tab_is_seen_in_another(visitor: Visitor) -> None:
    async with staged(visitor, {"text": ["Hello."]}, WORDS) as stage:
        one = await opened(visitor, stage)
        await ask(one, "First.")
        await is_complete(answers(one))
        first = [("user", "First."), ("answer", "Hello.")]
        other = await opened(visitor, stage, f"/#/{chat_of(one)}")
        await shows(other, first)
        await ask(one, "Count.")
        await stage.let(3)
        await shows(other, [*first, ("user", "Count."), ("answer", "one two")])
        await stage.open()
        both = [*first, ("user", "Count."), ("answer", "one two three four")]
        for page in (one, other):
            await is_kept(page, stage, both)
        await renamed(one, "Another name")
        await expect(other.get_by_role("heading", level=1)).to_have_text("Another name")
        await expect(chats(other)).to_have_text(["Another name"])
        await removed(one, "Another name")
        await expect(chats(other)).to_have_count(0)
        await expect(asked(other)).to_have_count(0)
        await expect(other.get_by_text("What shall we talk about?")).to_be_visible()


async def renamed(page: Page, title: str) -> None:
    """Give the only chat another title."""
    await chats(page).first.hover()
    await page.get_by_role("button", name=re.compile("^Rename ")).click()
    await page.get_by_label("Title of the chat").fill(title)
    await page.get_by_label("Title of the chat").press("Enter")
    await expect(chats(page).first).to_have_text(title)


async def removed(page: Page, title: str) -> None:
    """Delete a chat."""
    await chats(page).first.hover()
    await button(page, f"Delete “{title}”").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(chats(page)).to_have_count(0)


async def comes_back(page: Page) -> None:
    """Come back to a window that was left."""
    await page.evaluate("window.dispatchEvent(new Event('focus'))")


async def test_what_is_done_in_one_browser_is_seen_when_one_comes_to_another(
    visitor: Visitor, visitors: Visiting
) -> None:
    async with staged(visitor, {"text": ["Hello."]}, WORDS) as stage, visitors() as stranger:
        one = await opened(visitor, stage)
        await ask(one, "First.")
        await is_complete(answers(one))
        first = [("user", "First."), ("answer", "Hello.")]
        other = await opened(stranger, stage, f"/#/{chat_of(one)}")
        await shows(other, first)
        await ask(one, "Count.")
        await stage.let(3)
        await shows(one, [*first, ("user", "Count."), ("answer", "one two")])
        await comes_back(other)
        await shows(other, [*first, ("user", "Count."), ("answer", "one two")])
        await stage.open()
        both = [*first, ("user", "Count."), ("answer", "one two three four")]
        for page in (one, other):
            await is_kept(page, stage, both)
        await renamed(one, "Another name")
        await comes_back(other)
        await expect(other.get_by_role("heading", level=1)).to_have_text("Another name")
        stranger.expects("console", "404")
        await removed(one, "Another name")
        await comes_back(other)
        await expect(other.get_by_text("This chat is not there.")).to_be_visible()
        await expect(asked(other)).to_have_count(0)


async def test_an_answer_made_anew_is_made_anew_in_every_tab(visitor: Visitor) -> None:
    async with staged(visitor, {"text": ["Old."]}, WORDS) as stage:
        one = await opened(visitor, stage)
        await ask(one, "Count.")
        await is_complete(answers(one))
        other = await opened(visitor, stage, f"/#/{chat_of(one)}")
        await shows(other, [("user", "Count."), ("answer", "Old.")])
        await button(one, "Answer again").click()
        await stage.let(3)
        for page in (one, other):
            await shows(page, [("user", "Count."), ("answer", "one two")])
        await stage.open()
        for page in (one, other):
            await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])


async def test_messages_that_wait_are_shown_once_and_in_order(
    visitor: Visitor, visitors: Visiting
) -> None:
    script = [WORDS, {"text": ["five"]}, {"text": ["six"]}]
    async with staged(visitor, *script) as stage, visitors() as stranger:
        one = await opened(visitor, stage)
        for message in ("Count.", "And then?", "And then again?"):
            await ask(one, message)
        await stage.let(2)
        waiting = [
            ("user", "Count."),
            ("answer", "one"),
            ("user", "And then?"),
            ("user", "And then again?"),
        ]
        await shows(one, waiting)
        other = await opened(stranger, stage, f"/#/{chat_of(one)}")
        await shows(other, waiting)
        await expect(answers(other)).to_have_count(3)
        await stage.open()
        done = [
            ("user", "Count."),
            ("answer", "one two three four"),
            ("user", "And then?"),
            ("answer", "five"),
            ("user", "And then again?"),
            ("answer", "six"),
        ]
        for page in (one, other):
            await shows(page, done)
            await is_kept(page, stage, done)


async def test_an_answer_is_whole_when_its_log_has_expired_meanwhile(visitor: Visitor) -> None:
    visitor.expects("console")
    await visitor.context.add_init_script(UNHURRIED)
    async with staged(visitor, WORDS) as stage:
        page = await opened(visitor, stage)
        await ask(page, "Count.")
        await stage.let(3)
        await shows(page, [("user", "Count."), ("answer", "one two")])
        await goes_away(stage)
        await expect(button(page, "Try now")).to_be_visible()
        running = stage._running
        assert running is not None
        view = await running.json("GET", f"/conversations/{chat_of(page)}")
        await stage.open()
        waiting = f"{running.url}/runs/{view['active_run_id']}/events"
        async with running.session.get(waiting) as response:
            await response.read()
        await stage.expire(view["active_run_id"])
        await stage.network(is_down=False)
        await button(page, "Try now").click()
        await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])


async def test_an_answer_that_an_error_cuts_keeps_its_text(visitor: Visitor) -> None:
    script = [eof_after(3, FOUR, clean=False)]
    async with talking(visitor, script) as (page, _service, _upstream):
        await ask(page, "Count.")
        await is_complete(answers(page))
        await expect(answers(page)).to_have_attribute("data-state", "failed")
        await expect(page.get_by_role("button", name="Try again")).to_be_visible()
        await shows(page, [("user", "Count."), ("answer", "one two")])
        await page.reload()
        await shows(page, [("user", "Count."), ("answer", "one two")])


async def test_an_address_without_a_chat_says_so(visitor: Visitor) -> None:
    visitor.expects("console", "404")
    async with staged(visitor) as stage:
        page = await opened(visitor, stage, "/#/conv_of_nobody")
        await expect(page.get_by_text("This chat is not there.")).to_be_visible()
        await page.get_by_role("link", name="Begin a new chat").click()
        await expect(page.get_by_text("What shall we talk about?")).to_be_visible()
        await page.evaluate("location.hash = '#/<b>'")
        await expect(page.get_by_text("There is no chat at this address.")).to_be_visible()
        page = await opened(visitor, stage, "/#/%E0%A4%A/../<b>")
        await ask(page, "Hello.")
        await is_kept(page, stage, [("user", "Hello."), ("answer", "Good day.")])


async def test_back_and_forward_lead_from_chat_to_chat(visitor: Visitor) -> None:
    async with staged(visitor, {"text": ["Hello."]}, WORDS, {"text": ["five"]}) as stage:
        page = await opened(visitor, stage)
        await ask(page, "First.")
        await is_complete(answers(page))
        first = page.url
        await page.get_by_role("link", name="New chat", exact=True).click()
        await expect(asked(page)).to_have_count(0)
        await ask(page, "Count.")
        await stage.let(2)
        await shows(page, [("user", "Count."), ("answer", "one")])
        await page.go_back()
        await expect(asked(page)).to_have_count(0)
        await page.go_back()
        await shows(page, [("user", "First."), ("answer", "Hello.")])
        assert page.url == first
        await stage.let()
        await page.go_forward()
        await page.go_forward()
        await shows(page, [("user", "Count."), ("answer", "one two")])
        await stage.open()
        await is_kept(page, stage, [("user", "Count."), ("answer", "one two three four")])
        await expect(said(page)).to_have_count(1)
