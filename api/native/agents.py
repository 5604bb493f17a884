"""`/agents`: list, create, replace and delete agents."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Response
from starlette.responses import StreamingResponse

from api.http.documents import PROBLEMS
from api.http.exports import json_list
from api.http.identity import Who
from api.http.services import Registry
from models import NAME_PATTERN, AgentConfig, AgentInfo, AgentList

router = APIRouter(tags=["agents"], responses=PROBLEMS)

AgentName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["my_custom_agent"])]


@router.get("/agents", response_model=AgentList)
async def list_agents(registry: Registry, caller: Who) -> Response:
    """List all agents, by name."""
    tail = f'],"fixed":{json.dumps(registry.agents.fixed())}}}'
    pieces = json_list('{"agents":[', registry.agents.all(caller), tail)
    return StreamingResponse(pieces, media_type="application/json")


@router.get("/agents/{agent_name}")
async def get_agent(agent_name: AgentName, registry: Registry, caller: Who) -> AgentInfo:
    """Show one agent."""
    return registry.agents.info(caller, agent_name)


@router.post("/agents/{agent_name}", status_code=201, responses={200: {"model": AgentInfo}})
async def put_agent(
    agent_name: AgentName, config: AgentConfig, registry: Registry, caller: Who, response: Response
) -> AgentInfo:
    """Create an agent, or replace the one of this name (200). Active runs keep the old one."""
    if not await registry.agents.put(caller, agent_name, config):
        response.status_code = 200
    return registry.agents.info(caller, agent_name)


@router.delete("/agents/{agent_name}", status_code=204)
async def delete_agent(agent_name: AgentName, registry: Registry, caller: Who) -> None:
    """Delete an agent. Its active runs continue."""
    await registry.agents.delete(caller, agent_name)
