"""Sightings: what users saw at sea. Each one belongs to a user."""

import uuid
from typing import Annotated, Literal

from sqlalchemy import Index, bindparam
from sqlmodel import Field, Session, SQLModel, select

from app.core import paging, search
from app.core.conditions import ANY, Conditions
from app.core.db import Record, quota
from app.core.errors import NotFound
from app.core.fields import Input, Line, Text, omittable
from app.core.paging import Page, Position, Slice
from app.users import UserPublic

MOST = 1_000_000
"""The maximum number per user."""


class SightingBase(SQLModel):
    title: Line = Field(min_length=1, max_length=255, schema_extra={"examples": ["A light to the west"]})
    remarks: Text | None = Field(default=None, max_length=2000, schema_extra={"examples": ["Two flashes, then dark"]})


class SightingCreate(SightingBase, Input):
    pass


class SightingUpdate(Input):
    title: Line = omittable(min_length=1, max_length=255)
    remarks: Text | None = Field(default=None, max_length=2000)


class SightingPublic(SightingBase, Record):
    owner_id: uuid.UUID = Field(foreign_key="users.id", ondelete="CASCADE")


class Sighting(SightingPublic, table=True):
    __tablename__ = "sightings"
    __table_args__ = (
        *(Index(None, "owner_id", key, "id") for key in ("created_at", "updated_at", "title")),
        *(Index(None, key, "id") for key in ("created_at", "updated_at", "title")),
    )

    version: int = 1
    search: str = search.searchable("title")


class SightingPage(Page):
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "title", "-title"] = "created_at"
    q: Annotated[Line, Field(min_length=1, max_length=255, description="Text to find in the title")] | None = None


_ALL = select(Sighting)
_OWN = _ALL.where(Sighting.owner_id == bindparam("owner_id"))
_BY_ID = _ALL.where(Sighting.id == bindparam("id"))
_OWN_BY_ID = _OWN.where(Sighting.id == bindparam("id"))


def get(session: Session, caller: UserPublic, sighting_id: uuid.UUID, *, for_update: bool = False) -> Sighting:
    """A sighting of the caller, or any sighting for a superuser. Raises NotFound."""
    statement = _BY_ID if caller.is_superuser else _OWN_BY_ID
    if for_update:
        statement = statement.with_for_update()
    sighting = session.exec(statement, params={"id": sighting_id, "owner_id": caller.id}).first()
    if sighting is None:
        raise NotFound
    return sighting


def page(
    session: Session, caller: UserPublic, wanted: SightingPage, after: Position | None = None
) -> Slice[SightingPublic]:
    """The caller's own sightings, or all sightings for a superuser."""
    statement = _ALL if caller.is_superuser else _OWN
    if wanted.q:
        statement = statement.where(search.found(session, Sighting.search, wanted.q))
    return paging.take(session, SightingPublic, statement, wanted, after, owner_id=caller.id)


def create(session: Session, owner: UserPublic, new: SightingCreate) -> Sighting:
    sighting = Sighting.model_validate(new, update={"owner_id": owner.id})
    session.add(sighting)
    session.flush()
    quota(session, Sighting.owner_id == owner.id, MOST)
    return sighting


def update(
    session: Session, caller: UserPublic, sighting_id: uuid.UUID, changes: SightingUpdate, conditions: Conditions = ANY
) -> Sighting:
    sighting = get(session, caller, sighting_id, for_update=True)
    conditions.check_row(session, sighting)
    sighting.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return sighting


def delete(session: Session, caller: UserPublic, sighting_id: uuid.UUID, conditions: Conditions = ANY) -> None:
    sighting = get(session, caller, sighting_id, for_update=True)
    conditions.check_row(session, sighting)
    session.delete(sighting)
