"""Your items; a superuser sees and may change those of all users."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app import items
from app.api.deps import CurrentUser, Db
from app.api.errors import problems
from app.api.resources import Create, OneResource, Pages
from app.errors import NotFound
from app.fields import Id
from app.items import Item, ItemCreate, ItemPage, ItemPublic, ItemUpdate

router = APIRouter()


@router.get("/", response_model=list[ItemPublic])
async def list_items(pages: Pages, user: CurrentUser, wanted: Annotated[ItemPage, Query()]) -> Sequence[Item]:
    """List your items, oldest first unless sorted otherwise."""
    return await pages.of(wanted, items.page, user)


@router.post("/", response_model=ItemPublic, status_code=status.HTTP_201_CREATED)
async def create_item(create: Create, user: CurrentUser, new: ItemCreate) -> Item | Response:
    """Add an item of your own."""
    return await create(items.create, user, new)


@router.get("/{item_id}", response_model=ItemPublic, responses=problems(NotFound))
async def read_item(db: Db, user: CurrentUser, resource: OneResource, item_id: Id) -> Item:
    """Read one of your items."""
    return resource.show(await db.read(items.get, user, item_id))


@router.patch("/{item_id}", response_model=ItemPublic, responses=problems(NotFound))
async def update_item(db: Db, user: CurrentUser, resource: OneResource, item_id: Id, changes: ItemUpdate) -> Item:
    """Change some fields of one of your items (JSON merge patch); what is left out stays as it is."""
    return resource.show(await db.write(items.update, user, item_id, changes, resource.conditions))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(NotFound))
async def delete_item(db: Db, user: CurrentUser, resource: OneResource, item_id: Id) -> None:
    """Delete one of your items."""
    await db.write(items.delete, user, item_id, resource.conditions)
