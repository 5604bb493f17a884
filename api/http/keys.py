"""The header `Idempotency-Key` (IETF draft "The Idempotency-Key HTTP Header Field")."""

from typing import Annotated

from fastapi import Header

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="The same key with the same body is the same run; with another body, 409.",
    ),
]
