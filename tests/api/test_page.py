"""`/` and `/web`: the chat page for browsers, and nothing but what belongs to it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import server
from api.native import page
from tests.api.support import Answer, request, send
from tests.service import Service, running

pytestmark = pytest.mark.usefixtures("no_mistakes")

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECRET = b"not for readers"

FILES = {
    "index.html": b"<!doctype html><title>The page</title>",
    "client.js": b"export const one = 1;\n",
    "style.css": b"body { margin: 0 }\n",
    "page/thread.js": b"export const two = 2;\n",
    "package.json": SECRET,
    "package-lock.json": SECRET,
    "node_modules/.package-lock.json": SECRET,
    "node_modules/marked/package.json": SECRET,
    "node_modules/marked/lib/marked.esm.js": b"export const marked = 3;\n",
    "node_modules/marked/lib/marked.umd.js": SECRET,
    "node_modules/dompurify/dist/purify.es.mjs": b"export default 4;\n",
    "node_modules/@highlightjs/cdn-assets/es/highlight.min.js": b"export default 5;\n",
    # What a file system that knows no case would give for these names.
    "Node_Modules/marked.js": SECRET,
    "Package.JSON": SECRET,
    "../secret.txt": SECRET,
    "../web-of-others/client.js": SECRET,
}
VENDOR = ("marked", "dompurify", "highlight")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a page of the test's own in the place of the service's."""
    folder = tmp_path / "web"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "out.js").symlink_to("../secret.txt")
    monkeypatch.setattr(page, "WEB", folder)
    return folder


@asynccontextmanager
async def below(root_path: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Serve behind a proxy that takes `root_path` off each address."""

    def configured(make: Any, *args: Any) -> Any:
        made = make(*args)
        made.root_path = root_path
        return made

    monkeypatch.setattr(server, "configuration", partial(configured, server.configuration))
    async with running() as service:
        yield service


async def get(service: Service, path: str, *headers: str, method: str = "GET") -> Answer:
    """Ask for a path exactly as it is written here."""
    return await send(service, request(method, path, b"", *headers))


def assert_headers(answer: Answer) -> None:
    """Check that the answer has what protects the page."""
    for name, value in page.HEADERS.items():
        assert answer.headers[name.lower()] == value, name


# The root.


async def test_a_browser_is_shown_the_page(web: Path) -> None:
    async with running() as service:
        answer = await get(service, "/", BROWSER)
    assert (answer.status, answer.body) == (200, FILES["index.html"])
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert_headers(answer)


@pytest.mark.parametrize("accept", [(), ("Accept: */*",), ("Accept: application/json",)])
async def test_anything_else_is_told_that_the_service_is_there(accept: tuple[str, ...]) -> None:
    async with running(app_name="Sums") as service:
        answer = await get(service, "/", *accept)
    assert (answer.status, answer.body) == (200, b'{"status":"healthy","service":"Sums"}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["vary"] == "Accept"
    assert_headers(answer)


@pytest.mark.parametrize("accept", [BROWSER, "Accept: TEXT/HTML", "Accept: */*"])
async def test_the_head_of_the_root_is_that_of_its_answer(web: Path, accept: str) -> None:
    async with running() as service:
        whole = await get(service, "/", accept)
        head = await get(service, "/", accept, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
    assert int(head.headers["content-length"]) == len(whole.body) > 0
    assert ("html" in whole.headers["content-type"]) is (accept != "Accept: */*")


async def test_nothing_can_be_posted_to_the_root() -> None:
    async with running() as service:
        assert (await get(service, "/", method="POST")).status == 405


# The files.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("client.js", "text/javascript; charset=utf-8"),
        ("page/thread.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
    ],
)
async def test_a_file_of_the_page_is_served_with_its_type(web: Path, name: str, kind: str) -> None:
    async with running() as service:
        answer = await get(service, f"/web/{name}")
        head = await get(service, f"/web/{name}", method="HEAD")
    assert (answer.status, answer.body) == (200, FILES[name])
    assert answer.headers["content-type"] == kind
    assert_headers(answer)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(FILES[name]))


@pytest.mark.parametrize("library", VENDOR)
async def test_a_library_is_javascript_whatever_the_system_takes_it_for(
    web: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.responses.guess_type", lambda *_: ("text/plain", None))
    path = f"vendor/{library}.js"
    async with running() as service:
        answer = await get(service, f"/web/{path}")
    assert (answer.status, answer.body) == (200, FILES[page.LIBRARIES[path]])
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert_headers(answer)


@pytest.mark.parametrize("library", VENDOR)
async def test_a_library_that_is_not_installed_is_not_found(web: Path, library: str) -> None:
    path = f"vendor/{library}.js"
    (web / page.LIBRARIES[path]).unlink()
    async with running() as service:
        assert (await get(service, f"/web/{path}")).status == 404


@pytest.mark.parametrize(
    ("path", "headers"), [("/", (BROWSER,)), ("/web/client.js", ()), ("/web/vendor/marked.js", ())]
)
async def test_what_a_browser_has_already_is_not_sent_again(
    web: Path, path: str, headers: tuple[str, ...]
) -> None:
    async with running() as service:
        first = await get(service, path, *headers)
        known = f"If-None-Match: {first.headers['etag']}"
        again = await get(service, path, *headers, known)
        (web / "index.html").write_bytes(b"another page")
        (web / "client.js").write_bytes(b"another client")
        (web / page.LIBRARIES["vendor/marked.js"]).write_bytes(b"another library")
        changed = await get(service, path, *headers, known)
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert_headers(again)
    assert (changed.status, changed.body[:8]) == (200, b"another ")


PRIVATE = [
    "/web/package.json",
    "/web/package-lock.json",
    "/web/Package.JSON",
    "/web/PACKAGE.json",
    "/web/./package.json",
    "/web//package.json",
    "/web/page/../package.json",
    "/web/page/%2e%2e/package.json",
    "/web/page%2f..%2fpackage.json",
    "/web/vendor/../package.json",
    "/web/vendor/marked.js/../../package.json",
    "/web/%70ackage.json",
    "/web/../web/package.json",
    "/web/%2e%2e/web/package.json",
    "/web/%2e%2e%2fweb%2fpackage.json",
    "/web/..%2fweb%2fnode_modules%2fmarked%2fpackage.json",
    "/web/node_modules/marked/package.json",
    "/web/node_modules/marked/lib/marked.umd.js",
    "/web/node_modules/.package-lock.json",
    "/web/Node_Modules/marked.js",
    "/web/NODE_MODULES/marked/package.json",
    "/web/page/../node_modules/marked/package.json",
    "/web/vendor/../node_modules/marked/package.json",
    "/web/vendor/..%2f..%2fsecret.txt",
    "/web/../secret.txt",
    "/web/../../secret.txt",
    "/web/%2e%2e/secret.txt",
    "/web/%2E%2E%2Fsecret.txt",
    "/web/%252e%252e%252fsecret.txt",
    "/web/..%5csecret.txt",
    "/web/..\\secret.txt",
    "/web\\..\\secret.txt",
    "/web/....//secret.txt",
    "/web/..;/secret.txt",
    "/web/..%00/secret.txt",
    "/web/client.js%00",
    "/web/%c0%ae%c0%ae/secret.txt",
    "/web/page/../../secret.txt",
    "/web/../web-of-others/client.js",
    "/web/out.js",
    "/web/%2fetc/passwd",
    "/web//etc/passwd",
    "/web/" + "../" * 20 + "etc/passwd",
    "/web/" + "x" * 300,
    "/web/" + "x/" * 3000,
    "/web/vendor",
    "/web/vendor/other.js",
    "/web/page",
    "/web/",
    "/package.json",
    "/node_modules/marked/package.json",
]


async def test_nothing_else_can_be_read(web: Path) -> None:
    async with running() as service:
        for path in PRIVATE:
            for method in ("GET", "HEAD"):
                answer = await get(service, path, method=method)
                assert answer.status in (400, 404), (path, answer)
                assert SECRET not in answer.body, path
                assert b"root:" not in answer.body, path


async def test_a_library_has_one_address(web: Path) -> None:
    async with running() as service:
        for path in page.LIBRARIES.values():
            assert (await get(service, f"/web/{path}")).status == 404
            assert (await get(service, f"/web/../web/{path}")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(web: Path, method: str) -> None:
    async with running() as service:
        for path in ("/web/client.js", "/web/new.js", "/web/vendor/marked.js"):
            assert (await get(service, path, method=method)).status == 405
    assert (web / "client.js").read_bytes() == FILES["client.js"]
    assert not (web / "new.js").exists()


async def test_a_proxy_may_serve_it_below_another_path(
    web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with below("/chat", monkeypatch) as service:
        for path, content in (
            ("/", FILES["index.html"]),
            ("/web/client.js", FILES["client.js"]),
            ("/web/vendor/dompurify.js", FILES[page.LIBRARIES["vendor/dompurify.js"]]),
        ):
            answer = await get(service, path, BROWSER)
            assert (answer.status, answer.body) == (200, content), path
        assert (await get(service, "/web/package.json")).status == 404


# The page itself.


def directives() -> dict[str, list[str]]:
    """Return the page's policy."""
    parts = (part.split() for part in page.HEADERS["Content-Security-Policy"].split("; "))
    return {name: sources for name, *sources in parts}


def test_the_policy_lets_the_page_load_and_run_only_what_is_served_here() -> None:
    policy = directives()
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["img-src"] == ["'self'", "data:"]
    for nowhere in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[nowhere] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]
    assert policy["trusted-types"] == ["dompurify"]
    sources = {source for allowed in policy.values() for source in allowed}
    assert sources <= {"'none'", "'self'", "data:", "'script'", "dompurify"}


class Markup(HTMLParser):
    """What the page refers to, and what a policy without `unsafe-inline` would not let it do."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element refers to and what it would run."""
        given = dict(attrs)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        addresses = [given.get("src"), given.get("href"), given.get("action")]
        self.addresses += [address for address in addresses if address]


async def test_all_that_the_page_refers_to_is_there_and_relative_and_nothing_is_inline() -> None:
    markup = Markup()
    markup.feed((page.WEB / "index.html").read_text(encoding="utf-8"))
    assert markup.inline == []
    async with running() as service:
        for address in markup.addresses:
            if address.startswith(("#", "data:image/")):
                continue
            assert not re.match(r"/|[a-z]+:", address), address
            answer = await get(service, f"/{address}")
            assert answer.status == 200 or address.startswith("web/vendor/"), address


async def test_all_modules_of_the_page_are_there_and_refer_to_each_other_by_relative_paths() -> (
    None
):
    modules = [*page.WEB.glob("*.js"), *(page.WEB / "page").rglob("*.js")]
    assert modules
    for module in modules:
        code = module.read_text(encoding="utf-8")
        for name in re.findall(r"""^(?:import|export)\b[^;]*?from '([^']+)';""", code, re.M | re.S):
            assert name.startswith("."), (module.name, name)
            found = (module.parent / name).resolve()
            inside = found.relative_to(page.WEB).as_posix()
            assert found.is_file() or inside in page.LIBRARIES, (module.name, name)
