"""Hostile Markdown executes nothing and loads nothing: three layers, of which each alone would do.

1. What is not Markdown is escaped. 2. What comes of it is sanitized. 3. The page's
Content-Security-Policy runs and loads nothing of others, and takes no HTML but the sanitizer's.
"""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.browser.hostile import MARKDOWN, RAW, REFRESH
from tests.browser.rendering import open_markdown
from tests.browser.support import Visitor
from tests.service import Service, running

ELEMENTS = {
    *("A", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DEL", "DIV", "EM", "H3", "H4", "H5", "H6", "HR"),
    *("INPUT", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD"),
    *("TR", "UL"),
}

ATTRIBUTES = {
    "A": {"href", "rel", "target", "title"},
    "BUTTON": {"aria-label", "class", "type"},
    "DIV": {"aria-label", "class", "role", "tabindex"},
    "INPUT": {"aria-label", "checked", "class", "disabled", "type"},
    "OL": {"start"},
    "P": {"class"},
    "PRE": {"tabindex"},
    "SPAN": {"class"},
    "TD": {"align"},
    "TH": {"align"},
}

NO_ESCAPING = """
export class Marked { defaults = {}; }
export class Lexer {
  tokens = Object.assign([], { links: {} });
  lex(raw) { this.tokens.push({ type: 'html', raw }); }
}
export const Parser = { parse: (tokens) => tokens.map(({ raw }) => raw).join('') };
"""
"""In place of marked: the source is the HTML."""

NO_SANITIZER = """
const policy = trustedTypes.createPolicy('dompurify', { createHTML: (html) => html });
const sanitize = (html) => {
  const template = document.createElement('template');
  template.innerHTML = policy.createHTML(html);
  return document.importNode(template.content, true);
};
export default { isSupported: true, sanitize };
"""
"""In place of DOMPurify: all HTML is fine."""

SHOW = """async ({ payloads, streamed }) => {
  const { getAttribute, getAttributeNames } = Element.prototype; // a form may hide them
  const found = {};
  const look = (name) => {
    for (const element of shown.querySelectorAll('*')) {
      const names = getAttributeNames.call(element);
      const attributes = Object.fromEntries(
        names.map((each) => [each, getAttribute.call(element, each)]),
      );
      const key = JSON.stringify([element.nodeName, attributes]);
      (found[key] ??= []).push(name);
      const { href } = attributes;
      if (href && !/^(https?|mailto):/.test(href)) element.click?.();
    }
    for (const type of ['mouseover', 'pointerenter', 'click', 'focus']) {
      for (const element of shown.querySelectorAll(':not(a, button)')) {
        element.dispatchEvent(new Event(type, { bubbles: true, cancelable: true }));
      }
    }
  };
  for (const [name, text] of Object.entries(payloads)) {
    markdown.render(shown, text);
    look(name);
    for (let at = 1; streamed && at <= text.length; at += 1) {
      markdown.render(shown, text.slice(0, at), { streaming: true });
    }
    look(name);
    await new Promise(requestAnimationFrame);
    if (window.isPwned) return { pwned: name };
    shown.replaceWith(shown.cloneNode());
    shown = document.getElementById('shown');
  }
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return { pwned: window.isPwned ?? null, found };
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


async def shown(
    page: Page, payloads: dict[str, str], *, streamed: bool = True
) -> dict[str, list[str]]:
    """Show payloads, whole and streamed; return who made what elements, with their attributes."""
    result = await page.evaluate(SHOW, {"payloads": payloads, "streamed": streamed})
    assert result["pwned"] is None
    found: dict[str, list[str]] = result["found"]
    return found


def forbidden(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return those elements that Markdown has not, or with attributes that it has not."""
    wrong = {}
    for key, names in found.items():
        element, attributes = json.loads(key)
        allowed = {"dir"} | ATTRIBUTES.get(element, set())
        leads = attributes.get("href", "https:").partition(":")[0] in ("http", "https", "mailto")
        if element not in ELEMENTS or not attributes.keys() <= allowed or not leads:
            wrong[key] = names
    return wrong


async def test_hostile_markdown_runs_and_loads_nothing(service: Service, visitor: Visitor) -> None:
    page = await open_markdown(visitor, service)
    found = await shown(page, RAW | MARKDOWN)
    assert forbidden(found) == {}


async def test_the_sanitizer_alone_lets_nothing_through(service: Service, visitor: Visitor) -> None:
    visitor.expects("policy")  # in the document where the sanitizer parses
    page = await open_markdown(visitor, service, {"marked.js": NO_ESCAPING})
    found = await shown(page, RAW | {"refresh": REFRESH})
    assert forbidden(found) == {}


async def test_the_policy_alone_runs_and_loads_nothing(service: Service, visitor: Visitor) -> None:
    visitor.expects("policy")
    visitor.expects("request", "u.svg")  # refused before the policy is asked: of another origin
    visitor.expects("console")  # images of the service that are not there
    replaced = {"marked.js": NO_ESCAPING, "dompurify.js": NO_SANITIZER}
    page = await open_markdown(visitor, service, replaced)
    found = await shown(page, RAW, streamed=False)
    assert len(forbidden(found)) > 50
    assert visitor.troubles


async def test_html_that_the_sanitizer_did_not_make_is_not_taken(
    service: Service, visitor: Visitor
) -> None:
    visitor.expects("policy")
    page = await open_markdown(visitor, service)
    with pytest.raises(Exception, match="TrustedHTML"):
        await page.evaluate("shown.innerHTML = '<b>x</b>'")
    with pytest.raises(Exception, match="Policy"):
        await page.evaluate("trustedTypes.createPolicy('other', {})")
