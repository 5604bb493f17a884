"""The one place where a request's credential becomes a `Caller`.

There are no credentials yet. The service is open, and a request may name a user within the caller's
tenant.
"""

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from caller import Caller
from models import USER_PATTERN

OPEN = Caller("open", "default")
"""The caller of a request without credentials that names no user."""


def caller_of(connection: HTTPConnection) -> Caller:
    return OPEN


async def _caller(connection: HTTPConnection) -> Caller:
    return caller_of(connection)


Who = Annotated[Caller, Depends(_caller)]
"""The dependency of a route whose body may name a user, or that needs none."""


async def _named(
    caller: Who,
    user_id: Annotated[
        str | None,
        Query(pattern=USER_PATTERN, description="The user. Without it: the default user."),
    ] = None,
) -> Caller:
    return caller.named(user_id)


WhoInQuery = Annotated[Caller, Depends(_named)]
"""The dependency of a route whose query may name a user."""


def user_named(name: str) -> str:
    """Return the id of the user to whom a client gives this name."""
    return id_of(name, "user", USER_PATTERN)


def id_of(name: str, kind: str, pattern: str) -> str:
    """Return a name as an id: the same where it fits, or else `<kind>_<SHA-256>`.

    A name that is not a valid id is hashed. So is a name that looks like such a hash, so that
    nobody can use it to pass for the one with that hash.
    """
    if re.fullmatch(pattern, name) and not re.fullmatch(rf"{kind}_[0-9a-f]{{64}}", name):
        return name
    return f"{kind}_{hashlib.sha256(name.encode()).hexdigest()}"
