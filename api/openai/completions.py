"""`POST /v1/chat/completions`: this service for whatever speaks to OpenAI.

`model` is an agent's name, or else a model: then the agent `chat` answers with that one. The
client keeps the conversation and sends it whole; what it says as the system stands behind the
agent's own instructions. The agent executes its own tools; those that the request brings are the
client's to execute, and hide the agent's of the same names.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from api.http.documents import EVENT_STREAM
from api.http.keys import IdempotencyKey
from api.http.services import Registry, StreamSettings
from api.http.streams import EventStream
from api.openai.errors import FAILURES, failed
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
from messages import ModelOptions
from models import Completion
from protocols.completions import CompletionsEncoder, WholeCompletion
from runs.registry import AgentRegistry
from runs.run import Run

router = APIRouter(tags=["openai"], responses=FAILURES)


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None
    include_tool_events: bool | None = Field(
        None, description="The calls that the agent executes, as `tool_event` of chunks."
    )


class CompletionRequest(Sampling):
    """A conversation, and how it is to be answered. Unknown members are ignored."""

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
    functions: Any = Field(None, description="Superseded by `tools`, and refused.")

    def completion(self, agent: str, model: str | None) -> Completion:
        """Return what is asked for.

        Raises:
            errors.Invalid: it cannot be done here, or the conversation is not whole.
        """
        if self.n not in (None, 1):
            raise refused("n", "There is one answer to a request here.")
        if self.logprobs:
            raise refused("logprobs", "They are not told here.")
        if self.functions:
            raise refused("functions", "Use tools.")
        choice = self.tool_choice
        name = choice.function.name if isinstance(choice, NamedChoice) else choice
        tool_choice, tools = chosen(name, tuple(tool.function.spec() for tool in self.tools or ()))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Completion(
            messages=messages_of(self.messages),
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
            user_id=self.who(),
            memory=self.remembers(),
        )


@router.post("/v1/chat/completions", response_class=JSONResponse, responses=EVENT_STREAM)
async def complete(
    body: CompletionRequest,
    request: Request,
    registry: Registry,
    streaming: StreamSettings,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answer a conversation."""
    options = body.stream_options or StreamOptions()
    if body.stream_options is not None and not body.stream:
        raise ClientError("stream_options: only where stream is true.")
    agent, model = registry.agents.resolve(body.model)
    run = await registry.start(body.completion(agent, model), idempotency_key)
    created = int(run.stored.created_at.timestamp())
    if body.stream:
        failure = await _early_failure(registry, run, streaming.heartbeat)
        if failure is not None:
            return failed(failure, _ids(run))
        encoder = CompletionsEncoder(
            run.stored.epoch,
            created=created,
            tell_usage=bool(options.include_usage),
            tool_events=bool(options.include_tool_events),
        )
        return EventStream(
            await registry.read(run.id),
            encoder,
            heartbeat=streaming.heartbeat,
            patience=streaming.patience,
            headers=_ids(run),
        )
    return await _whole(registry, run, created)


async def _early_failure(registry: AgentRegistry, run: Run, patience: float) -> RunError | None:
    """Return how a run failed that failed before it said anything, within so many seconds.

    Clients repeat a request, or do not, by the status of its answer, which a stream has only once.
    """
    reader = await registry.read(run.id)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not reader.ended:
                for event in await reader.read():
                    if not isinstance(event, ChatStart):
                        return event if isinstance(event, RunError) else None
    return None


def _ids(run: Run) -> dict[str, str]:
    """Return the headers by which a run is found again; OpenAI's clients know the second."""
    return {"X-Run-Id": run.id, "X-Request-Id": run.id}


async def _whole(registry: AgentRegistry, run: Run, created: int) -> Response:
    reader = await registry.read(run.id)
    answer = WholeCompletion(created)
    while not reader.ended:
        for event in await reader.read():
            answer.add(event)
    match answer.result:
        case RunError() as error:
            return failed(error, _ids(run))
        case None:
            raise RuntimeError("a run's log ended without a terminal event")
        case completion:
            return JSONResponse(completion, headers=_ids(run))
