"""A web search, through the search engines that ddgs knows.

ddgs gives the engines: the address, the form, a browser's fingerprint and the reading of the
result page. Its own front, `DDGS.text`, is not used: it has no bound on the whole (every
engine may take its time-out after the other), and it says "No results found" also where every
engine refused. Here one engine is asked after the other until one has results, within one
deadline, and an empty list is returned only if an engine really answered with an empty page.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from errors import ToolError
from tools.tool import idempotent

if TYPE_CHECKING:
    from ddgs.base import BaseSearchEngine

MAX_CHARS = 400
MAX_RESULTS = 5
MAX_BODY = 2 * 1024 * 1024

_AUTO = "duckduckgo,brave,startpage,mojeek,yahoo,wikipedia"
_REDIRECT = "duckduckgo.com/l/?uddg="


class SearchResult(msgspec.Struct, frozen=True):
    """A page that was found. The texts are cut to 200 and 500 characters."""

    title: str
    url: str
    snippet: str


class SearchResults(msgspec.Struct, frozen=True):
    """What an engine found, best first, at most 5; empty if there is nothing."""

    query: str
    engine: str
    results: tuple[SearchResult, ...]


class Search:
    """The tool and where it asks.

    Args:
        backend: names of ddgs' text engines, parted by commas, in the order in which to ask;
            "auto" for an order of this module's.
        url: the address to ask instead, in the manner of DuckDuckGo's HTML page; `backend` is
            then not used.
        timeout: seconds for the whole search; an engine's question gets half of what is left.
    """

    def __init__(
        self, backend: str = "auto", url: str | None = None, timeout: float = 10.0
    ) -> None:
        names = _AUTO if backend == "auto" else backend
        self._names = ["duckduckgo"] if url else [name.strip() for name in names.split(",")]
        self._url = url
        self._timeout = timeout

    @idempotent
    def search_web(self, query: str) -> SearchResults:
        """Search the web and return the titles, addresses and snippets of the best pages.

        Args:
            query: What to search for, as one would type it into a search engine.
        """
        query = " ".join(query.encode(errors="replace").decode().split())
        if not query or len(query) > MAX_CHARS:
            raise ToolError(f"A search query has between 1 and {MAX_CHARS} characters.")
        failures = []
        empty = None
        for engine in self._engines():
            try:
                found = _found(engine, query)
            except ToolError as error:
                failures.append(f"{engine.name} {error}")
                continue
            if found:
                return SearchResults(query, engine.name, found)
            empty = empty or SearchResults(query, engine.name, ())
        if empty:
            return empty
        raise ToolError(f"The web search failed: {'; '.join(failures) or 'no time was left'}.")

    def _engines(self) -> Iterator["BaseSearchEngine[Any]"]:
        """Yield the engines in order, each with its share of the time, until there is none."""
        from ddgs.engines import ENGINES

        deadline = time.monotonic() + self._timeout
        for name in self._names:
            if name not in ENGINES["text"]:
                known = ", ".join(sorted(ENGINES["text"]))
                raise ToolError(f"The search backend {name!r} is unknown. Known: {known}.")
            left = deadline - time.monotonic()
            if left < self._timeout / 20:
                return
            # Half of what is left, because an engine may ask twice.
            engine = ENGINES["text"][name](timeout=left / 2)  # type: ignore[arg-type]  # not int
            engine.http_client.client = _Bounded(engine.http_client.client)  # type: ignore[assignment]
            if self._url:
                engine.search_url = self._url
            yield engine


class _Page(NamedTuple):
    status_code: int
    content: bytes
    text: str


class _Bounded:
    """An engine's HTTP client that takes the first `MAX_BODY` bytes of a page and no more."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)  # some engines set cookies

    def request(self, *args: Any, **options: Any) -> _Page:
        body = bytearray()
        with self._client.request(*args, stream=True, **options) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) >= MAX_BODY:
                    break
            page = bytes(body[:MAX_BODY])
            return _Page(response.status_code, page, page.decode(errors="replace"))


def _found(engine: "BaseSearchEngine[Any]", query: str) -> tuple[SearchResult, ...]:
    """Ask one engine; an error's text is a predicate, for the engine's name before it."""
    from ddgs.exceptions import DDGSException, TimeoutException

    try:
        found = engine.search(query)
    except TimeoutException:
        raise ToolError("did not answer in time") from None
    except DDGSException:
        raise ToolError("could not be reached") from None
    except Exception:  # noqa: BLE001  # lxml, json and each engine's own code, on any page
        raise ToolError("sent a page that cannot be read") from None
    if found is None:
        raise ToolError("refused the request")
    results = (
        SearchResult(result.title[:200], _address(result.href), result.body[:500])
        for result in found
    )
    usable = [result for result in results if result.url]
    return tuple(usable[:MAX_RESULTS])


def _address(href: str) -> str:
    """Return the page's own address, or "" for one that is none or longer than 2,000."""
    if _REDIRECT in href:
        href = href.partition(_REDIRECT)[2].rpartition("&rut=")[0] or href
    return href if href.startswith(("https://", "http://")) and len(href) <= 2000 else ""
