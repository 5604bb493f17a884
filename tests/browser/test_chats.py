"""Several chats: their list, titles, renaming, deleting, searching, and answers side by side."""

import re

from playwright.async_api import Locator, Page, expect

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
from tests.service import Service, running
from tests.upstream import text


def item(page: Page, title: str) -> Locator:
    """Return a chat's place in the list."""
    return page.locator(".chat-item", has_text=title)


def dots(page: Page) -> Locator:
    """Return what tells that an answer is on its way, for each chat in which one is."""
    return page.get_by_title("An answer is on its way").filter(visible=True)


async def new_chat(page: Page) -> None:
    """Begin a chat."""
    await page.get_by_role("link", name="New chat", exact=True).first.click()
    await expect(page.get_by_text("What shall we talk about?")).to_be_visible()


async def talked(service: Service, *messages: str) -> None:
    """Make chats, the last one the newest."""
    for message in messages:
        await service.stream(message=message)


async def test_titles_appear_by_themselves(visitor: Visitor) -> None:
    async with talking(visitor, [text("Hay."), text("Milk.")]) as (page, _, _):
        await expect(page.get_by_text("No chats yet.")).to_be_visible()
        await ask(page, "What do horses eat?")
        await expect(chats(page)).to_have_text(["What do horses eat?"])
        await expect(page.get_by_role("heading", level=1)).to_have_text("What do horses eat?")
        await expect(page).to_have_title("What do horses eat? · Parley")
        await expect(chats(page)).to_have_attribute("aria-current", "page")
        await new_chat(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("New chat")
        await ask(page, "And cats?")
        await expect(chats(page)).to_have_text(["And cats?", "What do horses eat?"])
        await expect(chats(page).first).to_have_attribute("aria-current", "page")
        await expect(chats(page).last).not_to_have_attribute("aria-current", "page")


async def test_several_chats_are_answered_at_a_time(visitor: Visitor) -> None:
    (red, first), (blue, second) = slowly("Red", " one"), slowly("Blue", " two")
    async with talking(visitor, by_message({"R?": red, "B?": blue})) as (page, _, _):
        await ask(page, "R?")
        await first.pass_one()
        await expect(said(page)).to_have_text(["Red"])
        red_address = page.url
        await new_chat(page)
        await ask(page, "B?")
        await second.pass_one()
        await expect(said(page)).to_have_text(["Blue"])
        await expect(dots(page)).to_have_count(2)
        await first.pass_one()
        await page.go_back()
        await page.go_back()
        assert page.url == red_address
        await expect(said(page)).to_have_text(["Red one"])
        await expect(asked(page)).to_have_text(["R?"])
        await expect(answers(page)).to_have_attribute("aria-busy", "true")
        second.open()
        await expect(chats(page).filter(has_text="B?")).to_be_visible()
        await expect(dots(page)).to_have_count(1)
        await item(page, "B?").get_by_role("link").click()
        await expect(said(page)).to_have_text(["Blue two"])
        await is_complete(answers(page))
        first.open()
        await item(page, "R?").get_by_role("link").click()
        await expect(said(page)).to_have_text(["Red one"])
        await is_complete(answers(page))
        await expect(dots(page)).to_have_count(0)


async def test_what_was_typed_stays_in_its_chat(visitor: Visitor) -> None:
    async with running() as service:
        await talked(service, "Red", "Blue")
        async with opened(visitor, service) as page:
            await field(page).fill("in a new one")
            await item(page, "Red").get_by_role("link").click()
            await expect(asked(page)).to_have_text(["Red"])
            await expect(field(page)).to_have_value("")
            await field(page).fill("in red")
            await item(page, "Blue").get_by_role("link").click()
            await expect(field(page)).to_have_value("")
            await page.reload()
            await item(page, "Red").get_by_role("link").click()
            await expect(field(page)).to_have_value("in red")
            await page.get_by_role("link", name="New chat", exact=True).click()
            await expect(field(page)).to_have_value("in a new one")


async def test_a_chat_is_renamed(visitor: Visitor) -> None:
    async with running() as service:
        await talked(service, "Red")
        async with opened(visitor, service) as page:
            await item(page, "Red").get_by_role("link").click()
            rename = page.get_by_role("button", name="Rename “Red”")
            title = page.get_by_label("Title of the chat")
            await item(page, "Red").hover()
            await rename.click()
            await expect(title).to_be_focused()
            await title.fill("Nothing of it")
            await title.press("Escape")
            await expect(chats(page)).to_have_text(["Red"])
            await rename.click()
            await title.fill("Colours <b>")
            await title.press("Enter")
            await expect(chats(page)).to_have_text(["Colours <b>"])
            await expect(page.get_by_role("heading", level=1)).to_have_text("Colours <b>")
            await page.reload()
            await expect(chats(page)).to_have_text(["Colours <b>"])


async def test_a_chat_is_deleted_when_that_is_confirmed(visitor: Visitor) -> None:
    async with running() as service:
        await talked(service, "Red", "Blue")
        async with opened(visitor, service) as page:
            await item(page, "Red").get_by_role("link").click()
            await expect(asked(page)).to_have_text(["Red"])
            await item(page, "Red").hover()
            await page.get_by_role("button", name="Delete “Red”").click()
            dialog = page.get_by_role("dialog", name="Delete this chat?")
            await expect(dialog).to_contain_text("“Red”")
            await dialog.get_by_role("button", name="Cancel").click()
            await expect(dialog).to_be_hidden()
            await expect(chats(page)).to_have_text(["Blue", "Red"])
            await page.get_by_role("button", name="Delete “Red”").click()
            await dialog.get_by_role("button", name="Delete").click()
            await expect(chats(page)).to_have_text(["Blue"])
            await expect(page.get_by_text("What shall we talk about?")).to_be_visible()
            listed = await service.json("GET", "/conversations")
            assert [each["title"] for each in listed["conversations"]] == ["Blue"]


async def test_a_chat_is_deleted_while_its_answer_comes(visitor: Visitor) -> None:
    visitor.expects("console", "404")  # the end of the answer may be told before the deletion's
    reply, gate = slowly("It", " is", " red")
    async with talking(visitor, [reply, text("Fine.")]) as (page, service, upstream):
        await ask(page, "Red?")
        await gate.pass_one()
        await expect(said(page)).to_have_text(["It"])
        await item(page, "New chat").hover()
        await page.get_by_role("button", name="Delete “New chat”").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("What shall we talk about?")).to_be_visible()
        await expect(page.get_by_text("No chats yet.")).to_be_visible()
        await upstream.closed_by_client()
        await ask(page, "Are you there?")
        await expect(said(page)).to_have_text(["Fine."])
        await expect(chats(page)).to_have_text(["Are you there?"])
        assert len((await service.json("GET", "/conversations"))["conversations"]) == 1


async def test_chats_are_found_by_what_was_said_in_them(visitor: Visitor) -> None:
    async with running() as service:
        await talked(service, "My horse is called Bella", "My cat is called Minka")
        async with opened(visitor, service) as page:
            search = page.get_by_role("searchbox", name="Search chats")
            await expect(chats(page)).to_have_count(2)
            await search.fill("bella")
            await expect(page.get_by_text("1 found")).to_be_visible()
            await expect(chats(page)).to_have_count(1)
            await expect(chats(page).locator(".chat-title")).to_be_visible()
            await expect(chats(page).locator(".chat-snippet")).to_contain_text("Bella")
            await chats(page).click()
            await expect(asked(page)).to_have_text(["My horse is called Bella"])
            await search.fill("elephant")
            await expect(page.get_by_text("Nothing found")).to_be_visible()
            await expect(chats(page)).to_have_count(0)
            await search.fill("")
            await expect(chats(page)).to_have_count(2)


async def test_all_chats_are_listed_however_many_there_are(visitor: Visitor) -> None:
    async with running() as service:
        await talked(service, *(f"Chat {number}" for number in range(100)))
        async with opened(visitor, service) as page:
            await expect(chats(page)).to_have_count(40)
            await expect(chats(page).first).to_have_text("Chat 99")
            await chats(page).last.scroll_into_view_if_needed()
            await expect(chats(page)).to_have_count(80)
            await chats(page).last.scroll_into_view_if_needed()
            await expect(chats(page)).to_have_count(100)
            await expect(chats(page).last).to_have_text("Chat 0")
            await chats(page).last.click()
            await expect(asked(page)).to_have_text(["Chat 0"])
            await talked(service, "Another")
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            await expect(chats(page)).to_have_count(101)
            shown = await chats(page).all_inner_texts()
            numbers = [f"Chat {number}" for number in reversed(range(100))]
            assert shown == ["Another", *numbers]


async def test_a_chat_that_is_not_there_says_so(visitor: Visitor) -> None:
    visitor.expects("console", "404")
    async with running() as service, opened(visitor, service) as page:
        await page.goto(f"{service.url}/#/conv_none")
        await expect(page.get_by_text("This chat is not there.")).to_be_visible()
        await page.get_by_role("link", name="Begin a new chat").click()
        await expect(page.get_by_text("What shall we talk about?")).to_be_visible()
        await expect(page).to_have_url(re.compile("#/$"))
