"""The Streamlit front end: `streamlit run frontend/app.py`.

`API_URL` says where the service is (http://localhost:8000).

Streamlit runs this script from its beginning for every click, in the middle of an answer too: the
click ends the script where it follows the answer. So:

* The conversation is in the session, and a run goes on in the service whether it is followed or
  not. Each run of the script draws what is there and follows each answer from its cursor.
* What a click asks for is done by its callback, before the script begins: Stop cancels the run,
  whose last event the script then reads.
* The conversation's id is in the page's address. A page that is loaded anew has another session,
  and takes the conversation from the service, and the run under way from its beginning.
* A message that is not taken goes back into the input, with the reason above it.
"""

import os

import streamlit as st

from answers import Answer, Chat, Question, apply, stored_chat
from service import Accepted, Inbox, Lost, News, Problem, Refused, Said, Service
from text import plain
from views import AnswerView

SERVICE = Service(os.environ.get("API_URL", "http://localhost:8000"))

# Streamlit would show a string that stands by itself here.
TICK = 0.25  # seconds between two looks at whether somebody has clicked, while nothing comes
RESEARCH = "research"  # an agent that is always there; the list is of those that can be changed
PAGE = 30  # how many conversations are listed at a time

EXAMPLES = (
    "What is 15 + 27, and what time is it in Tokyo?",
    "What is the weather in Paris and in Oslo?",
    "Tell me what you can do.",
)


def main() -> None:
    """Draw the page, and follow what is under way."""
    st.set_page_config(page_title="Parley", page_icon="💬", layout="centered")
    chat = _opened()
    with st.sidebar:
        _draw_sidebar(chat)
    views = _draw_entries(chat)
    if chat.is_whole:
        _ask(chat, views)
    if chat.problem:
        st.error(plain(chat.problem), icon=":material/error:")
    if chat.under_way():
        _offer_stop(chat)
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
    elif chat.id and not wanted:
        st.query_params["conversation"] = chat.id
    return chat


def _loaded(conversation_id: str) -> Chat:
    """Return a conversation of the service; an empty one, with the reason, where it has none."""
    try:
        chat = stored_chat(SERVICE.get("conversations", conversation_id))
        _explain_silence(chat)
    except Problem as problem:
        if problem.status == 0 or problem.status >= 500:
            return Chat(conversation_id, problem=str(problem), is_whole=False)
        st.query_params.clear()
        return Chat(problem=str(problem))
    return chat


def _explain_silence(chat: Chat) -> None:
    """Say why the last message has no answer, where its run failed and the service knows it."""
    last = chat.entries[-1] if chat.entries else None
    if not isinstance(last, Question) or not last.run_id:
        return
    try:
        failure = SERVICE.get("runs", last.run_id)["error"]
    except Problem:  # long ago: nothing is known of it any more
        return
    if failure:
        chat.entries.append(Answer(last.run_id, end="error", problem=failure["message"]))


def _open(conversation_id: str) -> None:
    st.session_state.chat = Chat()
    st.query_params.clear()
    if conversation_id:
        st.query_params["conversation"] = conversation_id


def _delete(conversation_id: str) -> None:
    try:
        SERVICE.delete("conversations", conversation_id)
    except Problem as problem:
        if problem.status != 404:  # somebody else has deleted it
            st.session_state.chat.problem = str(problem)
            return
    if st.session_state.chat.id == conversation_id:
        _open("")


def _stop(chat: Chat) -> None:
    """Cancel all that is under way or waits, the last one first, so that none of it begins."""
    for answer in reversed(chat.under_way()):
        answer.is_unwanted = True
        _cancel(chat, answer)


def _cancel(chat: Chat, answer: Answer) -> None:
    """Cancel an answer's run, as soon as the service has taken the message."""
    try:
        if answer.run_id:
            SERVICE.post("runs", answer.run_id, "cancel")
    except Problem as problem:
        answer.is_unwanted = False
        chat.problem = f"The answer could not be stopped. {problem}"


# What is drawn.


def _draw_sidebar(chat: Chat) -> None:
    st.header("Parley", anchor=False)
    st.button(
        "New chat", icon=":material/add:", key="new", on_click=_open, args=("",), width="stretch"
    )
    try:
        health = SERVICE.get("health")
        _draw_agents()
        _draw_conversations(chat)
    except Problem as problem:
        st.error(plain(str(problem)), icon=":material/cloud_off:")
        st.button("Try again", icon=":material/refresh:", width="stretch")
        return
    if health["provider"] == "demo":
        st.info(
            "The built-in demo model answers. Set `OPENAI_API_KEY` where the service runs "
            "to talk to a real one.",
            icon=":material/info:",
        )


def _draw_agents() -> None:
    names = [agent["agent_name"] for agent in SERVICE.get("agents")["agents"]] + [RESEARCH]
    if st.session_state.get("agent") not in names:
        st.session_state.agent = "chat" if "chat" in names else names[0]
    st.selectbox("Agent", names, key="agent")


def _draw_conversations(chat: Chat) -> None:
    shown = st.session_state.setdefault("shown", PAGE)
    before: dict[str, str] = {}
    left = shown
    while left > 0:
        page = SERVICE.get("conversations", limit=min(left, PAGE), **before)
        for each in page["conversations"]:
            _draw_conversation(each["conversation_id"], each["title"], chat)
        left -= PAGE
        if page["next"] is None:
            return
        before = {"before": page["next"]}
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


def _draw_entries(chat: Chat) -> dict[str, AnswerView]:
    """Draw what was said; return the views of the answers that are under way, by name."""
    st.subheader(plain(chat.title or "New chat"), anchor=False)
    views = {}
    for entry in chat.entries:
        if isinstance(entry, Question):
            _draw_question(entry.text)
        else:
            view = _draw_answer(entry)
            if entry.end is None:
                views[entry.name] = view
    return views


def _draw_question(text: str) -> None:
    with st.chat_message("user"):
        st.text(text)


def _draw_answer(answer: Answer) -> AnswerView:
    view = AnswerView(st.chat_message("assistant"))
    view.draw(answer)
    return view


def _ask(chat: Chat, views: dict[str, AnswerView]) -> None:
    """Offer the input, and take what was typed into the conversation."""
    if chat.draft:
        st.session_state.message, chat.draft = chat.draft, ""
    message = st.chat_input("Your message", key="message")
    if not message and not chat.entries:
        with st.container(horizontal=True):
            for example in EXAMPLES:
                if st.button(example):
                    message = example
    if message:
        chat.say(message, st.session_state.get("agent", "chat"))
        _draw_question(message)
        answer = chat.under_way()[-1]
        views[answer.name] = _draw_answer(answer)


def _offer_stop(chat: Chat) -> None:
    st.button("Stop", icon=":material/stop_circle:", key="stop", on_click=_stop, args=(chat,))


# The answers under way.


def _follow(chat: Chat, views: dict[str, AnswerView]) -> None:
    """Follow all answers that are under way until there is none; a click ends it before."""
    answers = {answer.name: answer for answer in chat.under_way()}
    with Inbox(SERVICE) as inbox:
        for answer in answers.values():
            if answer.request is None:
                inbox.follow(answer.name, answer.run_id, answer.cursor)
            else:
                inbox.send(answer.name, *answer.request)
        while under_way := chat.under_way():
            _yield_to_clicks()
            for name, news in inbox.take(TICK):
                _hear(chat, answers[name], news)
            for answer in under_way:
                views[answer.name].draw(answer)
            _name_page(chat)


def _yield_to_clicks() -> None:
    """Let Streamlit end this run of the script: any look at the session does."""
    _ = "chat" in st.session_state


def _hear(chat: Chat, answer: Answer, news: News) -> None:
    answer.is_lost = isinstance(news, Lost)
    match news:
        case Accepted(run_id):
            answer.run_id, answer.request = run_id, None
            if answer.is_unwanted:
                _cancel(chat, answer)
        case Said(cursor, event):
            answer.cursor = cursor
            if event["event_type"] == "chat_start":
                chat.id = event["conversation_id"]
            apply(answer, event)
        case Refused(problem) if answer.request is not None:
            chat.take_back(answer, str(problem))
        case Refused(problem):
            answer.fail(str(problem))


def _name_page(chat: Chat) -> None:
    if chat.id and st.query_params.get("conversation") != chat.id:
        st.query_params["conversation"] = chat.id


main()
