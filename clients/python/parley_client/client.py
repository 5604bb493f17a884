"""The client: one service, any number of runs at a time.

It connects when it is first needed. While there is no connection nothing raises: what was asked
waits, and goes on when the service is back. Who does not want to wait that long says so with
`asyncio.timeout`, the one way that everything here understands; a run that is given up that way
goes on, and can be iterated over again.
"""

import asyncio
import secrets
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple, Self, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec

from parley_client.course import Course, Start, followed
from parley_client.errors import ParleyError, closed
from parley_client.http import Http
from parley_client.link import Blocked, Link
from parley_client.pace import Pauses, Timings
from parley_client.run import Run
from parley_client.streams import Streams
from parley_client.views import (
    Agent,
    AgentList,
    Conversation,
    ConversationPage,
    Health,
    SearchHit,
    SearchResult,
)

Transport: TypeAlias = Literal["auto", "websocket", "sse"]
State: TypeAlias = Literal["idle", "connecting", "online", "offline", "closed"]


class Status(NamedTuple):
    """How the connection is.

    `transport` is None until one is used; `retry_at` the time (as `time.time()`) of the next
    attempt while the state is `offline`.
    """

    state: State
    transport: Literal["websocket", "sse"] | None = None
    retry_at: float | None = None


class _RunState(msgspec.Struct, frozen=True):
    status: str


class ParleyClient:
    """A service, from here; use it as an async context manager, which ends all that it began.

    Args:
        base_url: the service's address, a path before its own included.
        user_id: whose conversations are meant; the service's default user where it is absent.
        headers: sent with every request, for what stands before the service.
        transport: `auto` is a WebSocket, and server-sent events where none comes through.
        timings: how long to wait for what.
        on_status: is called when the connection's state changes; it must not block or raise.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        *,
        user_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: Transport = "auto",
        timings: Timings | None = None,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._user_id = user_id
        self._headers = dict(headers or {})
        self._wanted = transport
        self._timings = timings or Timings()
        self._on_status = on_status
        self._status = Status("idle")
        self._tasks: set[asyncio.Task[None]] = set()
        self._courses: weakref.WeakSet[Course] = weakref.WeakSet()
        self._is_linked = False

    @property
    def status(self) -> Status:
        return self._status

    async def __aenter__(self) -> Self:
        timings, self._pauses = self._timings, Pauses()
        # A question may take as long as a cancelled run needs for its end.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=timings.connect_within, sock_read=timings.silence
        )
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),  # each run may need one
        )
        self._http = Http(self.base_url, self._session, timings, self._pauses)
        self._streams = Streams(self._http, self._spawn, self._say_of("sse"))
        self._link = Link(self._http, self._say_of("websocket"), self._streams.wants)
        self._carrier: Link | Streams = self._streams if self._wanted == "sse" else self._link
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._set(Status("closed"))
        for course in [*self._courses]:
            course.fail(closed())
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    # Runs

    def chat(
        self,
        message: str,
        *,
        conversation_id: str | None = None,
        agent: str | None = None,
        **options: Any,
    ) -> Run:
        """Send a message. It is sent at once, whether or not somebody iterates.

        Args:
            conversation_id: where to; a conversation of its own where it is absent.
            agent: who is asked; `chat` where it is absent.
            options: more fields of `POST /chat/stream`, such as `if_busy` or `memory`.
        """
        data = {"message": message, "agent": agent, **options}
        place = conversation_id or f"conv_{secrets.token_hex(12)}"
        return self._start("chat", "/chat/stream", place, data, place)

    def regenerate(self, conversation_id: str, *, agent: str | None = None, **options: Any) -> Run:
        """Have the last message of a conversation answered again."""
        path = f"{_conversation(conversation_id)}/regenerate/stream"
        return self._start(
            "regenerate", path, conversation_id, {"agent": agent, **options}, conversation_id
        )

    def edit(
        self,
        conversation_id: str,
        message_id: str,
        message: str,
        *,
        agent: str | None = None,
        **options: Any,
    ) -> Run:
        """Put another message in the place of an earlier one of the user's, in a new branch.

        The branch is a conversation of its own; `ChatStart` and `run.conversation_id` name it.
        """
        path = f"{_conversation(conversation_id)}/edit/stream"
        data = {"message_id": message_id, "message": message, "agent": agent, **options}
        return self._start("edit", path, conversation_id, data, None)

    def follow(self, run_id: str, after: int | str = 0) -> Run:
        """Follow a run, from its beginning or after a `seq` or a cursor.

        Raises:
            ValueError: `after` is the cursor of another run.
        """
        course = followed(run_id, after, self._wants)
        self._courses.add(course)
        if after and self._carrier is self._link:
            self._spawn(self._join(course))
        else:
            self._wants(course)
        return self._run(course)

    def _start(
        self, kind: str, path: str, asked: str, data: dict[str, Any], place: str | None
    ) -> Run:
        fields = {"conversation_id": asked, "user_id": self._user_id} | data
        given = {name: value for name, value in fields.items() if value is not None}
        start = Start(kind, path, given, secrets.token_hex(16))
        course = Course(start, self._wants, conversation_id=place)
        self._courses.add(course)
        self._wants(course)
        return self._run(course)

    def _run(self, course: Course) -> Run:
        run = Run(course, self._post, self._drops)
        weakref.finalize(run, self._abandon, course).atexit = False
        return run

    def _abandon(self, course: Course) -> None:
        """Leave a run that nobody holds any more: its buffer would fill for nothing.

        A `Run` may be collected in any thread.
        """
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._leave, course)

    def _leave(self, course: Course) -> None:
        if not course.is_over:
            course.leave()
            self._drops(course)

    async def _join(self, course: Course) -> None:
        """Follow a run that may have ended: only over HTTP one hears that nothing follows."""
        try:
            path = f"/runs/{quote(course.run_id or '', safe='')}"
            run = await self._http.ask("GET", path, _RunState)
        except ParleyError as error:
            course.fail(error)
            return
        if run.status in ("queued", "running"):
            self._wants(course)
        else:
            self._streams.wants(course)

    def _wants(self, course: Course) -> None:
        if self._status.state == "closed":
            course.fail(closed())
            return
        self.connect()
        self._carrier.wants(course)

    def _drops(self, course: Course) -> None:
        if self._status.state != "closed":
            self._carrier.drops(course)
            self._streams.drops(course)

    async def _post(self, path: str) -> None:
        await self._http.ask("POST", path, type(None))

    # The connection

    def connect(self) -> None:
        """Connect now, before anything is sent."""
        if self._carrier is self._link and not self._is_linked:
            self._is_linked = True
            self._set(Status("connecting", "websocket"))
            self._spawn(self._keep_link())

    def reconnect(self) -> None:
        """Try again now, where a pause is under way."""
        self._pauses.nudge()

    async def _keep_link(self) -> None:
        try:
            await self._link.keep()
        except Blocked:
            if self._wanted == "websocket":
                text = "The service answers, and WebSockets do not come through."
                self._fail_all(ParleyError(text, code="websocket_blocked"))
                return
            self._carrier = self._streams
            self._set(Status("online", "sse"))
            for course in self._link.courses:
                self._streams.wants(course)

    def _fail_all(self, error: ParleyError) -> None:
        self._is_linked = False
        self._set(Status("offline", "websocket"))
        for course in self._link.courses:
            self._link.gives_up(course, error)

    def _say_of(self, transport: Literal["websocket", "sse"]) -> Callable[[bool, float], None]:
        def say(is_there: bool, seconds: float) -> None:
            if transport == "sse" and self._carrier is self._link:
                return  # the WebSocket's state is the one that counts
            retry_at = None if is_there else time.time() + seconds
            self._set(Status("online" if is_there else "offline", transport, retry_at))

        return say

    def _set(self, status: Status) -> None:
        if status != self._status and self._status.state != "closed":
            self._status = status
            if self._on_status is not None:
                self._on_status(status)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Questions

    async def conversations(
        self, *, limit: int = 20, before: str | None = None
    ) -> ConversationPage:
        """List conversations, the one that changed last first; `before` is a page's `next`."""
        params = self._params(limit=str(limit), before=before)
        return await self._http.ask("GET", "/conversations", ConversationPage, params=params)

    async def conversation(
        self, conversation_id: str, *, limit: int = 1000, before: str | None = None
    ) -> Conversation:
        """Return a conversation with its newest messages, or those before a message's id.

        Raises:
            ParleyError: `conversation_not_found`, or what else the service says, here and below.
        """
        params = self._params(limit=str(limit), before=before)
        path = _conversation(conversation_id)
        return await self._http.ask("GET", path, Conversation, params=params)

    async def rename(self, conversation_id: str, title: str) -> Conversation:
        path, body = _conversation(conversation_id), {"title": title}
        return await self._http.ask("PATCH", path, Conversation, body=body, params=self._params())

    async def delete(self, conversation_id: str) -> None:
        """Delete a conversation for good; a run in it is cancelled."""
        path = _conversation(conversation_id)
        await self._http.ask("DELETE", path, type(None), params=self._params())

    async def search(self, words: str, *, limit: int = 20) -> tuple[SearchHit, ...]:
        """Find words in titles and texts; all must occur."""
        params = self._params(q=words, limit=str(limit))
        return (await self._http.ask("GET", "/search", SearchResult, params=params)).hits

    async def agents(self) -> tuple[Agent, ...]:
        """List all agents, by name; after them those that cannot be configured."""
        listed = await self._http.ask("GET", "/agents", AgentList)
        fixed = (Agent(agent_name=name, name=name, built_in=True) for name in listed.fixed)
        return (*listed.agents, *fixed)

    async def health(self) -> Health:
        """Return the service's state, that of one which stops included."""
        return await self._http.ask("GET", "/health", Health, also=(503,))

    def _params(self, **given: str | None) -> dict[str, str]:
        fields = {"user_id": self._user_id} | given
        return {name: value for name, value in fields.items() if value is not None}


def _conversation(conversation_id: str) -> str:
    return f"/conversations/{quote(conversation_id, safe='')}"
