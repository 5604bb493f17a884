"""Word lists, written as text.

This module imports nothing of the project.
"""


def words(text: str, separator: str | None = None) -> list[str]:
    """Return the words of a list that reads better as one text."""
    return text.split(separator)
