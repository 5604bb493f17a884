"""CONTRIBUTING names only what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`\n]+)`", TEXT)
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w.-]*\.(?:py|md|in|toml|example)")
MADE = (".venv/",)
"""What a command makes."""


def named(text: str) -> set[str]:
    return {path for path in PATH.findall(text) if not path.startswith(MADE)}


def test_every_file_and_folder_that_is_named_is_there() -> None:
    paths = {path for quoted in QUOTED for path in named(quoted)}
    assert len(paths) > 30
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_command_of_make_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", TEXT)) <= targets


def test_every_name_of_a_recipe_is_in_the_file_beside_it() -> None:
    """A recipe says "`NAME` of `file`", "`NAME` (`file`)" or "`NAME` in `file`"."""
    pairs = re.findall(r"`(\w+)`\s(?:of|in|\()\s?`([\w/]+\.(?:py|toml|md))`", TEXT)
    assert len(pairs) >= 6
    for name, path in pairs:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)
