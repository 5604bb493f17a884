"""`GET /health`: the server's state, for people and load balancers."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from api.http.services import Registry
from models import Health, ToolInfo

router = APIRouter(tags=["health"])


_REFUSES = "The service is stopping, or its database is damaged."


@router.get("/health", responses={503: {"model": Health, "description": _REFUSES}})
async def health(request: Request, response: Response, registry: Registry) -> Health:
    """Show whether the service accepts requests, and which tools it has."""
    damage = registry.store.damage
    if damage is not None or registry.draining:
        response.status_code = 503
    return Health(
        status="damaged" if damage else "draining" if registry.draining else "healthy",
        problem=damage and damage.message,
        service=request.app.title,
        version=request.app.version,
        provider=registry.provider.name,
        model=registry.provider.default_model,
        tools=[
            ToolInfo(name=tool.name, description=tool.spec.description)
            for tool in registry.tools.values()
        ],
        active_runs=registry.active_runs,
        max_message_chars=registry.max_message_chars,
        time=datetime.now(UTC),
    )
