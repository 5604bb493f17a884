"""Long words, long messages, wide tables, and a conversation of 10,000 messages."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Locator, Page, Route, expect

from tests.browser.conftest import Visiting
from tests.browser.support import Visitor
from tests.browser.talking import (
    answers,
    ask,
    asked,
    chats,
    field,
    is_complete,
    opened,
    said,
    talking,
)
from tests.service import DEADLINE, Service, running
from tests.upstream import calls, text

pytestmark = pytest.mark.timeout(120)

WORD: Final = "Donaudampfschifffahrt" * 30
WIDE: Final = f"""{WORD}

`{WORD}`

| {" | ".join(f"column {number}" for number in range(30))} |
|{"---|" * 30}
| {" | ".join("x" * 20 for _ in range(30))} |

```
{"long line " * 100}
```

https://a.example/{WORD}

👩‍👩‍👧‍👦🏳️‍🌈{"😀" * 200}
"""

MANY: Final = 10_000

SEED: Final = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
INSERT INTO messages (tenant, user_id, conversation_id, id, role, message, run_id, created_at)
SELECT tenant, user_id, conversation_id, printf('msg_seed%06d', n), role,
       replace(message, 'seed', printf('seed %d', n)), printf('run_seed%06d', (n + 1) / 2),
       created_at
FROM number JOIN messages ON role = CASE n % 2 WHEN 1 THEN 'user' ELSE 'assistant' END
WHERE messages.id NOT LIKE 'msg_seed%'
ORDER BY n
"""

WIDTH = """() => [document.documentElement.scrollWidth - innerWidth,
  ...[...document.querySelectorAll('.bubble, .answer, .calls, .chat-link, h1')].map((each) => {
    if (!each.checkVisibility({ visibilityProperty: true })) return 0;
    const { left, right } = each.getBoundingClientRect();
    return Math.max(0, -left, right - innerWidth);
  })]"""

SETTLED = """new Promise((done) => {
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));
})"""

TASKS = """window.tasks = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) window.tasks += duration;
}).observe({ type: 'longtask' });"""


async def seeded(service: Service) -> str:
    """Make a conversation of `MANY` messages, `seed 1`, `seed 2` …, and return its id."""
    started = await service.stream(message="seed")
    chat: str = started[0]["conversation_id"]
    # In a thread: while it waits for the service's writer, the service has to go on.
    await asyncio.to_thread(seed, service.settings.data_dir / "parley.db")
    return chat


def seed(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as database, database:
        database.execute(SEED, (MANY,))


async def stays_inside(page: Page) -> None:
    """See that nothing is wider than the page."""
    assert max(await page.evaluate(WIDTH)) <= 1


async def scrolls_inside(found: Locator) -> None:
    """See that an element is wider inside than it is."""
    assert await found.evaluate("(each) => each.scrollWidth > each.clientWidth + 100")


async def test_what_is_wide_scrolls_inside_itself(visitors: Visiting) -> None:
    def tell(what: str) -> str:
        """Tell."""
        return what

    script = [calls(("tell", {"what": WORD}), ("tell" * 16, {})), text(WIDE)]
    async with (
        visitors(reduced_motion="reduce") as visitor,
        talking(visitor, script, tools=[tell]) as (page, service, _),
    ):
        await ask(page, f"{WORD} 😀👩‍👩‍👧‍👦")
        await is_complete(answers(page))
        await page.locator("summary.call-head").first.click()
        await scrolls_inside(said(page).locator(".table"))
        await scrolls_inside(said(page).locator("pre"))
        chat = await page.evaluate("location.hash.slice(2)")
        title = "W" * 200
        await service.json("PATCH", f"/conversations/{chat}", 200, json={"title": title})
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_have_text(title)
        await expect(page.get_by_text("Connected", exact=True)).to_be_in_viewport(ratio=1)
        await page.locator("summary.call-head").first.click()
        await stays_inside(page)
        await page.set_viewport_size({"width": 320, "height": 640})
        await stays_inside(page)
        await page.locator(".call-cancel").first.evaluate("(each) => { each.hidden = false; }")
        await stays_inside(page)


async def test_the_longest_message_is_written_sent_and_shown(visitor: Visitor) -> None:
    async with running() as service, opened(visitor, service) as page:
        message = "word " * 6399 + "last."
        await field(page).fill(message + "!")
        await expect(page.get_by_role("alert")).to_have_text("1 characters too many.")
        await expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
        await expect(page.locator(".topbar")).to_be_in_viewport(ratio=1)
        await field(page).press("Enter")
        await expect(asked(page)).to_have_count(0)
        await field(page).fill(message)
        await field(page).press("Enter")
        await is_complete(answers(page))
        await expect(asked(page)).to_have_text(message)
        await expect(field(page)).to_have_value("")
        await expect(page.locator(".composer")).to_be_in_viewport(ratio=1)
        await stays_inside(page)


async def eye(page: Page) -> Any:
    """Return the first message that is wholly in sight, and where it stands."""
    return await page.locator("#scroller").evaluate(
        """(scroller) => {
          const { top } = scroller.getBoundingClientRect();
          const seen = [...scroller.querySelectorAll('.entry.user .bubble')].find((each) => {
            return each.getBoundingClientRect().top >= top;
          });
          return [seen.textContent, Math.round(seen.getBoundingClientRect().top)];
        }"""
    )


async def oldest(page: Page) -> int:
    """Return the number of the first message that is shown."""
    shown = await asked(page).first.text_content()
    assert shown is not None
    return int(shown.removeprefix("seed "))


async def test_ten_thousand_messages_are_read_backwards(visitor: Visitor) -> None:
    async with running() as service:
        chat = await seeded(service)
        page = await visitor.open_page(service, f"/#/{chat}")
        await expect(asked(page).last).to_have_text(f"seed {MANY - 1}")
        await expect(asked(page).last).to_be_in_viewport()
        assert await page.locator("body *").count() < 3000
        first = await oldest(page)
        assert first > MANY - 200
        held: asyncio.Queue[Route] = asyncio.Queue()
        await page.route("**/conversations/*before=*", held.put)
        scroller = page.locator("#scroller")
        for place in (0, 300):
            await scroller.evaluate("(each) => { each.scrollTop = 0; }")
            async with asyncio.timeout(DEADLINE):
                request = await held.get()
            await scroller.evaluate("(each, place) => { each.scrollTop = place; }", place)
            await page.evaluate(SETTLED)
            before = await eye(page)
            await request.continue_()
            await expect(asked(page).filter(has_text=f"seed {first - 2}")).to_have_count(1)
            await page.evaluate(SETTLED)
            box = await asked(page).filter(has_text=before[0]).bounding_box()
            assert box is not None
            assert abs(box["y"] - before[1]) <= 2, (before, box)
            first = await oldest(page)
        await page.unroute("**/conversations/*before=*")
        while first > MANY - 800:
            await scroller.evaluate("(each) => { each.scrollTop = 0; }")
            await expect(asked(page).filter(has_text=f"seed {first - 2}")).to_have_count(1)
            first = await oldest(page)
        await page.get_by_role("button", name="Go to the newest").click()
        await expect(asked(page).last).to_be_in_viewport()
        assert await asked(page).count() < 100
        await page.close()


async def test_an_answer_in_a_long_chat_comes_as_smoothly_as_in_a_short_one(
    visitor: Visitor,
) -> None:
    await visitor.context.add_init_script(TASKS)
    async with running(demo_tokens_per_second=200) as service:
        chat = await seeded(service)
        page = await visitor.open_page(service)
        await expect(chats(page)).to_have_count(1)
        spent = []
        for address in ("#/", f"#/{chat}"):
            await page.evaluate("(address) => { location.hash = address; }", address)
            if address != "#/":
                await expect(asked(page).last).to_have_text(f"seed {MANY - 1}")
            await page.evaluate("window.tasks = 0")
            await ask(page, "Give me a long answer")
            await is_complete(answers(page).last)
            spent.append(await page.evaluate("window.tasks"))
        assert spent[1] < 4 * spent[0] + 1500, spent
        await page.close()
