"""Your items; a superuser sees and may change those of all users."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import items
from app.api.deps import CurrentUser, Db
from app.api.errors import problems
from app.errors import NotFound
from app.fields import Id
from app.items import Item, ItemCreate, ItemPublic, ItemUpdate
from app.paging import Page

router = APIRouter()


@router.get("/", response_model=list[ItemPublic])
async def list_items(db: Db, user: CurrentUser, page: Annotated[Page, Query()]) -> Sequence[Item]:
    """List your items, oldest first."""
    return await db.read(items.page, user, page)


@router.post("/", response_model=ItemPublic, status_code=status.HTTP_201_CREATED)
async def create_item(db: Db, user: CurrentUser, new: ItemCreate) -> Item:
    """Add an item of your own."""
    return await db.write(items.create, user, new)


@router.get("/{item_id}", response_model=ItemPublic, responses=problems(NotFound))
async def read_item(db: Db, user: CurrentUser, item_id: Id) -> Item:
    """Read one of your items."""
    return await db.read(items.get, user, item_id)


@router.patch("/{item_id}", response_model=ItemPublic, responses=problems(NotFound))
async def update_item(db: Db, user: CurrentUser, item_id: Id, changes: ItemUpdate) -> Item:
    """Change some fields of one of your items; what is left out stays as it is."""
    return await db.write(items.update, user, item_id, changes)


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(NotFound))
async def delete_item(db: Db, user: CurrentUser, item_id: Id) -> None:
    """Delete one of your items."""
    await db.write(items.delete, user, item_id)
