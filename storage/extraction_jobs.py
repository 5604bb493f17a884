"""What is to be learned from exchanges: a queue. Each is part of a transaction of `Store`.

A job is put in by the transaction that ends its run. Who takes one holds it for a while, by the
database's clock; a process that ended meanwhile has it taken by another, and where there is one
process at a time, at once. So a job may be taken twice, and to do it twice must do no harm.
"""

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from caller import Caller
from messages import Message
from storage import ExtractionJob, StoredRun
from storage.tables import extraction_jobs as jobs
from storage.tables import of_owner, seconds_from_now

logger = logging.getLogger("parley.storage")

HELD = 300.0
"""Seconds for which a job belongs to who has taken it: longer than it takes."""

PAUSE = 30.0
"""Seconds after which a job that could not be done is taken again."""

_ADD = sa.insert(jobs).inline().values(attempts=0, instance=None, lease_until=seconds_from_now(0.0))
_next = (
    sa.select(jobs.c.seq)
    .where(
        sa.or_(
            jobs.c.lease_until <= seconds_from_now(0.0),
            sa.and_(
                sa.bindparam("alone", type_=sa.Boolean()), jobs.c.instance != sa.bindparam("me")
            ),
        )
    )
    .order_by(jobs.c.seq)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_TAKE = (
    sa.update(jobs)
    .where(jobs.c.seq == _next)
    .values(
        attempts=jobs.c.attempts + 1,
        instance=sa.bindparam("me"),
        lease_until=seconds_from_now(sa.bindparam("held", type_=sa.Float())),
    )
    .returning(
        jobs.c.seq, jobs.c.tenant, jobs.c.user_id, jobs.c.run_id, jobs.c.messages, jobs.c.attempts
    )
)
_MINE = (jobs.c.seq == sa.bindparam("of_seq"), jobs.c.instance == sa.bindparam("me"))
_RETURN = (
    sa.update(jobs)
    .where(*_MINE)
    .values(instance=None, lease_until=seconds_from_now(sa.bindparam("pause", type_=sa.Float())))
)
_DROP = sa.delete(jobs).where(*_MINE)
_LAST_KEPT = (
    sa.select(jobs.c.seq)
    .order_by(jobs.c.seq.desc())
    .offset(sa.bindparam("capacity", type_=sa.Integer()))
    .limit(1)
    .scalar_subquery()
)
_TRIM = sa.delete(jobs).where(jobs.c.seq <= _LAST_KEPT)
_ADDING = 0x7061726C6A6F  # the key of an advisory lock
_ONE_ADDS = sa.text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_ADDING)
_FORGET = sa.delete(jobs).where(of_owner(jobs))
_COUNT = sa.select(sa.func.count()).select_from(jobs)
_OF_USER = _COUNT.where(of_owner(jobs))


def add(db: sa.Connection, run: StoredRun, messages: Sequence[Message], most: int) -> None:
    """Put a job in; the oldest ones beyond `most` go, those that are being done included."""
    row: dict[str, Any] = {
        "tenant": run.owner.tenant,
        "user_id": run.owner.user,
        "run_id": run.id,
        "messages": tuple(messages),
    }
    if db.dialect.name == "postgresql":
        db.execute(_ONE_ADDS)
    db.execute(_ADD, row)
    if dropped := db.execute(_TRIM, {"capacity": most}).rowcount:
        logger.warning("%d exchanges are not learned from: the queue was full", dropped)


def take(db: sa.Connection, me: str, alone: bool) -> ExtractionJob | None:
    row = db.execute(_TAKE, {"me": me, "held": HELD, "alone": alone}).one_or_none()
    if row is None:
        return None
    return ExtractionJob(
        seq=row.seq,
        owner=Caller(row.tenant, row.user_id),
        run_id=row.run_id,
        messages=row.messages,
        attempts=row.attempts,
    )


def give_back(db: sa.Connection, job: ExtractionJob, me: str) -> None:
    db.execute(_RETURN, {"of_seq": job.seq, "me": me, "pause": PAUSE})


def drop(db: sa.Connection, job: ExtractionJob, me: str) -> None:
    db.execute(_DROP, {"of_seq": job.seq, "me": me})


def forget(db: sa.Connection, caller: Caller) -> None:
    db.execute(_FORGET, {"of_tenant": caller.tenant, "of_user": caller.user})


def count(db: sa.Connection, caller: Caller | None) -> int:
    if caller is None:
        return db.execute(_COUNT).scalar_one()
    return db.execute(_OF_USER, {"of_tenant": caller.tenant, "of_user": caller.user}).scalar_one()
