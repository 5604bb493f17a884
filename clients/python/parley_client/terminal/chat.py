"""The chat: reads a line, does what it says, shows what comes of it.

Ctrl-C belongs to what is under way: it stops an answer (a second one leaves), gives up a question
to the service, clears a line that is being typed, and leaves at an empty one.
"""

import argparse
import asyncio
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parley_client import (
    Answer,
    Conversation,
    Health,
    ParleyClient,
    ParleyError,
    Run,
    RunError,
    Status,
)
from parley_client.history import exchanges
from parley_client.terminal.answer import parts_of
from parley_client.terminal.clean import clean, one_line
from parley_client.terminal.keyboard import Leave, Lines, TerminalPrompt, interrupts, silent_keys
from parley_client.terminal.screen import INTERVAL, LiveScreen, PlainScreen, Screen, printed
from parley_client.terminal.view import duration, spinner

HELP = (
    ("/new", "begin another conversation"),
    ("/list", "the conversations that there are"),
    ("/open N", "go on with one of them: its number in the list, or its id"),
    ("/agent NAME", "talk to another agent"),
    ("/agents", "the agents that there are"),
    ("/retry", "answer the last message again"),
    ("/help", "this"),
    ("/quit", "leave"),
    ("Ctrl-C", "stop an answer; twice, or at an empty line: leave"),
    ("Alt-Enter", "a new line in a message"),
)

ADDRESS = "http://localhost:8000"

T = TypeVar("T")


class Chat:
    """One session at a pipe or, where it `is_live`, at a terminal.

    `has_failed`: whether anything was refused, or an answer failed.
    """

    def __init__(
        self, client: ParleyClient, console: Console, *, agent: str | None, is_live: bool
    ) -> None:
        self._client = client
        self._console = console
        self._is_live = is_live
        self._agent = agent
        self._conversation_id = _new_conversation()
        self._title = ""
        self.has_failed = False
        self._listed: tuple[Conversation, ...] = ()
        self._is_stopping = False
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/new": self._new,
            "/list": self._list,
            "/open": self._open,
            "/agent": self._choose,
            "/agents": self._agents,
            "/retry": self._retry,
            "/help": self._help,
            "/quit": self._quit,
        }
        self._prompt = TerminalPrompt(self._toolbar, [*self._commands]) if is_live else Lines()

    async def talk(self, conversation_id: str | None) -> None:
        with suppress(Leave):
            await self._greet()
            if conversation_id is not None:
                await self._guarded(self._resume(conversation_id))
            while True:
                if self._is_live:
                    self._console.print()
                await self._do(await self._prompt.line())

    async def _do(self, line: str) -> None:
        text = line.strip()
        name, _, rest = text.partition(" ")
        if name in self._commands:
            await self._guarded(self._commands[name](rest.strip()))
        elif name.startswith("/") and "/" not in name[1:]:
            self._say(f"There is no {one_line(name)}; /help tells what there is.", "yellow")
        elif text:
            run = self._client.chat(text, conversation_id=self._conversation_id, agent=self._agent)
            await self._guarded(self._play(run))
            with interrupts(
                lambda: None
            ):  # a Ctrl-C that comes as the answer ends was meant for it
                await self._guarded(self._learn_title())

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Do something that the service may refuse."""
        try:
            await work
        except ParleyError as error:
            self.has_failed = True
            self._say(f"✗ {one_line(str(error))}", "red")
            for fault in error.errors:
                self._say(f"  {one_line(str(fault.get('message', '')))}", "red")

    # An answer

    async def _play(self, run: Run) -> None:
        """Show a run until its end; Ctrl-C stops it, a second one leaves."""
        answer = Answer()
        screen = self._screen(answer)
        self._is_stopping = False
        stopping: list[asyncio.Task[None]] = []

        def interrupted() -> None:
            if stopping:
                run.leave()
                return
            self._is_stopping = True
            stopping.append(asyncio.create_task(_stopped(run)))

        with silent_keys(), interrupts(interrupted):
            screen.begin()
            drawing = asyncio.create_task(_draw(screen))
            try:
                async for event in run:
                    screen.add(event)
            finally:
                for task in (drawing, *stopping):
                    task.cancel()
                await asyncio.gather(drawing, *stopping, return_exceptions=True)
                screen.end()
        if run.outcome is None:
            raise Leave
        self.has_failed = self.has_failed or isinstance(run.outcome, RunError)

    async def _learn_title(self) -> None:
        """See whether the service has found a title by now; it is not waited for."""
        if self._is_live and not self._title:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    question = self._client.conversation(self._conversation_id, limit=1)
                    self._title = one_line((await self._asked(question)).title or "")

    def _screen(self, answer: Answer) -> Screen:
        if self._is_live:
            return LiveScreen(self._console, lambda: self._under_way(answer), answer)
        return PlainScreen(self._console.file, answer)

    def _under_way(self, answer: Answer) -> Text:
        status = self._client.status
        seconds = duration(time.monotonic() - answer.began)
        if status.state == "offline":
            then = "as soon as it is back; Ctrl-C leaves" if self._is_stopping else _next(status)
            what = "Stops " if self._is_stopping else ""
            return Text(f"  ⚠ No connection. {what}{then}", style="yellow")
        if self._is_stopping:
            return Text(f"  {spinner()} Stopping… Ctrl-C again leaves", style="yellow")
        if status.state == "connecting":
            return Text(f"  {spinner()} Connecting…", style="dim")
        if not answer.agent:
            return Text(f"  {spinner()} Sending… {seconds}", style="dim")
        what = "Answering" if answer.parts else "Waiting for the first word"
        return Text(f"  {spinner()} {what}… {seconds} · Ctrl-C stops", style="dim")

    def _toolbar(self) -> list[tuple[str, str]]:
        status = self._client.status
        place = self._title or "new conversation"
        is_well = status.state in ("online", "idle")
        lost = "No connection. " if status.state == "offline" else ""
        words = {"online": "connected", "idle": "ready"}.get(status.state, lost + _next(status))
        dot = ("class:good", "● ") if is_well else ("class:bad", "⚠ ")
        return [("", " "), dot, ("", f"{words} · {self._agent or 'chat'} · {place}")]

    # Commands

    async def _greet(self) -> None:
        if not self._is_live:
            return
        self._console.print()
        title = Text.assemble(("  Parley", "bold cyan"), ("  " + self._client.base_url, "dim"))
        self._console.print(title)
        with suppress(TimeoutError, ParleyError):
            async with asyncio.timeout(2):
                self._console.print(_described(await self._asked(self._client.health())))
        self._say("/help tells what there is · Ctrl-C stops an answer · Ctrl-D leaves", "dim")
        self._client.connect()

    async def _new(self, _: str) -> None:
        self._conversation_id, self._title = _new_conversation(), ""
        self._say("A new conversation.", "dim")

    async def _list(self, _: str) -> None:
        self._listed = (await self._asked(self._client.conversations())).conversations
        if not self._listed:
            self._say("There are no conversations yet.", "dim")
            return
        table = Table.grid(padding=(0, 2))
        for number, each in enumerate(self._listed, 1):
            mark = "▸" if each.conversation_id == self._conversation_id else " "
            when = each.updated_at.astimezone().strftime("%d %b %H:%M")
            state = "answering" if each.active_run_id else f"{each.message_count} messages"
            table.add_row(
                Text(f"  {mark}{number:>3}", style="cyan"),
                Text(one_line(each.title or each.conversation_id), overflow="ellipsis"),
                Text(f"{when} · {state}", style="dim"),
            )
        self._console.print(table)

    async def _open(self, which: str) -> None:
        if which.isascii() and which.isdigit() and 0 < int(which) <= len(self._listed):
            which = self._listed[int(which) - 1].conversation_id
        if not which:
            self._say("Which one? /list numbers them.", "yellow")
            return
        await self._show(await self._asked(self._client.conversation(which, limit=50)))

    async def _resume(self, conversation_id: str) -> None:
        """Open a conversation that may be there."""
        self._conversation_id = conversation_id
        try:
            there = await self._asked(self._client.conversation(conversation_id, limit=50))
        except ParleyError as error:
            if error.status != 404:
                raise
            return  # it begins with the first message
        await self._show(there)

    async def _show(self, there: Conversation) -> None:
        """Show what was said, and go on with what is under way."""
        self._conversation_id = there.conversation_id
        self._title = one_line(there.title or "")
        self._agent = there.agent or self._agent
        if there.has_more:
            self._say("… earlier messages are left out", "dim")
        for each in exchanges(there):
            if each.question is not None:
                self._echo(each.question)
            if each.is_under_way and each.run_id is not None:
                await self._play(self._client.follow(each.run_id))
            else:
                self._print(each.answer)

    async def _choose(self, name: str) -> None:
        if not name:
            await self._agents(name)
            return
        agents = await self._asked(self._client.agents())
        if name not in [agent.agent_name for agent in agents]:
            self._say(f"There is no agent {one_line(name)!r}; /agents lists them.", "yellow")
            return
        self._agent = name
        self._say(f"You talk to {name} now.", "dim")

    async def _agents(self, _: str) -> None:
        table = Table.grid(padding=(0, 2))
        for agent in await self._asked(self._client.agents()):
            mark = "▸" if agent.agent_name == (self._agent or "chat") else " "
            facts = ", ".join(part for part in (agent.model, *agent.tools) if part)
            table.add_row(
                Text(f"  {mark} {one_line(agent.agent_name)}", style="cyan"),
                Text(one_line(facts), style="dim", overflow="ellipsis", no_wrap=True),
            )
        self._console.print(table)

    async def _retry(self, _: str) -> None:
        await self._play(self._client.regenerate(self._conversation_id, agent=self._agent))

    async def _help(self, _: str) -> None:
        table = Table.grid(padding=(0, 2))
        for name, meaning in HELP:
            table.add_row(Text(f"  {name}", style="cyan"), Text(meaning, style="dim"))
        self._console.print(table)

    async def _quit(self, _: str) -> None:
        raise Leave

    async def _asked(self, question: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer of the service; Ctrl-C gives it up."""
        task = asyncio.ensure_future(question)
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            task.cancel()

        with interrupts(give_up):
            try:
                return await task
            except asyncio.CancelledError:
                if not given_up:
                    raise
                raise ParleyError("Given up.", code="given_up") from None

    # Output

    def _say(self, text: str, style: str) -> None:
        self._console.print(Text(f"  {text}", style=style))

    def _echo(self, question: str) -> None:
        self._console.print()
        lines = "\n  ".join(one_line(line) for line in clean(question).splitlines())
        self._console.print(Text.assemble(("❯ ", "bold cyan"), lines))

    def _print(self, answer: Answer) -> None:
        if self._is_live:
            printed(self._console, parts_of(answer))
        else:
            PlainScreen(self._console.file, answer).show()


async def _draw(screen: Screen) -> None:
    while True:
        began = time.monotonic()
        screen.draw()
        # What takes long to draw is drawn less often, so that there is time to read and to stop.
        await asyncio.sleep(max(INTERVAL, 3 * (time.monotonic() - began)))


async def _stopped(run: Run) -> None:
    with suppress(ParleyError):  # it has ended meanwhile, which its events say
        await run.cancel()


def _next(status: Status) -> str:
    if status.state != "offline":
        return "Connecting…"
    seconds = max(0.0, (status.retry_at or 0.0) - time.time())
    return f"Trying again in {seconds:.0f} s" if seconds >= 1 else "Reconnecting…"


def _described(health: Health) -> Text:
    text = Text(f"  model {one_line(health.model)} · {len(health.tools)} tools", style="dim")
    if health.provider == "demo":
        text.append(" · the demo answers, no model is connected", style="yellow")
    return text


def _new_conversation() -> str:
    return f"conv_{secrets.token_hex(12)}"


def _address(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise argparse.ArgumentTypeError(f"give an address such as {ADDRESS}")
    return url


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="parley_client", description="Chat with a service.")
    parser.add_argument("--url", default=ADDRESS, type=_address, help="the service's address")
    parser.add_argument("--agent", help="who is asked; `chat` by default")
    parser.add_argument("--conversation", metavar="ID", help="the conversation to go on with")
    parser.add_argument("--user", help="whose conversations; the default user's where absent")
    return parser.parse_args(arguments)


async def _main(options: argparse.Namespace) -> int:
    is_live = sys.stdin.isatty() and sys.stdout.isatty()
    # In a pipe a letter that its encoding lacks is better replaced than fatal.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    async with ParleyClient(options.url, user_id=options.user) as client:
        chat = Chat(client, console, agent=options.agent, is_live=is_live)
        await chat.talk(options.conversation)
    # Who reads a pipe learns it from the status; a person has seen it.
    return 1 if chat.has_failed and not is_live else 0


def run(arguments: Sequence[str]) -> int:
    try:
        return asyncio.run(_main(_options(arguments)))
    except KeyboardInterrupt:
        return 130
