"""The Streamlit front end: `streamlit run frontend/app.py`.

`API_URL` says where the service is (http://localhost:8000).

Streamlit runs this script from its beginning for every click, in the middle of an answer too: the
click ends the script where it follows the answer. So:

* The conversation is in the session, and a run goes on in the service whether it is followed or
  not. Each run of the script draws what is there and goes on with what comes.
* What a click asks for is done by its callback, before the script begins: Stop cancels the run,
  whose last event the script then reads.
* The conversation's id is in the page's address. A page that is reloaded has another session,
  and takes the conversation from the service, and the run under way from its beginning.
* A message that the service refuses goes back into the input, with the reason above it. While the
  service cannot be reached the client tries again, so that a message is sent once.
"""

import os
from functools import partial

import streamlit as st

from chat import Chat, stored_chat
from parley_client import Exchange, ParleyError
from service import Service
from text import plain
from views import AnswerView

SERVICE: Service = st.cache_resource(Service, show_spinner=False)(
    os.environ.get("API_URL", "http://localhost:8000")
)

# Streamlit would show a string that stands by itself here.
TICK = 0.25  # seconds between two looks at whether somebody has clicked, while nothing comes
DELETION = 30.0  # seconds: a run that is under way is ended before
PAGE = 30  # how many conversations are listed at a time

EXAMPLES = (
    "What is 15 + 27, and what time is it in Tokyo?",
    "What is the weather in Paris and in Oslo?",
    "Tell me what you can do.",
)


def main() -> None:
    st.set_page_config(page_title="Parley", page_icon="💬", layout="centered")
    chat = _opened()
    with st.sidebar:
        _draw_sidebar(chat)
    with chat.lock:
        views = _draw_exchanges(chat)
    if chat.is_whole:
        _ask(chat, views)
    if chat.problem:
        st.error(plain(chat.problem), icon=":material/error:")
    if chat.runs:
        stop = partial(chat.stop, SERVICE)
        st.button("Stop", icon=":material/stop_circle:", key="stop", on_click=stop)
        _follow(chat, views)
        st.rerun()


# The conversation.


def _opened() -> Chat:
    """Return the conversation of the session, or the one that the page's address names."""
    chat: Chat = st.session_state.setdefault("chat", Chat())
    wanted = st.query_params.get("conversation", "")
    if wanted and (wanted != chat.id or not chat.is_whole):
        chat = st.session_state.chat = _loaded(wanted)
        if chat.agent:
            st.session_state.agent = chat.agent
    elif chat.is_stored and not wanted:
        st.query_params["conversation"] = chat.id
    return chat


def _loaded(conversation_id: str) -> Chat:
    """Return a conversation of the service; an empty one, with the reason, where it has none."""
    try:
        conversation = SERVICE.ask(lambda: SERVICE.client.conversation(conversation_id))
    except ParleyError as error:
        if error.code == "unreachable" or (error.status or 0) >= 500:
            return Chat(conversation_id, problem=error.message, is_whole=False)
        st.query_params.clear()
        return Chat(problem=error.message)
    return stored_chat(SERVICE, conversation)


def _open(conversation_id: str) -> None:
    st.session_state.chat = Chat()
    st.query_params.clear()
    if conversation_id:
        st.query_params["conversation"] = conversation_id


def _delete(conversation_id: str) -> None:
    try:
        SERVICE.ask(lambda: SERVICE.client.delete(conversation_id), DELETION)
    except ParleyError as error:
        if error.status != 404:  # somebody else has deleted it
            st.session_state.chat.problem = error.message
            return
    if st.session_state.chat.id == conversation_id:
        _open("")


# What is drawn.


def _draw_sidebar(chat: Chat) -> None:
    st.header("Parley", anchor=False)
    st.button(
        "New chat", icon=":material/add:", key="new", on_click=_open, args=("",), width="stretch"
    )
    try:
        health = SERVICE.ask(SERVICE.client.health)
        _draw_agents()
        _draw_conversations(chat)
    except ParleyError as error:
        st.error(plain(error.message), icon=":material/cloud_off:")
        st.button("Try again", icon=":material/refresh:", width="stretch")
        return
    if health.provider == "demo":
        st.info(
            "The built-in demo model answers. Set `OPENAI_API_KEY` where the service runs "
            "to talk to a real one.",
            icon=":material/info:",
        )


def _draw_agents() -> None:
    names = [agent.agent_name for agent in SERVICE.ask(SERVICE.client.agents)]
    if st.session_state.get("agent") not in names:
        st.session_state.agent = "chat" if "chat" in names else names[0]
    st.selectbox("Agent", names, key="agent")


def _draw_conversations(chat: Chat) -> None:
    left = st.session_state.setdefault("shown", PAGE)
    before = None
    while left > 0:
        asked = partial(SERVICE.client.conversations, limit=min(left, PAGE), before=before)
        page = SERVICE.ask(asked)
        for each in page.conversations:
            _draw_conversation(each.conversation_id, each.title, chat)
        left, before = left - PAGE, page.next
        if before is None:
            return
    st.button("Older chats", type="tertiary", on_click=_show_older)


def _show_older() -> None:
    st.session_state.shown += PAGE


def _draw_conversation(conversation_id: str, title: str | None, chat: Chat) -> None:
    if conversation_id == chat.id:
        chat.title = title or ""
    with st.container(horizontal=True, wrap=False):
        st.container().button(
            plain(title or "Untitled"),
            key=f"open-{conversation_id}",
            type="secondary" if conversation_id == chat.id else "tertiary",
            wrap=False,
            on_click=_open,
            args=(conversation_id,),
        )
        with st.popover("", icon=":material/delete:", type="tertiary", help="Delete this chat"):
            st.write("It will be gone for good, with all that was said in it.")
            st.button(
                "Delete",
                key=f"delete-{conversation_id}",
                type="primary",
                on_click=_delete,
                args=(conversation_id,),
            )


def _draw_exchanges(chat: Chat) -> dict[Exchange, AnswerView]:
    """Draw what was said; return the views of the answers that are under way."""
    st.subheader(plain(chat.title or "New chat"), anchor=False)
    views = {}
    for exchange in chat.exchanges:
        if exchange.question is not None:
            _draw_question(exchange.question)
        if exchange in chat.runs:
            views[exchange] = _draw_answer(exchange)
        elif exchange.answer.parts or exchange.answer.outcome:
            _draw_answer(exchange)
    return views


def _draw_question(text: str) -> None:
    with st.chat_message("user"):
        st.text(text)


def _draw_answer(exchange: Exchange) -> AnswerView:
    view = AnswerView(st.chat_message("assistant"))
    view.draw(exchange.answer)
    return view


def _ask(chat: Chat, views: dict[Exchange, AnswerView]) -> None:
    """Offer the input, and take what was typed into the conversation."""
    if chat.draft:
        st.session_state.message, chat.draft = chat.draft, ""
    message = st.chat_input("Your message", key="message")
    if not message and not chat.exchanges:
        with st.container(horizontal=True):
            for example in EXAMPLES:
                if st.button(example):
                    message = example
    if message:
        exchange = chat.say(SERVICE, message, st.session_state.get("agent", "chat"))
        _draw_question(message)
        views[exchange] = _draw_answer(exchange)


# The answers under way.


def _follow(chat: Chat, views: dict[Exchange, AnswerView]) -> None:
    """Follow all answers that are under way until there is none; a click ends it before."""
    while chat.runs:
        _ = "chat" in st.session_state  # Streamlit ends the script here, if somebody has clicked
        wait = TICK
        for exchange, view in views.items():
            with chat.lock:
                if (run := chat.runs.get(exchange)) is None:
                    continue
                chat.hear(SERVICE, exchange, wait)
                view.draw(exchange.answer, is_lost=run.is_lost)
            wait = 0  # the first one is the one that moves
        if chat.is_stored and st.query_params.get("conversation") != chat.id:
            st.query_params["conversation"] = chat.id


main()
