"""What outlives the process: runs, conversations with their messages, agents.

`storage.store` holds the one `Store`; this module says what goes in and comes out. Rules:

* Every row belongs to an `Caller`, and every question names it: what belongs to somebody else is
  not there. Only housekeeping (`claim`, `renew`, `give_back`, `expire`) looks across owners.
* A method that writes is one transaction. What it has returned is on the disk; what it did not
  return from has happened wholly or not at all, also where its caller was cancelled.
* A run belongs to the `Store` that accepted or claimed it last, by its `epoch`. Who writes with
  an older epoch, or to a run that has ended, is told so (False) and has changed nothing.
* The database's trouble (locked, full, gone) is `StorageUnavailable`; once that is over, the same
  `Store` works again. One case leaves open whether something has happened: the way to a server
  broke during the commit.
"""

from datetime import datetime
from typing import Any

import msgspec

from caller import Caller
from errors import ClientError, NotFound, TooLarge, Unavailable
from events import ChatStart, TerminalEvent
from messages import AssistantMessage, Message
from models import RunStatus

UNREADABLE = "The service was changed while it worked on this, and cannot go on with it."
"""What a run is told that another version has stored, where it says nothing here."""


class StorageUnavailable(Unavailable):
    """The database cannot be written or read now: locked, full, or not reachable."""

    code = "storage_unavailable"


class StorageDamaged(StorageUnavailable):
    """The database's file has wrong content somewhere. Another try helps as little as waiting."""

    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "The file of the database is damaged. Stop the service, put a backup in the file's "
            "place, or what `sqlite3 <file> .recover` saves, and start the service again."
        )


class StorageUnusable(StorageUnavailable):
    """This is no database of this service; the text says what is wrong and what to do."""

    retryable = False


class InvalidPage(ClientError):
    code = "invalid_cursor"


class NoSuchMessage(NotFound):
    code = "message_not_found"


class NoSuchConversation(NotFound):
    code = "conversation_not_found"


class TooLong(TooLarge):
    """There is more to copy than a branch may copy."""

    code = "conversation_too_long"


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is kept. Times are UTC.

    Args:
        id: unique in the tenant.
        request: what was asked for, as JSON; opaque here.
        start: the first event of the run's log.
        epoch: how many stores have had the run; 1 for the one that accepted it.
        suspensions: how many of these have given it back; the others were interrupted.
        key: the caller's name for the request; one run for each key of an owner.
        fingerprint: what the key was used for, to compare.
        pending: a turn whose calls are being executed.
        replaces: its first message takes the place of what follows the last one of the user.
    """

    id: str
    owner: Caller
    conversation_id: str
    agent: str
    request: str
    start: ChatStart
    status: RunStatus
    epoch: int = 1
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    terminal: TerminalEvent | None = None
    key: str | None = None
    fingerprint: bytes = b""
    pending: AssistantMessage | None = None
    replaces: bool = False
    suspensions: int = 0


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does to its conversation when it gets the conversation lock.

    Args:
        messages: what is appended: what the user said, or nothing where an answer is regenerated.
        reset: what is there is forgotten first: messages, title and finished runs.
    """

    messages: tuple[Message, ...] = ()
    reset: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """How a run comes into its conversation, which is made where it is not there.

    Args:
        ephemeral: a new one is not listed and goes with its last run.
        must_exist: none is made.
        branch: it begins as a copy of another one: its id, and the message of a user before
            which the copy ends; None: it is a whole copy.
    """

    ephemeral: bool = False
    must_exist: bool = False
    branch: tuple[str, str | None] | None = None


ANY_ENTRY = Entry()
"""Into the conversation that is there, or a new one."""


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message in its conversation. `id` is unique there and stays; `run_id` made it."""

    id: str
    message: Message
    run_id: str | None
    created_at: datetime


class ConversationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation without its messages.

    Args:
        updated_at: when something was last said in it, or forgotten; a new title is no change.
        branched_from: the conversation and the message before which it was branched off.
        agent: the one that was last asked for an answer.
    """

    id: str
    title: str | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    message_count: int
    branched_from: tuple[str, str] | None
    agent: str | None


class ExtractionJob(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange from which something is to be learned about its user.

    `attempts`: how often it has been tried, this time included.
    """

    seq: int
    owner: Caller
    run_id: str
    messages: tuple[Message, ...]
    attempts: int


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Where a search found its words; without message and role it was in the title."""

    conversation_id: str
    title: str | None
    message_id: str | None
    role: str | None
    snippet: str
    created_at: datetime
