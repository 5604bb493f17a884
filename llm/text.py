"""Text in which a character may be only half there.

JSON escapes a character outside the basic plane as a surrogate pair, `\\ud83d\\ude00`. Servers
split such a pair between two pieces, or send one half alone, and UTF-8 cannot carry that.
"""

import json
from typing import Any

import msgspec

from messages import clean_text

ANY_OBJECT = "Answer with one JSON object and nothing else."
"""Asks for JSON in words."""


def join_surrogates(text: str) -> str:
    """Return `text` with surrogate pairs joined; a lone surrogate becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_text(text: str) -> str:
    """Return `text` with surrogate pairs joined, and without NUL and lone surrogates."""
    return clean_text(join_surrogates(text))


def encode_json(body: dict[str, Any]) -> bytes:
    """Return a request's JSON, in which a lone surrogate has become U+FFFD."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        text = json.dumps(body, ensure_ascii=False, default=lambda raw: json.loads(bytes(raw)))
        return join_surrogates(text).encode()


def form_in_words(schema: dict[str, Any]) -> str:
    """Return what asks for JSON of a schema in words."""
    text = msgspec.json.encode(schema).decode()
    return f"Answer with one JSON object of this JSON Schema and nothing else:\n{text}"
