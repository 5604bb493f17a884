"""What belongs to the repository, and what only to a working copy of it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_nothing_that_is_ignored_and_no_link_is_committed() -> None:
    """A link in the place of `.venv` would take away that of everybody who pulls."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-s"]
    found = subprocess.run(listing, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this is no working copy of git")
    entries = found.stdout.splitlines()
    assert len(entries) > 300
    ignored = subprocess.check_output(
        [*listing[:3], "ls-files", "-ci", "--exclude-standard"], text=True
    )
    assert ignored.splitlines() == []
    assert [entry for entry in entries if entry.startswith("120000")] == []
