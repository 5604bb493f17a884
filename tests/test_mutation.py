"""The tool that makes mistakes: which ones it makes, and that it tells what a test sees."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants_of, optional_arguments

ROOT = Path(__file__).parents[1]

SOURCE = '''"""A module."""

import asyncio


def pick(items: list[int], most: int, *, is_loud: bool = False) -> list[int]:
    """Pick."""
    if most > 0 and items:
        return items[1:most]
    return [item for item in items if item]


async def act(log: list[str], most: int) -> None:
    try:
        log.append("a")
        await asyncio.sleep(most)
    finally:
        most += len(log)
    pick([], most, is_loud=True)
    for item in log:
        if item == "b":
            continue
'''

SIGNATURE = "def pick(items: list[int], most: int, *, is_loud: bool = False) -> list[int]:"

MISTAKES = {
    SIGNATURE: [SIGNATURE.replace("False", "True")],
    "if most > 0 and items:": [
        "if True:",
        "if False:",
        "if items:",
        "if (most > 0):",
        "if (most >= 0) and items:",
        "if most > 1 and items:",
    ],
    "return items[1:most]": ["return items[:most]", "return items[1:]", "return items[2:most]"],
    "return [item for item in items if item]": ["return ([item for item in items])"],
    'log.append("a")': ["pass"],
    "await asyncio.sleep(most)": ["pass"],
    'log.append("a") await asyncio.sleep(most)': ['await asyncio.sleep(most) log.append("a")'],
    'try: log.append("a") await asyncio.sleep(most) finally:': [
        'if True: log.append("a") await asyncio.sleep(most) if True:'
    ],
    "most += len(log)": ["most = len(log)"],
    "pick([], most, is_loud=True)": [
        "pass",
        "pick([], most)",
        "pick([], most, is_loud=False)",
    ],
    'if item == "b":': ["if True:", "if False:"],
    "continue": ["pass"],
}


def test_each_plausible_mistake_is_made_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    made = mutants_of([str(path)], optional_arguments([str(path)]))
    assert sorted((mutant.before, mutant.after) for mutant in made) == sorted(
        (before, after) for before, changes in MISTAKES.items() for after in changes
    )
    for mutant in made:
        compile(mutant.applied(), str(path), "exec")


TRIALS = """
from tests.mutation.mutants import Mutant
from tests.mutation.trials import Trial, outcomes, prepare
source = open("runs/queue.py", "rb").read()
at = source.index(b"queue.remove(turn)")
wrong = Mutant("runs/queue.py", (1, 1), at, at + len(b"queue.remove(turn)"), "pass")
test = "tests/runs/test_queue.py::test_a_run_that_gives_up_waiting_does_not_give_away_the_turn"
prepare()
trials = [Trial([test], 60), Trial([test], 60, wrong), Trial([test], 0)]
print([code for _, code in outcomes(trials, 1)])
"""


@pytest.mark.slow
def test_a_mistake_is_seen_by_a_test_that_passes_without_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIALS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0, 1, None]\n"
