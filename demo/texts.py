"""The demo's fixed texts. `{abilities}`, `{few}` and `{tools}` are filled in by `talk`."""

CONNECT = (
    "To connect a real model, set `OPENAI_API_KEY`, or `OPENAI_BASE_URL` for any "
    "OpenAI-compatible server (Ollama: `http://localhost:11434/v1`, or vLLM), or "
    "`FRIENDLI_TOKEN`, in the environment or in `.env`, and restart the server."
)

GREETING = """Hello! I'm the built-in demo: no language model is connected yet, but the streaming, \
the tools and this conversation are real. Try one of these:

{few}

Or say “help” for all that I understand, and how to connect a real model."""

HELP = f"""I'm the built-in demo, a stand-in for a language model: I match patterns in plain \
English and make nothing up. This is what I understand:

{{tools}}- **Any tool by name:** call `tool_name` with {{"argument": "value"}}
- **This conversation:** My name is Sarah … What's my name? What did I say first?
- **Rendering:** Show me a table. Show me code. Count to 20.
- **Streaming:** Write a long answer (to try stop, reload and resume).
- **Small talk:** Tell me a joke. Tell me a story.

{CONNECT}"""

_JOKES = (
    "Why do programmers prefer dark mode? Because light attracts bugs.",
    "There are 10 kinds of people: those who understand binary and those who don't.",
    "A SQL query walks into a bar, goes up to two tables and asks: “May I join you?”",
    "Why did the developer go broke? Because they had used up all their cache.",
    "I would tell you a joke about UDP, but you might not get it.",
)
JOKES = [f"{joke}\n\n(From the demo's small stock of jokes.)" for joke in _JOKES]

STORY = """A token once set out from a server to a browser. Halfway there the connection broke, \
and it found itself alone in the dark.

“Am I lost?” it asked. “No,” said the log, “I have written down who you are and where you belong. \
When the browser comes back, you will be the very next one.”

And so it was. The sentence was finished, and nobody ever noticed the gap.

(A short one: I'm the demo, and this is the only story that I know.)"""

TABLE = """Here is some Markdown, to see how your front end renders it:

| Protocol | Direction | Good for |
|---|---|---|
| WebSocket | both ways | several chats on one connection |
| Server-sent events | server to client | one answer, easy to resume |
| Plain HTTP | one answer | scripts and tests |

**Bold**, *italic*, `code`, and a list:

1. First
2. Second
   - nested

> A quotation, for good measure."""

CODE = """Here is a code block, to see how your front end renders it:

```python
def fibonacci(count: int) -> list[int]:
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers[:count]
```

(A fixed example: I'm the demo and don't write code.)"""

LONG_TEXT = """This is a long answer of fixed text, so that you can try what happens around it. \
While it streams, press stop, reload the page, or open the conversation in a second tab.

**What you are looking at.** Every message that you send starts a run. The run belongs to the \
server and not to the connection over which you asked for it. What happens in the run is appended \
to a log, one numbered event after the other: the beginning, each piece of the answer, each call \
of a tool and its result, and the end. Your browser is a reader of that log. It has a place in it, \
called a cursor, and it receives whatever comes after that place.

**Why this is useful.** Connections break. A laptop is closed, a train enters a tunnel, a proxy \
decides that a minute of silence is enough. In a service that ties the answer to the connection, \
the rest of the answer is lost, and often the work behind it as well. Here the reader comes back, \
says how far it had read, and goes on with the very next piece. Nothing is missing and nothing is \
repeated. Two tabs can watch the same answer, and a slow one does not slow down the other.

**Stopping is something else.** A connection that goes away is not a wish to stop. When you press \
stop, the client says so, the server closes the connection to the model, and the tools that are \
still at work are ended. The log then gets its last event, which says that the run was cancelled, \
and the part of the answer that you have already seen stays in the conversation.

**What comes next.** Nothing clever, because there is no model here. These paragraphs are written \
in a file, and they are the same every time. Once a real model is connected, its answers travel \
the same way: the same events, the same numbers, the same end. Until then the pace is the demo's \
own, a setting of the server. If you have watched this text \
arrive to its last word, then you have seen all that the path between a model and your screen has \
to do, and that is the end of the long answer."""
