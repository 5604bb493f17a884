"""Write a draft of a migration: `python -m storage.migrations "what the change is"`."""

import sys
import tempfile

from sqlalchemy import create_engine

from storage.migrations import revise, upgrade


def main() -> None:
    """Compare the tables with what the migrations make on an empty database."""
    if len(sys.argv) != 2:
        sys.exit('usage: python -m storage.migrations "what the change is"')
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/scratch.db")
        with engine.begin() as connection:
            upgrade(connection)
            revise(connection, sys.argv[1])
        engine.dispose()


if __name__ == "__main__":
    main()
