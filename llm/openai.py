"""OpenAI, and every server that speaks its chat completions; `llm.sdk` says how it is asked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm.dialects import dialect_of
from llm.history import once
from llm.openai_failures import OpenAIFailures
from llm.openai_messages import KIND, chat_messages
from llm.openai_stream import OpenAIReply
from llm.sdk import STREAM_HEADERS, SdkProvider
from llm.tool_calls import ids_in
from messages import ModelOptions, ModelRequest, OutputSchema, ToolSpec

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI


@dataclass(kw_only=True, eq=False, repr=False)
class OpenAIProvider(SdkProvider):
    """A provider that asks an OpenAI-compatible server.

    `temperature`: for requests that have none; not sent where None.
    """

    temperature: float | None

    name = "openai"
    kind = KIND
    failures_type = OpenAIFailures
    reply_type = OpenAIReply

    def _sdk_client(self, http_client: "AsyncClient", **options: Any) -> "AsyncOpenAI":
        from openai import AsyncOpenAI

        return AsyncOpenAI(http_client=http_client, **options)

    def _call(self, request: ModelRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
        options = {"headers": STREAM_HEADERS, "security": {"bearer_auth": True}}
        return "/chat/completions", self._body(request), options

    def _reply(self, request: ModelRequest) -> OpenAIReply:
        reply = OpenAIReply(self._failures, ids_in(request.messages), self.source)
        echo = dialect_of(self.base_url, request.model).echo
        reply.keeps_reasoning = echo == "reasoning_content"
        return reply

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        dialect = dialect_of(self.base_url, request.model)
        body: dict[str, Any] = {
            "model": request.model,
            "messages": chat_messages(request.messages, dialect, self.source),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.tools:
            body["tools"] = [_tool(tool) for tool in once(request.tools)]
            if not request.parallel_tools:
                body["parallel_tool_calls"] = False
            if request.options.tool_choice != "auto":
                body["tool_choice"] = request.options.tool_choice
        return body | self._options(request.options)

    def _options(self, options: ModelOptions) -> dict[str, Any]:
        # OpenAI has deprecated the old name, other servers do not know the new one.
        max_tokens = "max_completion_tokens" if self.base_url is None else "max_tokens"
        values = {
            "response_format": _form(options.output),
            "temperature": _first(options.temperature, self.temperature),
            "top_p": options.top_p,
            max_tokens: _first(options.max_tokens, self.max_tokens),
            "stop": options.stop or None,
            "seed": options.seed,
        }
        return {name: value for name, value in values.items() if value is not None}


def _form(output: OutputSchema | None) -> dict[str, Any] | None:
    if output is None:
        return None
    if output.schema is None:
        return {"type": "json_object"}
    form: dict[str, Any] = {"name": output.name, "schema": output.schema}
    if output.strict is not None:
        form["strict"] = output.strict
    return {"type": "json_schema", "json_schema": form}


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
