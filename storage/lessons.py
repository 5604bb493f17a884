"""What is to be learned from exchanges: a queue. Each function is part of one transaction.

A lesson is put in by the transaction that ends its run. Who takes one holds it for a while, by the
database's clock; a process that ended meanwhile has it taken by another, and where there is one
process at a time, at once. So a lesson may be taken twice, and learning from it twice must do no
harm.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from caller import Caller
from messages import Message
from storage import Lesson, StoredRun
from storage.runs import seconds_from_now
from storage.tables import lessons

HELD = 300.0
"""Seconds for which a lesson belongs to who has taken it: longer than learning takes."""

PAUSE = 30.0
"""Seconds after which a lesson that could not be learned is taken again."""

_ADD = insert(lessons).inline().values(attempts=0, instance=None, lease_until=seconds_from_now(0.0))
_next = (
    select(lessons.c.seq)
    .where(
        or_(
            lessons.c.lease_until <= seconds_from_now(0.0),
            and_(bindparam("alone", type_=Boolean()), lessons.c.instance != bindparam("me")),
        )
    )
    .order_by(lessons.c.seq)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_TAKE = (
    update(lessons)
    .where(lessons.c.seq == _next)
    .values(
        attempts=lessons.c.attempts + 1,
        instance=bindparam("me"),
        lease_until=seconds_from_now(bindparam("held", type_=Float())),
    )
    .returning(
        lessons.c.seq,
        lessons.c.tenant,
        lessons.c.user_id,
        lessons.c.run_id,
        lessons.c.messages,
        lessons.c.attempts,
    )
)
_MINE = (lessons.c.seq == bindparam("of_seq"), lessons.c.instance == bindparam("me"))
_RETURN = (
    update(lessons)
    .where(*_MINE)
    .values(instance=None, lease_until=seconds_from_now(bindparam("pause", type_=Float())))
)
_DROP = delete(lessons).where(*_MINE)
_LAST_KEPT = (
    select(lessons.c.seq)
    .order_by(lessons.c.seq.desc())
    .offset(bindparam("capacity", type_=Integer()))
    .limit(1)
    .scalar_subquery()
)
_TRIM = delete(lessons).where(lessons.c.seq <= _LAST_KEPT)
_FORGET = delete(lessons).where(
    lessons.c.tenant == bindparam("of_tenant"), lessons.c.user_id == bindparam("of_user")
)
_COUNT = select(func.count()).select_from(lessons)
_OF_USER = _COUNT.where(
    lessons.c.tenant == bindparam("of_tenant"), lessons.c.user_id == bindparam("of_user")
)


def add(db: Connection, run: StoredRun, messages: Sequence[Message]) -> None:
    """Queue what is to be learned from a run."""
    row: dict[str, Any] = {
        "tenant": run.owner.tenant,
        "user_id": run.owner.user,
        "run_id": run.id,
        "messages": tuple(messages),
    }
    db.execute(_ADD, row)


def take(db: Connection, me: str, alone: bool) -> Lesson | None:
    """Take the oldest lesson that nobody holds; who is alone takes those of others as well."""
    row = db.execute(_TAKE, {"me": me, "held": HELD, "alone": alone}).one_or_none()
    if row is None:
        return None
    return Lesson(
        seq=row.seq,
        owner=Caller(row.tenant, row.user_id),
        run_id=row.run_id,
        messages=row.messages,
        attempts=row.attempts,
    )


def give_back(db: Connection, lesson: Lesson, me: str) -> None:
    """Let a lesson be taken again, by anybody, after a pause."""
    db.execute(_RETURN, {"of_seq": lesson.seq, "me": me, "pause": PAUSE})


def drop(db: Connection, lesson: Lesson, me: str) -> None:
    """Delete a lesson that was learned, or never will be."""
    db.execute(_DROP, {"of_seq": lesson.seq, "me": me})


def trim(db: Connection, capacity: int) -> int:
    """Delete the oldest lessons beyond so many; return how many."""
    return db.execute(_TRIM, {"capacity": capacity}).rowcount


def forget(db: Connection, owner: Caller) -> None:
    """Delete all lessons of a user."""
    db.execute(_FORGET, {"of_tenant": owner.tenant, "of_user": owner.user})


def count(db: Connection, owner: Caller | None) -> int:
    """Count the lessons, of a user or of all, that wait or are being learned."""
    if owner is None:
        return db.execute(_COUNT).scalar_one()
    return db.execute(_OF_USER, {"of_tenant": owner.tenant, "of_user": owner.user}).scalar_one()
