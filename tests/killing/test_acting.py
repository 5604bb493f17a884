"""What a tool has done is done once, however often the service is killed, and the model knows."""

from pathlib import Path

import pytest

from tests.killing.lives import forked
from tests.killing.model import Model
from tests.killing.trial import Trial
from tests.upstream import Upstream

KILLS = 25


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(3))
async def test_what_must_not_be_repeated_is_not_and_the_model_learns_of_it(
    tmp_path: Path, part: int
) -> None:
    data, acted, model = tmp_path / "data", tmp_path / "acted", Model()
    data.mkdir()
    async with (
        Upstream(model.reply, check=False) as upstream,
        forked(data, OPENAI_BASE_URL=upstream.base_url, ACTED=str(acted)) as lives,
    ):
        trial = Trial(lives, model, tmp_path, ("plain", "parallel", "turns", "act", "act"))
        outcome = await trial.run(KILLS)
    assert outcome.ends["completed"] > outcome.ends["failed"]
    assert set(outcome.resets) == {"epoch_changed", "log_expired"}
    assert outcome.data.check_acts(acted.read_text().split()) > 0
    results = outcome.data.results()
    assert model.results.items() <= {id: each.content for id, each in results.items()}.items()
