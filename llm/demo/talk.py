"""What the demo says: fixed texts and small talk, from a table of intents.

The demo is no model and says so; what it cannot do it does not pretend to do. An answer that a
user may see several times has variants, chosen by how far the conversation is, so that the same
conversation always gets the same answers.
"""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

from llm.demo.texts import CODE, JOKES, LONG_TEXT, STORY, TABLE

CONNECT = (
    "To connect a real model, set `OPENAI_API_KEY`, or `OPENAI_BASE_URL` for any "
    "OpenAI-compatible server (Ollama: `http://localhost:11434/v1`, or vLLM), or "
    "`FRIENDLI_TOKEN`, in the environment or in `.env`, and restart the server."
)
_EXAMPLES = {
    "get_weather": "What's the weather in Tokyo and Paris?",
    "calculate": "What's 15% of 240?",
    "get_time": "What time is it in New York?",
    "search_web": "Search the web for FastAPI",
    "get_stock_price": "How is Apple stock doing?",
}
_MAX_COUNT = 200
_MAX_ECHO = 120


class Turn(NamedTuple):
    """What small talk depends on.

    Args:
        text: the user's message, its white space made single.
        number: how many messages the user has sent, this one included.
        tools: the names of the agent's tools.
    """

    text: str
    number: int
    tools: Collection[str]


_Answer: TypeAlias = Callable[[re.Match[str], Turn], str]


def small_talk(turn: Turn) -> str | None:
    """Answer by the first intent whose pattern is found; None where there is none."""
    for pattern, answer in _INTENTS:
        if match := pattern.search(turn.text):
            return answer(match, turn)
    return None


def fallback(turn: Turn) -> str:
    """Say what was not understood, what would be, and how to get real answers."""
    said = _echo(turn.text)
    opening = (
        f"I can't answer “{said}”: I'm the built-in demo, not a language model.",
        f"“{said}” is beyond me. I'm a demo that knows a few patterns, not a language model.",
        f"I read “{said}”, but only a real model could answer that; I'm the built-in demo.",
    )
    if not said:
        return f"I found no words in that message. {_abilities(turn)}"
    return f"{opening[turn.number % len(opening)]} {_abilities(turn)}\n\n{CONNECT}"


def nothing_asked() -> str:
    """Answer a request that does not end with a user's message or a tool's result."""
    return "Hello! I'm the built-in demo. Write me something, for example “help”."


def no_tool(tool: str) -> str:
    """Say that the agent lacks a tool that was asked for."""
    return f"This agent does not have the tool `{tool}`, so I can't do that here."


def what_for(tool: str) -> str:
    """Ask for the object of a wish."""
    return {
        "get_weather": "Which city would you like the weather for?",
        "get_stock_price": "Which company's stock would you like the price of?",
        "search_web": "What shall I search the web for?",
    }.get(tool, f"What shall I use `{tool}` with?")


def _echo(text: str) -> str:
    shown = "".join(character for character in text[: 4 * _MAX_ECHO] if character.isprintable())
    shown = shown.strip()
    return shown if len(shown) <= _MAX_ECHO else shown[:_MAX_ECHO].rstrip() + " …"


def _examples(tools: Collection[str]) -> list[str]:
    return [example for tool, example in _EXAMPLES.items() if tool in tools]


def _abilities(turn: Turn) -> str:
    """Name two things to try, others each time."""
    known = [*_examples(turn.tools), "My name is Sarah", "Write a long answer", "Show me a table"]
    first = turn.number % len(known)
    second = (first + 1) % len(known)
    return f"Try “{known[first]}” or “{known[second]}”; “help” lists all that I understand."


def _greeting(_: re.Match[str], turn: Turn) -> str:
    if turn.number > 1:
        return f"Hello again! {_abilities(turn)}"
    examples = _examples(turn.tools)[:3] or ["My name is Sarah", "Show me a table"]
    listed = "\n".join(f"- {example}" for example in examples)
    return (
        "Hello! I'm the built-in demo: no language model is connected yet, but the streaming, "
        f"the tools and this conversation are real. Try one of these:\n\n{listed}\n\n"
        "Or say “help” for all that I understand, and how to connect a real model."
    )


def _who(_: re.Match[str], turn: Turn) -> str:
    return (
        "I'm the built-in demo, a stand-in for a language model. I match patterns in plain "
        f"English, need no network, and make nothing up. {_abilities(turn)}\n\n{CONNECT}"
    )


def _help(_: re.Match[str], turn: Turn) -> str:
    examples = _examples(turn.tools)
    parts = ["I'm the built-in demo, not a language model. This is what I understand:", ""]
    parts += [f"- **Tools:** {example}" for example in examples]
    parts += [
        "- **Several at once:** What's the weather in Oslo, 12 * 12, and the time in Tokyo?"
    ] * (len(examples) > 1)
    parts += [
        '- **Any tool by name:** call `tool_name` with {"argument": "value"}',
        "- **This conversation:** My name is Sarah … What's my name? What did I say first?",
        "- **Rendering:** Show me a table. Show me code. Count to 20.",
        "- **Streaming:** Write a long answer (to try stop, reload and resume).",
        "- **Small talk:** Tell me a joke. Tell me a story.",
    ]
    return "\n".join([*parts, "", CONNECT])


def _connect(_: re.Match[str], __: Turn) -> str:
    return CONNECT


def _thanks(_: re.Match[str], turn: Turn) -> str:
    return ("You're welcome!", "My pleasure.", "Glad that it helped.")[turn.number % 3]


def _feelings(_: re.Match[str], turn: Turn) -> str:
    return f"I'm a demo, so I don't feel, but everything works. {_abilities(turn)}"


def _bye(_: re.Match[str], __: Turn) -> str:
    return "Goodbye!"


def _joke(_: re.Match[str], turn: Turn) -> str:
    return f"{JOKES[turn.number % len(JOKES)]}\n\n(From the demo's small stock of jokes.)"


def _count(match: re.Match[str], _: Turn) -> str:
    end = int(match[1])
    if end > _MAX_COUNT:
        return f"I count to {_MAX_COUNT} at most: {_numbers(_MAX_COUNT)}"
    return _numbers(end) if end else "0."


def _numbers(end: int) -> str:
    return ", ".join(str(number) for number in range(1, end + 1)) + "."


def _fixed(text: str) -> _Answer:
    return lambda _, __: text


def _says(pattern: str, answer: _Answer) -> tuple[re.Pattern[str], _Answer]:
    return re.compile(pattern, re.IGNORECASE), answer


_INTENTS = (
    _says(
        r"\b(?:connect|use|plug in|configure|set ?up|switch to|add) (?:a |an |the |my )?(?:own )?"
        r"(?:real |other |proper |different |openai |local )*"
        r"(?:llm|model|api[ -]?key|ollama|vllm)\b"
        r"|\bopenai_(?:api_key|base_url)\b",
        _connect,
    ),
    _says(
        r"^\W*help\b|\bwhat can (?:you|i) (?:do|ask|say|try)\b"
        r"|\bwhat do you (?:do|understand|know)\W*$|\byour (?:tools|abilities)\b"
        r"|\bhow (?:do i use|can i use|do you work|does this work)\b"
        r"|\bwhat tools\b|\b(?:can|could) you help\b",
        _help,
    ),
    _says(
        r"\b(?:who|what)(?:['’]s| are| r) (?:you|u)\b|\bare you (?:an? |the )?(?:real |actual )?"
        r"(?:ai|bot|model|llm|human|robot|person|chatgpt|gpt|demo|claude)"
        r"|\bwhat(?:['’]s| is) your name\b"
        r"|\b(?:which|what) (?:language )?model\b|\bintroduce yourself\b|\byour name\W*$",
        _who,
    ),
    _says(r"\bcount (?:up )?(?:from 1 )?to ([0-9]{1,6})\b", _count),
    _says(r"\bjokes?\b|\bmake me laugh\b|\bsomething funny\b", _joke),
    _says(
        r"\blorem\b"
        r"|\b(?:long|longer|lengthy) (?:\w+ )?"
        r"(?:answer|text|reply|response|essay|message|article|one)\b"
        r"|\b(?:write|give) .{0,40}\bessay\b|\b[0-9]{3,5} words\b",
        _fixed(LONG_TEXT),
    ),
    _says(
        r"\b(?:tell|write|read|give)\b.{0,40}\b(?:story|tale)\b|^\W*(?:a )?story\W*$", _fixed(STORY)
    ),
    _says(
        r"\b(?:show|give|make|draw|example)\b.{0,40}\b(?:table|markdown)\b"
        r"|^\W*(?:an? )?(?:table|markdown)\b",
        _fixed(TABLE),
    ),
    _says(r"\b(?:show|write|give|some)\b.{0,40}\bcode\b|\bcode (?:example|block)\b", _fixed(CODE)),
    _says(
        r"\bhow (?:are|r) (?:you|u|things)\b|\bhow(?:['’]s| is) it going\b|\bwhat['’]?s up\b",
        _feelings,
    ),
    _says(r"\b(?:thanks|thank you|thx|cheers|great job|well done|awesome|perfect)\b", _thanks),
    _says(r"\b(?:goodbye|bye|see you|good night|farewell)\b", _bye),
    _says(
        r"^\W*(?:hi|hello|hey|hiya|howdy|yo|greetings|test(?:ing)?"
        r"|good (?:morning|afternoon|evening|day))\b",
        _greeting,
    ),
)
