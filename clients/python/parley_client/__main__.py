"""`python -m parley_client`: a chat in the terminal."""

import sys


def main() -> int:
    try:
        from parley_client.terminal.chat import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("rich", "prompt_toolkit"):
            raise
        print(
            f"The terminal chat needs {error.name}: install parley-client with its extra `chat`.",
            file=sys.stderr,
        )
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
