"""Items: a sample entity that belongs to users."""

import uuid
from typing import Annotated, Literal

from sqlalchemy import Index, bindparam
from sqlmodel import Field, Session, SQLModel, col, select

from app.core import paging, search
from app.core.conditions import ANY, Conditions
from app.core.db import Record, quota
from app.core.errors import NotFound
from app.core.fields import Input, Line, Text, omittable
from app.core.paging import Page, Position, Slice
from app.users import User, UserPublic

MOST_SHOWN = 100
"""The maximum number of items in the resource of a user."""


_TITLE = "Analytical engine"


class ItemBase(SQLModel):
    title: Line = Field(min_length=1, max_length=255, schema_extra={"examples": [_TITLE]})
    description: Text | None = Field(default=None, max_length=2000, schema_extra={"examples": ["Plans, part one"]})


class ItemCreate(ItemBase, Input):
    pass


class ItemUpdate(Input):
    title: Line = omittable(min_length=1, max_length=255, examples=[_TITLE])
    description: Text | None = Field(default=None, max_length=2000)


class ItemPublic(ItemBase, Record):
    owner_id: uuid.UUID = Field(foreign_key="users.id", ondelete="CASCADE")


class Item(ItemPublic, table=True):
    __tablename__ = "items"
    __table_args__ = (
        *(Index(None, "owner_id", key, "id") for key in ("created_at", "updated_at", "title")),
        *(Index(None, key, "id") for key in ("created_at", "updated_at", "title")),
    )

    version: int = 1
    search: str = search.searchable("title")


class ItemPage(Page):
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "title", "-title"] = "created_at"
    q: Annotated[Line, Field(min_length=1, max_length=255, description="Text to find in the title")] | None = None


class UserWithItems(UserPublic):
    items: list[ItemPublic] = Field(max_length=MOST_SHOWN, description="The newest items, newest first")


_ALL = select(Item)
_OWN = _ALL.where(Item.owner_id == bindparam("owner_id"))
_BY_ID = _ALL.where(Item.id == bindparam("id"))
_OWN_BY_ID = _OWN.where(Item.id == bindparam("id"))
_NEWEST = (
    select(Item)
    .where(Item.owner_id == bindparam("owner_id"))
    .order_by(col(Item.created_at).desc(), col(Item.id).desc())
    .limit(MOST_SHOWN)
)


def get(session: Session, caller: UserPublic, item_id: uuid.UUID, *, for_update: bool = False) -> Item:
    """An item of the caller, or any item for a superuser. Raises NotFound."""
    # The owner is part of the statement: to load another user's row would take longer than to find none.
    statement = _BY_ID if caller.is_superuser else _OWN_BY_ID
    if for_update:
        statement = statement.with_for_update()
    item = session.exec(statement, params={"id": item_id, "owner_id": caller.id}).first()
    if item is None:
        raise NotFound
    return item


def page(session: Session, caller: UserPublic, wanted: ItemPage, after: Position | None = None) -> Slice[ItemPublic]:
    """The caller's own items, or all items for a superuser."""
    statement = _ALL if caller.is_superuser else _OWN
    if wanted.q:
        statement = statement.where(search.found(session, Item.search, wanted.q))
    return paging.take(session, ItemPublic, statement, wanted, after, owner_id=caller.id)


def create(session: Session, owner: UserPublic, new: ItemCreate, *, most: int | None = None) -> Item:
    """Add an item for its owner, who may have at most `most`. Raises QuotaExceeded."""
    item = Item.model_validate(new, update={"owner_id": owner.id})
    session.add(item)
    session.flush()
    quota(session, Item.owner_id == owner.id, most)
    return item


def update(
    session: Session, caller: UserPublic, item_id: uuid.UUID, changes: ItemUpdate, conditions: Conditions = ANY
) -> Item:
    item = get(session, caller, item_id, for_update=True)
    conditions.check_row(session, item)
    item.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return item


def delete(session: Session, caller: UserPublic, item_id: uuid.UUID, conditions: Conditions = ANY) -> None:
    item = get(session, caller, item_id, for_update=True)
    conditions.check_row(session, item)
    session.delete(item)


def with_items(session: Session, user: User) -> UserWithItems:
    """A user with the newest 100 items, newest first."""
    newest = session.exec(_NEWEST, params={"owner_id": user.id}).all()
    return UserWithItems.model_validate(user, update={"items": newest})
