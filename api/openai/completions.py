"""`POST /v1/chat/completions`: this service for any client of OpenAI.

`model` is an agent's name, or else a model: then the agent `chat` answers with that one. The
client keeps the conversation and sends it whole; its system messages come after the
agent's own instructions. The agent executes its own tools; those that the request brings are the
client's to execute, and hide the agent's of the same names.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from api.http.direct import DirectRoute
from api.http.documents import EVENT_STREAM
from api.http.services import StartRuns, json_response
from api.openai.errors import FAILURES, failed, request_id
from api.openai.messages import (
    NamedChoice,
    ResponseFormat,
    Sampling,
    Stop,
    WireMessage,
    WireTool,
    chosen,
    messages_of,
    refused,
)
from errors import ClientError
from events import ChatStart, RunError
from hub import Reader
from messages import ModelOptions
from protocols.completions import CompletionsEncoder, WholeCompletion
from runs.request import RunRequest
from storage import StoredRun

router = APIRouter(tags=["openai"], responses=FAILURES, route_class=DirectRoute)


class StreamOptions(BaseModel):
    """What a stream contains besides the answer."""

    include_usage: bool | None = None
    include_tool_events: bool | None = Field(
        None, description="Stream the calls that the agent executes, as `tool_event` in chunks."
    )


class CompletionRequest(Sampling):
    """A conversation, and options for its answer. Unknown fields are ignored."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[WireMessage], Field(min_length=1, max_length=10_000, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Stop | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[WireTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    logprobs: bool | None = None
    functions: Any = Field(None, description="Not supported; use `tools`.")

    def run_request(self, agent: str, model: str | None) -> RunRequest:
        """Return what is asked for.

        Raises:
            errors.Invalid: it cannot be done here, or the conversation is not whole.
        """
        if self.n not in (None, 1):
            raise refused("n", "Only one answer to a request is supported.")
        if self.logprobs:
            raise refused("logprobs", "Not supported.")
        if self.functions:
            raise refused("functions", "Not supported; use tools.")
        choice = self.tool_choice
        name = choice.function.name if isinstance(choice, NamedChoice) else choice
        tool_choice, tools = chosen(name, tuple(tool.function.spec() for tool in self.tools or ()))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return RunRequest(
            history=messages_of(self.messages),
            agent=agent,
            model=model,
            options=ModelOptions(
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                stop=stop,
                seed=self.seed,
                output=self.response_format.output() if self.response_format else None,
                tool_choice=tool_choice,
            ),
            tools=tools,
            parallel_tools=self.parallel_tool_calls is not False,
            memory=self.remembers(self.who()),
            ephemeral=True,
            is_kept=False,
            is_whole=True,
        )


@router.post("/v1/chat/completions", response_class=JSONResponse, responses=EVENT_STREAM)
async def complete(body: CompletionRequest, runs: StartRuns) -> Response:
    """Answer a conversation."""
    options = body.stream_options or StreamOptions()
    if body.stream_options is not None and not body.stream:
        raise ClientError("stream_options: only allowed if stream is true.")
    agent, model = runs.registry.agents.resolve(runs.caller, body.model)
    request = await runs.prepared(body.run_request, agent, model)
    run = await runs.start(request, user=body.who())
    created = int(run.created_at.timestamp())
    if body.stream:
        failure = await _early_failure(await runs.read(run), runs.streaming.heartbeat)
        if failure is not None:
            return failed(failure, request_id(run))
        encoder = CompletionsEncoder(
            run.epoch,
            created=created,
            tell_usage=bool(options.include_usage),
            tool_events=bool(options.include_tool_events),
        )
        return runs.response(run.id, await runs.read(run), encoder, request_id(run))
    return await _whole(run, await runs.read(run), created)


async def _early_failure(reader: Reader, seconds: float) -> RunError | None:
    """Return how a run failed that failed before it said anything, within so many seconds.

    Clients repeat a request, or do not, by the status of its answer, which a stream has only once.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not reader.ended:
                for event in await reader.read():
                    if not isinstance(event, ChatStart):
                        return event if isinstance(event, RunError) else None
    return None


async def _whole(run: StoredRun, reader: Reader, created: int) -> Response:
    answer = WholeCompletion(created)
    while not reader.ended:
        for event in await reader.read():
            answer.add(event)
    match answer.result:
        case RunError() as error:
            return failed(error, request_id(run))
        case None:
            raise RuntimeError("a run's log ended without a terminal event")
        case completion:
            size = len(completion["choices"][0]["message"]["content"] or "")
            return await json_response(completion, size, headers=request_id(run))
