"""Make mistakes, and print how many of them the tests see; see the package."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants_of, optional_arguments
from tests.mutation.reach import Reach, Recorder
from tests.mutation.trials import Trial, outcomes, prepare

CORE = ("agent.py", "loop/", "runs/", "hub/", "protocols/", "storage/runs.py")
ALSO = ("events.py", "messages.py", "errors.py", "models.py", "sse.py", "storage/")
"""Where functions and classes are that the core calls."""

HOMES = ("tests/agent", "tests/hub", "tests/protocols", "tests/runs", "tests/storage")
"""The tests of the core. What only others see is not seen at home, and counts as not seen."""

FLOOR = 90
"""Per cent of the mistakes that are to be seen."""

SAMPLE_FLOOR = 80
"""The same of a sample: of a hundred mistakes, chance alone takes or gives several per cent."""

_RESULTS = {0: "survived", 1: "seen", None: "too long"}
"""What pytest's exit code says of a mistake."""

_ROOM = 15.0
"""Seconds that a trial may take beside what its tests take without a mistake, times three."""


def main() -> int:
    asked = _arguments()
    began = time.monotonic()
    prepare()
    mutants = _mutants(asked.only)
    if not mutants:
        sys.exit("No mistake can be made there; the core is " + ", ".join(CORE))
    reach = _reach(asked.workers)
    results, survivors = Counter[str](), Counter[str]()
    trials = _trials(mutants[: asked.count], reach, until=began + 60 * asked.minutes)
    for trial, code in outcomes(trials, asked.workers):
        assert trial.mutant is not None
        result = _result(trial, code)
        if result == "not run" and _fails_without_a_mistake(trial):
            sys.exit("The tests cannot be run any more, without any mistake.")
        results[result] += 1
        if result == "survived":
            survivors[trial.mutant.path] += 1
            print(_shown(trial.mutant, len(trial.tests)), flush=True)
        if results.total() % 100 == 0:
            print(f"{results.total()} tried, {results['survived']} survived", flush=True)
    return _report(results, survivors, len(mutants), time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("only", nargs="*", help="files or folders of the core; all without")
    parser.add_argument("--count", type=int, help="try so many, always the same; all without")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no trial after these")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _files(paths: Sequence[str]) -> list[str]:
    found = [[*Path(each).glob("*.py")] if Path(each).is_dir() else [Path(each)] for each in paths]
    return sorted(path.as_posix() for some in found for path in some)


def _mutants(only: Sequence[str]) -> list[Mutant]:
    core = _files(CORE)
    optional = optional_arguments({*core, *_files(ALSO)})
    found = mutants_of(core, optional)
    known = {(each.path, each.before, each.after) for each in found}
    for gone in EQUIVALENT.keys() - known:
        print(f"No such mistake can be made any more; take it out of `equivalent`: {gone}")
    chosen = {path for path in core if not only or path.startswith(tuple(only))}
    return [
        each
        for each in found
        if each.path in chosen and (each.path, each.before, each.after) not in EQUIVALENT
    ]


def _reach(workers: int) -> Reach:
    """Run all tests without a mistake."""
    reach = Reach({}, {})
    with TemporaryDirectory() as folder:
        files = {home: Path(folder) / home.replace("/", "-") for home in HOMES}
        core = _files(CORE)
        trials = [
            Trial([home], 600, plugin=partial(Recorder, core, to)) for home, to in files.items()
        ]
        for trial, code in outcomes(trials, workers):
            if code != 0:
                sys.exit(f"The tests of {trial.tests[0]} fail without any mistake.")
        for file in files.values():
            reach = reach.merged(msgspec.json.decode(file.read_bytes(), type=Reach))
    return reach


def _trials(mutants: Sequence[Mutant], reach: Reach, until: float) -> Iterator[Trial]:
    for mutant in mutants:
        if time.monotonic() > until:
            return
        tests = reach.of(mutant.path, mutant.lines)
        seconds = _ROOM + 3 * sum(reach.seconds[test] for test in tests)
        yield Trial(tests, seconds, mutant)


def _result(trial: Trial, code: int | None) -> str:
    if not trial.tests:
        return "survived"
    return _RESULTS.get(code, "not run")


def _fails_without_a_mistake(trial: Trial) -> bool:
    """Tell whether it is not the mistake that keeps tests from being run, as one in an import does.

    Then nothing would be seen of any mistake from here on, and the score would be a fine one.
    """
    [(_, code)] = outcomes([trial._replace(mutant=None)], 1)
    return code != 0


def _shown(mutant: Mutant, tests: int) -> str:
    head = f"{mutant.path}:{mutant.line}  ({tests} tests reach it)"
    return f"{head}\n  - {mutant.before}\n  + {mutant.after}\n"


def _report(results: Counter[str], survivors: Counter[str], of: int, seconds: float) -> int:
    tried = results.total()
    score = 100 * (tried - results["survived"]) / tried
    floor = FLOOR if tried == of else SAMPLE_FLOOR
    for path, count in survivors.most_common():
        print(f"{path}: {count}")
    print(
        f"{tried} of {of} mistakes were tried in {seconds:.0f} s: {results['survived']} survived, "
        f"{results['too long']} never ended. {score:.1f} % were seen; {floor} % is the floor. "
        f"{len(EQUIVALENT)} that nobody can notice were left out."
    )
    return int(score < floor)


if __name__ == "__main__":
    sys.exit(main())
