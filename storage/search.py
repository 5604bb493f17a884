"""Full text search over titles and over what user and assistant said.

A text is cut into words here, by the rule of the index: letters and digits make a word, all else
parts words. Only words get into the query, each quoted, so that no text is a query of its own.

The index yields candidates; the owner is compared with the rows themselves. On SQLite the index
knows the owner, too, so that the candidates are the owner's only, and hands them out newest
first. Snippets are cut from the text here, so they are alike on both databases.

The index is of no use for scripts that write no spaces between words, as one entry of it is a
whole clause there, nor for symbols such as emoji, which are in no word. These are *parts*: they
are looked for anywhere in a text, each by itself, in an owner's newest `SCANNED` messages and
titles only. Reading these takes 30 to 50 ms where messages are short; what is older is not found.

What the databases do differently: SQLite takes no notice of accents, PostgreSQL's `simple` does
and folds the case of the letters that the database's locale knows.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from caller import Caller
from storage import Hit
from storage.tables import conversations, in_its_conversation, messages, of_owner

MAX_TEXT = 10_000
"""How many characters of a text are looked at."""

MAX_WORDS = 32
"""How many words of a text are searched for; more of them find nothing else in practice."""

MAX_WORD = 256
"""How many characters a word may have; PostgreSQL indexes no words beyond 2046 bytes."""

SCANNED = 10_000
"""In how many messages, and titles, of an owner parts are looked for."""

SNIPPET = 160
"""How many characters of a text a hit shows."""

_SOUGHT = 100_000
"""In how many characters of a text a snippet looks for the words."""

_UNFOLDED = 10_000
"""In how many characters of a text a snippet looks for words without their accents."""

_UNSPACED = (
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf"  # Myanmar, Khmer, Tai
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u312f\u31a0-\u31ff"  # radicals, kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"  # Han, halfwidth katakana
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # more kana, more Han
)
_WORD = re.compile(f"(?:[^\\W_]|[{_UNSPACED}])(?:[^\\W_]|[\u0300-\u036f{_UNSPACED}])*")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_SPACE = re.compile(r"\s+")

_is_listed = conversations.c.ephemeral == sa.false()
_MESSAGES: sa.Select[Any] = (
    sa.select(
        messages.c.conversation_id,
        conversations.c.title,
        messages.c.id.label("message_id"),
        messages.c.role,
        messages.c.message,
        messages.c.created_at,
    )
    .where(of_owner(messages), in_its_conversation(messages), _is_listed)
    .limit(sa.bindparam("count", type_=sa.Integer()))
)
_TITLES: sa.Select[Any] = (
    sa.select(
        conversations.c.id.label("conversation_id"),
        conversations.c.title,
        sa.null().label("message_id"),
        sa.null().label("role"),
        sa.null().label("message"),
        conversations.c.updated_at.label("created_at"),
    )
    .where(of_owner(conversations), _is_listed)
    .order_by(conversations.c.updated_at.desc())
    .limit(sa.bindparam("count", type_=sa.Integer()))
)

_SCANNED = sa.bindparam("scanned", type_=sa.Integer())
_newest = (
    sa.select(messages.c.seq)
    .where(of_owner(messages))
    .order_by(messages.c.seq.desc())
    .limit(_SCANNED)
    .subquery()
)
_last_changed = (
    sa.select(conversations.c.seq)
    .where(of_owner(conversations), _is_listed)
    .order_by(conversations.c.updated_at.desc())
    .limit(_SCANNED)
)

_FTS_QUERY = sa.bindparam("query", type_=sa.Text())
_TS_QUERY = sa.func.to_tsquery(sa.literal_column("'simple'"), _FTS_QUERY)


_CONTENT_SQLITE = "json_extract(messages.message, '$.content')"
_CONTENT_POSTGRES = "left(CAST(messages.message AS json) ->> 'content', 100000)"


def _in_fts(statement: sa.Select[Any], name: str, seq: sa.Column[Any]) -> sa.Select[Any]:
    """Find rows by an FTS5 table; it is asked first."""
    index = sa.table(name, sa.column("rowid"))
    match = sa.literal_column(name).op("MATCH")(_FTS_QUERY)
    return statement.where(index.c.rowid == seq, match)


def _in_gin(statement: sa.Select[Any], text: str, has: str) -> sa.Select[Any]:
    """Find rows by a GIN index, with the very expressions that it is made of."""
    words = rf"regexp_replace({text}, '[!-/:-@\[-`{{-~]+', ' ', 'g')"
    vector: sa.ColumnElement[Any] = sa.literal_column(f"to_tsvector('simple', {words})")
    return statement.where(vector.op("@@")(_TS_QUERY), sa.literal_column(has))


_ON_SQLITE = (
    _in_fts(_MESSAGES, "messages_search", messages.c.seq).order_by(
        sa.literal_column("messages_search.rowid").desc()
    ),
    _in_fts(_TITLES, "conversations_search", conversations.c.seq),
)
_ON_POSTGRES = (
    _in_gin(_MESSAGES, _CONTENT_POSTGRES, "messages.role IN ('user', 'assistant')").order_by(
        messages.c.seq.desc()
    ),
    _in_gin(_TITLES, "conversations.title", "conversations.title IS NOT NULL"),
)


class Wanted(NamedTuple):
    """What is searched for: `words` of the index, and `parts` that may stand anywhere."""

    words: tuple[str, ...]
    parts: tuple[str, ...]


def wanted_in(text: str) -> Wanted:
    """Return what a text asks for; nothing where a word is longer than the index can know."""
    text = unicodedata.normalize("NFC", text[:MAX_TEXT])
    found = dict.fromkeys(_WORD.findall(text))
    if any(len(word) > MAX_WORD for word in found):
        return Wanted((), ())
    words = [word for word in found if not _HAS_UNSPACED.search(word)]
    parts = [word for word in found if _HAS_UNSPACED.search(word)]
    parts += dict.fromkeys(mark for mark in text if unicodedata.category(mark) == "So")
    return Wanted(tuple(words[:MAX_WORDS]), tuple(parts[:MAX_WORDS]))


def find(db: sa.Connection, caller: Caller, wanted: Wanted, limit: int) -> list[sa.Row[Any]]:
    """Return the messages and titles in which all that is wanted occurs, newest first."""
    if not wanted.words and not wanted.parts:
        return []
    on_sqlite = db.dialect.name == "sqlite"
    values: dict[str, Any] = {"of_tenant": caller.tenant, "of_user": caller.user, "count": limit}
    if wanted.parts:
        values["scanned"] = SCANNED
    values |= {f"part_{at}": f"%{part}%" for at, part in enumerate(wanted.parts)}
    if wanted.words:
        values["query"] = _fts_query(caller, wanted.words) if on_sqlite else _ts_query(wanted.words)
    in_messages, in_titles = _statements(on_sqlite, bool(wanted.words), len(wanted.parts))
    rows: list[sa.Row[Any]] = [*db.execute(in_messages, values), *db.execute(in_titles, values)]
    rows.sort(key=lambda row: row.created_at, reverse=True)
    return rows[:limit]


def hits(rows: Sequence[sa.Row[Any]], wanted: Wanted) -> list[Hit]:
    """Return what is shown of them; it looks through long texts, so it belongs into a thread."""
    return [_hit(row, wanted) for row in rows]


def _hit(row: sa.Row[Any], wanted: Wanted) -> Hit:
    text = row.title if row.message is None else row.message.content
    return Hit(
        conversation_id=row.conversation_id,
        title=row.title,
        message_id=row.message_id,
        role=row.role,
        snippet=snippet(text, wanted),
        created_at=row.created_at,
    )


@lru_cache
def _statements(
    on_sqlite: bool, has_words: bool, parts: int
) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return how messages and titles are found by words of the index, or parts, or both."""
    if has_words:
        in_messages, in_titles = _ON_SQLITE if on_sqlite else _ON_POSTGRES
    else:
        in_messages, in_titles = _MESSAGES.order_by(messages.c.seq.desc()), _TITLES
        in_messages = in_messages.where(messages.c.role.in_(("user", "assistant")))
    if parts:
        oldest = sa.select(sa.func.min(_newest.c.seq)).scalar_subquery()
        in_messages = in_messages.where(messages.c.seq >= oldest)
        in_titles = in_titles.where(conversations.c.seq.in_(_last_changed))
    for part in (sa.bindparam(f"part_{at}", type_=sa.Text()) for at in range(parts)):
        in_messages = in_messages.where(_holds(on_sqlite, part))
        in_titles = in_titles.where(_like(on_sqlite, conversations.c.title, part))
    return in_messages, in_titles


def _holds(on_sqlite: bool, part: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Look into a message; its JSON, which has no other way to write a part, is looked at first."""
    raw = sa.type_coerce(messages.c.message, sa.Text())
    content: sa.ColumnElement[str] = sa.literal_column(
        _CONTENT_SQLITE if on_sqlite else _CONTENT_POSTGRES
    )
    is_there = _like(on_sqlite, raw, part)
    return sa.case((is_there, _like(on_sqlite, content, part)), else_=sa.false())


def _like(
    on_sqlite: bool, text: sa.ColumnElement[Any], part: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    """Tell whether a text holds a part, whatever the case of its Latin letters."""
    return text.like(part) if on_sqlite else text.ilike(part)


def _fts_query(caller: Caller, words: Sequence[str]) -> str:
    """Return a query of FTS5 (sqlite.org/fts5.html, 3: Full-text Query Syntax)."""
    token = f"{caller.tenant.encode().hex()}x{caller.user.encode().hex()}"
    terms = " AND ".join(f'"{word}"' for word in words)
    return f'owner : "{token}" AND words : ({terms} *)'


def _ts_query(words: Sequence[str]) -> str:
    """Return a query for `to_tsquery` (PostgreSQL's manual, 12.3.2)."""
    return " & ".join(f"'{word}'" for word in words) + ":*"


def snippet(text: str, wanted: Wanted) -> str:
    """Return about `SNIPPET` characters of a text around the first of what is wanted in it."""
    pattern = _pattern(wanted)
    match = pattern.search(text, 0, _SOUGHT) or pattern.search(
        "".join(map(_base, text[:_UNFOLDED]))
    )
    at = match.start() if match else 0
    start = max(0, min(at - SNIPPET // 3, len(text) - SNIPPET))
    end = start + SNIPPET
    cut = _SPACE.sub(" ", text[start:end]).strip()
    return f"{'…' * (start > 0)}{cut}{'…' * (end < len(text))}"


@lru_cache
def _pattern(wanted: Wanted) -> re.Pattern[str]:
    """Match any of what is wanted; a word where one begins."""
    ways = [re.escape(part) for part in wanted.parts]
    if words := {word.casefold(): word for word in wanted.words}.values():
        ways.append(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, words))})")
    return re.compile("|".join(ways), re.IGNORECASE)


@lru_cache(4096)
def _base(character: str) -> str:
    """Return a letter without its accents; always one character."""
    return unicodedata.normalize("NFD", character)[0]
