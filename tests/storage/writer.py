"""Chat without an end, and say of each run that it is kept."""

import asyncio
import sys

from storage.store import Store
from tests.storage.support import chat


async def main(url: str) -> None:
    async with Store.open(url, instance="writer") as store:
        while True:
            run = await chat(store, "Hi", "Hello. " * 200)
            sys.stdout.write(f"{run.id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
