"""What a research found, and the end of the report that the service itself writes.

What is the service's own is never the model's: the numbers of the sources, their addresses and
their list come from the results of the searches, and where there is no result, no model is asked
to write about it (`Found.apology`). Everything that comes from a page is data: an address is http
or https with nothing in it that Markdown reads, a title is one line and escaped.

So the end of a report can be read back from its text (`read_report`), however late and wherever
the text comes from: it is what stands after the last heading of its name.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from messages import AssistantMessage, Message, ToolMessage, UserMessage

_TITLE_CHARS = 200
_QUERY_CHARS = 400
_WHY_CHARS = 1000

_SOURCES = "## Sources"
_FOLLOW_UP = "## Follow-up questions"
_NO_SOURCES = "The results of the searches name no pages."

_INVISIBLE_CHARS = r"\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff"
_INVISIBLE = re.compile(f"[{_INVISIBLE_CHARS}]")
_UNFIT = re.compile(rf"[\s\"<>\\^`{{|}}(){_INVISIBLE_CHARS}]")
_MARKS = re.compile(r"[\\`*_\[\]<>&~|$]")
_ITEM = re.compile(r"\d+\. (.+)")
_LINK = re.compile(r"\[((?:[^\\\[\]]|\\.)*)\]\((https?://[^\s()]+)\)", re.IGNORECASE)


class Source(NamedTuple):
    """A page that a search found: its title as plain text, its http or https address."""

    title: str
    url: str


class Report(NamedTuple):
    """What a report's text says besides its body. `summary`: its first paragraph."""

    summary: str
    sources: list[Source]
    follow_up_questions: list[str]


def line_of(text: str, limit: int) -> str:
    """Return `text` as one line of at most `limit` characters, all of which can be seen."""
    return _INVISIBLE.sub("", " ".join(text.split()))[:limit].strip()


class Found:
    """The results of the searches after the last message of the user.

    `sources` are their pages, each once. `numbered` are the messages with the number of its
    source beside each page, and without pages whose address is unfit.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.sources: list[Source] = []
        self.results: list[ToolMessage] = []
        self.is_nothing = True
        self._numbers: dict[str, int] = {}
        start = max(
            (at for at, each in enumerate(messages) if isinstance(each, UserMessage)), default=0
        )
        self._calls = {
            call.id: call
            for each in messages[start:]
            if isinstance(each, AssistantMessage)
            for call in each.tool_calls
        }
        self.numbered = (*messages[:start], *map(self._read, messages[start:]))

    def _read(self, message: Message) -> Message:
        if not isinstance(message, ToolMessage):
            return message
        self.results.append(message)
        if message.is_error:
            return message
        found = _decoded(message.content)
        if found is None:  # a search of another kind: the model may make something of it
            self.is_nothing = self.is_nothing and not message.content.strip()
            return message
        pages = [*self._pages(found["results"])]
        self.is_nothing = self.is_nothing and not pages
        content = msgspec.json.encode(found | {"results": pages}).decode()
        return msgspec.structs.replace(message, content=content)

    def _pages(self, results: list[Any]) -> Iterator[dict[str, Any]]:
        for page in results:
            url = _address(page.get("url")) if isinstance(page, dict) else ""
            if not url:
                continue
            key = url.partition("#")[0]
            if key not in self._numbers:
                title = line_of(str(page.get("title") or ""), _TITLE_CHARS)
                self.sources.append(Source(title, url))
                self._numbers[key] = len(self.sources)
            yield {"number": 0} | page | {"number": self._numbers[key], "url": url}

    def apology(self) -> str:
        """Say that there is nothing to report, and why, in the words of the tools."""
        if all(result.is_error for result in self.results):
            lead = "The web could not be searched, so there is nothing that I could report."
        else:
            lead = "The searches found nothing that I could report."
        return "\n".join([lead, "", *map(self._why, self.results)])

    def _why(self, result: ToolMessage) -> str:
        call = self._calls.get(result.tool_call_id)
        asked = _query_of(call.arguments) if call else ""
        why = result.content.removeprefix("Error: ") if result.is_error else "Nothing was found."
        return f"- “{_escaped(asked)}”: {_escaped(line_of(why, _WHY_CHARS))}"


def _decoded(content: str) -> dict[str, Any] | None:
    """Return a result of `search_web`; None where it has another form."""
    try:
        value = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(value, dict) and isinstance(value.get("results"), list)
    return value if fits else None


def _query_of(arguments: str) -> str:
    try:
        value = msgspec.json.decode(arguments, type=dict[str, Any])
    except (ValueError, RecursionError):
        value = {}
    return line_of(str(value.get("query", "")), _QUERY_CHARS)


def _address(url: Any) -> str:
    """Return an http or https address without what Markdown reads, or "" where it is none."""
    if not isinstance(url, str):
        return ""
    address = _UNFIT.sub(lambda found: quote(found[0], safe="", errors="replace"), url.strip())
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return address if parts.scheme in ("http", "https") and parts.hostname else ""


def _escaped(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", text)


def ending(report: str, sources: Sequence[Source], questions: Sequence[str]) -> str:
    """Return what the service puts after a model's report."""
    links = [f"[{_escaped(each.title or each.url)}]({each.url})" for each in sources]
    parts = [_SOURCES, _numbered_list(links) or _NO_SOURCES]
    if questions:
        parts += [_FOLLOW_UP, _numbered_list(questions)]
    return ("\n\n" if report else "") + "\n\n".join(parts)


def _numbered_list(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def read_report(text: str) -> Report:
    """Return what a report says besides its body, read from its text.

    Only of a whole report: what a model said until it was cut off may look like an end.
    """
    before, questions = _read_list(text, _FOLLOW_UP)
    body, lines = _read_list(before, _SOURCES)
    links = [_LINK.fullmatch(line) for line in lines]
    sources = [Source(re.sub(r"\\(.)", r"\1", link[1]), link[2]) for link in links if link]
    paragraphs = [part.strip() for part in body.split("\n\n")]
    summary = next((part for part in paragraphs if part and not part.startswith("#")), "")
    return Report(summary, sources, questions)


def _read_list(text: str, heading: str) -> tuple[str, list[str]]:
    """Part a text at the last such heading, where a list and nothing else follows it."""
    before, found, after = text.rpartition(f"{heading}\n\n")
    items = [_ITEM.fullmatch(line) for line in after.rstrip("\n").split("\n")]
    if not found or (before and not before.endswith("\n")) or not all(items):
        return text, []
    return before, [item[1] for item in items if item]
