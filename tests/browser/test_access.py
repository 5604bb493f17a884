"""The page without a mouse, without eyes, without motion, and with other colours."""

from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Visiting
from tests.browser.support import Visitor
from tests.browser.talking import (
    Bench,
    answers,
    ask,
    asked,
    card,
    chats,
    field,
    is_complete,
    opened,
    said,
    slowly,
    talking,
)
from tests.service import running
from tests.upstream import calls, status, text

pytestmark = pytest.mark.timeout(120)

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 800},
    "has_touch": True,
    "is_mobile": True,
}
STOPS = 80
"""Times that Tab is pressed before something counts as out of reach."""

FOCUSED = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const frame = element.matches('textarea') ? element.closest('form') : element;
  const { left, top, right, bottom, width, height } = frame.getBoundingClientRect();
  let opacity = 1;
  for (let each = element; each; each = each.parentElement) {
    opacity *= Number(getComputedStyle(each).opacity);
  }
  const outline = style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth);
  return {
    name: element.getAttribute('aria-label') || element.innerText?.trim() || element.id,
    isBody: element === document.body,
    isMarked: outline >= 2
      || (frame !== element && getComputedStyle(frame).boxShadow.includes(' 0px 0px 0px 1px')),
    isSeen: opacity > 0.9 && width > 0 && height > 0 && left >= 0 && top >= 0
      && right <= innerWidth && bottom <= innerHeight,
  };
}"""

SPOKEN = """window.spoken = [];
addEventListener('DOMContentLoaded', () => {
  const announcer = document.getElementById('announcer');
  const options = { childList: true, characterData: true, subtree: true };
  new MutationObserver(() => window.spoken.push(announcer.textContent)).observe(announcer, options);
});"""

ENDLESS = """() => document.getAnimations().filter((each) => {
  return each.effect.getComputedTiming().endTime === Infinity;
}).length"""


async def reach(page: Page, wanted: Locator, *, key: str = "Tab") -> None:
    """Press Tab until something has the focus, which is never lost on the way."""
    await expect(wanted).to_be_attached()
    for _ in range(STOPS):
        if await wanted.evaluate("(element) => element === document.activeElement"):
            return
        await page.keyboard.press(key)
    pytest.fail(f"{wanted} cannot be reached with {key}.")


async def has_focus(page: Page) -> None:
    """See that the focus was not lost."""
    assert not (await page.evaluate(FOCUSED))["isBody"]


async def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    """Reach something with Tab and press a key on it."""
    await reach(page, wanted)
    await page.keyboard.press(key)


# The keyboard.


async def test_calls_are_unfolded_and_cancelled_with_the_keyboard(visitor: Visitor) -> None:
    bench = Bench()
    wanted = [("work", {"what": what}) for what in ("bread", "soup")]
    async with talking(visitor, [calls(*wanted), text("Dinner.")], tools=bench.tools) as (
        page,
        _,
        _,
    ):
        await expect(field(page)).to_be_focused()
        await page.keyboard.type("Dinner!")
        await page.keyboard.press("Enter")
        bread, soup = card(page, "bread"), card(page, "soup")
        await expect(soup).to_have_attribute("data-state", "running")
        await press(page, bread.locator("summary"))
        await expect(bread.get_by_role("region", name="Arguments")).to_be_visible()
        await page.keyboard.press("Space")
        await expect(bread.get_by_role("region", name="Arguments")).to_be_hidden()
        await press(page, page.get_by_role("button", name="Cancel work soup"))
        await expect(soup).to_have_attribute("data-state", "failed")
        await expect(soup.locator("summary")).to_be_focused()
        bench.finish("bread")
        await expect(said(page)).to_have_text(["Dinner."])
        await expect(soup.locator("summary")).to_be_focused()


async def test_messages_are_edited_and_answered_again_with_the_keyboard(visitor: Visitor) -> None:
    script = [text("One."), status(500, "Broken."), text("Two."), text("Three.")]
    async with talking(visitor, script) as (page, _, _):
        await ask(page, "Count")
        await expect(said(page)).to_have_text(["One."])
        await is_complete(answers(page))
        await press(page, page.get_by_role("button", name="Answer again"))
        await expect(page.get_by_role("button", name="Try again")).to_be_visible()
        await expect(field(page)).to_be_focused()
        await reach(page, page.get_by_role("button", name="Try again"), key="Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(said(page)).to_have_text(["Two."])
        await expect(field(page)).to_be_focused()
        edit = page.get_by_role("button", name="Edit this message")
        await reach(page, edit, key="Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Edit your message")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(edit).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.type(" on")
        await page.keyboard.press("Enter")
        await expect(said(page)).to_have_text(["Three."])
        await expect(asked(page)).to_have_text(["Count on"])
        await expect(field(page)).to_be_focused()


async def test_chats_are_renamed_and_deleted_with_the_keyboard(visitor: Visitor) -> None:
    async with running() as service:
        for number in range(3):
            await service.stream(message=f"Chat {number}")
        async with opened(visitor, service) as page:
            await expect(chats(page)).to_have_text(["Chat 2", "Chat 1", "Chat 0"])
            await press(page, page.get_by_role("button", name="Rename “Chat 1”"))
            await expect(page.get_by_label("Title of the chat")).to_be_focused()
            await page.keyboard.type("Other")
            await page.keyboard.press("Enter")
            await expect(chats(page)).to_have_text(["Chat 2", "Other", "Chat 0"])
            await expect(chats(page).nth(1)).to_be_focused()
            delete = page.get_by_role("button", name="Delete “Other”")
            await press(page, delete)
            await expect(page.get_by_role("button", name="Cancel")).to_be_focused()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_be_hidden()
            await expect(delete).to_be_focused()
            await page.keyboard.press("Enter")
            await press(page, page.get_by_role("button", name="Delete", exact=True), "Space")
            await expect(chats(page)).to_have_text(["Chat 2", "Chat 0"])
            await expect(chats(page).nth(1)).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(asked(page)).to_have_text(["Chat 0"])
            await expect(field(page)).to_be_focused()


async def test_the_form_of_an_agent_and_notices_are_used_with_the_keyboard(
    visitor: Visitor,
) -> None:
    async with running() as service, opened(visitor, service) as page:
        change = page.get_by_role("button", name="Change this agent")
        await press(page, change)
        await expect(page.get_by_label("Instructions")).to_be_focused()
        await press(page, page.get_by_text("Sampling and limits"), "Space")
        await press(page, page.get_by_label("Turns in a run"), "7")
        await press(page, page.get_by_role("button", name="Save"))
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await expect(change).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Turns in a run")).to_have_value("7")
        await page.keyboard.press("Escape")
        await expect(change).to_be_focused()
        await press(page, page.get_by_role("button", name="Close this notice"))
        await expect(page.get_by_role("note")).to_be_hidden()
        await expect(field(page)).to_be_focused()


async def test_the_skip_link_leads_to_the_field(visitor: Visitor) -> None:
    async with running() as service, opened(visitor, service) as page:
        await press(page, page.get_by_role("link", name="Skip to the message field"))
        await expect(field(page)).to_be_focused()
        await expect(page.get_by_text("What shall we talk about?")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_one_always_sees_where_the_focus_is(visitors: Visiting, scheme: str) -> None:
    wanted = [("work", {"what": "bread"})]
    script = [calls(*wanted), text("[link](https://a.example)\n\n```js\nx\n```")]
    bench = Bench()
    bench.finish("bread")
    async with (
        visitors(color_scheme=scheme, reduced_motion="reduce") as visitor,
        talking(visitor, script, tools=bench.tools) as (page, _, _),
    ):
        await ask(page, "Go")
        await is_complete(answers(page))
        await page.locator("summary").click()
        await field(page).fill("More")
        await reach(page, page.get_by_role("link", name="Skip to the message field"))
        seen = []
        for _ in range(STOPS):
            found = await page.evaluate(FOCUSED)
            if found["isBody"]:
                break
            seen.append(found["name"])
            assert found["isMarked"], found
            assert found["isSeen"], found
            await page.keyboard.press("Tab")
        for name in ("Search chats", "Rename “Go”", "Colours: auto", "link", "Edit this message"):
            assert name in seen
        for name in ("Conversation", "Result", "Answer again", "message", "Send"):
            assert name in seen


async def test_the_list_of_chats_on_a_phone_holds_the_focus_while_it_is_open(
    visitors: Visiting,
) -> None:
    async with visitors(**PHONE) as visitor, running() as service:
        await service.stream(message="Hello")
        page = await visitor.open_page(service)
        await expect(page.get_by_role("button", name="Three tools at once")).to_be_visible()
        menu = page.get_by_role("button", name="Show chats")
        await expect(chats(page)).to_have_count(0)
        await expect(page.get_by_role("link", name="New chat")).to_have_count(0)
        await press(page, menu)
        await expect(menu).to_have_attribute("aria-expanded", "true")
        await expect(page.locator("#new-chat")).to_be_focused()
        for _ in range(12):
            await page.keyboard.press("Tab")
            inside = "document.activeElement.closest('aside, #skip') || document.body"
            assert await page.evaluate(f"{inside} !== document.querySelector('main')")
            assert not await page.evaluate("Boolean(document.activeElement.closest('main'))")
        await page.keyboard.press("Escape")
        await expect(menu).to_be_focused()
        await expect(menu).to_have_attribute("aria-expanded", "false")
        await expect(page.locator("#new-chat")).to_be_hidden()
        await page.keyboard.press("Enter")
        await press(page, chats(page))
        await expect(asked(page)).to_have_text(["Hello"])
        await expect(page.locator("#new-chat")).to_be_hidden()
        await has_focus(page)
        await menu.click()
        await page.get_by_role("button", name="Hide chats").click()
        await expect(page.locator("#new-chat")).to_be_hidden()
        await page.close()


# Screen readers.


async def test_a_screen_reader_is_told_little(visitor: Visitor) -> None:
    bench = Bench()
    bench.finish("bad wine")
    reply, gate = slowly(*(f"word{number} " for number in range(60)))
    script = [calls(("work", {"what": "bad wine"})), reply]
    await visitor.context.add_init_script(SPOKEN)
    async with talking(visitor, script, tools=bench.tools) as (page, _, _):
        await ask(page, "Go")
        for _ in range(30):
            await gate.pass_one()
        await expect(said(page)).to_contain_text("word29")
        await expect(answers(page)).to_have_attribute("aria-busy", "true")
        gate.open()
        await is_complete(answers(page))
        await expect(page.locator("#announcer")).to_have_text("The answer is complete.")
        assert await page.evaluate("window.spoken") == [
            "The answer is on its way.",
            "The tool work failed.",
            "The answer is complete.",
        ]
        live = page.locator("main :is([aria-live], [role=status], [role=alert]):visible")
        await expect(live).to_have_count(0)


async def test_headings_tell_what_is_in_the_conversation(visitor: Visitor) -> None:
    answer = "# Plan\n\ntext\n\n## Sat\n\ntext\n\n# Costs"
    async with talking(visitor, [text(answer)]) as (page, _, _):
        await ask(page, "Plan!")
        await is_complete(answers(page))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Plan!")
        found = await page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
            "(all) => all.filter((each) => each.checkVisibility())"
            ".map((each) => [each.localName, each.textContent])"
        )
        assert found == [
            ["h1", "Plan!"],
            ["h2", "You"],
            ["h2", "chat"],
            ["h3", "Plan"],
            ["h4", "Sat"],
            ["h3", "Costs"],
        ]


# Motion, colours, size.


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
async def test_nothing_moves_for_ever_where_that_is_not_wanted(
    visitors: Visiting, motion: str
) -> None:
    bench = Bench()
    script = [calls(("work", {"what": "soup"}), ("copy", {"files": 2}))]
    async with (
        visitors(reduced_motion=motion) as visitor,
        talking(visitor, script, tools=bench.tools) as (page, _, _),
    ):
        await ask(page, "Go")
        await expect(card(page, "soup")).to_have_attribute("data-state", "running")
        await expect(card(page, "2")).to_contain_text("the first file")
        moving = await page.evaluate(ENDLESS)
        assert (moving == 0) == (motion == "reduce")
        await expect(card(page, "soup").locator(".spinner")).to_be_visible()
        await page.keyboard.press("Escape")
        await is_complete(answers(page))


async def test_the_focus_and_the_open_chat_are_seen_in_forced_colours(
    visitors: Visiting,
) -> None:
    async with (
        visitors(forced_colors="active") as visitor,
        talking(visitor, [text("Hello.")]) as (page, _, _),
    ):
        await ask(page, "Go")
        await is_complete(answers(page))
        await expect(chats(page)).to_have_attribute("aria-current", "page")
        outline = "(element) => getComputedStyle(element).outlineStyle"
        border = "(element) => getComputedStyle(element).borderTopStyle"
        assert await chats(page).evaluate(outline) == "solid"
        assert await field(page).evaluate(outline) == "solid"
        assert await asked(page).evaluate(border) == "solid"
