"""A database with 100,000 conversations, made by itself: the rows are selected, not sent.

The user `ann` has them, one of them is long, and `ben` has some, too. Every text holds `common`,
half of them `odd` and the others `even`; each has a word of its own. Every fourth title is partly
in Japanese.
"""

import msgspec
from sqlalchemy import Connection, text

from tests.storage.support import a_run

CONVERSATIONS = 100_000
OTHERS = 10_000
"""Conversations of another user."""
TEMPORARY = 2_000
"""Ephemeral conversations, half of them without a run."""
LONG = 5_000
"""Messages more in the first conversation."""
UNFINISHED = 500
"""Runs of a service that is gone."""
JOBS = 10_000
"""What is to be learned, to the bound; none is due."""

_COUNTED = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})"

_SEARCHED = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE '%_search'",
}
_TAKEN_AWAY = {"sqlite": "DROP TRIGGER", "postgresql": "DROP INDEX"}
_TIME = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 1700000000 + {}, 'unixepoch')",
    "postgresql": "to_timestamp(1700000000 + {})",
}
_BYTES = {"sqlite": "x''", "postgresql": "CAST('' AS bytea)"}

_CONVERSATIONS = """
INSERT INTO conversations
    (tenant, user_id, id, title, metadata, ephemeral, created_at, updated_at, agent)
{counted}
SELECT 'acme', '{user}', '{prefix}' || CAST(1000000 + i AS text),
    'common title' || CAST(i AS text) || CASE i % 4 WHEN 1 THEN ' odd' WHEN 3 THEN ' odd 東京'
        ELSE ' even' END,
    '{{}}', {ephemeral}, {created}, {updated}, 'chat'
FROM n
"""
_MESSAGES = """
INSERT INTO messages
    (tenant, user_id, conversation_id, id, role, message, run_id, created_at)
SELECT c.tenant, c.user_id, c.id, 'msg_' || c.id || r.role, r.role,
    '{"role":"' || r.role || '","content":"common word' || CAST(c.seq AS text) || ' was said, '
    || CASE WHEN c.seq % 2 = 1 THEN 'odd' ELSE 'even' END || '"}', 'run_' || c.id, c.created_at
FROM conversations c, (SELECT 'user' AS role UNION ALL SELECT 'assistant') r
ORDER BY c.seq, r.role DESC
"""
_LONG = """
INSERT INTO messages
    (tenant, user_id, conversation_id, id, role, message, run_id, created_at)
{counted}
SELECT 'acme', 'ann', 'c1000001', 'msg_' || CAST(i AS text), 'user',
    '{{"role":"user","content":"common"}}', 'run_c1000001', {created} FROM n
"""
_RUNS = """
INSERT INTO runs (tenant, user_id, id, conversation_id, agent, request, start, status, epoch,
    created_at, finished_at, fingerprint, instance, lease_until, replaces, suspensions)
SELECT tenant, user_id, 'run_' || user_id || id, id, 'chat', '', :start, 'completed', 1, created_at,
    CASE WHEN seq <= {unfinished} THEN NULL ELSE created_at END, {bytes}, 'gone', created_at,
    false, 0
FROM conversations WHERE NOT ephemeral OR seq % 2 = 0
"""
_JOBS = """
INSERT INTO lessons (tenant, user_id, run_id, messages, attempts, lease_until)
{counted}
SELECT 'acme', CASE WHEN i % 2 = 1 THEN 'ann' ELSE 'ben' END, 'run', '[]', 0, {later} FROM n
"""
_VECTOR = {
    "sqlite": "CAST(randomblob(1024) AS blob)",
    "postgresql": "CAST('[' || CAST(i AS text) || repeat(',1', 255) || ']' AS vector)",
}
_MEMORIES = """
INSERT INTO {table} (id, owner, hash, payload, embedder, vector)
{counted}
SELECT '{user}' || CAST(i AS text), 'acme/{user}', CAST(i AS text),
    '{{"data":"common","hash":"","created_at":"2026-01-01T00:00:00Z"}}', 'wordllama', {vector}
FROM n
"""


_IN_FTS = """
INSERT INTO {name}_search (rowid, owner, words)
SELECT seq, hex(tenant) || 'x' || hex(user_id), {words} FROM {name}
"""


def fill(db: Connection) -> None:
    """Fill an empty database of the newest schema; the words are indexed afterwards."""
    kind = db.dialect.name
    searched = db.execute(text(_SEARCHED[kind])).all()
    for name, _ in searched:
        db.execute(text(f"{_TAKEN_AWAY[kind]} {name}"))
    _add_conversations(db, "ann", "c", CONVERSATIONS)
    _add_conversations(db, "ben", "c", OTHERS)
    _add_conversations(db, "ann", "e", TEMPORARY, ephemeral=True)
    db.exec_driver_sql(_MESSAGES)
    time, counted = _TIME[kind], _COUNTED.format(many=LONG)
    db.exec_driver_sql(_LONG.format(counted=counted, created=time.format("i")))
    start = msgspec.json.encode(a_run().start).decode()
    runs = _RUNS.format(unfinished=UNFINISHED, bytes=_BYTES[kind])
    db.execute(text(runs), {"start": start})
    jobs = _COUNTED.format(many=JOBS)
    db.exec_driver_sql(_JOBS.format(counted=jobs, later=time.format("3000000000")))
    if kind == "sqlite":
        content = "json_extract(message, '$.content')"
        db.exec_driver_sql(_IN_FTS.format(name="messages", words=content))
        db.exec_driver_sql(_IN_FTS.format(name="conversations", words="title"))
    for _, made in searched:
        db.exec_driver_sql(made)


def _add_conversations(
    db: Connection, user: str, prefix: str, many: int, ephemeral: bool = False
) -> None:
    """Add conversations whose last change is in another order than their making."""
    time = _TIME[db.dialect.name]
    values = {
        "counted": _COUNTED.format(many=many),
        "user": user,
        "prefix": prefix,
        "ephemeral": str(ephemeral).lower(),
        "created": time.format("i"),
        "updated": time.format(f"(CAST(i AS bigint) * 7919) % {many}"),
    }
    db.exec_driver_sql(_CONVERSATIONS.format(**values))


def fill_memories(db: Connection, table: str, most: int) -> None:
    """Give two users as many memories as they may have."""
    values = {"table": table, "vector": _VECTOR[db.dialect.name]}
    for user in ("ann", "ben"):
        counted = _COUNTED.format(many=most)
        db.exec_driver_sql(_MEMORIES.format(counted=counted, user=user, **values))
