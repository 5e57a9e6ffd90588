"""Lighthouses: anyone may read them, users may add their own."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.api.deps import Anyone, Me
from app.api.errors import problems
from app.core.conditions import PreconditionFailed
from app.core.errors import Forbidden, NotFound
from app.core.fields import Id
from app.core.idempotency import IdempotencyKeyReused
from tests.product import lighthouses
from tests.product.lighthouses import (
    ColourTaken,
    Lamp,
    LampCreate,
    LampPublic,
    LampUpdate,
    Lighthouse,
    LighthouseCreate,
    LighthousePage,
    LighthousePublic,
    LighthouseUpdate,
    LighthouseView,
)

router = APIRouter()


@router.get("/", response_model=list[LighthousePublic])
async def list_lighthouses(me: Anyone, wanted: Annotated[LighthousePage, Query()]) -> Sequence[LighthousePublic]:
    """List all lighthouses. They are sorted by name, unless `sort` is given."""
    return await me.page(lighthouses.page, wanted)


@router.post(
    "/",
    response_model=LighthouseView,
    status_code=status.HTTP_201_CREATED,
    responses=problems(ColourTaken, IdempotencyKeyReused),
)
async def create_lighthouse(me: Me, new: LighthouseCreate) -> Lighthouse | Response:
    """Add a lighthouse with its lamps."""
    return await me.create(lighthouses.create, new)


@router.get("/{lighthouse_id}", response_model=LighthouseView, responses=problems(NotFound, PreconditionFailed))
async def read_lighthouse(me: Anyone, lighthouse_id: Id) -> Lighthouse:
    """Read a lighthouse with its lamps and hazards."""
    return me.show(await me.read(lighthouses.get, lighthouse_id))


@router.patch(
    "/{lighthouse_id}", response_model=LighthouseView, responses=problems(Forbidden, NotFound, PreconditionFailed)
)
async def update_lighthouse(me: Me, lighthouse_id: Id, changes: LighthouseUpdate) -> Lighthouse:
    """Change your lighthouse (JSON merge patch). Omitted fields stay as they are."""
    return me.show(await me.write(lighthouses.update, lighthouse_id, changes, me.conditions))


@router.delete(
    "/{lighthouse_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound, PreconditionFailed),
)
async def delete_lighthouse(me: Me, lighthouse_id: Id) -> None:
    """Delete your lighthouse."""
    await me.write(lighthouses.delete, lighthouse_id, me.conditions)


@router.post(
    "/{lighthouse_id}/lamps",
    response_model=LampPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(ColourTaken, Forbidden, IdempotencyKeyReused, NotFound),
)
async def create_lamp(me: Me, lighthouse_id: Id, new: LampCreate) -> Lamp | Response:
    """Add a lamp to your lighthouse."""
    return await me.create(lighthouses.add_lamp, lighthouse_id, new)


@router.get(
    "/{lighthouse_id}/lamps/{lamp_id}", response_model=LampPublic, responses=problems(NotFound, PreconditionFailed)
)
async def read_lamp(me: Anyone, lighthouse_id: Id, lamp_id: Id) -> Lamp:
    """Read a lamp of a lighthouse."""
    return me.show(await me.read(lighthouses.get_lamp, lighthouse_id, lamp_id))


@router.patch(
    "/{lighthouse_id}/lamps/{lamp_id}",
    response_model=LampPublic,
    responses=problems(ColourTaken, Forbidden, NotFound, PreconditionFailed),
)
async def update_lamp(me: Me, lighthouse_id: Id, lamp_id: Id, changes: LampUpdate) -> Lamp:
    """Change a lamp (JSON merge patch)."""
    return me.show(await me.write(lighthouses.update_lamp, lighthouse_id, lamp_id, changes, me.conditions))


@router.delete(
    "/{lighthouse_id}/lamps/{lamp_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound),
)
async def delete_lamp(me: Me, lighthouse_id: Id, lamp_id: Id) -> None:
    """Remove a lamp from your lighthouse."""
    await me.write(lighthouses.remove_lamp, lighthouse_id, lamp_id)


@router.put(
    "/{lighthouse_id}/hazards/{hazard_id}", response_model=LighthouseView, responses=problems(Forbidden, NotFound)
)
async def add_hazard(me: Me, lighthouse_id: Id, hazard_id: Id) -> Lighthouse:
    """Add a hazard to your lighthouse."""
    return me.show(await me.write(lighthouses.add_hazard, lighthouse_id, hazard_id))


@router.delete(
    "/{lighthouse_id}/hazards/{hazard_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound),
)
async def remove_hazard(me: Me, lighthouse_id: Id, hazard_id: Id) -> None:
    """Remove a hazard from your lighthouse."""
    await me.write(lighthouses.remove_hazard, lighthouse_id, hazard_id)
