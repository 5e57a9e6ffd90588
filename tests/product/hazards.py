"""Hazards to ships. Anyone may read them, superusers may change them."""

import uuid
from typing import Literal

from sqlalchemy import Index, UniqueConstraint, bindparam
from sqlmodel import Field, Session, SQLModel, select

from app.core import paging
from app.core.conditions import ANY, Conditions
from app.core.db import CONSTRAINTS, Record
from app.core.errors import Conflict, NotFound
from app.core.fields import Input, Line, omittable
from app.core.paging import Page, Position, Slice
from app.users import UserPublic


class HazardTaken(Conflict):
    code = "hazard_taken"
    detail = "A hazard with this name exists already"


class HazardBase(SQLModel):
    name: Line = Field(min_length=1, max_length=100, schema_extra={"examples": ["Eddystone Rocks"]})
    depth: int = Field(default=0, schema_extra={"examples": [-3]})


class HazardCreate(HazardBase, Input):
    pass


class HazardUpdate(Input):
    name: Line = omittable(min_length=1, max_length=100)
    depth: int = omittable()


class HazardPublic(HazardBase, Record):
    pass


class Hazard(HazardPublic, table=True):
    __tablename__ = "hazards"
    __table_args__ = (
        UniqueConstraint("name"),
        *(Index(None, key, "id") for key in ("created_at", "name", "depth")),
    )

    version: int = 1


CONSTRAINTS["uq_hazards_name"] = HazardTaken


class HazardPage(Page):
    sort: Literal["created_at", "-created_at", "name", "-name", "depth", "-depth"] = "name"


_ALL = select(Hazard)
_BY_ID = _ALL.where(Hazard.id == bindparam("id"))


def get(session: Session, _caller: UserPublic | None, hazard_id: uuid.UUID, *, for_update: bool = False) -> Hazard:
    statement = _BY_ID.with_for_update() if for_update else _BY_ID
    hazard = session.exec(statement, params={"id": hazard_id}).first()
    if hazard is None:
        raise NotFound
    return hazard


def page(
    session: Session, _caller: UserPublic | None, wanted: HazardPage, after: Position | None = None
) -> Slice[HazardPublic]:
    return paging.take(session, HazardPublic, _ALL, wanted, after)


def create(session: Session, _by: UserPublic, new: HazardCreate) -> Hazard:
    hazard = Hazard.model_validate(new)
    session.add(hazard)
    session.flush()
    return hazard


def update(
    session: Session, by: UserPublic, hazard_id: uuid.UUID, changes: HazardUpdate, conditions: Conditions = ANY
) -> Hazard:
    hazard = get(session, by, hazard_id, for_update=True)
    conditions.check_row(session, hazard)
    hazard.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return hazard
