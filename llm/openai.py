"""OpenAI, and every server that speaks its chat completions; `llm.sdk` says how it is asked.

How a request is written follows from the model's dialect (`llm.dialects`). A refusal that is
about a parameter changes the dialect, and the request is made again; once that is accepted, what
was learned holds for the model. What the client itself demanded is never left out.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from errors import UpstreamError
from llm.dialects import Dialect, dialect_of
from llm.history import once
from llm.lessons import MAX_LEARNED, lesson_of
from llm.openai_failures import OpenAIFailures, is_about_conversation
from llm.openai_messages import KIND, chat_messages
from llm.openai_stream import OpenAIReply
from llm.sdk import STREAM_HEADERS, SdkProvider
from llm.text import ANY_OBJECT, form_in_words
from llm.tool_calls import ids_in
from messages import ModelRequest, OutputSchema, SystemMessage, ToolSpec

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response
    from openai import AsyncOpenAI

logger = logging.getLogger("parley.llm")

MAX_LESSONS = 8
"""How often one request is made again in another dialect."""


@dataclass(kw_only=True, eq=False, repr=False)
class OpenAIProvider(SdkProvider):
    """A provider that asks an OpenAI-compatible server.

    Args:
        temperature: for requests that have none; not sent where None.
        dialect: what is set of the server's dialect, by the names of `Dialect`.
    """

    temperature: float | None
    dialect: dict[str, Any] | None = None

    name = "openai"
    kind = KIND
    failures_type = OpenAIFailures
    reply_type = OpenAIReply

    def __post_init__(self) -> None:
        super().__post_init__()
        self._learned: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def dialect_for(self, model: str, changes: dict[str, Any] | None = None) -> Dialect:
        """Return the dialect of a model; `changes` are those of an agent."""
        known = dialect_of(self.base_url, model)
        learned = self._learned.get(model)
        if not (learned or self.dialect or changes):
            return known
        return msgspec.structs.replace(
            known, **{**(learned or {}), **(self.dialect or {}), **(changes or {})}
        )

    def _sdk_client(self, http_client: "AsyncClient", **options: Any) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        http_client.event_hooks["response"].append(_refuse_hopeless_retries)
        return AsyncOpenAI(http_client=http_client, **options)

    def _reply(self, request: ModelRequest) -> OpenAIReply:
        dialect = self.dialect_for(request.model, request.dialect)
        return OpenAIReply(
            self._failures,
            ids_in(request.messages),
            self.source,
            has_tags=dialect.think_tags,
            keeps_reasoning=dialect.echo == "reasoning_content",
        )

    def _call(self, request: ModelRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
        options = {"headers": STREAM_HEADERS, "security": {"bearer_auth": True}}
        dialect = self.dialect_for(request.model, request.dialect)
        return "/chat/completions", self._body(request, dialect), options

    def _otherwise(
        self, request: ModelRequest, asked: ModelRequest, error: UpstreamError, number: int
    ) -> ModelRequest:
        """Return the request in the dialect that the refusal asks for.

        There is none where all that is refused is what the client demands.
        """
        if error.refusal is None or number > MAX_LESSONS:
            raise error
        learned = _changes(request, asked)
        dialect = self.dialect_for(asked.model, asked.dialect)
        body = self._body(asked, dialect)
        is_set = {*(self.dialect or ()), *request.dialect}
        lesson = {
            name: value
            for name, value in lesson_of(error.refusal, body, learned).items()
            if name not in is_set
        }
        if body == self._body(asked, msgspec.structs.replace(dialect, **lesson)):
            raise error
        return msgspec.structs.replace(request, dialect=request.dialect | learned | lesson)

    def _accepted(self, request: ModelRequest, asked: ModelRequest) -> None:
        """Remember what was learned; of as many models as fit, the latest."""
        lessons = _changes(request, asked)
        if not lessons:
            return
        self._learned[request.model] = self._learned.pop(request.model, {}) | lessons
        if len(self._learned) > MAX_LEARNED:
            self._learned.popitem(last=False)
        told = ", ".join(f"{name}={value}" for name, value in lessons.items())
        logger.warning("The model %r refused a request and took another: %s", request.model, told)

    def _body(self, request: ModelRequest, dialect: Dialect) -> dict[str, Any]:
        demanded = request.demanded
        form, words = _form(request.options.output, dialect, "output" in demanded)
        messages = (*request.messages, SystemMessage(words))
        body: dict[str, Any] = {
            "model": request.model,
            "messages": chat_messages(messages, dialect, self.source),
            "stream": True,
        }
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
        if request.tools and (dialect.tools or "tools" in demanded):
            body["tools"] = [_tool(tool) for tool in once(request.tools)]
            if not request.parallel_tools and (
                dialect.parallel_tool_calls or "parallel_tools" in demanded
            ):
                body["parallel_tool_calls"] = False
            if request.options.tool_choice != "auto":
                body["tool_choice"] = request.options.tool_choice
        if form is not None:
            body["response_format"] = form
        return body | self._numbers(request, dialect)

    def _numbers(self, request: ModelRequest, dialect: Dialect) -> dict[str, Any]:
        options, demanded = request.options, request.demanded
        values: dict[str, Any] = {"stop": options.stop or None, "seed": options.seed}
        if dialect.temperature or "temperature" in demanded:
            values["temperature"] = _first(options.temperature, self.temperature)
        if dialect.top_p or "top_p" in demanded:
            values["top_p"] = options.top_p
        if dialect.bound != "none":
            values[dialect.bound] = _first(options.max_tokens, self.max_tokens)
        elif "max_tokens" in demanded:
            values["max_tokens"] = options.max_tokens
        return {name: value for name, value in values.items() if value is not None}


def _changes(request: ModelRequest, asked: ModelRequest) -> dict[str, Any]:
    """Return what was learned for a request so far."""
    return {name: value for name, value in asked.dialect.items() if name not in request.dialect}


async def _refuse_hopeless_retries(response: "Response") -> None:
    """Tell the SDK not to repeat a request that failed at the model's chat template."""
    if response.status_code == 500:
        await response.aread()
        if is_about_conversation(500, response.text):
            response.headers["x-should-retry"] = "false"


def _form(
    output: OutputSchema | None, dialect: Dialect, is_demanded: bool
) -> tuple[dict[str, Any] | None, str]:
    """Return the form that is demanded of an answer, and what has to be said in words instead."""
    if output is None:
        return None, ""
    if output.schema is None:
        if dialect.json_object or is_demanded:
            return {"type": "json_object"}, ""
        return None, ANY_OBJECT
    if dialect.json_schema or is_demanded:
        form: dict[str, Any] = {"name": output.name, "schema": output.schema}
        if output.strict is not None:
            form["strict"] = output.strict
        return {"type": "json_schema", "json_schema": form}, ""
    words = form_in_words(output.schema)
    return ({"type": "json_object"} if dialect.json_object else None), words


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
