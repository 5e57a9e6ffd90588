"""Items: what users keep here."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Index, bindparam
from sqlmodel import Field, Session, SQLModel, col, select

from app import users
from app.db import Record
from app.errors import NotFound
from app.fields import Input, Line, Text, omittable
from app.paging import Page
from app.users import User, UserPublic


class ItemBase(SQLModel):
    title: Line = Field(min_length=1, max_length=255, schema_extra={"examples": ["Analytical engine"]})
    description: Text | None = Field(default=None, max_length=2000, schema_extra={"examples": ["Plans, part one"]})


class ItemCreate(ItemBase, Input):
    pass


class ItemUpdate(Input):
    title: Line = omittable(min_length=1, max_length=255)
    description: Text | None = Field(default=None, max_length=2000)


class ItemPublic(ItemBase, Record):
    owner_id: uuid.UUID = Field(foreign_key="users.id", ondelete="CASCADE")


class Item(ItemPublic, table=True):
    __tablename__ = "items"
    __table_args__ = (Index(None, "owner_id", "id"),)

    version: int = 1


class UserWithItems(UserPublic):
    items: list[ItemPublic]


_BY_ID = select(Item).where(Item.id == bindparam("id"))
_ALL = select(Item).order_by(col(Item.id)).offset(bindparam("skip")).limit(bindparam("limit"))
_OWN = _ALL.where(Item.owner_id == bindparam("owner_id"))
_NEWEST = select(Item).where(Item.owner_id == bindparam("owner_id")).order_by(col(Item.id).desc()).limit(100)


def get(session: Session, caller: User, item_id: uuid.UUID, *, for_update: bool = False) -> Item:
    """An item that the caller may see and change: one's own, any for a superuser; else NotFound."""
    statement = _BY_ID.with_for_update() if for_update else _BY_ID
    item = session.exec(statement, params={"id": item_id}).first()
    if item is None or not (caller.is_superuser or item.owner_id == caller.id):
        raise NotFound
    return item


def page(session: Session, caller: User, wanted: Page) -> Sequence[Item]:
    """One's own items, all of them for a superuser, oldest first."""
    if caller.is_superuser:
        return session.exec(_ALL, params=wanted.model_dump()).all()
    return session.exec(_OWN, params={"owner_id": caller.id, **wanted.model_dump()}).all()


def create(session: Session, owner: User, new: ItemCreate) -> Item:
    item = Item.model_validate(new, update={"owner_id": owner.id})
    session.add(item)
    session.flush()
    return item


def update(session: Session, caller: User, item_id: uuid.UUID, changes: ItemUpdate) -> Item:
    item = get(session, caller, item_id, for_update=True)
    item.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return item


def delete(session: Session, caller: User, item_id: uuid.UUID) -> None:
    session.delete(get(session, caller, item_id, for_update=True))


def owner(session: Session, caller: User, user_id: uuid.UUID) -> UserWithItems:
    """A user with their newest 100 items, newest first: yourself, anyone for a superuser; else NotFound."""
    if not (caller.is_superuser or caller.id == user_id):
        raise NotFound
    user = users.get(session, user_id)
    newest = session.exec(_NEWEST, params={"owner_id": user_id}).all()
    return UserWithItems.model_validate(user, update={"items": newest})
