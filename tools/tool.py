"""A function becomes a tool: `tool_from(function)`.

    async def get_weather(city: Annotated[str, "A city's name"], context: ToolContext) -> dict:
        '''Get the current weather in a city.'''

The function is async or plain; it runs on a worker (`tools.workers`), so it may block. It
returns anything that has a JSON form, and raises `errors.ToolError` for what the model should
know. A parameter of type `ToolContext` is filled in; the model does not see it.

Rules of a call:

* What the model sent is either a JSON object that fits the schema, or `InvalidArguments` with a
  text that lets the model do better. It is never guessed at.
* Every failure of a tool is a `ToolError`, `sys.exit` included; only a cancellation of the
  caller passes through.
* A result is at most `RESULT_LIMIT` bytes long for the model; a longer one is cut and says so. What
  is behind `RESULT_SEEN` of it is not looked at.
* When `Tool.call` has returned or raised, the context reports nothing more.
"""

import asyncio
import inspect
import json
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import msgspec
from pydantic import ValidationError

from errors import InvalidArguments, ToolError
from messages import ToolSpec, clean_text
from tools.schema import Signature
from tools.values import NotJson, beginning, json_value
from tools.workers import Escaped, Worker

RESULT_LIMIT = 32_768
"""Bytes of UTF-8 that a result may have as text, the note on a cut included."""

RESULT_SEEN = 1_048_576
"""About how much of a result is looked at, to say how long it is and whether all of it is JSON."""

ARGUMENTS_LIMIT = 262_144
"""Bytes of UTF-8 that a call's arguments may have."""

VALUES_LIMIT = 20_000
"""Values that a call's arguments may hold: to check more would stall the service's loop."""

ERROR_LIMIT = 500
"""Characters of an unexpected exception's text, and of what is said about bad arguments."""

PROGRESS_INTERVAL = 0.05
"""Seconds between two reports of progress of one call; of those between, the newest counts."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')

_large_results = threading.Lock()

_IDEMPOTENT = "__parley_idempotent__"

_F = TypeVar("_F", bound=Callable[..., Any])

_logger = logging.getLogger("parley.tools")

Report = Callable[[float, float | None, str | None], None]


class ToolContext:
    """What a tool may know and do during one call. Made on the service's event loop.

    Args:
        report: called on that loop with progress, total and message, at most once in
            `PROGRESS_INTERVAL` seconds.
    """

    def __init__(
        self, *, run_id: str, conversation_id: str, agent: str, tool_call_id: str, report: Report
    ) -> None:
        self.run_id = run_id
        self.conversation_id = conversation_id
        self.agent = agent
        self.tool_call_id = tool_call_id
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: tuple[float, float | None, str | None] | None = None
        self._is_scheduled = False
        self._is_closed = False

    def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the call is, in any unit; from any thread, at any rate.

        Never waits and never raises; what is not a finite number, or not text, is dropped.
        """
        try:
            text = None if message is None else clean_text(message[:ERROR_LIMIT])
            newest = (_finite(progress), None if total is None else _finite(total), text)
        except Exception:  # noqa: BLE001 - a bad remark must not end the tool that makes it
            return
        with self._lock:
            if self._is_closed:
                return
            self._newest = newest
            is_scheduled, self._is_scheduled = self._is_scheduled, True
        if not is_scheduled:
            with suppress(RuntimeError):  # the service's loop is closed
                self._loop.call_soon_threadsafe(self._deliver)

    def close(self) -> None:
        """Deliver the newest report, if it waits, and none after it. On the service's loop."""
        with self._lock:
            newest, self._newest = self._newest, None
            is_closed, self._is_closed = self._is_closed, True
        if newest and not is_closed:
            self._report(*newest)

    def _deliver(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
            self._is_scheduled = newest is not None
        if newest is not None:
            self._loop.call_later(PROGRESS_INTERVAL, self._deliver)
            self._report(*newest)


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("progress must be finite")
    return number if type(number) is int else float(number)


class ToolOutput(msgspec.Struct, frozen=True):
    """What a call returned: `value` is JSON for the wire, `text` is for the model.

    Where `truncated`, both are the same cut text.
    """

    value: Any
    text: str
    truncated: bool


def output_from(value: Any) -> ToolOutput:
    """Return a tool's result; a string stands for itself. `ToolError` if it is not JSON.

    Of a large one only so much is looked at as is needed, and of several one after the other: while
    threads work, the service's loop waits for each of them in turn.
    """
    try:
        plain, is_whole = beginning(value, 2 * RESULT_LIMIT)
        if not is_whole:
            with _large_results:
                plain, is_whole = beginning(value, RESULT_SEEN)
    except NotJson as error:
        raise ToolError(f"The tool returned {error}.") from None
    encoded = plain.encode() if isinstance(plain, str) else msgspec.json.encode(plain)
    if len(encoded) <= RESULT_LIMIT and is_whole:
        return ToolOutput(plain, encoded.decode(), False)
    size = f"{'' if is_whole else 'more than '}{len(encoded):,}"
    note = f"\n[Cut at {RESULT_LIMIT:,} bytes: the whole result has {size} bytes.]"
    text = encoded[: RESULT_LIMIT - len(note)].decode(errors="ignore") + note
    return ToolOutput(text, text, True)


class Tool:
    """Something that a model may call.

    Args:
        spec: what the model is told.
        function: async or plain; called with what `validate` returns as keyword arguments.
        validate: returns the keyword arguments for the model's; its errors, of any type, are
            the model's fault.
        context_name: the function's parameter for the `ToolContext`, if it has one.
        idempotent: see the function of this name.
    """

    def __init__(
        self,
        spec: ToolSpec,
        function: Callable[..., Any],
        validate: Callable[[dict[str, Any]], dict[str, Any]],
        context_name: str | None = None,
        idempotent: bool = False,
    ) -> None:
        self.spec = spec
        self.idempotent = idempotent
        self._function = function
        self._validate = validate
        self._context_name = context_name

    @property
    def name(self) -> str:
        return self.spec.name

    def parse(self, arguments: str) -> dict[str, Any]:
        """Return the JSON object that the model sent; `InvalidArguments` if it does not fit.

        Nothing at all counts as an object without members: some providers send that for a
        call without arguments.
        """
        try:
            decoded = _decoded(arguments) if arguments.strip() else {}
        except NotJson as error:
            self._refuse(str(error))
        self._validated(decoded)
        return decoded

    async def call(
        self, worker: Worker, arguments: dict[str, Any], context: ToolContext
    ) -> ToolOutput:
        """Execute the tool with arguments that `parse` returned; every failure is a `ToolError`."""
        try:
            output: ToolOutput = await worker.run(self._perform, arguments, context)
            return output
        except Escaped as error:
            raise ToolError(f"The tool raised {error}.") from error
        finally:
            context.close()

    def _perform(
        self, arguments: dict[str, Any], context: ToolContext
    ) -> ToolOutput | Awaitable[ToolOutput]:
        """Run in the worker's thread, as does what it returns."""
        keywords = self._validated(arguments)
        if self._context_name is not None:
            keywords[self._context_name] = context
        with self._failures():
            result = self._function(**keywords)
            if not inspect.isawaitable(result):
                return output_from(result)
        return self._awaited(result)

    async def _awaited(self, result: Awaitable[Any]) -> ToolOutput:
        with self._failures():
            return output_from(await result)

    @contextmanager
    def _failures(self) -> Generator[None, None, None]:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # a tool may raise anything
            cause = _single_cause(error)
            if isinstance(cause, ToolError):
                raise ToolError(clean_text(str(cause))[:RESULT_LIMIT]) from error
            _logger.warning("tool %s failed", self.name, exc_info=error)
            raise ToolError(_described(cause)) from error

    def _validated(self, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._validate(arguments)
        except ValidationError as error:
            self._refuse("; ".join(_faults(error)))
        except Exception as error:  # noqa: BLE001 - a validator of the tool's own raised it
            self._refuse(_described(error))

    def _refuse(self, reason: str) -> NoReturn:
        schema = msgspec.json.encode(self.spec.parameters).decode()
        raise InvalidArguments(
            f"The arguments for {self.name} are not valid: {_shortened(clean_text(reason))}. "
            f"Send one JSON object that fits this schema: {schema}"
        ) from None


def tool_from(function: Callable[..., Any], *, name: str | None = None) -> Tool:
    """Return the tool that a function, a bound method or another callable is.

    The `name` is what the model calls it, by default the function's own. Raises `TypeError` with
    the reason where it cannot be a tool; see the module's text for what it may be.
    """
    if name is None:
        name = str(getattr(function, "__name__", type(function).__name__))
    if not _NAME.fullmatch(name):
        raise TypeError(f"{name!r} cannot be a tool's name: it must match {_NAME.pattern}")
    signature = Signature(function, name, ToolContext)
    spec = ToolSpec(name, signature.description, signature.parameters)
    harmless = bool(getattr(function, _IDEMPOTENT, False))
    return Tool(spec, function, signature.validated, signature.context_name, harmless)


def idempotent(function: _F) -> _F:
    """Declare that a tool does no harm when one call of it is executed twice.

    A crash of the service may interrupt a call. Such a tool is then called again; of every other
    one the model is told that the outcome is not known.
    """
    setattr(function, _IDEMPOTENT, True)
    return function


def _decoded(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`; the error's text completes "not valid: …"."""
    if len(text) > ARGUMENTS_LIMIT or len(text.encode(errors="replace")) > ARGUMENTS_LIMIT:
        raise NotJson(f"they are longer than {ARGUMENTS_LIMIT:,} bytes")
    try:
        decoded = _decode(text)
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"they are not JSON: {error}") from None
    except RecursionError:
        raise NotJson("they are nested too deep") from None
    except ValueError:
        raise NotJson("they contain an integer with too many digits") from None
    bare = _STRING.sub("", text)
    if sum(bare.count(mark) for mark in ",[{") > VALUES_LIMIT:
        raise NotJson(f"they hold more than {VALUES_LIMIT:,} values")
    if not isinstance(decoded, dict):
        raise NotJson("they are JSON, but not an object")
    try:
        plain: dict[str, Any] = json_value(decoded)
    except NotJson as error:
        raise NotJson(f"they contain {error}") from None
    if plain != decoded:
        raise NotJson("they contain a NUL or a lone surrogate in a string")
    return plain


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise NotJson(f"they name {counts.most_common(1)[0][0][:50]!r} twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise NotJson(f"they contain {text}, which is not JSON")


_decode = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant).decode

_REASONS = {
    "missing_keyword_only_argument": "is missing",
    "missing": "is missing",
    "unexpected_keyword_argument": "is not an argument of this tool",
    "extra_forbidden": "is not a field of this object",
}


def _faults(error: ValidationError) -> list[str]:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        f"{'.'.join(str(part) for part in fault['loc'])}: "
        f"{_REASONS.get(fault['type'], fault['msg'])}"
        for fault in faults[:10]
    ]


def _single_cause(error: BaseException) -> BaseException:
    """Return the one exception in a task group's, however deep it is wrapped."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide that the tool failed
        text = ""
    name = type(error).__name__
    return _shortened(clean_text(f"{name}: {text}" if text else name))


def _shortened(text: str) -> str:
    return text if len(text) <= ERROR_LIMIT else f"{text[: ERROR_LIMIT - 1]}…"
