"""`GET /v1/models`: the names that a request may have as its model."""

import time
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from api.http.identity import Who
from api.http.services import Registry
from api.openai.errors import FAILURES
from caller import Caller
from runs.registry import AgentRegistry

router = APIRouter(tags=["openai"], responses=FAILURES)

STARTED = int(time.time())
"""The start of this process, in Unix seconds; the service does not know the age of a model."""


class Model(BaseModel):
    """An agent, or a model."""

    id: str
    object: str = "model"
    created: int = STARTED
    owned_by: str


class ModelList(BaseModel):
    """All agents and models."""

    object: str = "list"
    data: list[Model]


@router.get("/v1/models")
async def list_models(registry: Registry, caller: Who) -> ModelList:
    """List agents, and the models that this server names."""
    return ModelList(data=_models(registry, caller))


@router.get("/v1/models/{model:path}")
async def get_model(
    model: Annotated[str, Path(max_length=200)], registry: Registry, caller: Who
) -> Model:
    """Show an agent or a model; also a model that is allowed but not listed."""
    model = model.replace("%2F", "/")  # clients quote the slashes of a name, or do not
    listed = {each.id: each for each in _models(registry, caller)}
    if model not in listed:
        registry.agents.resolve(caller, model)
    return listed.get(model) or Model(id=model, owned_by=registry.provider.name)


def _models(registry: AgentRegistry, caller: Caller) -> list[Model]:
    models = [Model(id=name, owned_by="parley") for name in registry.agents.names(caller)]
    taken = {model.id for model in models}
    models += [
        Model(id=name, owned_by=registry.provider.name)
        for name in registry.agents.models()
        if name not in taken
    ]
    return models
