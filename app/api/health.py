"""Checks for load balancers and orchestrators."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from app.api.calls import Message
from app.api.deps import Db
from app.api.errors import problems
from app.core import logs, migrations
from app.core.errors import Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["healthy", "live", "ready"]


@router.get("/", response_model=Message, responses={307: {"description": "To `/docs`, for browsers"}})
async def read_root(request: Request, response: Response) -> Message | Response:
    """Say hello. A browser is redirected to `/docs` if they are enabled."""
    vary = {"Vary": "Accept"}
    if request.app.openapi_url and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{request.scope.get('root_path', '').rstrip('/')}/docs", headers=vary)
    response.headers.update(vary)
    return Message(message="Hello World")


@router.get("/health")
async def read_health() -> Health:
    """Report that the service is running."""
    logs.polled.set(True)
    return Health(status="healthy")


@router.get("/health/live")
async def read_liveness() -> Health:
    """Report liveness: the process answers, regardless of the database. Restart it if it does not."""
    logs.polled.set(True)
    return Health(status="live")


@router.get("/health/ready", responses=problems(Unavailable))
async def read_readiness(request: Request, db: Db) -> Health:
    """Report readiness: the database answers and its schema is up to date. If not, send requests elsewhere."""
    logs.polled.set(True)
    if request.app.state.draining:
        raise Unavailable("The service is shutting down")
    if await db.read(migrations.revision) != migrations.head():
        raise Unavailable(migrations.OUTDATED)
    return Health(status="ready")
