"""`python app.py check-model`: asks the configured model, and prints what of it works.

The exit status is 0 where an agent can work with the model, 1 where it cannot, and 2 where none is
configured.
"""

import asyncio
import logging
from contextlib import aclosing

import msgspec

from llm.check import Checked, check, in_words
from llm.providers import PROVIDERS, configured, make_router
from settings import BadSettings, Settings


def main(settings: Settings, model: str | None, *, as_json: bool) -> int:
    """Check a model, by default the configured one; return the exit status.

    Raises `BadSettings` where the settings name no provider.
    """
    if not configured(PROVIDERS, settings):
        raise BadSettings(
            "No model is configured, so the demo answers; set OPENAI_API_KEY, OPENAI_BASE_URL or "
            "another of docs/models.md in .env."
        )
    logging.disable()  # what it would say is in what is printed
    checked = asyncio.run(_checked(settings, model))
    print(msgspec.json.encode(checked).decode() if as_json else in_words(checked))
    return 0 if checked.ok else 1


async def _checked(settings: Settings, model: str | None) -> Checked:
    async with aclosing(make_router(PROVIDERS, settings)) as provider:
        return await check(provider, model)
