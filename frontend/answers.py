"""A conversation as the page shows it, made of stored messages and of the events of runs.

* A conversation is a list of entries: what the user said, and one answer for each run.
* An answer is a list of parts in the order in which they came. Events are applied in their order,
  each once; a `reset` begins the answer anew.
* All of it lives in Streamlit's session, so that a rerun of the script, which every click is, draws
  what is there and follows a run from its cursor. Nothing here draws or asks.
"""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import uuid4

Json: TypeAlias = dict[str, Any]


@dataclass
class Question:
    """What the user said; `run_id` is that of its answer, where it is known."""

    text: str
    run_id: str = ""


@dataclass
class Text:
    """A piece of an answer, Markdown; where `is_reasoning`, what the model thought before."""

    message_id: str
    text: str
    is_reasoning: bool = False


@dataclass
class Call:
    """One call of a tool. Times are seconds: `began` since the epoch, `took` a duration."""

    id: str
    name: str
    arguments: Any
    state: Literal["queued", "running", "done", "failed"] = "running"
    began: float | None = None
    took: float | None = None
    result: Any = None
    is_cut: bool = False
    error: str = ""
    done: float = 0.0
    total: float | None = None
    said: str = ""


@dataclass
class Handover:
    """Another agent has taken over."""

    agent: str


@dataclass
class Stage:
    """How far one stage of a run is: `done` of `total` steps."""

    name: str
    message: str
    done: int
    total: int


Part: TypeAlias = Text | Call | Handover | Stage


@dataclass
class Answer:
    """All that one run said and did.

    Attributes:
        name: of this answer on the page.
        run_id: empty until the service has taken the message.
        cursor: behind the last event that was applied.
        request: the message that is to be sent, with its idempotency key, until it was taken.
        age: how often it was begun anew.
        end: null while it is under way, a finish reason, or `error`.
        problem: why it failed.
        is_lost: there is no connection at present.
        is_unwanted: it is to be cancelled as soon as that is possible.
    """

    run_id: str = ""
    request: tuple[Json, str] | None = None
    name: str = field(default_factory=lambda: uuid4().hex)
    cursor: str = ""
    age: int = 0
    parts: list[Part] = field(default_factory=list)
    end: str | None = None
    problem: str = ""
    is_lost: bool = False
    is_unwanted: bool = False

    def fail(self, problem: str) -> None:
        """End the answer with what went wrong."""
        self.end, self.problem = "error", problem


Entry: TypeAlias = Question | Answer


@dataclass
class Chat:
    """A conversation. `id` and `title` are empty until the service has given them.

    Attributes:
        draft: text that is to stand in the input when the page is drawn the next time.
        unsent: a message that was not taken, and its key: sent again it is the same message.
        problem: why not, or what else went wrong last.
        is_whole: false where the service could not say what is in it.
    """

    id: str = ""
    title: str = ""
    agent: str = ""
    entries: list[Entry] = field(default_factory=list)
    draft: str = ""
    unsent: tuple[Json, str] | None = None
    problem: str = ""
    is_whole: bool = True

    def under_way(self) -> list[Answer]:
        """Return the answers that are being made, or wait, in the order of their turns."""
        return [each for each in self.entries if isinstance(each, Answer) and each.end is None]

    def say(self, message: str, agent: str) -> None:
        """Put a message, which is still to be sent, behind all others."""
        body: Json = {"message": message, "agent": agent}
        if self.id:
            body["conversation_id"] = self.id
        is_again = self.unsent is not None and self.unsent[0] == body
        key = self.unsent[1] if self.unsent is not None and is_again else uuid4().hex
        self.unsent, self.problem = None, ""
        self.entries += [Question(message), Answer(request=(body, key))]

    def take_back(self, answer: Answer, problem: str) -> None:
        """Take a message that was not taken from the entries, for the user to change it."""
        at = self.entries.index(answer)
        del self.entries[at - 1 : at + 1]
        self.unsent, self.problem = answer.request, problem
        if answer.request is not None:
            self.draft = answer.request[0]["message"]


def stored_chat(stored: Json) -> Chat:
    """Make a conversation of what `GET /conversations/{id}` says.

    What the run under way has stored comes again from its log: of that only the user's message is
    taken. What waits behind it follows.
    """
    chat = Chat(stored["conversation_id"], stored["title"] or "", stored["agent"] or "")
    active = stored["active_run_id"]
    for message in stored["messages"]:
        if message["role"] == "user":
            chat.entries.append(Question(message["content"], message["run_id"] or ""))
        elif message["run_id"] != active or active is None:
            _add_stored(_answer_for(chat, message["run_id"] or ""), message)
    if active is not None:
        chat.entries.append(Answer(active))
    for waiting in stored["waiting"]:
        if waiting["message"] is not None:
            chat.entries.append(Question(waiting["message"]))
        chat.entries.append(Answer(waiting["run_id"]))
    return chat


def _answer_for(chat: Chat, run_id: str) -> Answer:
    last = chat.entries[-1] if chat.entries else None
    if isinstance(last, Answer) and last.run_id == run_id:
        return last
    answer = Answer(run_id, end="stop")
    chat.entries.append(answer)
    return answer


def _add_stored(answer: Answer, message: Json) -> None:
    if message["role"] == "tool":
        _add_result(answer, message)
        return
    if message["content"]:
        answer.parts.append(Text(message["id"], message["content"]))
    for call in message.get("tool_calls") or ():
        answer.parts.append(Call(call["id"], call["name"], _decoded(call["arguments"])))


def _add_result(answer: Answer, message: Json) -> None:
    call = _call(answer, message["tool_call_id"])
    if call is None:
        return
    took = message.get("duration_ms")
    call.took = None if took is None else took / 1000
    if message["is_error"]:
        call.state, call.error = "failed", message["content"].removeprefix("Error: ")
    else:
        call.state, call.result = "done", _decoded(message["content"])


def apply(answer: Answer, event: Json) -> None:
    """Apply the next event of an answer's run. Unknown ones are ignored, as the protocol says."""
    match event["event_type"]:
        case "reset":
            answer.parts, answer.age = [], answer.age + 1
        case "chat_chunk":
            _add_text(answer, event, is_reasoning=False)
        case "reasoning_chunk":
            _add_text(answer, event, is_reasoning=True)
        case "agent_updated":
            answer.parts.append(Handover(event["agent"]))
        case "run_progress":
            _set_stage(answer, event)
        case "chat_complete":
            answer.end = event["finish_reason"]
        case "error":
            answer.fail(event["message"])
        case str(kind) if kind.startswith("tool_call_"):
            _change_call(answer, kind, event["tool_call"])


def _add_text(answer: Answer, event: Json, *, is_reasoning: bool) -> None:
    last = answer.parts[-1] if answer.parts else None
    is_more = (
        isinstance(last, Text)
        and last.message_id == event["message_id"]
        and last.is_reasoning == is_reasoning
    )
    if isinstance(last, Text) and is_more:
        last.text += event["content"]
    else:
        answer.parts.append(Text(event["message_id"], event["content"], is_reasoning))


def _set_stage(answer: Answer, event: Json) -> None:
    stage = Stage(event["stage"], event["message"], event["done"], event["total"])
    for at, part in enumerate(answer.parts):
        if isinstance(part, Stage) and part.name == stage.name:
            answer.parts[at] = stage
            return
    answer.parts.append(stage)


def _change_call(answer: Answer, kind: str, said: Json) -> None:
    call = _call(answer, said["id"])
    if call is None:
        call = Call(said["id"], said["name"], said.get("arguments"))
        answer.parts.append(call)
    match kind:
        case "tool_call_queued":
            call.state = "queued"
        case "tool_call_start":
            call.state, call.began = "running", _seconds(said.get("started_at")) or time.time()
        case "tool_call_progress":
            call.done, call.total = said["progress"], said["total"]
            call.said = said["message"] or ""
        case "tool_call_complete":
            call.state, call.result, call.is_cut = "done", said["result"], said["truncated"]
        case "tool_call_error":
            call.state, call.error = "failed", said["error"]
    if call.state in ("done", "failed") and said.get("started_at"):
        call.took = said["duration_ms"] / 1000


def _call(answer: Answer, call_id: str) -> Call | None:
    calls = (each for each in answer.parts if isinstance(each, Call) and each.id == call_id)
    return next(calls, None)


def _seconds(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if moment else None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # plain text
        return text
