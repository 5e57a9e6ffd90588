"""Your sightings. A superuser can read and change the sightings of all users."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.deps import Me
from app.api.errors import problems
from app.core.conditions import PreconditionFailed
from app.core.errors import NotFound, QuotaExceeded
from app.core.fields import Id
from app.core.idempotency import IdempotencyKeyReused
from tests.product import sightings
from tests.product.sightings import Sighting, SightingCreate, SightingPage, SightingPublic, SightingUpdate

router = APIRouter()


@router.get("/", response_model=list[SightingPublic])
async def list_sightings(me: Me, wanted: Annotated[SightingPage, Query()]) -> Sequence[SightingPublic]:
    """List your sightings. The oldest comes first, unless `sort` is given."""
    return await me.page(sightings.page, wanted)


@router.post(
    "/",
    response_model=SightingPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(IdempotencyKeyReused, QuotaExceeded),
)
async def create_sighting(me: Me, new: SightingCreate) -> Sighting | Response:
    """Add a sighting."""
    return await me.create(sightings.create, new)


@router.get("/{sighting_id}", response_model=SightingPublic, responses=problems(NotFound, PreconditionFailed))
async def read_sighting(me: Me, sighting_id: Id) -> Sighting:
    """Read one of your sightings."""
    return me.show(await me.read(sightings.get, sighting_id))


@router.patch("/{sighting_id}", response_model=SightingPublic, responses=problems(NotFound, PreconditionFailed))
async def update_sighting(me: Me, sighting_id: Id, changes: SightingUpdate) -> Sighting:
    """Change one of your sightings (JSON merge patch). Omitted fields stay as they are."""
    return me.show(await me.write(sightings.update, sighting_id, changes, me.conditions))


@router.delete(
    "/{sighting_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(NotFound, PreconditionFailed)
)
async def delete_sighting(me: Me, sighting_id: Id) -> None:
    """Delete one of your sightings."""
    await me.write(sightings.delete, sighting_id, me.conditions)
