"""What is no longer kept. Each function is part of one transaction and deletes a bounded batch.

So that a large clean-up holds up nobody: other writers get their turn between two batches.

A condition on `updated_at` stands outside the subquery as well: PostgreSQL looks at it again when
it had to wait for a row, and a conversation that was just written in stays.
"""

from datetime import datetime

from sqlalchemy import Connection, Integer, bindparam, delete, exists, select, true

from storage.tables import Utc, conversations, in_its_conversation, runs

BATCH = 500
"""How many rows one transaction deletes."""

WITHIN = 5.0
"""Seconds of deleting at a time: who deletes has leases to renew, which are over after 30."""

_batch = bindparam("batch", type_=Integer())
_before = bindparam("before", type_=Utc())
_runs_here = in_its_conversation(runs)
_OLD_RUNS = delete(runs).where(
    runs.c.seq.in_(select(runs.c.seq).where(runs.c.finished_at < _before).limit(_batch))
)
_FORSAKEN = delete(conversations).where(
    conversations.c.updated_at < _before,
    conversations.c.seq.in_(
        select(conversations.c.seq)
        .where(
            conversations.c.ephemeral == true(),
            conversations.c.updated_at < _before,
            ~exists(select(runs.c.seq).where(_runs_here)),
        )
        .limit(_batch)
    ),
)
_OLD_CONVERSATIONS = delete(conversations).where(
    conversations.c.updated_at < _before,
    conversations.c.seq.in_(
        select(conversations.c.seq)
        .where(
            conversations.c.updated_at < _before,
            ~exists(select(runs.c.seq).where(_runs_here, runs.c.finished_at.is_(None))),
        )
        .limit(_batch)
    ),
)


def old_runs(db: Connection, before: datetime) -> int:
    """Delete runs that finished before a time; return how many."""
    return db.execute(_OLD_RUNS, {"before": before, "batch": BATCH}).rowcount


def forsaken(db: Connection, before: datetime) -> int:
    """Delete ephemeral conversations whose runs, all ended before a time, are gone."""
    return db.execute(_FORSAKEN, {"before": before, "batch": BATCH}).rowcount


def old_conversations(db: Connection, before: datetime) -> int:
    """Delete conversations last updated before a time, without a run under way."""
    return db.execute(_OLD_CONVERSATIONS, {"before": before, "batch": BATCH}).rowcount
