"""`GET /health`: the server's state, for people and load balancers."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from api.services import Registry
from models import Health, ToolInfo

router = APIRouter(tags=["health"])


@router.get("/", response_class=Response)
async def root(request: Request) -> Response:
    """Say that the service is there; a browser is shown what the service can do."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")
    return JSONResponse({"status": "healthy", "service": request.app.title})


@router.get("/health", responses={503: {"model": Health, "description": "The service stops."}})
async def health(request: Request, response: Response, registry: Registry) -> Health:
    """Say whether the service takes work, and which tools there are."""
    if registry.draining:
        response.status_code = 503
    return Health(
        status="draining" if registry.draining else "healthy",
        service=request.app.title,
        version=request.app.version,
        provider=registry.provider.name,
        model=registry.provider.default_model,
        tools=[
            ToolInfo(name=tool.name, description=tool.spec.description)
            for tool in registry.tools.values()
        ],
        active_runs=registry.active_runs,
    )
