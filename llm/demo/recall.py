"""What the user said about themselves, found again in the conversation.

Nothing is stored: each question is answered from the messages of its request. A statement
("I work as a software engineer") is kept in the user's own words and told back in the second
person. Where a system prompt lists remembered facts, as bullets or as JSON strings, they count as
said before.

Every pattern is linear; of each message the first `_MAX_CHARS` are read.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from llm.demo.words import words
from messages import AssistantMessage, Message, SystemMessage, UserMessage

_MAX_CHARS = 4_000
_MAX_QUOTE = 300
_MAX_FACTS = 12

_Kind: TypeAlias = Literal["attribute", "work", "role", "likes", "place", "note"]


class Fact(NamedTuple):
    """One statement. `key`: what "my …" is about; `text`: the value, or the sentence as said."""

    kind: _Kind
    key: str
    text: str


_SENTENCE = re.compile(
    r"[.!?](?=\s|$)|[\n;]|,? (?:and|but) (?=(?:i|my|i['’]m)\b)|, (?=(?:i|my|i['’]m)\b)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:(?:hi|hello|hey|well|so|also|and|yes|ok|okay|by the way|actually|please"
    r"|remember(?: that)?|note that|fyi)\b[\s,!:]*)+",
    re.IGNORECASE,
)
_BULLET = re.compile(
    r"^\s*[-*•]\s+(?:user(?:['’]s)?\s+(?=name|favou?rite)|user:\s*)?", re.IGNORECASE
)
_NAME = re.compile(r"^(?:my name(?:['’]s| is)|(?:you can )?call me|name is)\s+(.+)", re.IGNORECASE)
_I_AM_NAME = re.compile(r"^(?:[Ii] am|[Ii]['’]m)\s+([A-Z][\w'’-]+(?: [A-Z][\w'’-]+)?)$")
_DEMONYMS = frozenset(
    words(
        "american australian brazilian british canadian chinese dutch english french "
        "german greek indian irish italian japanese korean mexican polish portuguese "
        "russian spanish swedish swiss turkish ok okay fine sorry good here not"
    )
)
_ATTRIBUTE = re.compile(r"^my ([\w'’ -]{1,60}?) (?:is|are|was) (.+)", re.IGNORECASE)
_WORK = re.compile(r"^i (?:also )?(?:work\b|do .{1,80} for (?:work|a living)$)", re.IGNORECASE)
_ROLE = re.compile(r"^(?:i am|i['’]m) (?:an? |the )", re.IGNORECASE)
_LIKES = re.compile(
    r"^i (?:really |also |absolutely |do )*(?:love|like|enjoy|adore|prefer|hate|dislike"
    r"|don['’]t like)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(r"^(?:i live|i come from|i grew up|(?:i am|i['’]m) from)\b", re.IGNORECASE)
_REMEMBER = re.compile(r"\b(?:remember|note)(?: that)?\b", re.IGNORECASE)
_WORK_KEYS = frozenset({"job", "work", "profession", "occupation", "career"})


def facts(messages: Sequence[Message]) -> list[Fact]:
    """Return what the user stated, oldest first."""
    return [fact for text in _statements(messages) for fact in _facts_in(text)]


def _statements(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message, SystemMessage) and re.search(
            "remember|memor|known", message.content
        ):
            for line in message.content[:_MAX_CHARS].splitlines():
                if line.startswith('"'):  # long-term memory is told as JSON strings
                    yield from _strings(line)
                elif _BULLET.match(line):
                    yield _BULLET.sub("my " if "user" in line[:12].lower() else "", line)
        elif isinstance(message, UserMessage):
            yield message.content[:_MAX_CHARS]


def _strings(line: str) -> Iterator[str]:
    with suppress(msgspec.DecodeError):
        yield msgspec.json.decode(line, type=str)


def _facts_in(text: str) -> Iterator[Fact]:
    start = 0
    for separator in [*_SENTENCE.finditer(text), None]:
        end = separator.start() if separator else len(text)
        sentence = " ".join(text[start:end].split())
        is_question = separator is not None and separator[0] == "?"
        start = separator.end() if separator else end
        if sentence and not is_question and (fact := _fact(sentence)):
            yield fact


def _own_name(stated: str) -> str:
    """Return the name that somebody gives as their own, or nothing."""
    match = _NAME.match(stated)
    name = match[1] if match else ""
    if match := _I_AM_NAME.match(stated):
        name = "" if match[1].lower() in _DEMONYMS else match[1]
    if not name or name.lower().startswith(("not ", "never ", "no ")):
        return ""
    return _name(name) or ""


def _fact(sentence: str) -> Fact | None:
    stated = _OPENING.sub("", sentence)
    if called := _own_name(stated):
        return Fact("attribute", "name", called if called[0].isupper() else called.capitalize())
    match = _ATTRIBUTE.match(stated)
    if match and match[1].lower() != "name":
        key = match[1].lower()
        return Fact("work" if key in _WORK_KEYS else "attribute", key, match[2])
    kinds: tuple[tuple[_Kind, re.Pattern[str]], ...] = (
        ("work", _WORK),
        ("role", _ROLE),
        ("likes", _LIKES),
        ("place", _PLACE),
    )
    for kind, pattern in kinds:
        if pattern.match(stated):
            return Fact(kind, "", stated)
    return Fact("note", "", stated) if _REMEMBER.match(sentence) and stated != sentence else None


def _name(said: str) -> str:
    """Return the name at the start of `said`: its words with capitals, or else the first."""
    parts = [part for part in said.split()[:3] if part.strip(_MARKS)]
    capitals = list(takewhile(lambda part: part[0].isupper(), parts))
    return " ".join(capitals or parts[:1]).strip(_MARKS)


def _to_you(text: str) -> str:
    """Return what the user said of themselves as said to them."""
    flipped = _FIRST_PERSON.sub(lambda match: _SECOND_PERSON[match[0].lower()], text)
    return re.sub(r"['’]([mM])\b", "'re", flipped)


_MARKS = " \t.,!?;:\"'“”*"
_SECOND_PERSON = {
    "i am": "you are",
    "i was": "you were",
    "i'm": "you're",
    "i’m": "you're",
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
}
_FIRST_PERSON = re.compile(
    r"\b(?:" + "|".join(sorted(_SECOND_PERSON, key=len, reverse=True)) + r")\b", re.IGNORECASE
)


# Statements.


def acknowledge(text: str) -> str | None:
    """Return an answer to a message that states something about its user; else None."""
    stated = list(_facts_in(text[:_MAX_CHARS]))[:_MAX_FACTS]
    if not stated:
        return None
    names = [fact.text for fact in stated if fact.key == "name"]
    told = [_told(fact) for fact in stated if fact.key != "name"]
    opening = f"Nice to meet you, {names[-1]}!" if names else "Noted."
    if told:
        opening += f" I will remember that {_and(told)}."
    return f"{opening} You can ask me about it later in this conversation."


def _told(fact: Fact) -> str:
    if fact.kind == "attribute" or fact.key:
        return f"your {fact.key} is {_to_you(fact.text)}"
    return _to_you(fact.text)


def _and(parts: Sequence[str]) -> str:
    return " and ".join(part for part in [", ".join(parts[:-1]), parts[-1]] if part)


# Questions.


class _Past(NamedTuple):
    """What a question is answered from. `said` and `answered` are oldest first."""

    facts: list[Fact]
    said: list[str]
    answered: list[str]

    def of(self, *kinds: _Kind) -> list[str]:
        return [_told(fact) for fact in self.facts if fact.kind in kinds][-_MAX_FACTS:]

    def value(self, key: str) -> str | None:
        wanted = _key(key)
        found = (fact for fact in reversed(self.facts) if _key(fact.key) == wanted)
        return next((_to_you(fact.text) for fact in found), None)


def _key(text: str) -> str:
    return text.lower().replace("favourite", "favorite").strip(_MARKS).removesuffix("s")


def recall(messages: Sequence[Message]) -> str | None:
    """Answer the last user message if it asks about the conversation; else None."""
    users = [m.content for m in messages if isinstance(m, UserMessage)]
    if not users:
        return None
    answered = [m.content for m in messages if isinstance(m, AssistantMessage) and m.content]
    past = _Past(facts(messages), users[:-1], answered)
    text = " ".join(users[-1][:_MAX_CHARS].split())
    answers = [
        answer(match, past) for pattern, answer in _QUESTIONS if (match := pattern.search(text))
    ]
    if not answers and (match := _ANY_ATTRIBUTE.search(text)):
        answers = [_attribute(match[1], past)]
    return " ".join(dict.fromkeys(answers)) or None


def _your_name(_: re.Match[str], past: _Past) -> str:
    name = past.value("name")
    return (
        f"Your name is {name}." if name else "You haven't told me your name, as far back as I see."
    )


def _your_work(_: re.Match[str], past: _Past) -> str:
    if work := past.of("work"):
        return _sentence(f"{_and(work)}, as you told me")
    if roles := past.of("role"):
        return f"You haven't said what your work is, but you told me that {_and(roles)}."
    return "You haven't told me what you do for work yet."


def _your_likes(_: re.Match[str], past: _Past) -> str:
    likes = past.of("likes") + [
        _told(fact) for fact in past.facts if _key(fact.key).startswith("favorite")
    ]
    return _sentence(_and(likes)) if likes else "You haven't told me what you like yet."


def _your_place(_: re.Match[str], past: _Past) -> str:
    places = past.of("place")
    return _sentence(_and(places)) if places else "You haven't told me where you live yet."


def _all_of_you(_: re.Match[str], past: _Past) -> str:
    told = [f"- {_sentence(_told(fact))}" for fact in past.facts[-_MAX_FACTS:]]
    if not told:
        return "You haven't told me anything about yourself yet."
    return "This is what you told me:\n\n" + "\n".join(dict.fromkeys(told))


def _first(_: re.Match[str], past: _Past) -> str:
    if not past.said:
        return "This is your first message as far as I can see."
    return f"The first thing you said, as far back as I can see: “{_quoted(past.said[0])}”"


def _last(_: re.Match[str], past: _Past) -> str:
    if not past.said:
        return "There is no message of yours before this one."
    return f"Before this, you said: “{_quoted(past.said[-1])}”"


def _again(_: re.Match[str], past: _Past) -> str:
    return past.answered[-1] if past.answered else "I have not said anything yet."


def _attribute(key: str, past: _Past) -> str:
    value = past.value(key)
    return f"Your {key} is {value}." if value else f"You haven't told me your {key} yet."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _quoted(text: str) -> str:
    text = " ".join(text[: 4 * _MAX_QUOTE].split())
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE].rstrip() + " …"


def _asks(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_WHAT_IS = (
    r"(?:what(?:['’]s| is| are| was| were)|do you (?:know|remember)|remind me of|tell me|recall)"
)
_QUESTIONS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], _Past], str]], ...] = (
    (
        _asks(
            rf"\b{_WHAT_IS} my (?:first |last |full )?name\b|\bwhat my name is\b|\bwho am i\b"
            r"|\b(?:and|or) my name\W*$|\bdo you remember (?:me|who i am)\b"
        ),
        _your_name,
    ),
    (
        _asks(
            rf"\b{_WHAT_IS} my (?:job|work|profession|occupation|career)\b|\bwhere do i work\b"
            r"|\bwhat (?:(?:kind|sort|type) of )?(?:work|job) do i\b|\b(?:and|or) my job\W*$"
            r"|\bwhat (?:do )?i do(?: for (?:work|a living))?\W*(?:$|and\b)"
        ),
        _your_work,
    ),
    (
        _asks(
            r"\bwhat (?:(?:kind|sort|type)s? of )?(?:[\w-]+ )?(?:do|did) i (?:say i |tell you i )?"
            rf"(?:like|love|enjoy|prefer|hate)\b|\b{_WHAT_IS} my (?:hobb|interest|preference|like)"
        ),
        _your_likes,
    ),
    (_asks(r"\bwhere (?:do i live|am i from|do i come from)\b"), _your_place),
    (
        _asks(
            r"\bwhat (?:else )?(?:do|did|can) you (?:know|remember|recall) (?:about|of) me\b"
            r"|\bwhat (?:did i tell|have i told) you\b"
        ),
        _all_of_you,
    ),
    (
        _asks(
            r"\b(?:my|the)(?: very)? first (?:message|question|thing i)\b"
            r"|\bdid i (?:say|ask|write)(?: you| to you)? (?:first|at the (?:start|beginning))\b"
            r"|\bdid i first (?:say|ask|write)\b"
        ),
        _first,
    ),
    (
        _asks(
            r"\bmy (?:last|previous) (?:message|question)\b"
            r"|\bdid i (?:just|last) (?:say|ask|write)\b"
            r"|\bwhat did i (?:say|ask|write)(?: you| to you)?(?: last| before| earlier)?\W*$"
        ),
        _last,
    ),
    (
        _asks(
            r"^\W*(?:(?:please|can you|could you) )*(?:repeat|say) (?:that|it|this|your)\b"
            r"|\bsay (?:that|it) again\b|\bwhat did you (?:just )?say\b|\brepeat yourself\b"
        ),
        _again,
    ),
)
_ANY_ATTRIBUTE = _asks(rf"\b{_WHAT_IS} my ([\w'’ -]{{1,60}}?)\W*$")
