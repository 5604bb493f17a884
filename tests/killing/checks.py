"""What must hold for the data of a service that was killed."""

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from events import ChatComplete, TerminalEvent
from messages import AssistantMessage, Message, ToolMessage, UserMessage
from tests.agent.support import check_history
from tests.killing.clients import Order, what
from tests.killing.model import said_in

UNKNOWN = "outcome is not known"


class Row(NamedTuple):
    """A stored run."""

    id: str
    key: str
    conversation: str
    status: str
    terminal: TerminalEvent | None
    pending: str | None


class Said(NamedTuple):
    """A stored message."""

    conversation: str
    run_id: str
    message: Message


class Data:
    """What is on the disk.

    Args:
        path: a file of SQLite that nobody works with.
    """

    def __init__(self, path: Path) -> None:
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            # A service that was killed in its first start may not have made its tables.
            has_tables = db.execute(_HAS_TABLES).fetchone() is not None
            self.runs = [_row(*row) for row in db.execute(_RUNS)] if has_tables else []
            self.said = [_said(*row) for row in db.execute(_MESSAGES)] if has_tables else []
        db.close()
        self.by_id = {run.id: run for run in self.runs}

    def check(self, orders: Iterable[Order]) -> None:
        """Check all laws; `orders` as they stood when the service was dead.

        Raises:
            AssertionError: one is broken.
        """
        orders = list(orders)
        times = Counter(run.key for run in self.runs)
        assert set(times.values()) <= {1}, times.most_common(3)
        assert set(times) <= {order.key for order in orders}
        self._check_conversations()
        spoken = Counter(
            each.message.content for each in self.said if isinstance(each.message, UserMessage)
        )
        by_key = {run.key: run for run in self.runs}
        for order in orders:
            run = by_key.get(order.key)
            if run is None:
                assert order.run_id is None, f"{order} was acknowledged and is lost"
                assert spoken[order.message] == 0
            else:
                wanted = 0 if run.status == "queued" else 1
                assert spoken[order.message] == wanted, f"{order}: {spoken[order.message]} times"
                _check_run(order, run)

    def _check_conversations(self) -> None:
        """Each run's messages stand together, and are what the model says in this order."""
        conversations: dict[str, list[Said]] = {}
        for each in self.said:
            conversations.setdefault(each.conversation, []).append(each)
        for said in conversations.values():
            check_history([each.message for each in said])
            blocks = [
                (run_id, [each.message for each in block])
                for run_id, block in itertools.groupby(said, lambda each: each.run_id)
            ]
            here = [run_id for run_id, _ in blocks]
            begun = set(here)
            assert here == [run.id for run in self.runs if run.id in begun], "out of order"
            for run_id, block in blocks:
                self._check_block(self.by_id[run_id], block)

    def _check_block(self, run: Row, block: Sequence[Message]) -> None:
        first, *rest = block
        assert isinstance(first, UserMessage), f"{run} has an answer without its message"
        assert not any(isinstance(each, UserMessage) for each in rest)
        said = [each.content for each in rest if isinstance(each, AssistantMessage)]
        wanted = said_in(first.content)
        assert said == wanted[: len(said)], f"{run} said {said}"
        if run.status == "completed":
            assert said == wanted, f"{run} completed, and its answer is not whole: {said}"

    def results(self) -> dict[str, ToolMessage]:
        """Return the result of each call."""
        messages = (each.message for each in self.said)
        return {each.tool_call_id: each for each in messages if isinstance(each, ToolMessage)}

    def check_acts(self, acted: Sequence[str]) -> int:
        """Check that every act happened at most once, and that its result says what happened.

        Args:
            acted: the call's id of each execution.

        Returns:
            Of how many acts the outcome is not known.
        """
        assert len(set(acted)) == len(acted), f"repeated: {Counter(acted).most_common(3)}"
        results = {id: each for id, each in self.results().items() if each.name == "act"}
        for call_id in acted:
            assert call_id in results, f"{call_id} was executed, and nobody is told"
        for call_id, result in results.items():
            if result.is_error:
                assert UNKNOWN in result.content
            else:
                assert call_id in acted, f"{result} never happened"
        return sum(result.is_error for result in results.values())


_HAS_TABLES = "SELECT 1 FROM sqlite_schema WHERE name = 'runs'"
_RUNS = "SELECT id, key, conversation_id, status, terminal, pending FROM runs ORDER BY seq"
_MESSAGES = "SELECT conversation_id, run_id, message FROM messages ORDER BY seq"


_message = msgspec.json.Decoder[Message](Message).decode
_terminal = msgspec.json.Decoder[TerminalEvent](TerminalEvent).decode


def _row(
    id: str, key: str, place: str, status: str, terminal: str | None, pending: str | None
) -> Row:
    return Row(id, key, place, status, _terminal(terminal) if terminal else None, pending)


def _said(place: str, run_id: str, message: str) -> Said:
    return Said(place, run_id, _message(message))


def _check_run(order: Order, run: Row) -> None:
    assert order.run_id in (None, run.id), f"{order} became {run}"
    assert run.conversation == order.conversation
    assert (run.terminal is None) == (run.status in ("queued", "running")), run
    if order.outcome is not None:
        assert run.terminal is not None, f"{order} ended, and {run} has not"
        assert _what(run.terminal) == what(order.outcome), f"{order} was taken back: {run}"
    if run.terminal is not None:
        assert run.pending is None


def _what(terminal: TerminalEvent) -> tuple[Any, ...]:
    if isinstance(terminal, ChatComplete):
        return (terminal.event_type, terminal.final_response, terminal.finish_reason, None)
    return (terminal.event_type, None, None, terminal.code)
