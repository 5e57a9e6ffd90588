"""Your items. A superuser can read and change the items of all users."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app import items
from app.api.deps import Me
from app.api.errors import problems
from app.api.v1.users import user_view
from app.core.conditions import PreconditionFailed
from app.core.errors import NotFound, QuotaExceeded
from app.core.fields import Id
from app.core.idempotency import IdempotencyKeyReused
from app.items import Item, ItemCreate, ItemPage, ItemPublic, ItemUpdate, UserWithItems

router = APIRouter()

user_view.replace(UserWithItems, items.with_items)


@router.get("/", response_model=list[ItemPublic])
async def list_items(me: Me, wanted: Annotated[ItemPage, Query()]) -> Sequence[ItemPublic]:
    """List your items. The oldest comes first, unless `sort` is given."""
    return await me.page(items.page, wanted)


@router.post(
    "/",
    response_model=ItemPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(IdempotencyKeyReused, QuotaExceeded),
)
async def create_item(me: Me, new: ItemCreate) -> Item | Response:
    """Add an item."""
    return await me.create(items.create, new, most=me.context.settings.max_rows_per_user)


@router.get("/{item_id}", response_model=ItemPublic, responses=problems(NotFound, PreconditionFailed))
async def read_item(me: Me, item_id: Id) -> Item:
    """Read one of your items."""
    return me.show(await me.read(items.get, item_id))


@router.patch("/{item_id}", response_model=ItemPublic, responses=problems(NotFound, PreconditionFailed))
async def update_item(me: Me, item_id: Id, changes: ItemUpdate) -> Item:
    """Change one of your items (JSON merge patch). Omitted fields stay as they are."""
    return me.show(await me.write(items.update, item_id, changes, me.conditions))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(NotFound, PreconditionFailed))
async def delete_item(me: Me, item_id: Id) -> None:
    """Delete one of your items."""
    await me.write(items.delete, item_id, me.conditions)
