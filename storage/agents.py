"""Agents that were configured at run time. Each function is part of one transaction of `Store`."""

from collections.abc import Collection

from sqlalchemy import Connection, bindparam, delete, select, text
from sqlalchemy.dialects import postgresql

from errors import TooMany
from storage.tables import agents

_put = postgresql.insert(agents)
_PUT = _put.on_conflict_do_update(
    index_elements=["tenant", "name"], set_={"config": _put.excluded.config}
)
_ALL = select(agents.c.tenant, agents.c.name, agents.c.config).order_by(agents.c.name)
_NAMES = select(agents.c.name).where(agents.c.tenant == bindparam("of_tenant"))
_PUTTING = 0x7061726C6167  # the key of an advisory lock
_ONE_PUTS = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_PUTTING)
_DELETE = delete(agents).where(
    agents.c.tenant == bindparam("of_tenant"), agents.c.name == bindparam("of_name")
)


def every(db: Connection) -> list[tuple[str, str, str]]:
    return [(row.tenant, row.name, row.config) for row in db.execute(_ALL)]


def put(
    db: Connection, tenant: str, name: str, config: str, built_in: Collection[str], limit: int
) -> bool:
    """Put in an agent, and tell whether it is new; `TooMany` where there are `limit` already.

    Those that come with the service, `built_in`, count. Of several puts that come at once each
    sees what the others have put in.
    """
    if db.dialect.name == "postgresql":
        db.execute(_ONE_PUTS)
    there = {*built_in, *db.execute(_NAMES, {"of_tenant": tenant}).scalars()}
    if name not in there and len(there) >= limit:
        raise TooMany(f"There may be at most {limit} agents.")
    db.execute(_PUT, {"tenant": tenant, "name": name, "config": config})
    return name not in there


def remove(db: Connection, tenant: str, name: str) -> bool:
    return db.execute(_DELETE, {"of_tenant": tenant, "of_name": name}).rowcount == 1
