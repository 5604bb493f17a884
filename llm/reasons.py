"""What a provider says for itself when it refuses: one readable text, whatever shape it came in.

Servers and the gateways before them put it under different names, wrap each other's errors, as
JSON or as text that holds JSON, or answer with a web page. The names were found in the error
references of OpenAI, Google, Mistral, Databricks, OpenRouter (`metadata.raw`), FastAPI
(`detail`) and Cloudflare (`errors`).
"""

import html
import re
from collections.abc import Iterator
from typing import Any

import msgspec

MAX_REASON = 500
"""How many characters of a reason are kept."""

_MAX_READ = 65_536
_MAX_PAGE = 4_096
_MAX_DEPTH = 8
_LONG_SECRET = 12
_NAMES = (
    "metadata",
    "raw",
    "external_model_message",
    "message",
    "Message",
    "detail",
    "error",
    "errors",
    "msg",
    "error_message",
    "error_msg",
    "reason",
    "title",
    "description",
)
"""Where a reason is looked for, the most telling place first."""

_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|h1|center|title|\?xml)\b", re.IGNORECASE)
_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_REPORT = re.compile(r"\s*(?:-{4,}|Traceback \()")

_HIDDEN = "[redacted]"
# Known beginnings of keys, and what follows "Bearer".
_KEY = re.compile(
    r"\b(?:sk|pk|rk|flp|gsk)[-_][\w*.-]{4,}|\b(?:xai|csk|nvapi|pplx|hf|r8|fw)[-_][\w*.-]{16,}"
    r"|\bdapi[0-9a-f]{16,}|\bAIza[\w*-]{8,}|\beyJ[\w-]{8,}\.[\w.-]+"
    r"|\bBearer\s+(?!(?:token|auth)\w*\b)\S+",
    re.IGNORECASE,
)
_LONG = re.compile(r"[\w-]{32,}")
_MAX_WORD = 24
_ID = re.compile(r"(?:call|req|request|chatcmpl|cmpl|msg|resp|toolu|fc|gen|run)[-_]")
_NO_KEY = re.compile(
    r"|(?:sk[-_])?(?:none|null|empty|ollama|lm[-_]?studio|llama(?:[-_.]?cpp)?|vllm|local(?:host)?"
    r"|dummy|fake|test(?:ing)?|foo|bar|x+|(?:no[-_]?)?(?:api[-_]?)?key(?:[-_]required)?|token|secret"
    r"|not?[-_]?(?:needed|required|used)|unused|anything|whatever|placeholder|default|openai|1234)",
    re.IGNORECASE,
)
"""What people give a local server that wants some key."""


def reason_of(body: Any) -> str:
    """Return what an error says, in one line; empty where it says nothing. It may hold secrets.

    `body`: JSON as it was decoded, or text.
    """
    return " ".join(next(_reasons(body, _MAX_DEPTH), "").split())


def without_keys(text: str, secret: str) -> str:
    """Return a text without the credential `secret` and without what looks like one."""
    dummy = secret if _NO_KEY.fullmatch(secret) else ""
    if secret and not dummy:
        plain = re.escape(secret)
        # A short one may be a part of other words.
        is_long = len(secret) >= _LONG_SECRET
        text = re.sub(plain if is_long else rf"(?<!\w){plain}(?!\w)", _HIDDEN, text)
    text = _KEY.sub(
        lambda found: found[0] if dummy and found[0].split(".")[0] == dummy else _HIDDEN, text
    )
    return _LONG.sub(lambda found: _HIDDEN if _is_opaque(found[0]) else found[0], text)


def _is_opaque(word: str) -> bool:
    """Tell a key from the name of a model, which has hyphens, and from a server's ids."""
    parts = word.replace("_", "-").split("-")
    is_word = all(len(part) < _MAX_WORD or part.isalpha() for part in parts)
    return not is_word and _ID.match(word) is None


def _reasons(value: Any, depth: int) -> Iterator[str]:
    """Yield the texts that may be the reason, the most telling one first."""
    if isinstance(value, str):
        yield from _in_text(value[:_MAX_READ], depth)
    elif depth and isinstance(value, list):
        for each in value:
            yield from _reasons(each, depth - 1)
    elif depth and isinstance(value, dict):
        where = value.get("loc") or value.get("field")
        for name in _NAMES:
            for text in _reasons(value.get(name), depth - 1):
                yield f"{_place(where)}{text}"


def _place(where: Any) -> str:
    """Return the place of a fault, as pydantic and others tell it, to stand before its text."""
    parts = where if isinstance(where, list | tuple) else [where]
    words = ".".join(str(part) for part in parts if isinstance(part, str | int))
    return f"{words}: " if words else ""


def _in_text(text: str, depth: int) -> Iterator[str]:
    if depth and text.lstrip().startswith(("{", "[")):
        try:
            yield from _reasons(msgspec.json.decode(text), depth - 1)
        except (ValueError, RecursionError):
            pass
        else:
            return
    if _PAGE.match(text):
        text = _of_page(text)
    else:  # of a report on a template's refusal, or on a crash, the last line says why
        last = text.rstrip().rpartition("\n")[2]
        if _REPORT.match(text) or ("\n----" in text and last.startswith("Error: ")):
            text = last.removeprefix("Error: ")
    if text.strip():
        yield text


def _of_page(page: str) -> str:
    """Return what a web page says in its headings, or else in all."""
    page = _UNSEEN.sub(" ", page[:_MAX_PAGE])
    headings = dict.fromkeys(" ".join(found[1].split()) for found in _HEADING.findall(page))
    text = ". ".join(heading for heading in headings if heading) or page
    return html.unescape(_TAG.sub(" ", text))
