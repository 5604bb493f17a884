"""Mistakes that nobody can notice, and why."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""File, the line as it is, and as it is with the mistake; the reason."""
