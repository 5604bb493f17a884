"""The terminal chat, through a real pseudo-terminal, and in a pipe."""

import asyncio
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.api.support import Hanging, add, fail, scripted
from tests.python_client.proxy import Proxy
from tests.service import DEADLINE, running
from tests.upstream import calls, held, paced, text

CLIENT = Path(__file__).parents[2] / "clients" / "python"
COMMAND = (sys.executable, "-m", "parley_client")
# Tests that run in parallel have `COLUMNS` and `LINES`, which go before a terminal's own size.
ENVIRONMENT = {key: os.environ[key] for key in os.environ.keys() - {"COLUMNS", "LINES"}} | {
    "PYTHONPATH": str(CLIENT),
    "PYTHONWARNINGS": "error",
    "PYTHONUTF8": "1",
    "TERM": "xterm-256color",
    "PROMPT_TOOLKIT_NO_CPR": "1",
}
SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9AB]?)")
PATIENCE = 3 * DEADLINE
"""Seconds; the process has to start, too."""

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """The far end of a pseudo-terminal with the chat in it."""

    def __init__(self, child: asyncio.subprocess.Process, far: int) -> None:
        self.child = child
        self.raw = ""
        self._far = far
        self._seen = 0
        self._changed = asyncio.Event()
        os.set_blocking(far, False)
        asyncio.get_running_loop().add_reader(far, self._read)

    def type(self, keys: str) -> None:
        os.write(self._far, keys.encode())

    def say(self, line: str) -> None:
        self.type(line + "\r")

    async def shows(self, *words: str) -> str:
        """Wait until these have been drawn in their order since the last call; return what was."""
        drawn = re.compile(".*".join(map(re.escape, words)), re.S)
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    new = SEQUENCE.sub("", self.raw[self._seen :])
                    if drawn.search(new):
                        self._seen = len(self.raw)
                        return new
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"never showed {words}: {self.raw[self._seen :]!r}") from None

    async def ready(self) -> None:
        """Wait for the prompt."""
        await self.shows("Ctrl-D leaves", "❯ ")

    async def leaves(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.child.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._far)
        os.close(self._far)

    def _read(self) -> None:
        try:
            self.raw += os.read(self._far, 65_536).decode(errors="replace")
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._far)
        self._changed.set()


@asynccontextmanager
async def chatting(
    url: str, *options: str, lines: int = 40, columns: int = 100
) -> AsyncIterator[Terminal]:
    far, near = pty.openpty()
    ioctl(near, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    child = await asyncio.create_subprocess_exec(
        *COMMAND, "--url", url, *options, stdin=near, stdout=near, stderr=near,
        env=ENVIRONMENT, start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(near)
    terminal = Terminal(child, far)
    try:
        yield terminal
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        terminal.close()


async def test_an_answer_is_drawn_as_it_comes_and_tools_with_their_state() -> None:
    script = [
        calls(("add", {"a": 15, "b": 27}), ("fail", {"why": "no such city"})),
        paced(text("It is", " **42**.", "\n\nThe", " end.")),
    ]
    async with (
        scripted(script, tools=[add, fail]) as (service, upstream),
        chatting(service.url) as terminal,
    ):
        await terminal.ready()
        terminal.say("What is 15 + 27?")
        await terminal.shows("✓ add", "a=15, b=27", "↳ 42", "✗ fail", "no such city")
        for _ in range(4):
            await upstream.gate.pass_one()
        await terminal.shows("It is 42.", "Answering")
        upstream.gate.open()
        await terminal.shows("The end.", "30 tokens", "❯ ")
        assert "\x1b[1m42" in terminal.raw
        terminal.type(CTRL_D)
        assert await terminal.leaves() == 0


async def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    hanging = Hanging()
    script = [calls(("hang", {})), text("Something else.")]
    async with (
        scripted(script, tools=[hanging.hang]) as (service, _),
        chatting(service.url) as terminal,
    ):
        await terminal.ready()
        terminal.say("Hang.")
        await terminal.shows("hang", "running")
        terminal.type(CTRL_C)
        await terminal.shows("cancelled", "Stopped.", "❯ ")
        assert await hanging.has_ended(DEADLINE)
        terminal.say("Go on.")
        await terminal.shows("Something else.", "❯ ")
        terminal.type("half a mess" + CTRL_C)
        await terminal.shows("half a mess", "❯ ")
        assert terminal.child.returncode is None
        terminal.type(CTRL_C)
        assert await terminal.leaves() == 0


async def test_a_second_ctrl_c_leaves_though_nothing_can_be_stopped() -> None:
    async with (
        scripted([held(text("never"))]) as (service, upstream),
        Proxy(service.url) as proxy,
        chatting(proxy.url) as terminal,
    ):
        await terminal.ready()
        terminal.say("Wait.")
        await upstream.gate.reached()
        await proxy.refuse()
        await terminal.shows("No connection.")
        terminal.type(CTRL_C)
        await terminal.shows("Stops as soon as")
        terminal.type(CTRL_C)
        assert await terminal.leaves() == 0


async def test_a_lost_connection_is_shown_and_the_answer_goes_on() -> None:
    async with (
        scripted([held(text("All ", "here."))]) as (service, upstream),
        Proxy(service.url) as proxy,
        chatting(proxy.url) as terminal,
    ):
        await terminal.ready()
        terminal.say("Wait.")
        await upstream.gate.reached()
        await proxy.refuse()
        await terminal.shows("No connection.")
        upstream.gate.open()
        await proxy.listen()
        await terminal.shows("All here.", "❯ ")


HOSTILE = (
    "\x1b]0;owned\x07 \x1b[2J\x1b[31mred \x9b31m \x08\x08 over\rwritten &#13;&#x202e; \u202edlrow "
    "[link](https://example.org/\x1b]8;;evil\x07) \x7f end."
)


async def test_no_control_character_of_model_or_tool_reaches_the_terminal() -> None:
    script = [
        calls(("fail", {"why": HOSTILE}), before=HOSTILE),
        text(*HOSTILE, "\n\n```\n" + HOSTILE + "\n```\n\n| a |\n|---|\n| " + HOSTILE + " |\n"),
    ]
    async with (
        scripted(script, tools=[fail]) as (service, _),
        chatting(service.url, "--conversation", "c1") as terminal,
    ):
        await terminal.ready()
        before = len(terminal.raw)
        terminal.say("Attack.")
        await terminal.shows("✗ fail", "30 tokens", "❯ ")
        await service.json("PATCH", "/conversations/c1", json={"title": "bad \x1b]0;x\x07 title"})
        terminal.say("/list")
        await terminal.shows("bad ]0;x title")
        terminal.say("/open c1")
        await terminal.shows("end.", "❯ ")
        drawn = terminal.raw[before:]
        for bad in ("\x1b]0;", "\x1b]8;", "\x1b[2J", "\x9b", "\u202e", "\x07"):
            assert bad not in drawn, repr(bad)
        assert "over\rwritten" not in drawn
        assert "overwritten" in SEQUENCE.sub("", drawn)


async def test_commands_find_conversations_and_agents_again() -> None:
    script = [text("First answer."), text("Another first answer."), text("Second answer.")]
    async with scripted(script) as (service, _), chatting(service.url) as terminal:
        await service.json(
            "POST", "/agents/poet", expect=201, json={"instructions": "Rhyme.", "tools": []}
        )
        await terminal.ready()
        terminal.say("First question?")
        await terminal.shows("First answer.", "tokens", "❯ ")
        terminal.say("/retry")
        await terminal.shows("Another first answer.", "tokens", "❯ ")
        terminal.say("/new")
        await terminal.shows("A new conversation.")
        terminal.say("/agents")
        await terminal.shows("▸ chat", "poet")
        terminal.say("/agent poet")
        await terminal.shows("You talk to poet now.")
        terminal.say("/agent nobody")
        await terminal.shows("There is no agent 'nobody'")
        terminal.say("Second question?")
        await terminal.shows("Second answer.", "poet · ", "❯ ")
        terminal.say("/list")
        listed = await terminal.shows("1", "2", "First question?", "2 messages")
        assert listed.index("Second question?") < listed.index("First question?")
        terminal.say("/open 2")
        await terminal.shows("❯ First question?", "Another first answer.")
        terminal.say("/help")
        await terminal.shows("/retry", "Alt-Enter")
        terminal.say("/what")
        await terminal.shows("There is no /what")
        terminal.say("/open nobody_knows")
        await terminal.shows("✗", "conversation_not_found")
        terminal.say("/quit")
        assert await terminal.leaves() == 0


async def test_an_answer_under_way_is_taken_up_where_it_is() -> None:
    async with (
        scripted([held(text("Taken", " up."))]) as (service, upstream),
        service.session.post(
            service.url + "/chat/stream", json={"message": "Q?", "conversation_id": "c1"}
        ),
    ):
        await upstream.gate.reached()
        async with chatting(service.url, "--conversation", "c1") as terminal:
            await terminal.shows("❯ Q?", "Waiting for the first word")
            upstream.gate.open()
            await terminal.shows("Taken up.", "❯ ")


async def piped(url: str, lines: str, **more: Any) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *COMMAND, "--url", url, stdin=-1, stdout=-1, env=ENVIRONMENT, **more
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await child.communicate(lines.encode())
    assert child.returncode is not None
    return child.returncode, output.decode()


async def test_in_a_pipe_it_is_plain_text() -> None:
    script = [
        calls(("add", {"a": 1, "b": 2})),
        text("It is", " **3**", " \x1b[31mred"),
        text("Bye."),
    ]
    async with scripted(script, tools=[add]) as (service, _):
        status, output = await piped(service.url, "What is 1 + 2?\nBye.\n/quit\nnever\n")
        assert status == 0
        assert re.sub(r"\d+(\.\d+)? (ms|s)\b", "N", output) == (
            "[add] running: a=1, b=2\n[add] done in N: 3\nIt is **3** [31mred\n"
            "[chat · gpt-4.1-mini · N · 30 tokens]\n"
            "Bye.\n[chat · gpt-4.1-mini · N · 15 tokens]\n"
        )


async def test_a_signal_stops_the_answer_in_a_pipe_too() -> None:
    async with scripted([held(text("never"))]) as (service, upstream):
        child = await asyncio.create_subprocess_exec(
            *COMMAND, "--url", service.url, stdin=-1, stdout=-1, env=ENVIRONMENT
        )
        assert child.stdin is not None
        child.stdin.write(b"Wait.\n")
        await upstream.gate.reached()
        child.send_signal(signal.SIGINT)
        await upstream.closed_by_client()
        async with asyncio.timeout(PATIENCE):
            output, _ = await child.communicate(b"")
        assert child.returncode == 0
        assert "[Stopped.]" in output.decode()


async def test_without_its_extra_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('no rich', name='rich')\n")
    child = await asyncio.create_subprocess_exec(
        *COMMAND, stderr=-1, env=ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{CLIENT}"}
    )
    async with asyncio.timeout(PATIENCE):
        _, errors = await child.communicate()
    assert child.returncode == 1
    assert "its extra `chat`" in errors.decode()


@pytest.mark.parametrize("columns", [20, 60])
async def test_the_demo_answers_on_a_narrow_terminal_too(columns: int) -> None:
    async with running() as service, chatting(service.url, lines=12, columns=columns) as terminal:
        await terminal.shows("❯ ")
        terminal.say("What is 15 + 27?")
        drawn = await terminal.shows("✓ calc", "15 + 27 = 42", "demo", "❯ ")
        lines = re.split(r"[\r\n]+", drawn[drawn.index("✓ calc") :])
        assert max(map(len, lines)) <= columns
