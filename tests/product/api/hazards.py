"""Hazards to ships. Superusers can change them."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.deps import Anyone, Superuser
from app.api.errors import problems
from app.core.conditions import PreconditionFailed
from app.core.errors import Forbidden, NotFound
from app.core.fields import Id
from app.core.idempotency import IdempotencyKeyReused
from tests.product import hazards
from tests.product.hazards import Hazard, HazardCreate, HazardPage, HazardPublic, HazardTaken, HazardUpdate

router = APIRouter()


@router.get("/", response_model=list[HazardPublic])
async def list_hazards(me: Anyone, wanted: Annotated[HazardPage, Query()]) -> Sequence[HazardPublic]:
    """List all hazards. They are sorted by name, unless `sort` is given."""
    return await me.page(hazards.page, wanted)


@router.post(
    "/",
    response_model=HazardPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(Forbidden, HazardTaken, IdempotencyKeyReused),
)
async def create_hazard(me: Superuser, new: HazardCreate) -> Hazard | Response:
    """Add a hazard, as a superuser."""
    return await me.create(hazards.create, new)


@router.get("/{hazard_id}", response_model=HazardPublic, responses=problems(NotFound, PreconditionFailed))
async def read_hazard(me: Anyone, hazard_id: Id) -> Hazard:
    """Read a hazard."""
    return me.show(await me.read(hazards.get, hazard_id))


@router.patch(
    "/{hazard_id}",
    response_model=HazardPublic,
    responses=problems(Forbidden, HazardTaken, NotFound, PreconditionFailed),
)
async def update_hazard(me: Superuser, hazard_id: Id, changes: HazardUpdate) -> Hazard:
    """Change a hazard, as a superuser (JSON merge patch)."""
    return me.show(await me.write(hazards.update, hazard_id, changes, me.conditions))
