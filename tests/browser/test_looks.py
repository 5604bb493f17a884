"""The page's states in each of its looks: all is in sight, nothing is cut off, all can be read.

A visit goes through the states of a device. In each of its looks a state is measured, and asked
about of axe: all its rules in the first look, its rule of contrast in the others, whose elements
are the same.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, TypeAlias

import pytest
from playwright.async_api import Page, expect

from tests.api.support import scripted
from tests.browser.conftest import Visiting
from tests.browser.support import Visitor, serious_findings
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

ANSWER: Final = """# Zürich in two days

Here is a **plan** with `inline code` and a [link](https://a.example).

| Day | Morning | Afternoon | Evening | Costs | Remarks about the day that are rather long |
|---|---|---|---|---:|---|
| Sat | Lake | Museum | Fondue | 120 | bring an umbrella |

```python
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)  # a comment that makes this a long line
```

- one
  - [x] done

> A quotation.
"""

Scheme: TypeAlias = Literal["light", "dark"]

DEVICES: Final[dict[str, dict[str, bool]]] = {
    "desktop": {},
    "phone": {"has_touch": True, "is_mobile": True},
}

LOOKS: Final[dict[str, list[tuple[int, int, Scheme]]]] = {
    "desktop": [(1280, 800, "light"), (1280, 800, "dark")],
    "phone": [(390, 800, "light"), (320, 640, "dark")],
}
"""The width, the height and the colours of a device's looks."""

SETTLED: Final = """new Promise((done) => {
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));
})"""

LAYOUT = """() => {
  const faults = [];
  const say = (element, fault) => faults.push(`${fault}: ${element.outerHTML.slice(0, 160)}`);
  const isHidden = (each) => !each.checkVisibility({ visibilityProperty: true })
    || each.closest('.visually-hidden, .skip, [inert], option');
  const scrolls = (each) => each.closest('.table, pre') || each.closest('svg');
  const isCut = (style) => style.overflowX === 'hidden' && style.textOverflow !== 'ellipsis';
  for (const each of document.querySelectorAll('body *')) {
    if (isHidden(each)) continue;
    const { left, right, width, height } = each.getBoundingClientRect();
    const isClipped = width <= 1 || height <= 1;
    const isInside = scrolls(each) && scrolls(each) !== each;
    if (!isInside && !isClipped && (left < -1 || right > innerWidth + 1)) say(each, 'sticks out');
    const style = getComputedStyle(each);
    if (!isClipped && isCut(style) && each.scrollWidth > each.clientWidth + 1) say(each, 'cut');
    if (each.matches('button, .bubble, .example, .call-note, h2, label, .dialog p')
      && each.scrollWidth > each.clientWidth + 1 && style.display !== 'inline') say(each, 'narrow');
  }
  for (const name of ['.topbar', '.composer', '#message']) {
    const { top, bottom, height } = document.querySelector(name).getBoundingClientRect();
    if (top < 0 || bottom > innerHeight || !height) faults.push(`${name} is out of sight`);
  }
  const { scrollWidth } = document.documentElement;
  if (scrollWidth > innerWidth) faults.push(`the page is ${scrollWidth} wide`);
  return faults;
}"""

TARGETS = """() => {
  const found = [...document.querySelectorAll('button, a, input, select, summary, label.check')];
  const isInText = (each) => each.closest('.markdown p, .muted, .visually-hidden')
    || each.matches('.skip, [type=checkbox]');
  return found.filter((each) => {
    const { width, height } = each.getBoundingClientRect();
    const isSeen = each.checkVisibility({ visibilityProperty: true }) && !each.closest('[inert]');
    return isSeen && !isInText(each) && (height < 43.5 || width < 24);
  }).map((each) => each.outerHTML.slice(0, 120));
}"""

SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries()) {
    if (!hadRecentInput) window.shifts.push(value);
  }
}).observe({ type: 'layout-shift', buffered: true });"""


class Look:
    """Looks at a page's states on a device and notes what is wrong in them."""

    def __init__(self, page: Page, device: str) -> None:
        self._page = page
        self._device = device
        self.faults: list[str] = []

    async def at(self, state: str) -> None:
        """Look at a state in each look of the device; the page is left in the first one."""
        first, *others = LOOKS[self._device]
        for look in others:
            await self._take(look)
            await self._look_at(f"{state}, {look}", ["color-contrast"])
        await self._take(first)
        await self._look_at(f"{state}, {first}", None)

    async def _take(self, look: tuple[int, int, Scheme]) -> None:
        width, height, scheme = look
        await self._page.set_viewport_size({"width": width, "height": height})
        await self._page.emulate_media(color_scheme=scheme)
        await self._page.evaluate(SETTLED)

    async def _look_at(self, name: str, rules: list[str] | None) -> None:
        found = await self._page.evaluate(LAYOUT)
        if self._device == "phone":
            found += [f"small: {each}" for each in await self._page.evaluate(TARGETS)]
        found += await serious_findings(self._page, rules)
        self.faults += [f"{name}: {each}" for each in found]

    async def menu(self) -> None:
        """Open the list of chats where it is not always open."""
        menu = self._page.get_by_role("button", name="Show chats")
        if await menu.is_visible():
            await menu.click()
            await expect(self._page.locator("#new-chat")).to_be_focused()


@asynccontextmanager
async def device(visitors: Visiting, name: str) -> AsyncIterator[Visitor]:
    """Visit with a device, in its first look."""
    width, height, scheme = LOOKS[name][0]
    viewport = {"width": width, "height": height}
    options = {"viewport": viewport, "color_scheme": scheme, **DEVICES[name]}
    async with visitors(reduced_motion="reduce", **options) as visitor:
        yield visitor


@pytest.mark.parametrize("name", LOOKS)
async def test_the_first_page_fits_and_can_be_read(visitors: Visiting, name: str) -> None:
    async with device(visitors, name) as visitor:
        visitor.expects("console")
        async with running() as service:
            page = await visitor.open_page(service)
            look = Look(page, name)
            await expect(page.get_by_role("note")).to_be_visible()
            await expect(page.get_by_role("heading", level=2)).to_be_in_viewport()
            await look.at("empty")
        await expect(page.get_by_role("button", name="Try now")).to_be_visible()
        await look.at("offline")
        assert not look.faults, "\n".join(look.faults)


@pytest.mark.parametrize("name", LOOKS)
async def test_a_conversation_fits_and_can_be_read(visitors: Visiting, name: str) -> None:
    bench = Bench()
    wanted = [("work", {"what": what}) for what in ("bread", "a soup for all", "bad wine")]
    script = [calls(*wanted), text(ANSWER), status(500, "Too much to do.")]
    async with (
        device(visitors, name) as visitor,
        scripted(script, tools=bench.tools, openai_max_retries=0) as (service, _),
    ):
        await service.json("POST", "/agents/chat", 200, json={"max_parallel_tools": 2})
        await service.json("POST", "/agents/odd", 201, json={})
        page = await visitor.open_page(service)
        look = Look(page, name)
        await send(page, "Plan a weekend in Zürich, please. I like museums and boats.")
        await expect(card(page, "bread")).to_have_attribute("data-state", "running")
        await expect(card(page, "bad wine")).to_have_attribute("data-state", "queued")
        await look.at("calls under way")
        for what in ("bread", "a soup for all", "bad wine"):
            bench.finish(what)
        await is_complete(answers(page))
        for at in range(3):
            await page.locator("summary.call-head").nth(at).click()
        await page.locator("#scroller").evaluate("(element) => { element.scrollTop = 0; }")
        await look.at("cards")
        await page.get_by_role("button", name="Go to the newest").click()
        await look.at("code and table")
        await send(page, "And now?")
        await expect(page.get_by_role("button", name="Try again")).to_be_visible()
        await page.get_by_role("combobox", name="Agent").select_option("odd")
        await service.json("DELETE", "/agents/odd", 204)
        await send(page, "Odd?")
        await expect(page.get_by_role("button", name="Take back")).to_be_visible()
        await look.at("failed and refused")
        await look_at_forms(page, look)
        await page.close()
        assert not look.faults, "\n".join(look.faults)


async def look_at_forms(page: Page, look: Look) -> None:
    """Look at what is opened over the conversation, and at the list of chats."""
    await page.get_by_role("combobox", name="Agent").select_option("chat")
    await page.get_by_role("button", name="Change this agent").click()
    await page.get_by_text("Sampling and limits").click()
    await look.at("agent")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Edit this message").first.click()
    await look.at("editor")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await look.menu()
    await look.at("chats")
    await chats(page).first.hover()
    await page.get_by_role("button", name="Delete “").click()
    await look.at("confirm")
    await page.keyboard.press("Escape")
    await page.get_by_label("Search chats").fill("museum")
    await expect(page.locator(".chat-title")).to_be_visible()
    await expect(page.locator(".chat-snippet")).to_contain_text("museum", ignore_case=True)
    await look.at("found")


async def send(page: Page, message: str) -> None:
    """Send a message with the button, as one does on a phone."""
    await field(page).fill(message)
    await page.get_by_role("button", name="Send", exact=True).click()


# Room for larger letters.

SPACED = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: .12em !important;
    word-spacing: .16em !important; } p { margin-block-end: 2em !important; }`);
  document.adoptedStyleSheets.push(sheet);
}"""


@pytest.mark.parametrize("size", [(640, 400), (320, 256)], ids=["200 %", "400 %"])
async def test_a_large_zoom_leaves_all_in_sight(visitors: Visiting, size: tuple[int, int]) -> None:
    viewport = {"width": size[0], "height": size[1]}
    async with (
        visitors(viewport=viewport) as visitor,
        running() as service,
        opened(visitor, service) as page,
    ):
        assert await page.evaluate(LAYOUT) == []
        await send(page, "What time is it in Tokyo and in Paris?")
        await is_complete(answers(page))
        assert await page.evaluate(LAYOUT) == []
        box = await page.locator("#scroller").bounding_box()
        assert box is not None
        assert box["height"] > 80


async def test_text_may_be_spaced(visitor: Visitor) -> None:
    async with talking(visitor, [text(ANSWER)]) as (page, _, _):
        await page.evaluate(SPACED)
        assert await page.evaluate(LAYOUT) == []
        await send(page, "Plan a weekend in Zürich, please. I like museums and boats.")
        await is_complete(answers(page))
        assert await page.evaluate(LAYOUT) == []
        await page.get_by_role("button", name="Change this agent").click()
        assert await page.evaluate(LAYOUT) == []


# Nothing jumps.


async def test_nothing_jumps_while_an_answer_with_tools_comes(visitor: Visitor) -> None:
    bench = Bench()
    reply, gate = slowly("Here ", "it is:\n\n", "| a | b |\n|---|---|\n", "| 1 | 2 |\n\n", "End.")
    await visitor.context.add_init_script(SHIFTS)
    wanted = [("work", {"what": what}) for what in ("bread", "soup")]
    async with talking(visitor, [calls(*wanted), reply], tools=bench.tools) as (page, _, _):
        places = [await page.locator(each).bounding_box() for each in (".topbar", ".composer")]
        await ask(page, "Go")
        await expect(card(page, "soup")).to_have_attribute("data-state", "running")
        await page.evaluate("window.shifts.length = 0")
        bench.finish("bread")
        await expect(card(page, "bread")).to_have_attribute("data-state", "done")
        bench.finish("soup")
        for _ in range(5):
            await gate.pass_one()
        gate.open()
        await is_complete(answers(page))
        await expect(said(page)).to_contain_text("End.")
        assert sum(await page.evaluate("window.shifts")) < 0.02
        after = [await page.locator(each).bounding_box() for each in (".topbar", ".composer")]
        assert after == places


# Scripts that are read from the right.

SIDES = """(element) => {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  range.setStart(walker.nextNode(), 0);
  range.setEnd(range.startContainer, 1);
  const first = range.getBoundingClientRect();
  const box = element.getBoundingClientRect();
  return { left: first.left - box.left, right: box.right - first.right };
}"""

ARABIC: Final = "مرحبا بالعالم"
HEBREW: Final = "שלום עולם"


async def begins_at_the_right(found: Any) -> bool:
    """Return whether the first letter of a text stands at its right end."""
    sides: dict[str, float] = await found.evaluate(SIDES)
    return sides["right"] < sides["left"]


async def test_text_is_read_from_the_side_of_its_script(visitor: Visitor) -> None:
    bench = Bench()
    answer = f"{ARABIC}\n\nPlain text.\n\n- {HEBREW}\n\n## {HEBREW}\n\n{ARABIC} and English."
    bench.finish(HEBREW)
    script = [calls(("work", {"what": HEBREW})), text(answer)]
    async with talking(visitor, script, tools=bench.tools) as (page, _, _):
        await ask(page, f"{ARABIC} 123 (abc)")
        await is_complete(answers(page))
        await expect(page.get_by_role("heading", level=1)).to_contain_text(ARABIC)
        shown = said(page)
        for found in (
            asked(page),
            shown.locator("p").first,
            shown.locator("li"),
            shown.locator("h4, h3"),
            shown.locator("p").last,
            page.locator(".call-brief"),
            page.get_by_role("heading", level=1),
            page.locator(".chat-title"),
        ):
            assert await begins_at_the_right(found), found
        assert not await begins_at_the_right(shown.get_by_text("Plain text."))
        await field(page).fill(HEBREW)
        assert await field(page).evaluate("(each) => getComputedStyle(each).direction") == "rtl"
        assert await page.evaluate(LAYOUT) == []
