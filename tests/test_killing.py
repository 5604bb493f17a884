"""A service that is killed, at any moment and again and again, loses nothing that it has said."""

from pathlib import Path

import pytest

from tests.killing.lives import started
from tests.killing.model import Model
from tests.killing.trial import Trial
from tests.upstream import Upstream

pytestmark = pytest.mark.slow

KILLS = 25


@pytest.mark.timeout(300)
async def test_what_a_killed_service_has_said_stays_true(tmp_path: Path) -> None:
    data, model = tmp_path / "data", Model()
    data.mkdir()
    async with (
        Upstream(model.reply, check=False) as upstream,
        started(data, OPENAI_BASE_URL=upstream.base_url) as lives,
    ):
        trial = Trial(lives, model, tmp_path, ("plain", "parallel", "turns"))
        outcome = await trial.run(KILLS)
    assert outcome.ends["completed"] > outcome.ends["failed"]
    assert set(outcome.resets) == {"epoch_changed", "log_expired"}
