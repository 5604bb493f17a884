"""Asks a model what an agent would, and tells in plain words what of it works.

There are three requests: a question for whose answer it needs a tool, the results of its calls
(where it called), and an answer in a form. What no answer shows is not known: a model that can
call tools need not do so. The words of the answers do not matter.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from errors import UpstreamError
from events import ReasoningBlock
from llm import Provider
from llm.dialects import Dialect
from messages import (
    AssistantMessage,
    EndPart,
    Message,
    ModelOptions,
    ModelRequest,
    OutputSchema,
    ReasoningBlockPart,
    ReasoningPart,
    ReplyPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

MAX_CALLS = 2
"""Calls whose results are given back."""
MAX_TOKENS = 1024
"""Of one answer; what thinks needs some hundreds before its first word."""
TIMEOUT = 60.0
"""Seconds for one answer; what has come by then is looked at."""

_SYSTEM = SystemMessage("You are a helpful assistant. Use the tool for what you do not know.")
_CITIES = ("Oslo", "Rome")
_QUESTION = UserMessage(
    f"How warm is it in {_CITIES[0]} and in {_CITIES[1]} now? Ask for both at once."
)
_TOOL = ToolSpec(
    name="temperature",
    description="Get the present temperature in a city, in degrees Celsius.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
_RESULT = '{"celsius": 12}'
_FORM_QUESTION = UserMessage("Name a city and the country that it is in.")
_FORM = OutputSchema(
    "city",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
        "required": ["city", "country"],
        "additionalProperties": False,
    },
)
_ADVICE = {
    "upstream_unreachable": "Check that the server runs, and its address (OPENAI_BASE_URL mostly "
    "ends in /v1).",
    "upstream_timeout": "It may still be loading the model: try again, or raise OPENAI_TIMEOUT.",
    "upstream_rejected": "If this is about a parameter, OPENAI_DIALECT can leave it out "
    "(docs/models.md).",
    "upstream_unsupported": "Use a model with another chat template, or give the server one.",
    "upstream_rate_limited": "Try again later.",
}
"""What to do, by the code of a failure whose text does not say so."""


class Finding(msgspec.Struct, frozen=True):
    """Whether something works; None: the model did not show it. `told`: in words."""

    works: bool | None
    told: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Args:
        ok: it answers, and goes on after a tool call.
        error, advice: why it does not, and what to do where that does not say so.
        dialect: in which it was asked; None: the provider has no dialects.
        learned: the names of what it was found to take otherwise than was known.
    """

    ok: bool
    model: str
    at: datetime
    error: str | None = None
    advice: str | None = None
    findings: dict[str, Finding] = {}
    dialect: Dialect | None = None
    learned: tuple[str, ...] = ()


class _Answer(msgspec.Struct):
    """What came for one request. `pieces`: how many batches brought text."""

    text: str = ""
    reasons_openly: bool = False
    pieces: int = 0
    calls: tuple[ToolCall, ...] = ()
    blocks: tuple[ReasoningBlock, ...] = ()
    end: EndPart | None = None

    @property
    def usable_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            call
            for call in self.calls
            if call.name == _TOOL.name and _fits(call.arguments, ("city",))
        )


class ModelCheck:
    """Checks a server's default model on demand: one check at a time, and not too often.

    Args:
        provider: returns what to ask.
        ttl: seconds for which a result stands for all who ask.
    """

    def __init__(self, provider: Callable[[], Provider], ttl: float = 60.0) -> None:
        self._provider = provider
        self._ttl = ttl
        self._alone = asyncio.Lock()
        self._until = 0.0
        self._latest: dict[str, Any] | None = None

    async def told(self, anew: bool) -> dict[str, Any] | None:
        """Return what a check of the last `ttl` seconds found, as JSON; None where there was none.

        `anew`: then make one.
        """
        if not anew:
            return self._fresh()
        async with self._alone:
            if self._fresh() is None:
                self._latest = msgspec.to_builtins(await check(self._provider()))
                self._until = asyncio.get_running_loop().time() + self._ttl
            return self._latest

    def _fresh(self) -> dict[str, Any] | None:
        return self._latest if asyncio.get_running_loop().time() < self._until else None


async def check(provider: Provider, model: str | None = None) -> Checked:
    """Ask a model, by default the provider's own; never raises of a model that fails."""
    name = provider.answering(model)
    checking = _Check(provider, name)
    await checking.run()
    dialect, failure = checking.dialect(), checking.failure
    return Checked(
        ok=failure is None,
        model=name,
        at=datetime.now(UTC),
        error=failure.message if failure else None,
        advice=_ADVICE.get(failure.code) if failure else None,
        findings=dict(checking.findings()),
        dialect=dialect,
        learned=_differences(checking.known, dialect),
    )


class _Check:
    def __init__(self, provider: Provider, model: str) -> None:
        self._provider = provider
        self._model = model
        self._asked: _Answer | None = None
        self._after: _Answer | None = None
        self._formed: _Answer | None = None
        self._no_form = ""
        self.failure: UpstreamError | None = None
        self.known = self.dialect()

    def dialect(self) -> Dialect | None:
        return self._provider.dialect_for(self._model)

    async def run(self) -> None:
        """Make the requests; `failure` is then that of one that an agent needs."""
        question: tuple[Message, ...] = (_SYSTEM, _QUESTION)
        try:
            self._asked = asked = await self._ask(question, tools=(_TOOL,))
        except UpstreamError as failure:
            self.failure = failure
            return
        if calls := asked.usable_calls[:MAX_CALLS]:
            said = AssistantMessage(asked.text, calls, asked.blocks)
            results = [ToolMessage(call.id, call.name, _RESULT) for call in calls]
            try:
                self._after = await self._ask((*question, said, *results), tools=(_TOOL,))
            except UpstreamError as failure:
                self.failure = failure
        try:
            self._formed = await self._ask((_SYSTEM, _FORM_QUESTION), output=_FORM)
        except UpstreamError as failure:
            self._no_form = failure.message

    async def _ask(
        self,
        messages: tuple[Message, ...],
        tools: tuple[ToolSpec, ...] = (),
        output: OutputSchema | None = None,
    ) -> _Answer:
        options = ModelOptions(max_tokens=MAX_TOKENS, output=output)
        request = ModelRequest(model=self._model, messages=messages, tools=tools, options=options)
        answer = _Answer()
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(TIMEOUT),
                aclosing(self._provider.stream(request)) as batches,
            ):
                async for batch in batches:
                    _add(answer, batch)
        if answer.end is None and not answer.pieces:
            text = f"The model said nothing for {TIMEOUT:.0f} s."
            raise UpstreamError(text, code="upstream_timeout")
        return answer

    def findings(self) -> Iterator[tuple[str, Finding]]:
        """Yield what the answers so far show."""
        if self._asked is None:
            return
        dialect = self.dialect()
        answers = [each for each in (self._asked, self._after, self._formed) if each is not None]
        yield "stream", _stream(answers)
        yield "tools", _tools(self._asked, dialect)
        yield "parallel tools", _parallel_tools(self._asked)
        yield "tool results", self._tool_results()
        yield "usage", _usage(answers)
        yield "reasoning", _reasoning(answers)
        yield "structured output", self._structured_output(dialect)

    def _tool_results(self) -> Finding:
        if not (self._asked and self._asked.usable_calls):
            return Finding(None, "it made no call whose result could be given")
        if self._after is None:
            return Finding(False, "it did not take the results of its calls")
        return Finding(True, "it went on after the results of its calls")

    def _structured_output(self, dialect: Dialect | None) -> Finding:
        if self._formed is None:
            return Finding(False, self._no_form)
        how = _how_it_was_held(dialect)
        if _fits(self._formed.text, ("city", "country")):
            return Finding(True, f"the answer fits its JSON Schema, {how}")
        return Finding(False, f"the answer does not fit its JSON Schema, {how}{_cut(self._formed)}")


def _add(answer: _Answer, batch: list[ReplyPart]) -> None:
    answer.pieces += any(isinstance(part, TextPart | ReasoningPart) for part in batch)
    for part in batch:
        match part:
            case TextPart(content):
                answer.text += content
            case ReasoningPart():
                answer.reasons_openly = True
            case ToolCallPart(call):
                answer.calls += (call,)
            case ReasoningBlockPart(block):
                answer.blocks += (block,)
            case EndPart():
                answer.end = part


def _stream(answers: list[_Answer]) -> Finding:
    pieces = max(answer.pieces for answer in answers)
    if pieces > 1:
        return Finding(True, f"an answer came in {pieces} pieces")
    if pieces:
        return Finding(False, "each text came in one piece: the server or a proxy collects it")
    return Finding(None, "no text came")


def _tools(asked: _Answer, dialect: Dialect | None) -> Finding:
    if dialect is not None and not dialect.tools:
        return Finding(False, "the server refuses tools: agents answer without them")
    if not asked.calls:
        return Finding(None, f"tools are taken, but it answered without a call{_cut(asked)}")
    if not asked.usable_calls:
        return Finding(False, f"it called, but not with arguments that fit the tool{_cut(asked)}")
    return Finding(True, "it called with arguments that fit the tool")


def _parallel_tools(asked: _Answer) -> Finding:
    if not asked.calls:
        return Finding(None, "it made no call")
    if len(asked.calls) == 1:
        return Finding(False, "it was asked for two calls at once and made one")
    return Finding(True, f"it made {len(asked.calls)} calls at once")


def _usage(answers: list[_Answer]) -> Finding:
    ends = [answer.end for answer in answers if answer.end is not None]
    if not ends:
        return Finding(None, "no answer came to its end")
    if all(end.usage is not None for end in ends):
        return Finding(True, "tokens are counted")
    return Finding(False, "the server does not tell it: usage is null")


def _reasoning(answers: list[_Answer]) -> Finding:
    if any(answer.reasons_openly for answer in answers):
        return Finding(True, "its reasoning is told apart from the answer")
    if any(answer.blocks for answer in answers):
        return Finding(True, "it reasons, and does not show it")
    return Finding(False, "the model sent none")


def _how_it_was_held(dialect: Dialect | None) -> str:
    if dialect is None or dialect.json_schema:
        return "which was demanded"
    if dialect.json_object:
        return "asked for in words; a JSON object was demanded"
    return "asked for in words"


def _fits(text: str, names: tuple[str, ...]) -> bool:
    """Tell whether a text is a JSON object of these texts."""
    try:
        value = msgspec.json.decode(text, type=dict[str, str])
    except (ValueError, RecursionError):
        return False
    return set(value) == set(names)


def _cut(answer: _Answer) -> str:
    is_cut = answer.end is None or answer.end.finish_reason == "length"
    return " (it was cut off)" if is_cut else ""


def _differences(one: Dialect | None, other: Dialect | None) -> tuple[str, ...]:
    """Return the names of what is not the same in two dialects."""
    if one is None or other is None:
        return ()
    return tuple(
        name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)
    )


def in_words(checked: Checked) -> str:
    """Return what a check found as lines for a person."""
    lines = [f"The model {checked.model} {'works' if checked.ok else 'does not work'}."]
    marks = {True: "yes", False: "no", None: "?"}
    width = max(map(len, checked.findings), default=0)
    lines += [
        f"  {name:{width}}  {marks[finding.works]:3}  {finding.told}"
        for name, finding in checked.findings.items()
    ]
    if checked.dialect is not None:
        lines.append(f"Dialect: {_named(checked.dialect)}.")
    if checked.learned:
        lines.append(f"Learned now: {', '.join(checked.learned)}. OPENAI_DIALECT can keep it.")
    lines += filter(None, (checked.error, checked.advice))
    return "\n".join(lines)


def _named(dialect: Dialect) -> str:
    """Return a dialect as `OPENAI_DIALECT` has it, without what is as OpenAI's own."""
    named = [
        f"{name}={_value(getattr(dialect, name))}" for name in _differences(dialect, Dialect())
    ]
    return ",".join(named) or "as OpenAI's own"


def _value(value: bool | str) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else value
