"""What the user said about themselves, found again in the conversation.

Nothing is stored: a statement in the request's messages ("I work as a software engineer") is told
back in the second person to a question that shares words with it ("what kind of work do I do?").
Facts that a system prompt lists, as bullets or as JSON strings, count as said before.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from messages import AssistantMessage, Message, SystemMessage, UserMessage

_MAX_CHARS = 4_000
_MAX_QUOTE = 300
_MAX_FACTS = 12

_SENTENCE = re.compile(
    r"(?i)([.!?](?=\s|$)|[\n;]|,? (?:and|but) (?=(?:i|my|i'm)\b)|, (?=(?:i|my|i'm)\b))"
)
_OPENING = re.compile(
    r"(?i)(?:(?:hi|hello|hey|well|so|also|and|yes|ok|okay|actually|please)\b[\s,!:]*)*"
    r"(?P<note>(?:note|remember)(?: that)?\s)?"
)
_NAME = re.compile(
    r"(?i)(?:my name(?:'s| is)|(?:you can )?call me) (?!not |never |no )(.+)"
    r"|(?:i am|i'm) (?!american|british|canadian|chinese|dutch|english|french|german|indian|irish"
    r"|italian|japanese|mexican|polish|russian|spanish|swedish|swiss|turkish|ok|fine|sorry|good)"
    r"((?-i:[A-Z])[\w'-]+(?: (?-i:[A-Z])[\w'-]+)?)$"
)
_STATEMENT = re.compile(
    r"(?i)i (?:also |really |do |don't ){0,3}(?:work|live|love|like|enjoy|adore|prefer|hate|dislike"
    r"|come from|grew up)\b|(?:i am|i'm) (?:an?|the|from) |(my [\w' -]{1,60}?) (?:is|are|was) "
)
_YOU = {"i am": "you are", "i was": "you were", "i'm": "you're", "i": "you", "me": "you"}
_YOU |= {"myself": "yourself", "mine": "yours", "my": "your"}
_FIRST_PERSON = re.compile(rf"(?i)\b(?:{'|'.join(_YOU)})\b")

_QUESTION = re.compile(
    r"(?i)\b(?:what(?:'s| is| are| was)?|do you (?:know|remember)|remind me of|tell me|and|or) my "
    r"(?P<about>[\w' -]{1,60}?)(?: is)?\W*(?:$|\?|\band\b)|\b(?:what|where|who)\b[^?]{0,60}?\b"
    r"(?:do|am|did) i(?: say i)?(?: (?:like|love|enjoy|hate|live|come|from|work|do)\b|\W*$)"
)
_ALL = re.compile(r"(?i)\bwhat .{0,9}(?:you (?:know|remember) (?:about|of) me|i (?:tell|told) you)")
_FIRST = re.compile(r"(?i)\bmy first (?:message|question)|\bdid i (?:say|ask|write).{0,20} first\b")
_LAST = re.compile(r"(?i)\bmy (?:last|previous) (?:message|question)|\bdid i (?:just )?(?:say|ask)")
_AGAIN = re.compile(r"(?i)\b(?:repeat|say) (?:that|it|this|your)\b|\bwhat did you (?:just )?say\b")
_SAME = dict.fromkeys(["job", "profession", "occupation", "career"], "work") | {"who": "name"}
_SAME |= dict.fromkeys(["love", "enjoy", "adore", "prefer", "favourite", "favorite"], "like")
_NO_TOPIC = re.compile(
    r"\b(?:what|is|my|the|an?|do|does|did|i|am|are|was|your?|know|remember|me|tell|remind|and|or|of"
    r"|kind|sort|in|as|to|for|about|also|that)\b"
)


def acknowledge(text: str) -> str | None:
    """Return an answer to a message that states something about its user; else None."""
    facts = dict(list(_facts_in(text[:_MAX_CHARS]))[:_MAX_FACTS])
    if not facts:
        return None
    name = facts.pop("my name", "").removeprefix("your name is ")
    opening = f"Nice to meet you, {name}!" if name else "Noted."
    if facts:
        *others, last = facts.values()
        told = " and ".join(filter(None, [", ".join(others), last]))
        opening += f" I will remember that {told}."
    return f"{opening} You can ask me about it later in this conversation."


def recall(messages: Sequence[Message]) -> str | None:
    """Answer the last user message if it asks about the conversation; else None."""
    *before, last = [m.content for m in messages if isinstance(m, UserMessage)] or [""]
    text = " ".join(last[:_MAX_CHARS].replace("’", "'").split())
    if _FIRST.search(text) or _LAST.search(text):
        if not before:
            return "This is your first message as far as I can see."
        if _FIRST.search(text):
            return f"The first thing you said, as far back as I can see: “{before[0][:_MAX_QUOTE]}”"
        return f"Before this, you said: “{before[-1][:_MAX_QUOTE]}”"
    if _AGAIN.search(text):
        answers = [m.content for m in messages if isinstance(m, AssistantMessage) and m.content]
        return answers[-1] if answers else "I have not said anything yet."
    facts = [f"{told[0].upper()}{told[1:]}." for told in dict(_facts(messages)).values()]
    return _about_user(text, facts)


def _about_user(text: str, facts: list[str]) -> str | None:
    if _ALL.search(text):
        told = "\n".join(f"- {fact}" for fact in facts[-_MAX_FACTS:])
        nothing = "You haven't told me anything of yourself, as far back as I see."
        return f"This is what you told me:\n\n{told}" if told else nothing
    question = _QUESTION.search(text)
    if question is None:
        return None
    topics = _topics(text)
    shared = [len(topics & _topics(fact)) for fact in facts]
    found = [fact for fact, n in zip(facts, shared, strict=True) if 0 < n == max(shared)]
    about = f"your {question['about']}" if question["about"] else "that"
    return " ".join(found[-_MAX_FACTS:]) or f"You haven't told me {about}, as far back as I see."


def _topics(text: str) -> set[str]:
    words = re.findall(r"\w{1,40}", _NO_TOPIC.sub(" ", text.lower()))
    return {_SAME.get(word, word).removesuffix("s") for word in words} - {""}


def _facts(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Yield what the user stated, oldest first: what it is about, and how it is told back."""
    for message in messages:
        text = message.content[:_MAX_CHARS]
        if isinstance(message, UserMessage):
            yield from _facts_in(text)
        elif isinstance(message, SystemMessage) and re.search("remember|memor|known", text):
            for line in text.splitlines():
                if line.startswith('"'):  # long-term memory is told as JSON strings
                    with suppress(msgspec.DecodeError):
                        yield from _facts_in(msgspec.json.decode(line, type=str))
                elif bullet := re.match(r"\s{0,9}[-*•]\s", line):
                    yield from _facts_in(line[bullet.end() :])


def _facts_in(text: str) -> Iterator[tuple[str, str]]:
    parts = [*_SENTENCE.split(text.replace("’", "'")), ""]
    for sentence, end in zip(parts[::2], parts[1::2], strict=True):
        opening = _OPENING.match(sentence.strip())
        stated = " ".join(sentence.strip()[opening.end() if opening else 0 :].split())
        if stated and end != "?":
            yield from _fact_of(stated, is_note=bool(opening and opening["note"]))


def _fact_of(stated: str, *, is_note: bool) -> Iterator[tuple[str, str]]:
    statement = _STATEMENT.match(stated)
    if (match := _NAME.match(stated)) and (name := _name(match[1] or match[2])):
        yield "my name", f"your name is {name}"
    elif statement or is_note:
        told = _FIRST_PERSON.sub(lambda word: _YOU[word[0].lower()], stated)
        yield ((statement and statement[1]) or stated).lower(), told


def _name(said: str) -> str:
    """Return the name at the start of `said`: its words with capitals, or else the first."""
    name = re.match(r"\W*((?:[A-Z][\w'-]*(?: |$)){1,3}|[\w'-]+)", said)
    return name[1].strip()[:1].upper() + name[1].strip()[1:] if name else ""
