"""Conversations and their messages. Each function is part of one transaction of `Store`.

Pages of conversations go by (`updated_at`, `id`), newest first. A page's cursor holds both of the
last row, so rows of one time are neither left out nor repeated, and a conversation that is
updated in between is at most seen again at the top.
"""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from caller import Caller
from messages import Message
from storage import ConversationRecord, InvalidPage, StoredMessage, TooLong
from storage.tables import (
    Utc,
    conversations,
    in_its_conversation,
    messages,
    of_conversation,
    of_owner,
    runs,
)

BRANCH = 2000
"""How many messages a branch copies about at most: while it does, nobody else can write."""

BRANCH_CHARS = 8 * 1024 * 1024
"""How many characters of messages a branch copies at most, for the same reason."""

_ALL = 2**31 - 1  # as many as a limit can say
_END = 2**63 - 1  # after every message

_ONE = sa.and_(of_owner(conversations), conversations.c.id == sa.bindparam("of_conversation"))
_WITHIN = of_conversation(messages)
_count = (
    sa.select(sa.func.count())
    .select_from(messages)
    .where(in_its_conversation(messages))
    .scalar_subquery()
)
_RECORDS = sa.select(conversations, _count.label("message_count"))
_RECORD = _RECORDS.where(_ONE)
_FIRST_PAGE = (
    _RECORDS.where(of_owner(conversations), conversations.c.ephemeral == sa.false())
    .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
    .limit(sa.bindparam("count", type_=sa.Integer()))
)
_NEXT_PAGE = _FIRST_PAGE.where(
    sa.tuple_(conversations.c.updated_at, conversations.c.id)
    < sa.tuple_(sa.bindparam("at", type_=Utc()), sa.bindparam("id", type_=sa.Text()))
)

_CONTEXT = (
    sa.select(messages.c.message)
    .where(_WITHIN)
    .order_by(messages.c.seq.desc())
    .limit(sa.bindparam("count", type_=sa.Integer()))
)
_place = (
    sa.select(messages.c.seq)
    .where(_WITHIN, messages.c.id == sa.bindparam("of_message"))
    .scalar_subquery()
)
_NEWEST = (
    sa.select(messages.c.id, messages.c.message, messages.c.run_id, messages.c.created_at)
    .where(_WITHIN)
    .order_by(messages.c.seq.desc())
    .limit(sa.bindparam("count", type_=sa.Integer()))
)
_BEFORE = _NEWEST.where(messages.c.seq < _place)

_UPDATE = (
    sa.update(conversations)
    .where(_ONE)
    .values(
        title=sa.func.coalesce(sa.bindparam("new_title", type_=sa.Text()), conversations.c.title),
        metadata=sa.func.coalesce(
            sa.bindparam("new_metadata", type_=conversations.c.metadata.type),
            conversations.c.metadata,
        ),
    )
)
_UNNAME = (
    sa.update(conversations)
    .where(_ONE)
    .values(updated_at=sa.bindparam("at", type_=Utc()), title=None)
)
_NAMELESS = sa.update(conversations).where(_ONE).values(title=None)
_CLEAR = sa.delete(messages).where(_WITHIN)
_DELETE = sa.delete(conversations).where(_ONE)
_DELETE_RUNS = sa.delete(runs).where(of_conversation(runs), runs.c.finished_at.is_not(None))
_IS_USERS = sa.select(messages.c.seq).where(
    _WITHIN, messages.c.id == sa.bindparam("of_message"), messages.c.role == "user"
)
_branched = {
    "tenant": conversations.c.tenant,
    "user_id": conversations.c.user_id,
    "id": sa.bindparam("new", type_=sa.Text()),
    "title": conversations.c.title,
    "metadata": conversations.c.metadata,
    "ephemeral": sa.bindparam("ephemeral", type_=sa.Boolean()),
    "created_at": sa.bindparam("at", type_=Utc()),
    "updated_at": sa.bindparam("at", type_=Utc()),
    "branched_conversation": conversations.c.id,
    "branched_message": sa.bindparam("of_message", type_=sa.Text()),
    "agent": sa.func.coalesce(sa.bindparam("new_agent", type_=sa.Text()), conversations.c.agent),
}
_BRANCH = sa.insert(conversations).from_select(
    [*_branched], sa.select(*_branched.values()).where(_ONE)
)
_SPAN = sa.and_(
    _WITHIN,
    messages.c.seq >= sa.bindparam("first", type_=sa.BigInteger()),
    messages.c.seq < sa.bindparam("end", type_=sa.BigInteger()),
)
_COPIED = ["tenant", "user_id", "id", "role", "message", "run_id", "created_at"]
_COPY = sa.insert(messages).from_select(
    ["conversation_id", *_COPIED],
    sa.select(sa.bindparam("new", type_=sa.Text()), *(messages.c[name] for name in _COPIED))
    .where(_SPAN)
    .order_by(messages.c.seq),
)
_chars = sa.func.sum(sa.func.length(sa.type_coerce(messages.c.message, sa.Text)))
_SIZE = sa.select(sa.func.coalesce(_chars, 0)).where(_SPAN)
_FARTHEST = (
    sa.select(messages.c.seq)
    .where(_WITHIN, messages.c.seq < sa.bindparam("end", type_=sa.BigInteger()))
    .order_by(messages.c.seq.desc())
    .offset(sa.bindparam("many", type_=sa.Integer()))
    .limit(1)
)
_BEGINNING = sa.select(sa.func.min(messages.c.seq)).where(
    _WITHIN,
    messages.c.role == "user",
    messages.c.seq > sa.bindparam("first", type_=sa.BigInteger()),
    messages.c.seq < sa.bindparam("end", type_=sa.BigInteger()),
)


def context(
    db: sa.Connection, caller: Caller, conversation_id: str, limit: int | None
) -> list[Message]:
    values = _where(caller, conversation_id) | {"count": _ALL if limit is None else limit}
    found = db.execute(_CONTEXT, values).scalars().all()
    return list(reversed(found))


def page(
    db: sa.Connection, caller: Caller, limit: int, before: tuple[datetime, str] | None
) -> tuple[list[ConversationRecord], str | None]:
    values = {"of_tenant": caller.tenant, "of_user": caller.user, "count": limit + 1}
    if before is None:
        rows = db.execute(_FIRST_PAGE, values).all()
    else:
        rows = db.execute(_NEXT_PAGE, values | {"at": before[0], "id": before[1]}).all()
    records = [_record(row) for row in rows[:limit]]
    return records, _page_cursor(records[-1]) if len(rows) > limit else None


def find(db: sa.Connection, caller: Caller, conversation_id: str) -> ConversationRecord | None:
    row = db.execute(_RECORD, _where(caller, conversation_id)).one_or_none()
    return None if row is None else _record(row)


def said(
    db: sa.Connection, caller: Caller, conversation_id: str, limit: int | None, before: str | None
) -> list[StoredMessage]:
    values = _where(caller, conversation_id) | {"count": _ALL if limit is None else limit}
    statement = _NEWEST if before is None else _BEFORE
    rows = db.execute(statement, values | {"of_message": before}).all()
    return [StoredMessage(**row._mapping) for row in reversed(rows)]


def change(
    db: sa.Connection,
    caller: Caller,
    conversation_id: str,
    title: str | None,
    metadata: dict[str, Any] | None,
) -> ConversationRecord | None:
    values = {"new_title": title, "new_metadata": metadata}
    db.execute(_UPDATE, _where(caller, conversation_id) | values)
    return find(db, caller, conversation_id)


def remove(db: sa.Connection, caller: Caller, conversation_id: str) -> bool:
    where = _where(caller, conversation_id)
    if db.execute(_DELETE, where).rowcount == 0:
        return False
    db.execute(_DELETE_RUNS, where)
    return True


def clear(db: sa.Connection, caller: Caller, conversation_id: str) -> bool:
    where = _where(caller, conversation_id)
    if db.execute(_UNNAME, where | {"at": datetime.now(UTC)}).rowcount == 0:
        return False
    db.execute(_CLEAR, where)
    db.execute(_DELETE_RUNS, where)
    return True


def branch(
    db: sa.Connection,
    caller: Caller,
    conversation_id: str,
    message_id: str | None,
    new_id: str,
    agent: str | None,
    ephemeral: bool,
) -> bool:
    """Begin a conversation with the messages before a user's one; False: there is none such.

    Metadata is copied, and the title where anything was said before. Without a message's id all
    messages are copied; but no more than the newest `BRANCH`, from a user's one on.
    """
    where = _where(caller, conversation_id) | {"of_message": message_id}
    end = _END if message_id is None else db.execute(_IS_USERS, where).scalar_one_or_none()
    if end is None:
        return False
    values = where | {"new": new_id, "at": datetime.now(UTC), "ephemeral": ephemeral}
    if db.execute(_BRANCH, values | {"new_agent": agent}).rowcount == 0:
        return False
    span = where | {"end": end, "many": BRANCH}
    span["first"] = db.execute(_FARTHEST, span).scalar_one_or_none() or 0
    if span["first"]:
        span["first"] = db.execute(_BEGINNING, span).scalar_one() or span["first"]
    if db.execute(_SIZE, span).scalar_one() > BRANCH_CHARS:
        raise TooLong("What was said before is too long to be gone on with in a branch.")
    if db.execute(_COPY, span | {"new": new_id}).rowcount == 0:
        db.execute(_NAMELESS, _where(caller, new_id))
    return True


def parse_page(text: str) -> tuple[datetime, str]:
    """Return the place in the list that a cursor names; raises `InvalidPage` where it is none."""
    try:
        raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        at, conversation_id = msgspec.json.decode(raw, type=tuple[datetime, str])
        if at.tzinfo is None:
            raise ValueError("a time without a zone")
        return at.astimezone(UTC), conversation_id
    except (ValueError, OverflowError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidPage("This is no cursor of a list of conversations.") from error


def _page_cursor(record: ConversationRecord) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((record.updated_at, record.id))).decode()


def _where(caller: Caller, conversation_id: str) -> dict[str, Any]:
    return {"of_tenant": caller.tenant, "of_user": caller.user, "of_conversation": conversation_id}


def _record(row: sa.Row[Any]) -> ConversationRecord:
    branched = row.branched_conversation and (row.branched_conversation, row.branched_message)
    return ConversationRecord(
        id=row.id,
        title=row.title,
        metadata=row.metadata,
        created_at=row.created_at,
        updated_at=row.updated_at,
        message_count=row.message_count,
        branched_from=branched or None,
        agent=row.agent,
    )
