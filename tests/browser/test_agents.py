"""Who answers: the picker, the form in which an agent is made, the research agent, the demo."""

import re
from typing import Any

from playwright.async_api import Locator, Page, expect

from tests.browser.support import Visitor
from tests.browser.talking import (
    answers,
    ask,
    card,
    field,
    is_complete,
    opened,
    said,
    talking,
)
from tests.service import running
from tests.upstream import held, text
from tools.tool import idempotent

PLAN = '{"searches": [{"query": "heat", "reason": "For one."}, {"query": "pumps", "reason": ""}]}'
QUESTIONS = '{"questions": ["Why?", "When?"]}'


@idempotent
def search_web(query: str) -> dict[str, Any]:
    """Search the web."""
    page = {"title": f"On {query}", "url": f"https://{query}.org/", "snippet": "Text."}
    return {"query": query, "engine": "fake", "results": [page]}


def picker(page: Page) -> Locator:
    """Return the list of agents."""
    return page.get_by_role("combobox", name="Agent")


def form(page: Page) -> Locator:
    """Return the form of an agent."""
    return page.get_by_role("dialog")


async def save(page: Page) -> None:
    """Save the form."""
    await form(page).get_by_role("button", name="Save").click()


async def test_an_agent_is_made_and_answers(visitor: Visitor) -> None:
    async with talking(visitor, [text("Here I am.")]) as (page, service, upstream):
        await page.get_by_role("button", name="New agent").click()
        await expect(page.get_by_role("dialog", name="New agent")).to_be_visible()
        await expect(form(page).get_by_label("Name")).to_be_focused()
        await form(page).get_by_label("Name").fill("guide")
        await form(page).get_by_label("Instructions").fill("You are a guide.")
        await form(page).get_by_label("calculate").uncheck()
        await save(page)
        await expect(form(page)).to_be_hidden()
        await expect(picker(page)).to_have_value("guide")
        made = await service.json("GET", "/agents/guide")
        assert made["instructions"] == "You are a guide."
        assert "calculate" not in made["tools"]
        assert "get_time" in made["tools"]
        await ask(page, "Who are you?")
        await expect(said(page)).to_have_text(["Here I am."])
        await expect(answers(page).get_by_role("heading", name="guide")).to_be_visible()
        assert upstream.requests[-1]["messages"][0]["content"].startswith("You are a guide.")
        await page.reload()
        await expect(picker(page)).to_have_value("guide")


async def test_a_chat_keeps_its_agent_and_a_new_one_has_the_chosen(visitor: Visitor) -> None:
    async with running() as service:
        await service.json("POST", "/agents/guide", 201, json={})
        async with opened(visitor, service) as page:
            await picker(page).select_option("guide")
            await ask(page, "Hello!")
            await is_complete(answers(page))
            await picker(page).select_option("chat")
            await page.reload()
            await expect(picker(page)).to_have_value("guide")
            await expect(answers(page).get_by_role("heading", name="guide")).to_be_visible()
            await page.get_by_role("link", name="New chat").click()
            await expect(picker(page)).to_have_value("chat")


async def test_a_fault_of_an_agent_is_shown_at_its_field(visitor: Visitor) -> None:
    visitor.expects("console", "422")
    async with running() as service, opened(visitor, service) as page:
        await page.get_by_role("button", name="New agent").click()
        await save(page)
        await expect(form(page).get_by_text("An agent needs a name.")).to_be_visible()
        await form(page).get_by_label("Name").fill("chat")
        await save(page)
        await expect(form(page).get_by_text("There is an agent of this name")).to_be_visible()
        await form(page).get_by_label("Name").fill("guide")
        await form(page).get_by_text("Sampling and limits").click()
        turns = form(page).get_by_label("Turns in a run")
        await turns.fill("500")
        await form(page).get_by_text("Sampling and limits").click()
        await expect(turns).to_be_hidden()
        await save(page)
        await expect(turns).to_be_focused()
        await expect(turns).to_have_attribute("aria-invalid", "true")
        await expect(turns).to_have_accessible_description(re.compile("less than or equal to 200"))
        await expect(form(page).get_by_text("An agent needs a name.")).to_be_hidden()
        fault = await form(page).get_by_text("less than or equal to 200").bounding_box()
        buttons = await form(page).locator(".dialog-bar").bounding_box()
        assert fault is not None
        assert buttons is not None
        assert fault["y"] + fault["height"] <= buttons["y"]
        await turns.fill("7")
        await save(page)
        await expect(form(page)).to_be_hidden()
        assert (await service.json("GET", "/agents/guide"))["max_turns"] == 7


async def test_an_agent_is_changed_and_deleted(visitor: Visitor) -> None:
    async with running() as service:
        config = {"instructions": "You are a guide.", "max_turns": 7, "tools": ["get_time"]}
        made = await service.json("POST", "/agents/guide", 201, json=config)
        async with opened(visitor, service) as page:
            await picker(page).select_option("guide")
            await page.get_by_role("button", name="Change this agent").click()
            instructions = form(page).get_by_label("Instructions")
            await expect(instructions).to_have_value("You are a guide.")
            await instructions.fill("You are a poet.")
            await save(page)
            await expect(form(page)).to_be_hidden()
            changed = await service.json("GET", "/agents/guide")
            assert changed == made | {"instructions": "You are a poet."}

            await page.get_by_role("button", name="Change this agent").click()
            await form(page).get_by_role("button", name="Delete").click()
            confirm = page.get_by_role("dialog", name="Delete this agent?")
            await confirm.get_by_role("button", name="Delete").click()
            await expect(form(page)).to_have_count(0)
            await expect(picker(page)).to_have_value("chat")
            assert "guide" not in await picker(page).inner_text()
            assert "guide" not in str(await service.json("GET", "/agents"))


async def test_an_agent_that_comes_with_the_service_is_changed_and_not_deleted(
    visitor: Visitor,
) -> None:
    async with running() as service, opened(visitor, service) as page:
        await page.get_by_role("button", name="Change this agent").click()
        await expect(form(page).get_by_label("Name")).to_have_attribute("readonly", "")
        await expect(form(page).get_by_role("button", name="Delete")).to_have_count(0)
        await form(page).get_by_label("Instructions").fill("Nothing of it.")
        await form(page).get_by_role("button", name="Cancel").click()
        await expect(form(page)).to_be_hidden()
        assert (await service.json("GET", "/agents/chat"))["instructions"] != "Nothing of it."


async def test_the_agent_of_a_chat_goes_on_with_it(visitor: Visitor) -> None:
    script = {"assistant": text("I am an assistant."), "chat": text("I am chat.")}
    async with talking(visitor, lambda body: script[body["messages"][-1]["content"]]) as (page, *_):
        await picker(page).select_option("assistant")
        await ask(page, "assistant")
        await expect(answers(page).get_by_role("heading", name="assistant")).to_be_visible()
        await is_complete(answers(page))
        await page.get_by_role("link", name="New chat", exact=True).first.click()
        await picker(page).select_option("chat")
        await ask(page, "chat")
        await expect(answers(page).get_by_role("heading", name="chat")).to_be_visible()
        await is_complete(answers(page))
        await page.get_by_role("link", name="assistant", exact=True).click()
        await expect(picker(page)).to_have_value("assistant")
        await page.get_by_role("link", name="chat", exact=True).click()
        await expect(picker(page)).to_have_value("chat")


async def test_a_research_tells_how_far_it_is_and_ends_in_a_report(visitor: Visitor) -> None:
    report = held(text("It is ", "so [1]."))
    script = [held(text(PLAN)), report, text(QUESTIONS)]
    async with talking(visitor, script, tools=[search_web]) as (page, _, upstream):
        await picker(page).select_option("research")
        await expect(page.get_by_role("button", name="Change this agent")).to_be_hidden()
        await ask(page, "What are heat pumps?")
        stages = page.locator(".stage")
        await expect(stages).to_have_count(1)
        await expect(stages).to_contain_text("Planning the searches.")
        await expect(stages.locator(".spinner")).to_be_visible()
        await upstream.gate.pass_one()
        await expect(stages).to_have_count(3)
        await expect(stages.nth(0)).to_contain_text("heat: For one.")
        await expect(stages.nth(1)).to_contain_text("2 of 2")
        await expect(stages.nth(2)).to_contain_text("Writing the report.")
        await expect(page.locator(".stage .spinner")).to_have_count(1)
        await expect(page.get_by_text("Thinking")).to_be_hidden()
        for query in ("heat", "pumps"):
            await expect(card(page, query)).to_have_attribute("data-state", "done")
        upstream.gate.open()
        await expect(said(page).get_by_role("heading", name="Sources")).to_be_visible()
        await expect(said(page)).to_contain_text("It is so [1].")
        source = said(page).get_by_role("link", name="On pumps")
        await expect(source).to_have_attribute("href", "https://pumps.org/")
        await expect(said(page).get_by_role("heading", name="Follow-up questions")).to_be_visible()
        await is_complete(answers(page))
        await expect(page.locator(".stage .spinner")).to_have_count(0)
        await page.reload()
        await expect(said(page)).to_contain_text("It is so [1].")
        await expect(card(page, "pumps")).to_have_attribute("data-state", "done")


async def test_the_demo_says_what_it_is_until_one_closes_that(visitor: Visitor) -> None:
    async with running() as service, opened(visitor, service) as page:
        banner = page.get_by_role("note")
        await expect(banner).to_contain_text("The demo model is answering.")
        await expect(banner).to_contain_text("OPENAI_API_KEY")
        await banner.get_by_role("button", name="Close this notice").click()
        await expect(banner).to_be_hidden()
        await page.reload()
        await expect(page.get_by_text("Demo model", exact=True)).to_be_visible()
        await expect(banner).to_be_hidden()


async def test_a_real_model_has_no_banner(visitor: Visitor) -> None:
    async with talking(visitor, [], openai_model="great-1") as (page, service, _):
        await expect(page.get_by_text("great-1", exact=True)).to_be_visible()
        await expect(page.get_by_role("note")).to_be_hidden()
        await service.json("POST", "/agents/toy", 201, json={"model": "demo"})
        await page.reload()
        await picker(page).select_option("toy")
        await expect(page.get_by_role("note")).to_be_visible()
        await expect(field(page)).to_be_visible()
