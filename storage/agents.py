"""Agents that were configured at run time. Each function is part of one transaction of `Store`."""

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql

from storage.tables import agents

_put = postgresql.insert(agents)
_PUT = _put.on_conflict_do_update(
    index_elements=["tenant", "name"], set_={"config": _put.excluded.config}
)
_ALL = select(agents.c.tenant, agents.c.name, agents.c.config).order_by(agents.c.name)
_DELETE = delete(agents).where(
    agents.c.tenant == bindparam("of_tenant"), agents.c.name == bindparam("of_name")
)


def every(db: Connection) -> list[tuple[str, str, str]]:
    return [(row.tenant, row.name, row.config) for row in db.execute(_ALL)]


def put(db: Connection, tenant: str, name: str, config: str) -> None:
    db.execute(_PUT, {"tenant": tenant, "name": name, "config": config})


def remove(db: Connection, tenant: str, name: str) -> bool:
    return db.execute(_DELETE, {"of_tenant": tenant, "of_name": name}).rowcount == 1
