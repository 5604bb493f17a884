"""Runs: accepted, begun, written, ended, taken over. Each is part of a transaction of `Store`.

Who writes touches the conversation's row first and the run's row second, always in this order:
on PostgreSQL these two locks make the writers of a conversation queue, and never deadlock.

A write names the run's epoch and finds only a run that has not ended. Where it finds none (another
store has claimed the run, or it has ended) the whole transaction is undone by `Undone`.

A conversation that was deleted under a run stays deleted: the run goes on, its messages do not
come back.

A run that regenerates an answer takes nothing away before it has something to put there: what
followed the last message of the user goes in the transaction that appends the run's first message.
So an answer is never lost to an attempt that failed.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from caller import Caller
from events import ChatComplete, ChatStart, RunError, TerminalEvent, stamped
from messages import AssistantMessage, Message, ToolMessage, new_id
from models import RunStatus
from storage import (
    UNREADABLE,
    Begin,
    Entry,
    NoSuchConversation,
    NoSuchMessage,
    StoredRun,
    extraction_jobs,
)
from storage.conversations import branch, clear
from storage.prepared import Prepared
from storage.tables import (
    Json,
    Utc,
    conversations,
    messages,
    of_conversation,
    of_owner,
    runs,
    seconds_from_now,
)

logger = logging.getLogger("parley.storage")


class Undone(Exception):
    """Ends a unit whose transaction is to be rolled back. `run` is what there is instead."""

    def __init__(self, run: StoredRun | None = None) -> None:
        super().__init__("undone")
        self.run = run


_NOBODY = ""  # the instance of a run that its store has given back
_CLAIMING = 0x7061726C657A  # the key of an advisory lock
_LEASE = seconds_from_now(sa.bindparam("lease", type_=sa.Float()))

# SQLite took its upsert from PostgreSQL: the one construct compiles for both.
_upsert = postgresql.insert(conversations).inline()
_ENTER = Prepared(
    _upsert.on_conflict_do_update(
        index_elements=["tenant", "user_id", "id"],
        set_={
            "updated_at": _upsert.excluded.updated_at,
            "agent": sa.func.coalesce(_upsert.excluded.agent, conversations.c.agent),
            "ephemeral": sa.and_(conversations.c.ephemeral, _upsert.excluded.ephemeral),
        },
    ),
    (
        *("tenant", "user_id", "id", "metadata", "ephemeral", "agent"),
        *("created_at", "updated_at"),
    ),
)
_ACCEPT = Prepared(
    postgresql.insert(runs)
    .inline()
    .values(lease_until=_LEASE)
    .on_conflict_do_nothing(index_elements=["tenant", "user_id", "key"]),
    [column.name for column in runs.c if column.name not in ("seq", "lease_until")],
)
_APPEND = Prepared(
    sa.insert(messages).inline(), [column.name for column in messages.c if column.name != "seq"]
)

_OF_RUN = sa.and_(runs.c.tenant == sa.bindparam("of_tenant"), runs.c.id == sa.bindparam("of_run"))
_HELD = sa.and_(
    _OF_RUN,
    runs.c.user_id == sa.bindparam("of_user"),
    runs.c.epoch == sa.bindparam("of_epoch"),
    runs.c.finished_at.is_(None),
)
_BEGIN = Prepared(sa.update(runs).where(_HELD), ["status", "started_at"])
_PAUSE = Prepared(sa.update(runs).where(_HELD), ["pending"])
_END = Prepared(
    sa.update(runs).where(_HELD), ["status", "terminal", "finished_at", "pending", "request"]
)
_TOUCH = Prepared(
    sa.update(conversations)
    .where(of_owner(conversations), conversations.c.id == sa.bindparam("of_conversation"))
    .values(
        updated_at=sa.bindparam("at", type_=Utc()),
        title=sa.func.coalesce(conversations.c.title, sa.bindparam("new_title", type_=sa.Text())),
        agent=sa.func.coalesce(sa.bindparam("new_agent", type_=sa.Text()), conversations.c.agent),
    )
)
_LAST_OF_USER = (
    sa.select(sa.func.max(messages.c.seq))
    .where(of_conversation(messages), messages.c.role == "user")
    .scalar_subquery()
)
_REPLACE = sa.delete(messages).where(
    of_conversation(messages),
    messages.c.seq > _LAST_OF_USER,
    messages.c.run_id.is_distinct_from(sa.bindparam("of_run")),
)

_COLUMNS = [column for column in runs.c if column.name not in ("seq", "instance", "lease_until")]
_BY_ID = sa.select(*_COLUMNS).where(_OF_RUN)
_BY_KEY = sa.select(*_COLUMNS).where(of_owner(runs), runs.c.key == sa.bindparam("of_key"))
_MADE = (
    sa.select(messages.c.message)
    .where(of_conversation(messages), messages.c.run_id == sa.bindparam("of_run"))
    .order_by(messages.c.seq)
)

# A row that cannot be decoded must not keep the others from being claimed, so it is read as text.
_AS_TEXT = [
    sa.type_coerce(column, sa.Text()).label(column.name)
    if isinstance(column.type, Json)
    else column
    for column in _COLUMNS
]
CLAIM_ALL = (
    sa.update(runs)
    .where(runs.c.finished_at.is_(None), runs.c.instance != sa.bindparam("me"))
    .values(epoch=runs.c.epoch + 1, instance=sa.bindparam("me"), lease_until=_LEASE)
    .returning(runs.c.seq, *_AS_TEXT)
)
# A store is gone with the last of its leases: all its runs go to one other. Each row's own lease is
# looked at too, because its store may renew it while the claim waits for the row.
_now = seconds_from_now(sa.bindparam("zero", 0.0, type_=sa.Float()))
_gone = (
    sa.select(runs.c.instance)
    .where(runs.c.finished_at.is_(None))
    .group_by(runs.c.instance)
    .having(sa.func.max(runs.c.lease_until) < _now)
)
CLAIM_ABANDONED = CLAIM_ALL.where(runs.c.lease_until < _now, runs.c.instance.in_(_gone))
_ONE_CLAIMS = sa.text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_CLAIMING)
_END_UNREAD = sa.update(runs).where(runs.c.seq == sa.bindparam("of_seq"))
_MINE = sa.update(runs).where(runs.c.finished_at.is_(None), runs.c.instance == sa.bindparam("me"))
_RENEW = _MINE.values(lease_until=_LEASE)
_GIVE_BACK = _MINE.values(instance=_NOBODY, lease_until=_LEASE, suspensions=runs.c.suspensions + 1)


def accept(
    db: sa.Connection, run: StoredRun, begin: Begin | None, entry: Entry, me: str, lease: float
) -> None:
    """See `Store.accept`; raises `Undone` with the run that has the same key, if there is one."""
    _enter(db, run, entry, None if begin is None else run.agent)
    row = _row(run) | {"instance": me, "lease": lease}
    if begin is not None:
        row |= {"status": "running", "started_at": run.started_at or run.created_at}
    if _ACCEPT.execute(db, row) == 0:
        _check_key(db, run)
    if begin is not None:
        _take_lock(db, run, begin, run.created_at)


def _check_key(db: sa.Connection, run: StoredRun) -> None:
    """Raise `Undone` where there is a run of the same key."""
    there = db.execute(_BY_KEY, _where(run) | {"of_key": run.key}).one_or_none()
    if there is not None:
        raise Undone(_run(there._mapping))


def _enter(db: sa.Connection, run: StoredRun, entry: Entry, agent: str | None) -> None:
    """Make the run's conversation, or find it; `agent` is the one that answers in it now."""
    if entry.branch is not None:
        of, message_id = entry.branch
        new = (run.conversation_id, agent, entry.ephemeral)
        if not branch(db, run.owner, of, message_id, *new):
            _check_key(db, run)
            raise NoSuchMessage("There is no such message of a user in such a conversation.")
    elif entry.must_exist:
        if not _touch(db, run, run.created_at, agent=agent):
            _check_key(db, run)
            raise NoSuchConversation("There is no conversation of this id.")
    else:
        conversation = {
            "tenant": run.owner.tenant,
            "user_id": run.owner.user,
            "id": run.conversation_id,
            "metadata": {},
            "ephemeral": entry.ephemeral,
            "agent": agent,
            "created_at": run.created_at,
            "updated_at": run.created_at,
        }
        _ENTER.execute(db, conversation)


def begin(db: sa.Connection, run: StoredRun, begin: Begin) -> None:
    now = datetime.now(UTC)
    there = _touch(db, run, now, agent=run.agent)
    _change(db, _BEGIN, run, {"status": "running", "started_at": now})
    if there:
        _take_lock(db, run, begin, now)


def save_turn(
    db: sa.Connection, run: StoredRun, said: Sequence[Message], pending: AssistantMessage | None
) -> None:
    now = datetime.now(UTC)
    there = bool(said) and _touch(db, run, now)
    _change(db, _PAUSE, run, {"pending": pending})
    if there:
        _append(db, run, said, now)


def finish(
    db: sa.Connection,
    run: StoredRun,
    said: Sequence[Message],
    terminal: TerminalEvent,
    title: str | None,
    begin: Begin | None,
    learn_from: Sequence[Message],
    jobs: int,
) -> None:
    now = datetime.now(UTC)
    there = _touch(db, run, now, title=title)
    if there and begin is not None:  # while this run is not one of the finished ones
        _take_lock(db, run, begin, now)
    changes = {
        "status": status_of(terminal),
        "terminal": terminal,
        "finished_at": now,
        "pending": None,
        "request": run.request,
    }
    _change(db, _END, run, changes)
    if there:
        _append(db, run, said, now)
    if learn_from:
        extraction_jobs.add(db, run, learn_from, jobs)


def status_of(terminal: TerminalEvent) -> RunStatus:
    match terminal:
        case RunError():
            return "failed"
        case ChatComplete(finish_reason="cancelled"):
            return "cancelled"
        case ChatComplete():
            return "completed"


def find(db: sa.Connection, tenant: str, run_id: str) -> StoredRun | None:
    row = db.execute(_BY_ID, {"of_tenant": tenant, "of_run": run_id}).one_or_none()
    return None if row is None else _run(row._mapping)


def made(db: sa.Connection, run: StoredRun) -> list[Message]:
    return list(db.execute(_MADE, _where(run)).scalars())


def claim(db: sa.Connection, abandoned_only: bool, me: str, lease: float) -> list[StoredRun]:
    """Take over unfinished runs, oldest first; end those that cannot be read.

    Stores that claim do it one after another, and each takes all that there is: so runs of a
    conversation that wait for each other stay together.
    """
    if abandoned_only:
        db.execute(_ONE_CLAIMS)
    statement = CLAIM_ABANDONED if abandoned_only else CLAIM_ALL
    rows = db.execute(statement, {"me": me, "lease": lease}).all()
    claimed = []
    for row in sorted(rows, key=lambda row: int(row.seq)):
        values = dict(row._mapping)
        try:
            claimed.append(_run(values | _decoded(db, values)))
        except msgspec.MsgspecError:
            logger.exception("Run %s cannot be read; it ends here", values["id"])
            db.execute(_END_UNREAD, {"of_seq": row.seq} | _as_it_ended(values))
    return claimed


def _decoded(db: sa.Connection, values: dict[str, Any]) -> dict[str, Any]:
    return {
        column.name: column.type.process_result_value(values[column.name], db.dialect)
        for column in _COLUMNS
        if isinstance(column.type, Json)
    }


def _as_it_ended(values: dict[str, Any]) -> dict[str, Any]:
    """Return the changes to a run that cannot be read: it has failed, and can be read again."""
    start = ChatStart(
        conversation_id=values["conversation_id"],
        agent=values["agent"],
        model="unknown",
        message_id=new_id("msg"),
    )
    terminal = RunError(code="interrupted", message=UNREADABLE, retryable=False)
    return {
        "start": stamped(start, values["id"], 1),
        "status": status_of(terminal),
        "terminal": stamped(terminal, values["id"], 2),
        "finished_at": datetime.now(UTC),
        "pending": None,
        "request": "",
    }


def renew(db: sa.Connection, me: str, lease: float) -> None:
    db.execute(_RENEW, {"me": me, "lease": lease})


def give_back(db: sa.Connection, me: str) -> None:
    db.execute(_GIVE_BACK, {"me": me, "lease": -1.0})


def _take_lock(db: sa.Connection, run: StoredRun, begin: Begin, now: datetime) -> None:
    if begin.reset:
        clear(db, run.owner, run.conversation_id)
    # The answers that a client brings are no run's.
    own = [not isinstance(message, AssistantMessage | ToolMessage) for message in begin.messages]
    _append(db, run, begin.messages, now, own)


def _touch(
    db: sa.Connection,
    run: StoredRun,
    now: datetime,
    *,
    title: str | None = None,
    agent: str | None = None,
) -> bool:
    """Mark the conversation as changed; return whether there still is one."""
    values = _where(run) | {"at": now, "new_title": title, "new_agent": agent}
    return _TOUCH.execute(db, values) == 1


def _change(db: sa.Connection, change: Prepared, run: StoredRun, values: dict[str, Any]) -> None:
    if change.execute(db, _where(run) | values) == 0:
        raise Undone


def _append(
    db: sa.Connection,
    run: StoredRun,
    said: Sequence[Message],
    now: datetime,
    own: Iterable[bool] = repeat(True),
) -> None:
    if not said:
        return
    if run.replaces:
        db.execute(_REPLACE, _where(run))
    rows = [
        {
            "tenant": run.owner.tenant,
            "user_id": run.owner.user,
            "conversation_id": run.conversation_id,
            "id": new_id("msg"),
            "role": role_of(message),
            "message": message,
            "run_id": run.id if is_own else None,
            "created_at": now,
        }
        for message, is_own in zip(said, own, strict=False)
    ]
    _APPEND.execute_many(db, rows)


def role_of(message: Message) -> str:
    return str(message.__struct_config__.tag)


def _where(run: StoredRun) -> dict[str, Any]:
    return {
        "of_tenant": run.owner.tenant,
        "of_user": run.owner.user,
        "of_conversation": run.conversation_id,
        "of_run": run.id,
        "of_epoch": run.epoch,
    }


def _row(run: StoredRun) -> dict[str, Any]:
    row = {name: getattr(run, name) for name in run.__struct_fields__ if name != "owner"}
    return row | {"tenant": run.owner.tenant, "user_id": run.owner.user}


def _run(row: sa.RowMapping | dict[str, Any]) -> StoredRun:
    values = {name: row[name] for name in StoredRun.__struct_fields__ if name != "owner"}
    return StoredRun(owner=Caller(row["tenant"], row["user_id"]), **values)
