"""Markdown in a real browser: what it becomes, and that it does so without flicker."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.browser.conftest import Visiting
from tests.browser.rendering import open_markdown
from tests.browser.support import Visitor, serious_findings
from tests.service import Service, running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[Service]:
    async with running() as service:
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(service: Service, visitors: Visiting) -> AsyncIterator[Page]:
    """A page that all tests of this file render in."""
    async with visitors() as visitor:
        yield await open_markdown(visitor, service)


RENDER = """(source) => {
  const element = document.createElement('div');
  markdown.render(element, source);
  return element.innerHTML;
}"""

LINK = '<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>'
CODE = (
    '<div class="code"><div class="code-head"><span class="code-language">{}</span>'
    '<button class="code-copy" type="button" aria-label="Copy code">Copy</button></div>'
    '<pre tabindex="0"><code>{}</code></pre></div>'
)
TABLE = '<div class="table" role="region" tabindex="0" aria-label="Table"><table>{}</table></div>'
BOX = '<input class="task" type="checkbox" disabled=""{} aria-label="{}">'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("a  \nb\\\nc<br>d", "<p>a<br>b<br>c<br>d</p>"),
        (
            "**a** *b* _c_ ~~d~~ `e<f`",
            "<p><strong>a</strong> <em>b</em> <em>c</em> <del>d</del> <code>e&lt;f</code></p>",
        ),
        (
            "# a\n\n## b\n\n### c\n\n#### d\n\n##### e",
            "<h3>a</h3><h4>b</h4><h5>c</h5><h6>d</h6><h6>e</h6>",
        ),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
        (
            "- [x] a\n- [ ] b",
            "<ul><li>"
            + BOX.format(' checked=""', "Done")
            + "a</li><li>"
            + BOX.format("", "To do")
            + "b</li></ul>",
        ),
        ("> a\n>\n> b", "<blockquote><p>a</p><p>b</p></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        (
            "| a | b |\n|--:|---|\n| 1 | **2** |",
            TABLE.format(
                '<thead><tr><th align="right">a</th><th>b</th></tr></thead><tbody><tr>'
                '<td align="right">1</td><td><strong>2</strong></td></tr></tbody>'
            ),
        ),
        ("```\na < b\n\n```", CODE.format("code", "a &lt; b\n")),
        ("```unknown x\na\n```", CODE.format("unknown", "a")),
        ("    a\n    b", CODE.format("code", "a\nb")),
        (
            "```js\nlet a = '<b>&amp;';\n```",
            CODE.format(
                "js",
                '<span class="hljs-keyword">let</span> a = '
                "<span class=\"hljs-string\">'&lt;b&gt;&amp;amp;'</span>;",
            ),
        ),
        (
            "[a *b*](https://a.example/?x=1&y=2)",
            "<p>" + LINK.format("https://a.example/?x=1&amp;y=2", "a <em>b</em>") + "</p>",
        ),
        (
            "<https://a.example> a@b.example",
            "<p>"
            + LINK.format("https://a.example", "https://a.example")
            + " "
            + LINK.format("mailto:a@b.example", "a@b.example")
            + "</p>",
        ),
        ("[a]\n\n[a]: https://a.example", "<p>" + LINK.format("https://a.example", "a") + "</p>"),
        ("[a](/b) [c](ftp://d.example) [e](#f)", "<p>a c e</p>"),
        (
            "![a & b](https://a.example/x.png)",
            "<p>" + LINK.format("https://a.example/x.png", "a &amp; b") + "</p>",
        ),
        (
            "[![a](https://x.example)](https://b.example)",
            "<p>" + LINK.format("https://b.example", "a") + "</p>",
        ),
        ("a <b>c</b>", "<p>a &lt;b&gt;c&lt;/b&gt;</p>"),
        ("<div>\n**a**\n</div>", "<p>&lt;div&gt;<br>**a**<br>&lt;/div&gt;</p>"),
        ("&copy; &amp;lt; &#60; R&D", "<p>© &amp;lt; &lt; R&amp;D</p>"),
        ("\\*a\\* \\<b>", "<p>*a* &lt;b&gt;</p>"),
        ("a\r\n\r\nb\0c", "<p>a</p><p>b\ufffdc</p>"),
    ],
)
async def test_markdown_becomes_html(page: Page, source: str, expected: str) -> None:
    found = await page.evaluate(RENDER, source)
    assert found.replace(' dir="auto"', "") == expected


async def test_text_takes_the_direction_of_its_script(page: Page) -> None:
    source = "# שלום\n\nمرحبا\n\n- שלום\n\n> שלום\n\n| a |\n|---|\n| שלום |\n\n```\na\n```"
    await page.evaluate("(source) => markdown.render(shown, source)", source)
    directions = await page.evaluate(
        """() => Object.fromEntries([...shown.querySelectorAll('h3,p,li,blockquote,td,th,pre')]
          .map((each) => [each.nodeName, getComputedStyle(each).direction]))"""
    )
    right = dict.fromkeys(("H3", "P", "LI", "BLOCKQUOTE", "TD"), "rtl")
    assert directions == right | {"TH": "ltr", "PRE": "ltr"}


TEXTS = [
    "# Title *one*\n\nText **bold `code` more** and ~~gone~~ [link](https://a.example 't').\nNext.",
    "Here:\n- one\n- two **b**\n  1. three\n\n     deep\n- [x] done\n- [ ] todo\n\nEnd.",
    "1. Run\n   ```sh\n   ls -l | wc\n   ```\n2. Then\n\n   more\n10. ten",
    "A:\n\n| Name | `Value` |\n|:-----|--------:|\n| **a** | b |\n| c \\| d | e |\n\nend | of it",
    "```python\ndef f(x):\n    '''a\n    b'''\n    return x\n```\ntext\n~~~\n```\n~~~\n",
    "````md\n```js\nlet a;\n```\n````\n\n    indented\n\n    code\n\nText",
    "> quote **b\n> c** `d\n\n> - e\n>   f\n>\n> ```\n> g\n> ```\nh",
    "Line\n---\nText\n***\n\n* * *\n\nA\n===\n- \n-\n+ x\n",
    "[a] and [b][c] ![d](https://e.example/f.png)\n\n[a]: https://a.example 'x'\n[c]: <https://c.example>",
    "<div>\n\n*a*\n\n</div>\n\n<!-- b\n\nc --> <b>d</b> <br> <https://e.example>\n",
    "2*3*4 __init__ snake_case_name *a **b*** ***c*** **d*e*f** _g_h \\*i\\* `` ` `` `j",
    "a\\\nb  \nc &amp; &copy; &#65; & \\& <3 a<b 5 < 6\n\n\n\n\nd\n\t\ne",
    "- a\n\n\n- b\n\n      code\n\n text\n1) c\n2) d\n- e\n***\n- f",
    "שלום **עולם**\n\n| א | ב |\n|---|---|\n| 1 | 2 |\n😀 **e😀** \u202eabc",
    "```\nopen fence\n\n- a\n# b\n``",
    "a\r\nb\r\n\r\n- c\r\n\r\n```js\r\nlet x;\r\n```\r\n\0",
]

STREAMED = """(texts) => {
  const failures = [];
  const once = (text) => {
    const element = document.createElement('div');
    markdown.render(element, text);
    return element;
  };
  const check = (text, cuts) => {
    const element = document.createElement('div');
    for (const at of cuts) markdown.render(element, text.slice(0, at), { streaming: true });
    markdown.render(element, text);
    const expected = once(text);
    if (!element.isEqualNode(expected)) {
      failures.push({ text, cuts, found: element.innerHTML, expected: expected.innerHTML });
    }
  };
  for (const text of texts) {
    const all = Array.from(text, (_, at) => at + 1);
    for (const at of [0, ...all]) {
      check(text.slice(0, at), all.slice(Math.max(0, at - 9), at));
      check(text, [at]);
      check(text, all.slice(at).filter((cut) => (cut - at) % 7 === 0));
    }
  }
  return failures;
}"""


async def test_any_stream_of_pieces_ends_in_what_one_rendering_gives(page: Page) -> None:
    assert await page.evaluate(STREAMED, TEXTS) == []


MIXED = """(pieces) => {
  let seed = 7;
  const random = (below) => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  const failures = [];
  for (let turn = 0; turn < 400; turn += 1) {
    let text = '';
    const element = document.createElement('div');
    for (let count = random(12); count >= 0; count -= 1) {
      text += pieces[random(pieces.length)];
      markdown.render(element, text.slice(0, text.length - random(3)), { streaming: true });
      if (random(9) === 0) markdown.render(element, text);
    }
    markdown.render(element, text);
    const expected = document.createElement('div');
    markdown.render(expected, text);
    if (!element.isEqualNode(expected)) failures.push(text);
  }
  return failures;
}"""


async def test_any_mixture_of_markup_ends_in_what_one_rendering_gives(page: Page) -> None:
    pieces = [
        *("a", "word ", "\n", "\n\n", "- ", "  ", "1. ", "> ", "# ", "**", "*", "_", "`", "~~"),
        *("```", "```js\n", "~~~\n", "| a | b |\n", "|---|---|\n", "[x]", "(https://a.example)"),
        *(
            "[x]: https://b.example\n",
            "<b>",
            "</b>",
            "<div>\n",
            "\\",
            "&amp;",
            "---\n",
            "    ",
            "![",
        ),
    ]
    assert await page.evaluate(MIXED, pieces) == []


async def test_what_one_element_showed_before_leaves_no_trace(page: Page) -> None:
    failures = await page.evaluate(
        """(texts) => texts.flatMap((before) => texts.filter((after) => {
          const [reused, fresh] = [document.createElement('div'), document.createElement('div')];
          markdown.render(reused, before, { streaming: true });
          markdown.render(reused, after);
          markdown.render(fresh, after);
          return !reused.isEqualNode(fresh);
        }))""",
        TEXTS,
    )
    assert failures == []


ALL_SHOWN = """(text) => {
  const element = document.createElement('div');
  return Array.from(text, (_, at) => {
    markdown.render(element, text.slice(0, at + 1), { streaming: true });
    return element.textContent;
  });
}"""


@pytest.mark.parametrize(
    ("source", "markup"),
    [
        ("Some **bold words** and *em text*, ***both***.", "*"),
        ("**Note:** it and **[x](https://a.example)** and **`y`**", r"[*\[\]()`]"),
        ("A `code span` and ``two ` of`` it", "``|^A `c"),
        ("Some ~~gone text~~ here", "~"),
        ("Some __bold__ and _em_ text", "_"),
        ('See [the link](https://a.example/b_(c)?d=e "title") now', r"[\[\]()]|https"),
        ("An ![image](https://a.example/x.png) here", r"[!\[\]()]|https"),
        ("Title\n\n| Name | Value |\n|:-----|-----:|\n| **a** | `b` |\n", r"[|:*`-]"),
        ("Here are:\n- one\n- two\n* three\n", r"[-*]"),
        ("# Head\n\n## Next one\n\ntext\n\n---\n\n***\n\nend", r"[-#*]"),
        ("1. one\n2. two\n10. ten\n", r"\d"),
        ("- [x] done\n- [ ] open\n", r"[\[\]]"),
        ("a\n\n```python\nx = 1\n```\n\nb", "`"),
        ("> one **two**\n> - three\n", r"[>*-]"),
    ],
)
async def test_no_markup_flashes_while_it_comes(page: Page, source: str, markup: str) -> None:
    shown = await page.evaluate(ALL_SHOWN, source)
    pattern = re.escape(markup) if len(markup) == 1 else markup
    assert [text for text in shown if re.search(pattern, text)] == []


async def test_what_only_looks_like_markup_is_shown_as_it_comes(page: Page) -> None:
    for source in ("2 * 3 = 6", "a[0] is a_b_c", "~5 and 3~4", "R&D <3 C++ #1", "Well! No?"):
        shown = await page.evaluate(ALL_SHOWN, source)
        behind = [source[:at].strip() for at in range(1, len(source) + 1)]
        late = [len(text) - len(now.strip()) for text, now in zip(behind, shown, strict=True)]
        assert max(late) <= 2, (source, shown)
        assert shown[-1] == source


async def test_a_heading_is_not_made_of_a_text_that_a_list_follows(page: Page) -> None:
    names = await page.evaluate(
        """(text) => {
          const element = document.createElement('div');
          return Array.from(text, (_, at) => {
            markdown.render(element, text.slice(0, at + 1), { streaming: true });
            return element.firstElementChild.nodeName;
          });
        }""",
        "Here are some\n- one\n- two",
    )
    assert set(names) == {"P"}


KEPT = """(text) => {
  const element = document.createElement('div');
  const seen = new Map();
  const lost = [];
  for (let at = 1; at <= text.length; at += 1) {
    markdown.render(element, text.slice(0, at), { streaming: at < text.length });
    [...element.querySelectorAll('p, li, tr, pre, button, table, h3')].forEach((node, index) => {
      const known = seen.get(index);
      if (known && known !== node) lost.push([at, node.nodeName]);
      seen.set(index, node);
    });
  }
  return lost;
}"""


async def test_nodes_stay_while_what_they_show_grows(page: Page) -> None:
    source = (
        "# Title\n\nFirst **paragraph**.\n\n```python\nx = 1\ny = 2\n```\n\n- one\n- two\n"
        "  ```js\n  let a = 1;\n  ```\n- three\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nEnd"
    )
    assert await page.evaluate(KEPT, source) == []


async def test_a_selection_survives_what_comes_behind_it(page: Page) -> None:
    selected = await page.evaluate(
        """() => {
          const text = 'Some first words\\n\\n```js\\nlet a = 1;\\nlet b = 2;\\nlet c;\\n```\\n';
          for (let at = 1; at <= text.length; at += 1) {
            markdown.render(shown, text.slice(0, at), { streaming: true });
            if (text.slice(0, at).endsWith('b = 2;\\nl')) {
              const range = document.createRange();
              range.setStart(shown.querySelector('p').firstChild, 5);
              range.setEnd(shown.querySelector('code'), 1);
              getSelection().removeAllRanges();
              getSelection().addRange(range);
            }
          }
          markdown.render(shown, text + 'end');
          return getSelection().toString();
        }"""
    )
    assert re.sub(r"\s+", " ", selected) == "first words js Copy let"


async def test_reading_goes_on_from_the_last_blocks(page: Page) -> None:
    source = "Some **words** in a paragraph.\n\n- one\n- two\n\n```\ncode\n```\n\n" * 100
    read = await page.evaluate(
        """async (text) => {
          const { Lexer } = await import('/web/vendor/marked.js');
          const { lex } = Lexer.prototype;
          let read = 0;
          Lexer.prototype.lex = function (source) {
            read += source.length;
            return lex.call(this, source);
          };
          const element = document.createElement('div');
          for (let at = 5; at < text.length; at += 5) {
            markdown.render(element, text.slice(0, at), { streaming: true });
          }
          Lexer.prototype.lex = lex;
          return read;
        }""",
        source,
    )
    assert read < 20 * len(source)


async def test_a_long_block_is_drawn_with_pauses_and_shown_in_the_end(page: Page) -> None:
    source = "- item with **bold** and `code`\n" * 400
    draws = await page.evaluate(
        """async (text) => {
          const element = document.createElement('div');
          let draws = 0;
          let before = 0;
          for (let at = 5; at < text.length; at += 50) {
            markdown.render(element, text.slice(0, at), { streaming: true });
            if (element.textContent.length !== before) draws += 1;
            before = element.textContent.length;
          }
          markdown.render(element, text + 'last', { streaming: true });
          while (!element.textContent.endsWith('last')) await new Promise(requestAnimationFrame);
          return draws;
        }""",
        source,
    )
    assert draws < len(source) / 50 * 0.8


async def test_code_is_copied_by_its_button(service: Service, visitors: Visiting) -> None:
    async with visitors(permissions=["clipboard-read", "clipboard-write"]) as visitor:
        page = await open_markdown(visitor, service)
        source = "- one\n  ```js\n  let a = '<b>';\n    // c\n  ```\n"
        await page.evaluate("(source) => markdown.render(shown, source)", source)
        told = await page.evaluate(
            """async (source) => {
              const button = shown.querySelector('button');
              const changed = new Promise((done) => {
                new MutationObserver(done).observe(button, { attributeFilter: ['class'] });
              });
              button.click();
              await changed;
              const told = button.textContent;
              markdown.render(shown, `${source}- two`);
              return [told, shown.querySelector('button').textContent];
            }""",
            source,
        )
        assert told == ["Copied", "Copied"]
        assert await page.evaluate("navigator.clipboard.readText()") == "let a = '<b>';\n  // c"
        await page.wait_for_selector("button:not(.copied)")
        assert await page.inner_text("button") == "Copy"


async def test_code_is_copied_where_there_is_no_clipboard(page: Page) -> None:
    await page.evaluate("markdown.render(shown, '```\\nlet a;\\n```')")
    await page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )
    await page.get_by_role("button", name="Copy code").click()
    await page.wait_for_function("document.querySelector('button').textContent !== 'Copy'")
    assert await page.evaluate("getSelection().toString()") == "let a;"


@pytest.mark.parametrize("library", ["marked.js", "dompurify.js"])
async def test_without_a_library_text_is_shown_as_it_is(
    service: Service, visitor: Visitor, library: str
) -> None:
    visitor.expects("console", "404")
    page = await open_markdown(visitor, service, {library: None})
    source = "# a\n**b** <b>\n\n  - c\n\n\n```\nd"
    expected = (
        '<p class="plain" dir="auto"># a\n**b** &lt;b&gt;</p><p class="plain" dir="auto">- c</p>'
        '<p class="plain" dir="auto">```\nd</p>'
    )
    assert await page.evaluate(RENDER, source) == expected
    assert await page.evaluate(STREAMED, TEXTS[:3]) == []
    await page.evaluate("(source) => markdown.render(shown, source)", source)
    style = "getComputedStyle(document.querySelector('.plain')).whiteSpaceCollapse"
    assert await page.evaluate(style) == "preserve"


async def test_without_the_highlighter_code_has_no_colours(
    service: Service, visitor: Visitor
) -> None:
    visitor.expects("console", "404")
    page = await open_markdown(visitor, service, {"highlight.js": None})
    found = await page.evaluate(RENDER, "```js\nlet a;\n```")
    assert found == CODE.format("js", "let a;")


async def test_what_is_nested_too_deep_is_shown_all_the_same(page: Page) -> None:
    for source in (">" * 20_000 + "a", "- " * 5_000 + "a", "[" * 20_000, "*a _b " * 5_000):
        assert await page.evaluate(RENDER, source)


async def test_code_that_grows_has_its_colours_line_by_line(page: Page) -> None:
    colours = await page.evaluate(
        """() => ['```js\\nlet a', '```js\\nlet a;\\nl', '```js\\nlet a;\\nlet'].map((text) => {
          markdown.render(shown, text, { streaming: true });
          return shown.querySelectorAll('.hljs-keyword').length;
        })"""
    )
    assert colours == [0, 1, 1]


async def test_an_answer_has_no_serious_finding_of_axe(page: Page) -> None:
    await page.evaluate("(texts) => markdown.render(shown, texts.join('\\n\\n'))", TEXTS[:6])
    assert await serious_findings(page) == []


BURSTS = {
    "definitions": "".join(f"[d{n}]: http://example.com/{n}\n\n" for n in range(2000))
    + "".join(f"[d{n}]\n\n" for n in range(2000)),
    "strikes": "~~a " * 10_000,
    "emphasis": "*a " * 10_000,
    "underscores": "_a " * 10_000,
    "a long line of code": "```ini\n" + "a." * 20_000 + "\n```",
    "brackets": "[" * 20_000,
    "quotations": ">" * 5_000 + " a",
    "a table": "| a " * 100 + "|\n" + "|---" * 100 + "|\n" + ("| 1 " * 100 + "|\n") * 100,
}


@pytest.mark.parametrize("text", BURSTS.values(), ids=BURSTS.keys())
async def test_text_that_comes_at_once_is_drawn_at_once(page: Page, text: str) -> None:
    took = await page.evaluate(
        """(source) => {
          const began = performance.now();
          const element = document.createElement('div');
          markdown.render(element, source, { streaming: true });
          markdown.render(element, `${source}\n\nend`, { streaming: true });
          markdown.render(element, `${source}\n\nend`);
          return performance.now() - began;
        }""",
        text,
    )
    # A bound that a slow machine keeps: what reads such texts badly takes many times as long.
    assert took < 5000
