"""Small talk: what the demo says where no tool and nothing of the conversation is asked for.

The demo is no model and says so. An answer that may come several times has variants, chosen by how
many messages the user has sent, so that the same conversation always gets the same answers.
"""

import re
from collections.abc import Collection, Sequence

from demo.texts import CODE, CONNECT, GREETING, HELP, JOKES, LONG_TEXT, STORY, TABLE

_FEELINGS = "I'm a demo, so I don't feel, but everything works. {abilities}"
_THANKS = ["You're welcome!", "My pleasure.", "Glad that it helped."]
NOTHING_ASKED = "Hello! I'm the built-in demo. Write me something, for example “help”."
WHAT_FOR = {
    "get_weather": "Which city would you like the weather for?",
    "get_stock_price": "Which company's stock would you like the price of?",
    "search_web": "What shall I search the web for?",
}
_EXAMPLES = {
    "get_weather": "What's the weather in Tokyo and Paris?",
    "calculate": "What's 15% of 240?",
    "get_time": "What time is it in New York?",
    "search_web": "Search the web for FastAPI",
    "get_stock_price": "How is Apple stock doing?",
}
_SEVERAL = "- **Several at once:** What's the weather in Oslo, 12 * 12, and the time in Tokyo?\n"
_MAX_COUNT = 200
_MAX_ECHO = 120


def talk(text: str, number: int, tools: Collection[str]) -> str:
    """Answer a message, the user's `number`th, to an agent with these tools; never empty."""
    return _filled(_small_talk(text, number) or _fallback(text), number, tools)


def _small_talk(text: str, number: int) -> str | None:
    if match := _COUNT.search(text):
        end = min(int(match[1]), _MAX_COUNT)
        numbers = ", ".join(map(str, range(1, end + 1))) or "0"
        return f"I count to {end} at most: {numbers}." if int(match[1]) > end else f"{numbers}."
    for pattern, variants in _INTENTS.items():
        if re.search(pattern, text, re.IGNORECASE):
            return variants[number % len(variants)]
    if _GREETS.match(text):
        return GREETING if number == 1 else "Hello again! {abilities}"
    return None


def _fallback(text: str) -> str:
    """Say what was not understood, what would be, and how to get real answers."""
    said = "".join(filter(str.isprintable, text[:_MAX_ECHO])).strip()
    if not said:
        return "I found no words in that message. {abilities}"
    opening = f"I can't answer “{said}”: I'm the built-in demo, not a language model."
    return f"{opening} {{abilities}}\n\n{CONNECT}"


def _filled(text: str, number: int, tools: Collection[str]) -> str:
    """Return `text` with the examples of tools that the agent has, and two things to try."""
    examples = [example for tool, example in _EXAMPLES.items() if tool in tools]
    known = [*examples, "My name is Sarah", "Write a long answer", "Show me a table"]
    first, second = known[number % len(known)], known[(number + 1) % len(known)]
    abilities = f"Try “{first}” or “{second}”; “help” lists all that I understand."
    few = "\n".join(f"- {example}" for example in known[:3])
    listed = "".join(f"- **Tools:** {example}\n" for example in examples)
    listed += _SEVERAL if len(examples) > 1 else ""
    return text.replace("{abilities}", abilities).replace("{few}", few).replace("{tools}", listed)


_COUNT = re.compile(r"(?i)\bcount (?:up )?(?:from 1 )?to ([0-9]{1,6})\b")
_GREETS = re.compile(
    r"(?i)\W*(?:hi|hello|hey|hiya|greetings|test|good (?:morning|afternoon|evening|day))\b"
)
_INTENTS: dict[str, Sequence[str]] = {
    r"\b(?:connect|use|configure|set ?up|switch to|add) (?:an? |the |my )?(?:own )?"
    r"(?:real |other |different |openai |local ){0,3}(?:llm|model|api[ -]?key|ollama|vllm)\b": [
        CONNECT
    ],
    r"^\W*help\b|\bwhat can (?:you|i) (?:do|ask|say|try)\b|\bhow (?:do|can) i use\b"
    r"|\bwhat do you (?:do|understand|know)\W*$|\byour (?:tools|abilities|name)\b"
    r"|\bhow do(?:es this| you) work\b|\bwhat (?:tools|(?:language )?model)\b"
    r"|\b(?:can|could) you help\b|\b(?:who|what)(?:'s| are| r) (?:you|u)\b"
    r"|\bare you (?:an? |the )?(?:real )?(?:ai|bot|model|human|robot|person|demo|gpt)\b": [HELP],
    r"\bjokes?\b|\bmake me laugh\b|\bsomething funny\b": JOKES,
    r"\blorem\b|\b[0-9]{3,5} words\b|\b(?:long|longer|lengthy) (?:\w{1,40} )?"
    r"(?:answer|text|reply|response|essay|message|article|one)\b": [LONG_TEXT],
    r"\b(?:tell|write|read|give)\b.{0,40}\b(?:story|tale)\b|^\W*(?:a )?story\W*$": [STORY],
    r"\b(?:show|give|make|draw)\b.{0,40}\b(?:table|markdown)\b|^\W*(?:table|markdown)": [TABLE],
    r"\b(?:show|write|give|some)\b.{0,40}\bcode\b|\bcode (?:example|block)\b": [CODE],
    r"\bhow (?:are|r) (?:you|u|things)\b|\bhow(?:'s| is) it going\b|\bwhat's up\b": [_FEELINGS],
    r"\b(?:thanks|thank you|thx|cheers|great job|well done|awesome|perfect)\b": _THANKS,
    r"\b(?:goodbye|bye|see you|good night|farewell)\b": ["Goodbye!"],
}
