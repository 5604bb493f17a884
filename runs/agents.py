"""Agents by name: those that come with the service, and those that were made over the API.

The latter are stored, and are there again after a restart. A stored agent that does not fit any
more (its tool is gone) is left out with a warning, not deleted.
"""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from pydantic import ValidationError

from agent import StreamingAgent
from caller import Caller
from errors import Conflict, Invalid, NotFound, TooMany
from llm import Provider
from loop.calls import handoff_tool
from models import AgentConfig, AgentInfo
from runs.run import Agent
from storage.store import Store
from tools.tool import Tool
from tools.workers import Workers

DEFAULT = "chat"
AGENTS_BYTES = 67_108_864
"""Bytes that all agents that were made over the API may take: each of them is in memory."""

_AGENT_BYTES = 4096  # besides its configuration, roughly

BUILT_IN = ("assistant", DEFAULT)

logger = logging.getLogger("parley.registry")


class Roster:
    """All agents. What is made over the API belongs to the tenant of its maker.

    Args:
        special: agents of another kind than `StreamingAgent`; they can be run, not changed.
        instructions: the system prompt of agents that bring none.
        allowed_models: the models that an agent may name; empty: any.
        limit: how many agents a tenant may have.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        store: Store,
        tools: Mapping[str, Tool],
        workers: Workers,
        special: Iterable[Agent],
        instructions: str,
        allowed_models: frozenset[str],
        limit: int,
    ) -> None:
        self._provider = provider
        self._store = store
        self._tools = tools
        self._workers = workers
        self._special = {agent.name: agent for agent in special}
        self._instructions = instructions
        self._allowed_models = allowed_models
        self._limit = limit
        self._built_in = {name: self._build("", name, AgentConfig()) for name in BUILT_IN}
        self._stored: dict[str, dict[str, StreamingAgent]] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read the stored agents; `storage.StorageUnavailable` where that cannot be done."""
        for tenant, name, text in await self._store.agents():
            try:
                agent = self._build(tenant, name, AgentConfig.model_validate_json(text))
                self._stored.setdefault(tenant, {})[name] = agent
                self._sizes[tenant, name] = _size(text)
            except (ValidationError, KeyError) as error:
                # Their text quotes the agent's configuration, which is in no log.
                kind = type(error).__name__
                logger.warning("The stored agent %r does not fit any more (%s)", name, kind)

    def all(self, caller: Caller) -> list[AgentInfo]:
        agents = self._of(caller.tenant)
        return [self._info(agents[name]) for name in sorted(agents)]

    def fixed(self) -> list[str]:
        """Return the names of what can be run and not configured."""
        return sorted(self._special)

    def names(self, caller: Caller) -> list[str]:
        """Return the names of all that can be run."""
        return sorted({*self._of(caller.tenant), *self._special})

    def models(self) -> list[str]:
        """Return the models that this server names: those that are allowed, and its default."""
        return sorted({*self._allowed_models, self._provider.default_model})

    def info(self, caller: Caller, name: str) -> AgentInfo:
        """Return one agent; `errors.NotFound` where there is none of this name."""
        return self._info(self._configured(caller.tenant, name))

    def find(self, caller: Caller, name: str) -> Agent:
        """Return an agent to run; `errors.NotFound` where there is none of this name."""
        return self._special.get(name) or self._configured(caller.tenant, name)

    def resolve(self, caller: Caller, name: str) -> tuple[str, str | None]:
        """Return the agent, and the model in the place of its own, that a client's `model` means.

        An agent's name means that agent; the name of a model that may be asked for, that model,
        as the agent `chat`.

        Raises:
            errors.NotFound: it is neither.
        """
        if name in self._special or name in self._of(caller.tenant):
            return name, None
        if self._may_answer(name):
            return DEFAULT, name
        raise NotFound(f"There is no model of the name {name!r} here.", code="model_not_found")

    async def put(self, caller: Caller, name: str, config: AgentConfig) -> bool:
        """Create an agent, or replace the one of this name; runs under way keep the old one.

        Returns:
            Whether it is new.

        Raises:
            errors.Invalid: an unknown tool or agent, or a model outside the allowlist.
            errors.Conflict: the name is one of the service's own that cannot be replaced.
            errors.TooMany: there are as many agents as there may be, or they have as many bytes.
            storage.StorageUnavailable: it could not be stored.
        """
        if name in self._special:
            raise Conflict(f"The agent {name!r} cannot be replaced.")
        async with self._changing:  # to check for room and to take it are one step
            return await self._put(caller, name, config)

    async def _put(self, caller: Caller, name: str, config: AgentConfig) -> bool:
        agents = self._of(caller.tenant)
        faults = self._faults(agents, name, config)
        if faults:
            raise Invalid("The agent's configuration is not valid.", errors=faults)
        text = config.model_dump_json(exclude_unset=True)
        place, size = (caller.tenant, name), _size(text)
        if sum(self._sizes.values()) - self._sizes.get(place, 0) + size > AGENTS_BYTES:
            raise TooMany("The agents take all the memory that they may; delete some.")
        agent = self._build(caller.tenant, name, config)
        putting = self._store.put_agent(caller, name, text, built_in=BUILT_IN, limit=self._limit)
        new = await putting
        self._stored.setdefault(caller.tenant, {})[name] = agent
        self._sizes[place] = size
        return new

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete an agent; runs under way go on.

        Raises:
            errors.NotFound: there is none of this name.
            errors.Conflict: it is one that comes with the service.
            storage.StorageUnavailable: the database cannot be written.
        """
        async with self._changing:
            self._configured(caller.tenant, name)
            if name in BUILT_IN:
                raise Conflict("An agent that comes with the service can be replaced, not deleted.")
            await self._store.delete_agent(caller, name)
            self._stored[caller.tenant].pop(name, None)
            self._sizes.pop((caller.tenant, name), None)

    def _faults(
        self, agents: Collection[str], name: str, config: AgentConfig
    ) -> list[dict[str, str]]:
        faults = [
            {"field": "tools", "message": f"There is no tool of the name {tool!r}."}
            for tool in config.tools or ()
            if tool not in self._tools
        ]
        faults += [
            {"field": "handoffs", "message": f"There is no other agent of the name {other!r}."}
            for other in config.handoffs
            if other not in agents or other == name
        ]
        faults += [
            {
                "field": "handoffs",
                "message": f"{other!r} cannot be told from another tool or agent.",
            }
            for other in self._alike(config)
        ]
        allowed = ", ".join(sorted(self._allowed_models))
        wanted = [
            *([("model", config.model)] if config.model else []),
            *(("fallback_models", model) for model in config.fallback_models),
        ]
        faults += [
            {"field": field, "message": f"Not allowed here; allowed: {allowed}."}
            for field, model in wanted
            if not self._may_answer(model)
        ]
        return faults

    def _alike(self, config: AgentConfig) -> list[str]:
        """Return the agents to whom the same tool would hand over that another name stands for."""
        others = list(dict.fromkeys(config.handoffs))
        named = Counter(map(handoff_tool, others))
        tools = self._tools if config.tools is None else config.tools
        named.update(set(tools))
        return [other for other in others if named[handoff_tool(other)] > 1]

    def _may_answer(self, model: str) -> bool:
        """Tell whether a model may be asked for, under whichever of its names.

        The default one may: it answers for every agent that names none.
        """
        answering, allowed = self._provider.answering, self._allowed_models
        return not allowed or answering(model) in {answering(each) for each in (None, *allowed)}

    def _build(self, tenant: str, name: str, config: AgentConfig) -> StreamingAgent:
        names = self._tools if config.tools is None else config.tools
        filled = config.model_copy(
            update={
                "name": config.name or name,
                "instructions": config.instructions or self._instructions,
                "model": config.model or self._provider.default_model,
                "tools": list(dict.fromkeys(names)),
            }
        )
        return StreamingAgent(
            name,
            filled,
            self._provider,
            [self._tools[tool] for tool in filled.tools or ()],
            self._workers,
            {other: partial(self._configured, tenant, other) for other in filled.handoffs},
        )

    def _of(self, tenant: str) -> dict[str, StreamingAgent]:
        return self._built_in | self._stored.get(tenant, {})

    def _configured(self, tenant: str, name: str) -> StreamingAgent:
        agent = self._stored.get(tenant, {}).get(name) or self._built_in.get(name)
        if agent is None:
            raise NotFound(f"There is no agent of the name {name!r}.", code="agent_not_found")
        return agent

    def _info(self, agent: StreamingAgent) -> AgentInfo:
        return AgentInfo(
            agent_name=agent.name,
            built_in=agent.name in BUILT_IN,
            **agent.config.model_dump(),
        )


def _size(config: str) -> int:
    """Return about how many bytes an agent takes whose configuration has this JSON."""
    return _AGENT_BYTES + sys.getsizeof(config)
