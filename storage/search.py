"""Full text search over titles and over what user and assistant said.

A text is cut into words here, by the rule of the index: letters and digits make a word, all else
parts words. Only words get into the query, each quoted, so that no text is a query of its own.

The index yields candidates; the owner is compared with the rows themselves. On SQLite the index
knows the owner, too, so that the candidates are the owner's only, and hands them out newest
first. Snippets are cut from the text here, so they are alike on both databases.

What the databases do differently: SQLite takes no notice of accents, PostgreSQL's `simple` does
and folds the case of the letters that the database's locale knows.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    column,
    false,
    func,
    literal_column,
    select,
    table,
)

from models import Owner
from storage import Hit
from storage.tables import conversations, messages

MAX_TEXT = 10_000
"""How many characters of a text are looked at."""

MAX_WORDS = 32
"""How many words of a text are searched for; more of them find nothing else in practice."""

MAX_WORD = 256
"""How many characters a word may have; PostgreSQL indexes no words beyond 2046 bytes."""

SNIPPET = 160
"""How many characters of a text a hit shows."""

_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*")
_SPACE = re.compile(r"\s+")

_own_messages = and_(
    messages.c.tenant == bindparam("of_tenant"),
    messages.c.user_id == bindparam("of_user"),
    conversations.c.tenant == messages.c.tenant,
    conversations.c.user_id == messages.c.user_id,
    conversations.c.id == messages.c.conversation_id,
    conversations.c.ephemeral == false(),
)
_own_titles = and_(
    conversations.c.tenant == bindparam("of_tenant"),
    conversations.c.user_id == bindparam("of_user"),
    conversations.c.ephemeral == false(),
)
_MESSAGES = (
    select(
        messages.c.conversation_id,
        conversations.c.title,
        messages.c.id.label("message_id"),
        messages.c.role,
        messages.c.message,
        messages.c.created_at,
    )
    .where(_own_messages)
    .limit(bindparam("count", type_=Integer()))
)
_TITLES = (
    select(conversations.c.id, conversations.c.title, conversations.c.updated_at)
    .where(_own_titles)
    .order_by(conversations.c.updated_at.desc())
    .limit(bindparam("count", type_=Integer()))
)


_FTS_QUERY = bindparam("query", type_=Text())
_TS_QUERY = func.to_tsquery(literal_column("'simple'"), _FTS_QUERY)


def _in_fts(statement: Select[Any], name: str, seq: Column[Any]) -> Select[Any]:
    """Find rows by an FTS5 table; it is asked first."""
    index = table(name, column("rowid"))
    match = literal_column(name).op("MATCH")(_FTS_QUERY)
    return statement.where(index.c.rowid == seq, match)


def _in_gin(statement: Select[Any], text: str, has: str) -> Select[Any]:
    """Find rows by a GIN index, with the very expressions that it is made of."""
    words = rf"regexp_replace({text}, '[!-/:-@\[-`{{-~]+', ' ', 'g')"
    vector: ColumnElement[Any] = literal_column(f"to_tsvector('simple', {words})")
    return statement.where(vector.op("@@")(_TS_QUERY), literal_column(has))


_ON_SQLITE = (
    _in_fts(_MESSAGES, "messages_search", messages.c.seq).order_by(
        literal_column("messages_search.rowid").desc()
    ),
    _in_fts(_TITLES, "conversations_search", conversations.c.seq),
)
_ON_POSTGRES = (
    _in_gin(
        _MESSAGES,
        "left(CAST(messages.message AS json) ->> 'content', 100000)",
        "messages.role IN ('user', 'assistant')",
    ).order_by(messages.c.seq.desc()),
    _in_gin(_TITLES, "conversations.title", "conversations.title IS NOT NULL"),
)


def find(db: Connection, owner: Owner, text: str, limit: int) -> list[Hit]:
    """Return where all words of a text occur, newest first."""
    words = _WORD.findall(unicodedata.normalize("NFC", text[:MAX_TEXT]))[:MAX_WORDS]
    if not words or any(len(word) > MAX_WORD for word in words):
        return []
    values: dict[str, Any] = {"of_tenant": owner.tenant, "of_user": owner.user, "count": limit}
    if db.dialect.name == "sqlite":
        in_messages, in_titles = _ON_SQLITE
        values["query"] = _fts_query(owner, words)
    else:
        in_messages, in_titles = _ON_POSTGRES
        values["query"] = _ts_query(words)
    hits = [
        Hit(
            conversation_id=row.conversation_id,
            title=row.title,
            message_id=row.message_id,
            role=row.role,
            snippet=snippet(row.message.content, words),
            created_at=row.created_at,
        )
        for row in db.execute(in_messages, values)
    ]
    hits += [
        Hit(
            conversation_id=row.id,
            title=row.title,
            message_id=None,
            role=None,
            snippet=snippet(row.title, words),
            created_at=row.updated_at,
        )
        for row in db.execute(in_titles, values)
    ]
    return sorted(hits, key=lambda hit: hit.created_at, reverse=True)[:limit]


def _fts_query(owner: Owner, words: list[str]) -> str:
    """Return a query of FTS5 (sqlite.org/fts5.html, 3: Full-text Query Syntax)."""
    token = f"{owner.tenant.encode().hex()}x{owner.user.encode().hex()}"
    terms = " AND ".join(f'"{word}"' for word in words)
    return f'owner : "{token}" AND words : ({terms} *)'


def _ts_query(words: list[str]) -> str:
    """Return a query for `to_tsquery` (PostgreSQL's manual, 12.3.2)."""
    return " & ".join(f"'{word}'" for word in words) + ":*"


def snippet(text: str, words: list[str]) -> str:
    """Return about `SNIPPET` characters of a text around the first of the words in it."""
    pattern = re.compile("|".join(rf"(?<![^\W_]){re.escape(word)}" for word in words), re.I)
    match = pattern.search(text) or pattern.search("".join(map(_base, text)))
    at = match.start() if match else 0
    start = max(0, min(at - SNIPPET // 3, len(text) - SNIPPET))
    end = start + SNIPPET
    cut = _SPACE.sub(" ", text[start:end]).strip()
    return f"{'…' * (start > 0)}{cut}{'…' * (end < len(text))}"


@lru_cache(4096)
def _base(character: str) -> str:
    """Return a letter without its accents; always one character."""
    return unicodedata.normalize("NFD", character)[0]
