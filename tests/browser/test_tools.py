"""Tool calls on the page: a card each, from waiting to its end, and a timeline of all."""

import asyncio

from playwright.async_api import Locator, Page, expect

from tests.browser.support import Visitor
from tests.browser.talking import Bench, answers, ask, card, is_complete, said, talking
from tests.service import DEADLINE
from tests.upstream import calls, text


def work(*names: str) -> list[tuple[str, dict[str, str]]]:
    """Return calls of the tool `work`."""
    return [("work", {"what": name}) for name in names]


async def is_in(found: Locator, state: str) -> None:
    """Wait until a call is in a state: its card says so, also to who does not see it."""
    await expect(found).to_have_attribute("data-state", state)
    said = {"queued": "waiting: ", "running": "running: ", "done": "done: ", "failed": "failed: "}
    await expect(found.locator(".call-mark")).to_have_text(said[state])


async def time_of(page: Page, brief: str) -> str:
    """Return what a card says of the time that its call took."""
    return await card(page, brief).locator(".call-time").inner_text()


async def bar(page: Page, brief: str) -> tuple[float, float]:
    """Return where on the timeline a call begins and ends, in pixels."""
    box = await card(page, brief).locator(".call-bar").bounding_box()
    assert box is not None
    return box["x"], box["x"] + box["width"]


async def test_calls_wait_run_side_by_side_and_end(visitor: Visitor) -> None:
    bench = Bench()
    script = [calls(*work("bread", "soup", "bad wine")), text("Dinner.")]
    async with talking(visitor, script, tools=bench.tools) as (page, service, _):
        limits = {"max_parallel_tools": 2}
        await service.json("POST", "/agents/chat", 200, json=limits)
        await ask(page, "Dinner!")
        await is_in(card(page, "bread"), "running")
        await is_in(card(page, "soup"), "running")
        await is_in(card(page, "bad wine"), "queued")
        assert await time_of(page, "bad wine") == "waiting"
        await expect(page.get_by_text("3 tool calls · 3 under way")).to_be_visible()
        track = page.locator(".call-track")
        places = [await each.bounding_box() for each in await track.all()]
        assert len({box["x"] for box in places if box}) == 1
        clock = card(page, "bread").locator(".call-time")
        before = await clock.inner_text()
        await expect(clock).not_to_have_text(before)
        bench.finish("bread")
        await is_in(card(page, "bread"), "done")
        await is_in(card(page, "bad wine"), "running")
        await is_in(card(page, "soup"), "running")
        bench.finish("bad wine")
        await is_in(card(page, "bad wine"), "failed")
        await expect(card(page, "bad wine")).to_contain_text("There is no bad wine here.")
        await expect(page.get_by_text("3 tool calls · 1 under way · 1 failed")).to_be_visible()
        bench.finish("soup")
        await expect(said(page)).to_have_text(["Dinner."])
        await is_in(card(page, "soup"), "done")
        await expect(page.get_by_text("3 tool calls · 1 failed", exact=True)).to_be_visible()
        assert [await each.bounding_box() for each in (await track.all())[:2]] == places[:2]
        took = [await time_of(page, brief) for brief in ("bread", "soup", "bad wine")]
        bread, soup, wine = [await bar(page, brief) for brief in ("bread", "soup", "bad wine")]
        assert soup[0] < bread[1] <= wine[0] + 1
        assert wine[1] <= soup[1] + 1

        await page.reload()
        await expect(said(page)).to_have_text(["Dinner."])
        again = [await time_of(page, brief) for brief in ("bread", "soup", "bad wine")]
        assert again == took
        await is_in(card(page, "bad wine"), "failed")
        await expect(card(page, "bad wine")).to_contain_text("There is no bad wine here.")


async def test_a_call_tells_how_far_it_is(visitor: Visitor) -> None:
    bench = Bench()
    script = [calls(("copy", {"files": 4})), text("Copied.")]
    async with talking(visitor, script, tools=bench.tools) as (page, _, _):
        await ask(page, "Copy!")
        progress = page.get_by_role("progressbar", name="Progress of copy")
        await expect(card(page, "4")).to_contain_text("the first file")
        assert await progress.evaluate("({ value, max }) => [value, max]") == [1, 4]
        bench.finish("the first file")
        await expect(card(page, "4")).to_contain_text("a last look")
        assert await progress.evaluate("({ position }) => position") == -1
        bench.finish("the last look")
        await expect(said(page)).to_have_text(["Copied."])
        await expect(progress).to_be_hidden()
        await expect(card(page, "4")).not_to_contain_text("a last look")


async def test_one_call_is_cancelled_while_the_others_go_on(visitor: Visitor) -> None:
    bench = Bench()
    script = [calls(*work("bread", "soup", "cake")), text("Without soup.")]
    async with talking(visitor, script, tools=bench.tools) as (page, _, upstream):
        await ask(page, "Dinner!")
        for brief in ("bread", "soup", "cake"):
            await is_in(card(page, brief), "running")
        await page.get_by_role("button", name="Cancel work soup").press("Enter")
        await is_in(card(page, "soup"), "failed")
        await expect(card(page, "soup").locator("summary")).to_be_focused()
        assert await time_of(page, "soup") == "cancelled"
        await is_in(card(page, "bread"), "running")
        await is_in(card(page, "cake"), "running")
        await expect(answers(page)).to_have_attribute("aria-busy", "true")
        bench.finish("bread")
        bench.finish("cake")
        await expect(said(page)).to_have_text(["Without soup."])
        await is_in(card(page, "bread"), "done")
        await is_in(card(page, "cake"), "done")
        await is_in(card(page, "soup"), "failed")
        results = [each["content"] for each in upstream.requests[1]["messages"][-3:]]
        assert results[0] == "bread is ready"
        assert "cancelled" in results[1]
        assert results[2] == "cake is ready"


async def test_a_call_that_waits_is_cancelled_too(visitor: Visitor) -> None:
    bench = Bench()
    script = [calls(*work("bread", "soup")), text("Without soup.")]
    async with talking(visitor, script, tools=bench.tools) as (page, service, _):
        await service.json("POST", "/agents/chat", 200, json={"max_parallel_tools": 1})
        await ask(page, "Dinner!")
        await is_in(card(page, "soup"), "queued")
        await page.get_by_role("button", name="Cancel work soup").click()
        await is_in(card(page, "soup"), "failed")
        await is_in(card(page, "bread"), "running")
        bench.finish("bread")
        await expect(said(page)).to_have_text(["Without soup."])


async def test_stopping_an_answer_ends_its_calls(visitor: Visitor) -> None:
    bench = Bench()
    async with talking(visitor, [calls(*work("bread", "soup"))], tools=bench.tools) as (page, _, _):
        await ask(page, "Dinner!")
        await is_in(card(page, "soup"), "running")
        bench.finish("bread")
        await is_in(card(page, "bread"), "done")
        await page.keyboard.press("Escape")
        await is_complete(answers(page))
        for _ in range(2):
            await is_in(card(page, "bread"), "done")
            await is_in(card(page, "soup"), "failed")
            await expect(page.get_by_role("button", name="Cancel work soup")).to_be_hidden()
            await page.reload()


async def test_arguments_and_result_are_unfolded_and_nothing_moves_then(visitor: Visitor) -> None:
    bench = Bench()
    names = [f"dish {number}" for number in range(8)]
    script = [calls(*work(*names)), text("Dinner.")]
    async with talking(visitor, script, tools=bench.tools) as (page, _, _):
        for name in names:
            bench.finish(name)
        await ask(page, "Dinner!\n" * 40)
        await is_complete(answers(page))
        await expect(page.get_by_role("button", name="Answer again")).to_be_in_viewport()
        first = card(page, names[-1])
        await expect(first.get_by_text("Arguments", exact=True)).to_have_count(0)
        before = await first.bounding_box()
        await first.locator("summary").click()
        arguments = first.get_by_role("region", name="Arguments")
        await expect(arguments).to_have_text('{\n  "what": "dish 7"\n}')
        await expect(first.get_by_role("region", name="Result")).to_have_text("dish 7 is ready")
        after = await first.bounding_box()
        assert before is not None
        assert after is not None
        assert after["y"] == before["y"]
        assert after["height"] > before["height"]
        await first.locator("summary").press("Enter")
        await expect(arguments).to_be_hidden()


async def test_a_failed_call_that_is_unfolded_shows_its_error(visitor: Visitor) -> None:
    script = [calls(("work", "{")), text("Sorry.")]
    async with talking(visitor, script, tools=Bench().tools) as (page, _, _):
        await ask(page, "Dinner!")
        await expect(said(page)).to_have_text(["Sorry."])
        found = page.locator(".call-item")
        await is_in(found, "failed")
        await expect(found.locator(".call-time")).to_have_text("bad arguments")
        await found.locator("summary").click()
        await expect(found.get_by_role("region", name="Error")).to_contain_text("JSON")


async def test_a_tool_that_hangs_is_timed_out_and_the_answer_goes_on(visitor: Visitor) -> None:
    script = [calls(*work("soup")), text("No soup.")]
    async with talking(visitor, script, tools=Bench().tools) as (page, service, _):
        await service.json("POST", "/agents/chat", 200, json={"tool_call_timeout": 0.2})
        await ask(page, "Dinner!")
        async with asyncio.timeout(2 * DEADLINE):
            await expect(said(page)).to_have_text(["No soup."])
        assert await time_of(page, "soup") == "timed out"
