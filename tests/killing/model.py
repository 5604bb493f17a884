"""What the model says: it follows from the message alone, so that every answer is known before.

A message is `<kind> <number>`. Each kind is a list of turns; all turns but the last call tools.
"""

import itertools
from typing import Any, NamedTuple

from tests.openai_rules import fault_of
from tests.upstream import Reply, calls, status, text

SUM = ("calculate", {"expression": "15 + 27"})
CLOCK = ("get_time", {"timezone": "UTC"})
ACT = ("act", {"amount": 5})

Call = tuple[str, dict[str, Any]]


class Turn(NamedTuple):
    """What the model says, and what it calls."""

    says: str
    calls: tuple[Call, ...] = ()


PLANS: dict[str, tuple[Turn, ...]] = {
    "plain": (Turn("One two three four five six seven eight."),),
    "parallel": (Turn("", (SUM, CLOCK)), Turn("The sum is 42, and it is late.")),
    "turns": (
        Turn("First this. ", (SUM,)),
        Turn("Then both. ", (CLOCK, SUM)),
        Turn("Then the time. ", (CLOCK,)),
        Turn("That is all."),
    ),
    "act": (Turn("I act. ", (ACT, ACT)), Turn("Once more. ", (SUM, ACT)), Turn("It is done.")),
}


def said_in(message: str) -> list[str]:
    """Return what the model says in each turn of its answer to `message`."""
    kind, number = message.split()
    *before, last = PLANS[kind]
    return [*(turn.says for turn in before), f"{last.says} ({number})"]


class Model:
    """Answers by the plan, and remembers what it was told.

    Attributes:
        faults: why a server would have refused a request.
        results: what each call's result was said to be.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.results: dict[str, str] = {}
        self._ids = itertools.count(1)

    def reply(self, body: dict[str, Any]) -> Reply:
        """Answer a request: the script of an upstream."""
        fault = fault_of(body)
        if fault is not None:
            self.faults.append(fault.message)
            return status(400, fault.message)
        messages = body["messages"]
        last = max(at for at, message in enumerate(messages) if message["role"] == "user")
        self._learn(messages)
        message = messages[last]["content"].split("\n\n")[-1]  # where some had no answer
        turns = [each for each in messages[last:] if each["role"] == "assistant"]
        wanted = PLANS[message.split()[0]][len(turns)].calls
        says = said_in(message)[len(turns)]
        if not wanted:
            return text(*(f"{word} " for word in says.split(" ")[:-1]), says.split(" ")[-1])
        ids = [f"call{next(self._ids):05d}" for _ in wanted]
        return calls(*wanted, ids=ids, before=says)

    def _learn(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            if message["role"] == "tool":
                told = self.results.setdefault(message["tool_call_id"], message["content"])
                if told != message["content"]:
                    self.faults.append(f"{told!r} became {message['content']!r}")
