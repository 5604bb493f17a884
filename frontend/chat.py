"""A conversation as the page shows it, and its runs that are under way.

It lives in Streamlit's session. A `Run` keeps what has come until it is taken, so a rerun of the
script, which every click is, goes on where the one before was ended. Streamlit begins the next one
while that ends, so both may be here for a moment: who hears or draws answers holds the `lock`.
"""

import threading
from dataclasses import dataclass, field

from parley_client import Conversation, Exchange, ParleyError, Run, RunError, exchanges
from service import Service


@dataclass
class Chat:
    """A conversation.

    Attributes:
        id: empty before the first message.
        is_stored: the service knows the conversation.
        is_whole: false where the service could not say what is in it.
        runs: of the exchanges that are under way, in their order.
        draft: text that is to stand in the input when the page is drawn the next time.
        problem: what went wrong last.
        lock: held while answers are changed or drawn.
    """

    id: str = ""
    title: str = ""
    agent: str = ""
    is_stored: bool = False
    is_whole: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    runs: dict[Exchange, Run] = field(default_factory=dict)
    draft: str = ""
    problem: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, service: Service, message: str, agent: str) -> Exchange:
        place = self.id or None
        run = service.portal.call(
            lambda: service.client.chat(message, conversation_id=place, agent=agent)
        )
        exchange = Exchange(message)
        self.id, self.problem = run.conversation_id or "", ""
        self.exchanges.append(exchange)
        self.runs[exchange] = run
        return exchange

    def hear(self, service: Service, exchange: Exchange, wait: float) -> None:
        """Add what has come of an answer under way; wait so many seconds where nothing has."""
        run = self.runs[exchange]
        try:
            events = service.portal.call(run.take, wait)
        except ParleyError as error:
            del self.runs[exchange]
            if run.id is None:
                self._take_back(exchange, error)
            else:
                exchange.answer.add(RunError(code=error.code, message=error.message))
            return
        for event in events:
            exchange.answer.add(event)
        self.is_stored = self.is_stored or run.id is not None
        if exchange.answer.outcome is not None:
            del self.runs[exchange]

    def _take_back(self, exchange: Exchange, refused: ParleyError) -> None:
        """Put a message that the service refused into the input, for the user to change it."""
        self.exchanges.remove(exchange)
        self.draft = exchange.question or ""
        faults = "; ".join(fault["message"] for fault in refused.errors)
        self.problem = faults or refused.message

    def stop(self, service: Service) -> None:
        """Cancel all that is under way or waits, the last one first, so that none of it begins."""
        accepted = [run for run in reversed(self.runs.values()) if run.id is not None]
        service.portal.start_task_soon(self._cancel, accepted)
        for run in self.runs.values():
            if run.id is None:  # as soon as it is accepted; that may take long
                service.portal.start_task_soon(self._cancel, [run])

    async def _cancel(self, runs: list[Run]) -> None:
        for run in runs:
            try:
                await run.cancel()
            except ParleyError as error:
                if run.id is not None:
                    self.problem = f"The answer could not be stopped. {error.message}"


def stored_chat(service: Service, conversation: Conversation) -> Chat:
    """Return a stored conversation, and follow its runs that are under way."""
    chat = Chat(
        conversation.conversation_id,
        conversation.title or "",
        conversation.agent or "",
        is_stored=True,
        exchanges=exchanges(conversation),
    )
    for each in chat.exchanges:
        if each.is_under_way and each.run_id is not None:
            chat.runs[each] = service.portal.call(service.client.follow, each.run_id)
    _explain_silence(service, chat)
    return chat


def _explain_silence(service: Service, chat: Chat) -> None:
    """Say why the last message has no answer, where its run failed and the service knows it."""
    last = chat.exchanges[-1] if chat.exchanges else None
    if last is None or last in chat.runs or last.answer.parts or last.run_id is None:
        return
    run_id = last.run_id
    try:
        service.ask(lambda: service.client.follow(run_id).text())
    except ParleyError as error:
        if error.code not in ("run_not_found", "unreachable"):  # long ago: nothing is known
            last.answer.add(RunError(code=error.code, message=error.message))
