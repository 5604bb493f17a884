"""A run, and how the API shows it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agent import StreamingAgent
from api.native.runs import run_info
from caller import Caller
from events import ChatComplete, RunError, Usage
from models import AgentConfig
from runs.request import RunRequest
from runs.run import Run
from storage import StoredRun
from tests.logs import DONE, FAILED, START
from tests.scripted import ScriptedProvider
from tools.workers import Workers


def make_run() -> Run:
    agent = StreamingAgent("chat", AgentConfig(), ScriptedProvider(), (), Workers(1))
    stored = StoredRun(
        id="run_1",
        owner=Caller("open", "default"),
        conversation_id="conv_1",
        agent="chat",
        request="{}",
        start=START,
        status="queued",
        created_at=datetime.now(UTC),
    )
    return Run(stored, RunRequest(), agent, size=0)


@pytest.mark.parametrize(
    ("terminal", "status"),
    [
        (None, "queued"),
        (DONE, "completed"),
        (FAILED, "failed"),
        (ChatComplete(final_response="", finish_reason="cancelled", usage=None), "cancelled"),
        (ChatComplete(final_response="", finish_reason="max_turns", usage=None), "completed"),
    ],
)
async def test_the_status_of_a_run_follows_from_its_end(terminal: Any, status: str) -> None:
    run = make_run()
    if terminal is not None:
        run.ends(terminal)
    info = run_info(run.stored)
    assert run.stored.status == info.status == status
    assert (info.finish_reason is None) is not isinstance(terminal, ChatComplete)
    assert (info.error is None) is not isinstance(terminal, RunError)


async def test_a_run_tells_its_answer_its_usage_or_its_failure() -> None:
    run = make_run()
    run.ends(ChatComplete(final_response="42", finish_reason="stop", usage=Usage(1, 2, 3)))
    done = run_info(run.stored).model_dump()
    assert (done["final_response"], done["finish_reason"]) == ("42", "stop")
    assert done["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    run.ends(FAILED)
    assert run_info(run.stored).model_dump()["error"] == {
        "code": "upstream_error",
        "message": "It broke.",
        "retryable": True,
    }
