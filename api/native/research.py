"""`POST /research` and `POST /research/stream`: a question becomes a report with its sources.

Both start a run of the agent `research`, like any other run: `GET /runs/{run_id}/events` continues
reading it in every protocol, and `POST /runs/{run_id}/cancel` cancels it.
"""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, BaseModel, Field
from starlette.responses import Response

from api.http.documents import EVENT_STREAM, PROBLEMS
from api.http.services import Protocol, StartRuns
from errors import run_status
from events import RunError
from messages import UserMessage
from models import (
    MAX_MESSAGE_CHARS,
    TEXT,
    ChatResponse,
    Identifier,
    IfBusy,
    TokenUsage,
    UserId,
)
from research import NAME
from research.report import read_report
from runs.request import RunRequest

router = APIRouter(tags=["research"])

PROTOCOL = "agents-sdk"
"""The protocol of the stream for requests that name none."""

_WHOLE = ("stop", "length", "content_filter")
"""The finish reasons of a report whose end is the service's own."""


class ResearchRequest(BaseModel):
    """A question to research. Unknown fields are ignored."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARS), TEXT] = Field(
        validation_alias=AliasChoices("query", "input", "message", "question"),
        description="The question; the first of `query`, `input`, `message`, `question` is used.",
        examples=["How do heat pumps work in cold winters?"],
    )
    conversation_id: Identifier | None = Field(
        None, description="The conversation to continue. Default: a new one."
    )
    session_id: Identifier | None = Field(
        None, description="The same as `conversation_id`, if sessions are enabled."
    )
    user_id: UserId | None = Field(
        None, description="The user who owns the conversation, within the caller's tenant."
    )
    if_busy: IfBusy = Field(
        "enqueue", description="What happens if the conversation has an active run."
    )

    def run_request(self, *, remembers: bool) -> RunRequest:
        """Return the message to the agent that this is.

        Args:
            remembers: whether the server has sessions.
        """
        return RunRequest(
            messages=(UserMessage(self.query),),
            agent=NAME,
            conversation_id=self.conversation_id or (self.session_id if remembers else None),
            if_busy=self.if_busy,
        )


class ResearchSource(BaseModel):
    """A page that a search found."""

    title: str
    url: str


class ResearchResponse(BaseModel):
    """A whole report, or `error` with its `code` and whether it is `retryable`.

    `report` and `final_output` are the same text. `summary` is its first paragraph; `sources` and
    `follow_up_questions` come from its end. A report that was cut short has no sources and no
    questions.
    """

    report: str | None
    summary: str | None
    sources: list[ResearchSource]
    follow_up_questions: list[str]
    final_output: str | None
    success: bool
    error: str | None
    code: str | None
    retryable: bool | None
    finish_reason: str | None
    run_id: str
    conversation_id: str
    session_id: str | None
    usage: TokenUsage | None


@router.post("/research/stream", response_class=Response, responses=EVENT_STREAM | PROBLEMS)
async def stream_research(
    question: ResearchRequest,
    runs: StartRuns,
    protocol: Protocol = None,
) -> Response:
    """Research a question and get the report as server-sent events."""
    request = question.run_request(remembers=runs.remembers_sessions)
    return await runs.stream(request, protocol or PROTOCOL, user=question.user_id)


@router.post("/research", response_model=ResearchResponse, responses=PROBLEMS)
async def research(
    question: ResearchRequest,
    runs: StartRuns,
) -> Response:
    """Research a question and get the whole report."""
    request = question.run_request(remembers=runs.remembers_sessions)
    run, result = await runs.result(request, user=question.user_id)
    place = run.start.conversation_id
    body = ResearchResponse(
        run_id=run.id,
        conversation_id=place,
        session_id=place if runs.remembers_sessions else None,
        **(_failure(result) if isinstance(result, RunError) else _report(result)),
    )
    status = run_status(result.code) if isinstance(result, RunError) else 200
    return JSONResponse(body.model_dump(mode="json"), status, {"X-Run-Id": run.id})


def _report(answer: ChatResponse) -> dict[str, Any]:
    said = read_report(answer.response)
    is_whole = answer.finish_reason in _WHOLE
    sources = [ResearchSource(title=each.title, url=each.url) for each in said.sources]
    return {
        "report": answer.response,
        "summary": said.summary,
        "sources": sources if is_whole else [],
        "follow_up_questions": said.follow_up_questions if is_whole else [],
        "final_output": answer.response,
        "success": True,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
    } | dict.fromkeys(("error", "code", "retryable"))


def _failure(error: RunError) -> dict[str, Any]:
    absent = ("report", "summary", "final_output", "finish_reason", "usage")
    return {
        "sources": [],
        "follow_up_questions": [],
        "success": False,
        "error": error.message,
        "code": error.code,
        "retryable": error.retryable,
    } | dict.fromkeys(absent)
