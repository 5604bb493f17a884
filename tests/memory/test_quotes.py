"""A provider's reason for the log: what people said is not in it, and the rest is."""

import pytest

from memory.quotes import HIDDEN, without_quotes

OURS = "The answer has a maximum length in tokens; user, this, is, model, I, like, was, my."
SAID = "user: My code word is Xylophone-4711.\nI like this. Mail ann@example.com\nПароль это лето"
KEPT = [
    "This model's maximum context length is 4096 tokens; your messages have 9000.",
    "The model provider rejected the request: response_format is not supported.",
    "",
]
QUOTING = {
    'Invalid value: "My code word is Xylophone-4711."': f'Invalid value: "{HIDDEN}."',
    "xylophone was flagged.": f"{HIDDEN} was flagged.",
    "4711": HIDDEN,
    "Flagged: I LIKE THIS, and more": f"Flagged: {HIDDEN}, and more",
    "cannot mail ann@example.com.": f"cannot {HIDDEN}.",
    "Плохо: пароль это": f"Плохо: {HIDDEN}",
}


@pytest.mark.parametrize("reason", KEPT)
def test_a_reason_that_quotes_nobody_stays_as_it_is(reason: str) -> None:
    assert without_quotes(reason, SAID, OURS) == reason


@pytest.mark.parametrize("reason", QUOTING)
def test_what_was_said_is_taken_out(reason: str) -> None:
    assert without_quotes(reason, SAID, OURS) == QUOTING[reason]


def test_where_nothing_was_said_nothing_is_taken_out() -> None:
    assert without_quotes("My code word is 4711.", "", "") == "My code word is 4711."
