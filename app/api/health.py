"""What load balancers and orchestrators ask."""

from fastapi import APIRouter, Request

from app import migrations
from app.api.deps import Db
from app.api.errors import problems
from app.errors import Unavailable

router = APIRouter(tags=["health"])


@router.get("/")
async def read_root() -> dict[str, str]:
    """Say hello."""
    return {"message": "Hello World"}


@router.get("/health")
async def read_health() -> dict[str, str]:
    """Tell that the service runs."""
    return {"status": "healthy"}


@router.get("/health/live")
async def read_liveness() -> dict[str, str]:
    """Tell that the process answers, whatever the state of the database: restart it when it does not."""
    return {"status": "live"}


@router.get("/health/ready", responses=problems(Unavailable))
async def read_readiness(request: Request, db: Db) -> dict[str, str]:
    """Tell that the database answers and its schema is up to date: send requests elsewhere when not."""
    if request.app.state.draining:
        raise Unavailable("The service is shutting down")
    if await db.read(migrations.revision) != migrations.head():
        raise Unavailable(migrations.OUTDATED)
    return {"status": "ready"}
