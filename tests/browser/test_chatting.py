"""Talking on the page: an answer that comes, is stopped, fails, has other versions, is copied."""

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Visiting
from tests.browser.support import Visitor
from tests.browser.talking import (
    answers,
    ask,
    asked,
    by_message,
    chats,
    field,
    is_complete,
    opened,
    said,
    slowly,
    talking,
)
from tests.service import running
from tests.upstream import Reply, eof_after, held, status, text

LINES = "\n\n".join(f"Line {number}." for number in range(30))

STANDS = """({ scrollTop, clientHeight, scrollHeight }) => {
  return { top: scrollTop, below: Math.round(scrollHeight - clientHeight - scrollTop) };
}"""


async def stands(page: Page) -> dict[str, float]:
    """Return how far the conversation is scrolled, and what is below, in pixels."""
    found: dict[str, float] = await page.locator("#scroller").evaluate(STANDS)
    return found


async def shows_the_end(page: Page) -> None:
    """Wait until the end of the conversation is in sight."""
    await page.wait_for_function(
        """() => {
          const { scrollTop, clientHeight, scrollHeight } = document.getElementById('scroller');
          return scrollHeight - clientHeight - scrollTop < 2;
        }"""
    )


# The first run.


async def test_an_example_is_answered_with_three_tools(visitor: Visitor) -> None:
    async with running() as service, opened(visitor, service) as page:
        await page.get_by_role("button", name="Three tools at once").click()
        await is_complete(answers(page))
        await expect(page.locator(".call-item[data-state=done]")).to_have_count(3)
        await expect(page.get_by_text("3 tool calls", exact=True)).to_be_visible()
        for part in ("Tokyo", "Paris", "36"):
            await expect(said(page)).to_contain_text(part)
        await expect(page.get_by_text("What shall we talk about?")).to_be_hidden()
        await expect(field(page)).to_be_focused()


# Streaming.


async def test_text_grows_while_it_comes_with_its_markdown(visitor: Visitor) -> None:
    reply, gate = slowly("## Plan\n\nSome **bo", "ld** text", "\n\n- one\n- t", "wo")
    async with talking(visitor, [reply]) as (page, _, _):
        await ask(page, "Go")
        await gate.reached()
        await expect(page.get_by_text("Thinking")).to_be_visible()
        await gate.pass_one()
        await expect(page.get_by_role("heading", name="Plan")).to_be_visible()
        await expect(said(page).locator("strong")).to_have_text("bo")
        await expect(said(page)).not_to_contain_text("*")
        await gate.pass_one()
        await expect(said(page).locator("strong")).to_have_text("bold")
        await expect(answers(page)).to_have_attribute("aria-busy", "true")
        await gate.pass_one()
        await expect(said(page).get_by_role("listitem")).to_have_text(["one", "t"])
        gate.open()
        await is_complete(answers(page))
        await expect(said(page).get_by_role("listitem")).to_have_text(["one", "two"])
        await expect(page.get_by_text("Thinking")).to_be_hidden()


async def test_the_end_stays_in_sight_until_one_scrolls_up(visitor: Visitor) -> None:
    reply, gate = slowly(LINES, "\n\nfirst more", f"\n\n{LINES}", "\n\nlast")
    async with talking(visitor, [reply]) as (page, _, _):
        await ask(page, "Go")
        await gate.pass_one()
        await expect(said(page)).to_contain_text("Line 29.")
        await shows_the_end(page)
        await page.locator("#scroller").hover()
        await page.mouse.wheel(0, -400)
        newest = page.get_by_role("button", name="Go to the newest")
        await expect(newest).to_be_visible()
        before = await stands(page)
        await gate.pass_one()
        await gate.pass_one()
        await expect(said(page).get_by_text("Line 29.")).to_have_count(2)
        after = await stands(page)
        assert after["top"] == before["top"]
        assert after["below"] > before["below"]
        await newest.click()
        await shows_the_end(page)
        await expect(newest).to_be_hidden()
        gate.open()
        await expect(said(page)).to_contain_text("last")
        await is_complete(answers(page))
        await shows_the_end(page)


# Stopping.


async def by_button(page: Page) -> None:
    await page.get_by_role("button", name="Stop the answer").click()


async def by_key(page: Page) -> None:
    await page.keyboard.press("Escape")


@pytest.mark.parametrize("stop", [by_button, by_key])
async def test_a_stopped_answer_keeps_what_was_said(
    visitor: Visitor, stop: Callable[[Page], Awaitable[None]]
) -> None:
    reply, gate = slowly("This much ", "and no more")
    async with talking(visitor, [reply, text("Fine.")]) as (page, _, upstream):
        await expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()
        await ask(page, "Go")
        await gate.pass_one()
        await expect(said(page)).to_have_text(["This much"])
        await stop(page)
        await is_complete(answers(page))
        await upstream.closed_by_client()
        await expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()
        await expect(page.get_by_text("You stopped this answer.")).to_be_visible()
        await page.reload()
        await expect(said(page)).to_have_text(["This much"])
        await ask(page, "And now?")
        await expect(said(page)).to_have_text(["This much", "Fine."])


async def test_stopping_gives_the_message_back_that_waits(visitor: Visitor) -> None:
    async with talking(visitor, [held(text("Never.")), text("Here.")]) as (page, _, upstream):
        await ask(page, "One")
        await upstream.gate.reached()
        await ask(page, "Two")
        await expect(page.get_by_text("Waits for the answer before")).to_be_visible()
        await field(page).fill("Three")
        await field(page).press("Escape")
        await upstream.closed_by_client()
        await expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()
        await expect(asked(page)).to_have_text(["One"])
        await expect(field(page)).to_have_value("Two\n\nThree")
        await field(page).press("Enter")
        await expect(said(page)).to_have_text(["Here."])


# Two at a time.


async def test_a_message_sent_behind_another_waits_and_is_answered_in_its_order(
    visitor: Visitor,
) -> None:
    first, gate = slowly("First.")
    async with talking(visitor, [first, text("Second.")]) as (page, _, upstream):
        await ask(page, "One")
        await ask(page, "Two")
        await gate.reached()
        await expect(answers(page)).to_have_count(2)
        await expect(answers(page).nth(1)).to_contain_text("Waits for the answer before")
        assert upstream.asked.value == 1
        gate.open()
        await expect(said(page)).to_have_text(["First.", "Second."])
        shown = page.locator(".bubble, .answer .markdown")
        await expect(shown).to_have_text(["One", "First.", "Two", "Second."])
        await page.reload()
        await expect(shown).to_have_text(["One", "First.", "Two", "Second."])


# Failures.


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (status(500, "It broke."), None),
        (eof_after(2), "one"),
    ],
)
async def test_a_failed_answer_says_why_and_can_be_tried_again(
    visitor: Visitor, reply: Reply, kept: str | None
) -> None:
    async with talking(visitor, [reply, text("Better.")]) as (page, _, _):
        await ask(page, "Go")
        again = page.get_by_role("button", name="Try again")
        await expect(again).to_be_visible()
        await expect(page.locator(".answer-end")).to_contain_text(re.compile("model|provider"))
        for _ in range(2):
            if kept:
                await expect(said(page)).to_have_text([kept])
            await page.reload()
            await expect(page.locator(".answer-end")).to_contain_text(re.compile("model|provider"))
        await again.press("Enter")
        await expect(said(page)).to_have_text(["Better."])
        await expect(field(page)).to_be_focused()
        await expect(again).to_be_hidden()
        await expect(answers(page)).to_have_count(1)
        await page.reload()
        await expect(said(page)).to_have_text(["Better."])
        await expect(asked(page)).to_have_text(["Go"])


async def test_a_message_that_is_refused_can_be_sent_again_or_taken_back(visitor: Visitor) -> None:
    script = [held(text("First.")), text("Second."), text("Third.")]
    async with talking(visitor, script, max_queued_messages=0) as (page, _, upstream):
        await ask(page, "One")
        await upstream.gate.reached()
        await ask(page, "Two")
        await expect(page.get_by_text("Not sent.")).to_be_visible()
        await expect(answers(page)).to_have_count(1)
        await page.reload()
        await expect(page.get_by_text("Not sent.")).to_be_visible()
        await expect(asked(page)).to_have_text(["One", "Two"])
        await ask(page, "Three")
        await expect(page.get_by_text("Not sent.")).to_have_count(2)
        await page.get_by_role("button", name="Take back").last.click()
        await expect(asked(page)).to_have_text(["One", "Two"])
        await expect(field(page)).to_have_value("Three")
        await expect(field(page)).to_be_focused()
        upstream.gate.open()
        await expect(said(page)).to_have_text(["First."])
        await page.get_by_role("button", name="Try again").click()
        await expect(said(page)).to_have_text(["First.", "Second."])
        await field(page).press("Enter")
        await expect(said(page)).to_have_text(["First.", "Second.", "Third."])
        await page.reload()
        await expect(asked(page)).to_have_text(["One", "Two", "Three"])


async def test_a_message_that_is_too_long_is_not_sent(visitor: Visitor) -> None:
    async with talking(visitor, [text("Fine.")], max_message_chars=10) as (page, _, _):
        await ask(page, "This is too long")
        await expect(page.get_by_text("6 characters too many.")).to_be_visible()
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
        await expect(asked(page)).to_have_count(0)
        await page.reload()
        await expect(page.get_by_text("6 characters too many.")).to_be_visible()
        await ask(page, "Short")
        await expect(said(page)).to_have_text(["Fine."])


# Other versions.


async def test_another_answer_takes_the_place_of_the_one_before(visitor: Visitor) -> None:
    async with talking(visitor, [text("Red."), held(text("Blue."))]) as (page, _, upstream):
        await ask(page, "A colour?")
        await expect(said(page)).to_have_text(["Red."])
        await page.get_by_role("button", name="Answer again").click()
        await upstream.gate.reached()
        await expect(said(page)).to_have_count(0)
        upstream.gate.open()
        await expect(said(page)).to_have_text(["Blue."])
        await is_complete(answers(page))
        await page.reload()
        await expect(said(page)).to_have_text(["Blue."])
        await expect(asked(page)).to_have_text(["A colour?"])
        assert [each["content"] for each in upstream.requests[1]["messages"][1:]] == ["A colour?"]


async def test_a_failed_attempt_takes_no_answer_away(visitor: Visitor) -> None:
    script = [text("Red."), status(500, "It broke."), text("Blue.")]
    async with talking(visitor, script) as (page, _, _):
        await ask(page, "A colour?")
        await expect(said(page)).to_have_text(["Red."])
        await page.get_by_role("button", name="Answer again").click()
        await expect(page.get_by_role("button", name="Try again")).to_be_visible()
        await page.reload()
        await expect(said(page)).to_have_text(["Red."])
        await page.get_by_role("button", name="Answer again").click()
        await expect(said(page)).to_have_text(["Blue."])


async def test_the_last_message_is_edited_into_a_branch_by_keys(visitor: Visitor) -> None:
    script = by_message({"Red?": text("Like blood."), "Blue?": text("Like the sky.")})
    async with talking(visitor, script) as (page, _, _):
        await ask(page, "Red?")
        await expect(said(page)).to_have_text(["Like blood."])
        await is_complete(answers(page))
        before = page.url
        await field(page).press("ArrowUp")
        editor = page.get_by_label("Edit your message")
        await expect(editor).to_be_focused()
        await expect(editor).to_have_value("Red?")
        await editor.press("Escape")
        await expect(editor).to_be_hidden()
        await expect(asked(page)).to_be_visible()
        await field(page).press("ArrowUp")
        await editor.fill("Blue?")
        await editor.press("Enter")
        await expect(said(page)).to_have_text(["Like the sky."])
        await expect(asked(page)).to_have_text(["Blue?"])
        assert page.url != before
        await expect(chats(page)).to_have_count(2)
        await page.get_by_role("link", name="branched from an earlier chat").click()
        await expect(said(page)).to_have_text(["Like blood."])
        await expect(asked(page)).to_have_text(["Red?"])
        assert page.url == before


async def test_an_earlier_message_is_edited_and_what_was_before_it_stays(visitor: Visitor) -> None:
    script = by_message(
        {name: text(f"{name} is here.") for name in ("One", "Two", "Four", "Three")}
    )
    async with talking(visitor, script) as (page, _, upstream):
        for message in ("One", "Two", "Three"):
            await ask(page, message)
            await expect(said(page).last).to_have_text(f"{message} is here.")
        await is_complete(answers(page).last)
        await asked(page).nth(1).hover()
        await page.get_by_role("button", name="Edit this message").nth(1).click()
        await page.get_by_label("Edit your message").fill("Four")
        await page.get_by_role("button", name="Send in a new branch").click()
        await expect(said(page)).to_have_text(["One is here.", "Four is here."])
        sent = [each["content"] for each in upstream.requests[-1]["messages"]]
        assert sent[1:] == ["One", "One is here.", "Four"]
        await page.go_back()
        await expect(asked(page)).to_have_text(["One", "Two", "Three"])


# Copying.


async def test_an_answer_and_its_code_are_copied(visitors: Visiting) -> None:
    answer = "Like **this**:\n\n```js\nlet a = '<b>';\n```"
    async with (
        visitors(permissions=["clipboard-read", "clipboard-write"]) as visitor,
        talking(visitor, [text(answer)]) as (page, _, _),
    ):
        await ask(page, "Code?")
        await is_complete(answers(page))
        await page.get_by_role("button", name="Copy code").click()
        await expect(page.get_by_role("button", name="Copy code")).to_have_text("Copied")
        assert await page.evaluate("navigator.clipboard.readText()") == "let a = '<b>';"
        await answers(page).get_by_role("button", name="Copy", exact=True).click()
        await expect(answers(page).locator(".entry-bar .icon-check")).to_be_visible()
        assert await page.evaluate("navigator.clipboard.readText()") == answer
