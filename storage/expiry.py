"""What is no longer kept. Each function is part of one transaction and deletes a bounded batch.

So that a large clean-up holds up nobody: other writers get their turn between two batches.

A condition on `updated_at` stands outside the subquery as well: PostgreSQL looks at it again when
it had to wait for a row, and a conversation that was just written in stays.
"""

from datetime import datetime

import sqlalchemy as sa

from storage.tables import Utc, conversations, in_its_conversation, runs

BATCH = 500
"""How many rows one transaction deletes."""

WITHIN = 5.0
"""Seconds of deleting at a time: who deletes has leases to renew, which are over after 30."""

_batch = sa.bindparam("batch", type_=sa.Integer())
_before = sa.bindparam("before", type_=Utc())
_runs_here = in_its_conversation(runs)
_OLD_RUNS = sa.delete(runs).where(
    runs.c.seq.in_(sa.select(runs.c.seq).where(runs.c.finished_at < _before).limit(_batch))
)


def _delete_conversations(*conditions: sa.ColumnElement[bool]) -> sa.Delete:
    is_old = conversations.c.updated_at < _before
    found = sa.select(conversations.c.seq).where(is_old, *conditions).limit(_batch)
    return sa.delete(conversations).where(is_old, conversations.c.seq.in_(found))


_FORSAKEN = _delete_conversations(
    conversations.c.ephemeral == sa.true(), ~sa.exists(sa.select(runs.c.seq).where(_runs_here))
)
_OLD_CONVERSATIONS = _delete_conversations(
    ~sa.exists(sa.select(runs.c.seq).where(_runs_here, runs.c.finished_at.is_(None)))
)


def old_runs(db: sa.Connection, before: datetime) -> int:
    """Delete runs that finished before a time; return how many."""
    return db.execute(_OLD_RUNS, {"before": before, "batch": BATCH}).rowcount


def forsaken(db: sa.Connection, before: datetime) -> int:
    """Delete ephemeral conversations whose runs, all ended before a time, are gone."""
    return db.execute(_FORSAKEN, {"before": before, "batch": BATCH}).rowcount


def old_conversations(db: sa.Connection, before: datetime) -> int:
    """Delete conversations last updated before a time, without a run under way."""
    return db.execute(_OLD_CONVERSATIONS, {"before": before, "batch": BATCH}).rowcount
