"""Full text search over titles and over what user and assistant said.

A text is cut into words here, by the rule of the index: letters and digits make a word, all else
parts words. Only words get into the query, each quoted, so that no text is a query of its own.

The index yields candidates; the owner is compared with the rows themselves. The index knows the
owner, too, so that the candidates are the owner's only. It is asked first, once, whatever the
database thinks of other ways: these take seconds where there are many conversations, as each row is
then asked for its words. Snippets are cut from the text here, so they are alike on both databases.

The index is of no use for scripts that write no spaces between words, as one entry of it is a
whole clause there, nor for symbols such as emoji, which are in no word. These are *parts*: they
are looked for anywhere in a text, each by itself, in an owner's newest `SCANNED` messages and
titles only, or the newest with the words that are wanted besides. Reading these takes 30 to 50 ms
where messages are short; what is older is not found.

What the databases do differently: SQLite takes no notice of accents, PostgreSQL's `simple` does
and folds the case of the letters that the database's locale knows.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY

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

_Conditions: TypeAlias = list[sa.ColumnElement[bool]]
_Ways: TypeAlias = tuple[
    tuple[sa.FromClause, sa.ColumnElement[int], _Conditions], tuple[sa.FromClause, _Conditions]
]
"""Which messages are looked at, what they are sorted by, and which are found; the same of titles,
which are sorted by time."""

_is_listed = conversations.c.ephemeral == sa.false()
_COUNT = sa.bindparam("count", type_=sa.Integer())
_SCANNED = sa.bindparam("scanned", type_=sa.Integer())
_QUERY = sa.bindparam("query", type_=sa.Text())
_OWNER = sa.bindparam("owner", type_=sa.Text())

_is_said = messages.c.role.in_([sa.literal_column("'user'"), sa.literal_column("'assistant'")])
_last_changed = (
    sa.select(conversations)
    .where(of_owner(conversations), _is_listed)
    .order_by(conversations.c.updated_at.desc())
    .limit(_SCANNED)
)

_INDEX_ONLY = sa.text("SELECT set_config('enable_seqscan', 'off', true)")
"""A word that is in many rows is no reason for PostgreSQL to read all rows, and cut each of them
into words."""

_CONTENT_SQLITE = "json_extract(messages.message, '$.content')"
_CONTENT_POSTGRES = "left(CAST(messages.message AS json) ->> 'content', 100000)"


def _of_messages(
    said: sa.FromClause, seq: sa.ColumnElement[int], conditions: _Conditions
) -> sa.Select[Any]:
    """Find messages; `said` are all of them or some, `seq` is what they are sorted by."""
    c = said.c
    return (
        sa.select(
            c.conversation_id,
            conversations.c.title,
            c.id.label("message_id"),
            c.role,
            c.message,
            c.created_at,
        )
        .where(of_owner(said), in_its_conversation(said), _is_listed, *conditions)
        .order_by(seq.desc())
        .limit(_COUNT)
    )


def _of_titles(titles: sa.FromClause, conditions: _Conditions) -> sa.Select[Any]:
    """Find titles; `titles` are all conversations or some."""
    c = titles.c
    return (
        sa.select(
            c.id.label("conversation_id"),
            c.title,
            sa.null().label("message_id"),
            sa.null().label("role"),
            sa.null().label("message"),
            c.updated_at.label("created_at"),
        )
        .where(of_owner(titles), c.ephemeral == sa.false(), *conditions)
        .order_by(c.updated_at.desc())
        .limit(_COUNT)
    )


def _newest(found: sa.Select[Any], seq: sa.ColumnElement[int]) -> sa.Select[Any]:
    return found.order_by(seq.desc()).limit(_SCANNED)


def _oldest_of(newest: sa.Select[Any]) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.min(newest.subquery().c.seq)).scalar_subquery()


def _in_fts(name: str, table: sa.Table) -> tuple[sa.ColumnElement[int], _Conditions]:
    """Return the rows' number in an FTS5 table, and what finds them there.

    `+ 0` keeps SQLite from asking FTS5 for each row of the other table, which takes seconds.
    """
    rowid = sa.table(name, sa.column("rowid")).c.rowid
    is_found = sa.literal_column(name).op("MATCH")(_QUERY)
    return rowid, [table.c.seq == rowid + sa.literal_column("0"), is_found]


def _in_gin(query: sa.ColumnElement[Any], table: sa.Table, text: str) -> sa.Select[Any]:
    """Find rows by a GIN index, with the very expressions that it is made of.

    `OFFSET` keeps PostgreSQL from going through rows in another way, which takes seconds.
    """
    words = rf"regexp_replace({text}, '[!-/:-@\[-`{{-~]+', ' ', 'g')"
    owner = f"':' || {table.name}.tenant || ':' || {table.name}.user_id"
    vector = f"(to_tsvector('simple', {words}) || array_to_tsvector(ARRAY[{owner}]))"
    is_found = sa.literal_column(vector).op("@@", return_type=sa.Boolean())(query)
    return sa.select(table).where(is_found).offset(0)


def _on_sqlite(has_words: bool, has_parts: bool) -> _Ways:
    rowid, conditions = _in_fts("messages_search", messages)
    if has_parts:
        newest = _newest(sa.select(rowid.label("seq")).where(conditions[-1]), rowid)
        conditions = [*conditions, rowid >= _oldest_of(newest)]
    of_titles = _in_fts("conversations_search", conversations)[1] if has_words else []
    return (messages, rowid, conditions), (conversations, of_titles)


def _on_postgres(has_words: bool, has_parts: bool) -> _Ways:
    """Return the same; of messages with words, no more than the newest `SCANNED`."""
    seq = messages.c.seq
    newest = _newest(sa.select(messages).where(of_owner(messages), _is_said), seq)
    if not has_words:
        found = newest.subquery("messages")
        return (found, found.c.seq, []), (conversations, [])
    words = sa.func.to_tsquery(sa.literal_column("'simple'"), _QUERY)
    query: sa.ColumnElement[Any] = sa.cast(_OWNER, TSQUERY).op("&&")(words)
    in_titles = _in_gin(query, conversations, "conversations.title")
    titles = in_titles.where(conversations.c.title.is_not(None)).subquery("titles")
    with_words = _in_gin(query, messages, _CONTENT_POSTGRES).where(_is_said)
    if has_parts:
        found = with_words.where(seq >= _oldest_of(newest)).subquery("messages")
        return (found, found.c.seq, []), (titles, [])
    candidates = with_words.subquery()
    found = _newest(sa.select(candidates.c.seq), candidates.c.seq).subquery("found")
    return (messages, found.c.seq, [seq == found.c.seq]), (titles, [])


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
    if not on_sqlite:
        db.execute(_INDEX_ONLY)
    values: dict[str, Any] = {"of_tenant": caller.tenant, "of_user": caller.user}
    values |= {"count": limit, "scanned": SCANNED}
    values |= {f"part_{at}": f"%{part}%" for at, part in enumerate(wanted.parts)}
    values |= _fts_query(caller, wanted.words) if on_sqlite else _ts_query(caller, wanted.words)
    statements = _statements(on_sqlite, bool(wanted.words), len(wanted.parts))
    rows: list[sa.Row[Any]] = [row for each in statements for row in db.execute(each, values)]
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
    ways = _on_sqlite if on_sqlite else _on_postgres
    (said, seq, in_said), (titles, in_titles) = ways(has_words, parts > 0)
    if parts and has_words:
        in_titles = [*in_titles, titles.c.seq.in_(sa.select(_last_changed.subquery().c.seq))]
    elif parts:
        titles = _last_changed.subquery("titles")
    for part in (sa.bindparam(f"part_{at}", type_=sa.Text()) for at in range(parts)):
        in_said = [*in_said, _holds(on_sqlite, said, part)]
        in_titles = [*in_titles, _like(on_sqlite, titles.c.title, part)]
    return _of_messages(said, seq, in_said), _of_titles(titles, in_titles)


def _holds(
    on_sqlite: bool, said: sa.FromClause, part: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    """Look into a message; its JSON, which has no other way to write a part, is looked at first."""
    raw = sa.type_coerce(said.c.message, sa.Text())
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


def _fts_query(caller: Caller, words: Sequence[str]) -> dict[str, str]:
    """Return a query of FTS5 (sqlite.org/fts5.html, 3: Full-text Query Syntax)."""
    token = f"{caller.tenant.encode().hex()}x{caller.user.encode().hex()}"
    terms = " AND ".join(f'"{word}"' for word in words)
    said = f" AND words : ({terms} *)" if words else ""
    return {"query": f'owner : "{token}"{said}'}


def _ts_query(caller: Caller, words: Sequence[str]) -> dict[str, str]:
    """Return an owner as a `tsquery`, and words for `to_tsquery` (PostgreSQL's manual, 12.3.2)."""
    token = f":{caller.tenant}:{caller.user}".replace("\\", "\\\\").replace("'", "''")
    terms = " & ".join(f"'{word}'" for word in words)
    return {"owner": f"'{token}'"} | ({"query": f"{terms}:*"} if words else {})


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
