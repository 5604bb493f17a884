"""The agent loop: ask the model, call its tools together, repeat.

`StreamingAgent.run` works on a `RunState`, which belongs to one run: what the model sees, what is
to be kept of the run, and where its events go. It emits everything up to the
terminal event, which it returns: the owner of the run stores what was said before it says that
it is done. Where it raises instead (`ParleyError`, a cancel), the owner ends the log too.

The text that was streamed is kept also where the stream broke. What holds for calls is written
in `calls`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from errors import NotFound
from events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    FinishReason,
    ReasoningBlock,
    ReasoningChunk,
    RequestedCall,
)
from llm import Provider
from loop.calls import Calls
from loop.state import Prompt, Reply, RunState
from messages import (
    AssistantMessage,
    EndPart,
    ModelOptions,
    ModelRequest,
    ReasoningBlockPart,
    ReasoningPart,
    ReplyPart,
    SystemMessage,
    TextPart,
    ToolCallPart,
    ToolSpec,
    new_id,
)
from models import AgentConfig
from tools.tool import Tool, tool_from
from tools.workers import Workers

REPEATS = 3
"""How often in a row the same calls with the same arguments count as going round in circles."""

_LIMIT_TEXT: dict[FinishReason, str] = {
    "max_turns": "the run's limit of questions to the model is reached",
    "max_tool_calls": "the run's limit of tool calls is reached",
    "repeated_tool_calls": "the same calls were made again and again",
}


class StreamingAgent:
    """A model, its instructions, its tools and the agents that it may hand over to.

    Args:
        name: the agent's name in the service.
        config: its configuration, with `instructions` and `model` filled in.
        provider: where its answers come from.
        tools: the tools that it may call.
        workers: where the tools run.
        handoffs: finds each of the agents that may take over from it, by its name.
    """

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        provider: Provider,
        tools: Iterable[Tool],
        workers: Workers,
        handoffs: "Mapping[str, Callable[[], StreamingAgent]] | None" = None,
    ) -> None:
        self.name = name
        self.config = config
        self._provider = provider
        self._handoffs = handoffs or {}
        self._dialect = config.dialect.as_set() if config.dialect else {}
        self._calls = Calls(name, config, tools, workers, self._handoffs)

    @property
    def model(self) -> str:
        return self._provider.answering(self.config.model)

    @property
    def remembers(self) -> bool:
        return self.config.memory

    def add_tool(self, function: Callable[..., Any]) -> None:
        """Let the agent call a function; see `tools.tool.tool_from` for what it may be."""
        self._calls.add(tool_from(function))

    async def run(self, state: RunState) -> ChatComplete:
        """Answer the last message of the prompt.

        Returns:
            The terminal event, which is not in the log yet.

        Raises:
            errors.ParleyError: the provider failed, the sink is full, a turn was not stored, or an
                agent that had taken over before a crash is gone.
        """
        agent = self
        for name in state.resumption.successors:
            agent, state.prompt.model = agent._successor(name), None
        if state.resumption.pending is not None:
            agent = await agent._take_up(state, state.resumption.pending)
        while True:
            reply = await agent._ask(state)
            if reply.for_client:
                # The agent's own calls of the turn are not made: what they come to would be lost
                # to the client, who says all in its next request. The model asks for them again.
                # The reasoning belongs to the client's calls, and comes back with these.
                state.transcript.keep(AssistantMessage(reply.text))
                return _complete(state, "tool_calls", reply)
            if not reply.calls:
                state.transcript.keep(reply.message)
                reason = reply.end.finish_reason
                return _complete(state, "stop" if reason == "tool_calls" else reason)
            limit = agent._limit(state, reply.calls)
            if limit is not None:
                agent._calls.refuse(state, reply, "limit", f"Not executed: {_LIMIT_TEXT[limit]}.")
                return _complete(state, limit)
            agent = await agent._act(state, reply)

    async def _act(self, state: RunState, reply: Reply) -> "StreamingAgent":
        if not self._calls.may_be_repeated(reply.message.tool_calls):
            await self._announce(state, reply)
        await self._calls.together(state, reply)
        return await self._next_agent(state, reply)

    async def _announce(self, state: RunState, reply: Reply) -> None:
        """Store that calls are about to be executed; where that fails, they are not."""
        stored = False
        try:
            await state.transcript.save(pending=reply.message)
            stored = True
        finally:
            if not stored:
                self._calls.refuse(state, reply, "cancelled", "Not executed: the run ended before.")

    async def _take_up(self, state: RunState, message: AssistantMessage) -> "StreamingAgent":
        """Go on with a turn that a crash interrupted."""
        state.counts.reserve(message)
        calls = tuple(map(ToolCallPart, message.tool_calls))
        reply = Reply(new_id("msg"), message.content, message.reasoning, calls, EndPart("stop"))
        if message.content:
            state.sink.append_text(ChatChunk, reply.message_id, message.content)
        await self._calls.again(state, reply)
        return await self._next_agent(state, reply)

    async def _next_agent(self, state: RunState, reply: Reply) -> "StreamingAgent":
        await state.transcript.save()
        name, state.successor = state.successor, None
        if name is None:
            return self
        state.prompt.model = None
        successor = self._successor(name)
        state.sink.append(
            AgentUpdated(
                message_id=reply.message_id, agent=successor.name, previous_agent=self.name
            )
        )
        return successor

    def _successor(self, name: str) -> "StreamingAgent":
        if name not in self._handoffs:  # it was configured again since
            text = f"The agent {self.name!r} hands over to no {name!r} any more."
            raise NotFound(text, code="agent_not_found")
        return self._handoffs[name]()

    async def _ask(self, state: RunState) -> Reply:
        """Stream one reply of the model; what was streamed is kept also when it breaks off."""
        message_id = state.message_id if state.counts.turns == 0 else new_id("msg")
        state.counts.turns += 1
        transcript, draft = state.transcript, _Draft(state, message_id)
        is_whole = False
        try:
            async with aclosing(self._provider.stream(self._request(state))) as batches:
                async for batch in batches:
                    draft.take(batch)
                    await state.sink.drain()
            is_whole = True
        finally:
            transcript.text = "".join(draft.pieces)
            if draft.end is None or not is_whole:
                transcript.keep(AssistantMessage(transcript.text))
        if draft.end is None:
            raise RuntimeError("a provider's stream ended without its end part")
        transcript.count(draft.end.usage)
        theirs = {tool.name for tool in state.prompt.client_tools}
        return Reply(
            message_id,
            transcript.text,
            tuple(draft.reasoning),
            tuple(part for part in draft.calls if part.call.name not in theirs),
            draft.end,
            tuple(part for part in draft.calls if part.call.name in theirs),
        )

    def _request(self, state: RunState) -> ModelRequest:
        prompt = state.prompt
        instructions = "\n\n".join(filter(None, (self.config.instructions, prompt.knowledge)))
        return ModelRequest(
            model=self._provider.answering(prompt.model) if prompt.model else self.model,
            fallbacks=() if prompt.model else tuple(self.config.fallback_models),
            messages=(SystemMessage(instructions), *prompt.messages, *state.transcript.messages),
            tools=self._offered(prompt),
            parallel_tools=prompt.parallel_tools,
            options=self._options(state),
            demanded=_demanded(prompt),
            dialect={} if prompt.model else self._dialect,
            conversation=state.conversation_id,
        )

    def _offered(self, prompt: Prompt) -> tuple[ToolSpec, ...]:
        """Return the tools that the model may call.

        Where the client demands a call and has tools of its own, it is one of these that it wants.
        """
        theirs = prompt.client_tools
        if theirs and prompt.options.tool_choice == "required":
            return theirs
        hidden = {tool.name for tool in theirs}
        return (*theirs, *(tool for tool in self._calls.specs() if tool.name not in hidden))

    def _options(self, state: RunState) -> ModelOptions:
        """Return how to answer: as the request says, or else as the agent is configured."""
        options, config = state.prompt.options, self.config
        # A demand for a call is met by the first one; kept up, the run would never end.
        is_met = options.tool_choice == "required" and state.counts.calls > 0
        return msgspec.structs.replace(
            options,
            temperature=config.temperature if options.temperature is None else options.temperature,
            max_tokens=options.max_tokens or config.max_tokens,
            tool_choice="auto" if is_met else options.tool_choice,
        )

    def _limit(self, state: RunState, calls: Sequence[ToolCallPart]) -> FinishReason | None:
        if state.counts.turns >= self.config.max_turns:
            return "max_turns"
        if state.counts.calls + len(calls) > self.config.max_tool_calls:
            return "max_tool_calls"
        if state.counts.repeats(calls) >= REPEATS:
            return "repeated_tool_calls"
        return None


def _demanded(prompt: Prompt) -> frozenset[str]:
    """Return what the client itself asks for, and would miss."""
    options = prompt.options
    values = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "output": options.output,
        "tools": prompt.client_tools or None,
        "parallel_tools": prompt.client_tools or None,
    }
    return frozenset(name for name, value in values.items() if value is not None)


class _Draft:
    """A reply as it comes: emitted at once, and collected."""

    def __init__(self, state: RunState, message_id: str) -> None:
        self.pieces: list[str] = []
        self.calls: list[ToolCallPart] = []
        self.reasoning: list[ReasoningBlock] = []
        self.end: EndPart | None = None
        self._state = state
        self._message_id = message_id

    def take(self, batch: Iterable[ReplyPart]) -> None:
        append_text, message_id = self._state.sink.append_text, self._message_id
        for part in batch:
            if isinstance(part, TextPart):
                self.pieces.append(part.content)
                append_text(ChatChunk, message_id, part.content)
            elif isinstance(part, ReasoningPart):
                append_text(ReasoningChunk, message_id, part.content)
            elif isinstance(part, ToolCallPart):
                self.calls.append(self._state.counts.with_own_id(part))
            elif isinstance(part, ReasoningBlockPart):
                self.reasoning.append(part.block)
            else:
                self.end = part


def _complete(
    state: RunState, reason: FinishReason, for_client: Reply | None = None
) -> ChatComplete:
    """Return the end of a run; `for_client`: the reply that the client has to go on with."""
    return ChatComplete(
        final_response=state.transcript.text,
        finish_reason=reason,
        usage=state.transcript.usage,
        tool_calls=tuple(
            RequestedCall(
                id=call.id, name=call.name, arguments=call.arguments, reasoning=call.reasoning
            )
            for call in (part.call for part in (for_client.for_client if for_client else ()))
        ),
        reasoning=for_client.reasoning if for_client else (),
    )
