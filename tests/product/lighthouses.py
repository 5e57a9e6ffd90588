"""Lighthouses with their lamps, and the hazards that they warn of. Anyone may read them, users may add their own."""

import uuid
from datetime import date, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint, bindparam
from sqlmodel import Field, Relationship, Session, SQLModel, col, select

from app.core import paging
from app.core.conditions import ANY, Conditions
from app.core.db import CONSTRAINTS, Record
from app.core.errors import Conflict, Forbidden, NotFound
from app.core.fields import Id, Input, Instant, Json, Line, Text, omittable
from app.core.paging import Page, Position, Slice
from app.core.relations import eager
from app.users import UserPublic
from tests.product import hazards
from tests.product.hazards import Hazard, HazardPublic


class Kind(StrEnum):
    TOWER = "tower"
    LIGHTSHIP = "lightship"
    BEACON = "beacon"


class Colour(StrEnum):
    WHITE = "white"
    RED = "red"
    GREEN = "green"


class ColourTaken(Conflict):
    code = "colour_taken"
    detail = "This lighthouse has a lamp of this colour already"


class LampBase(SQLModel):
    colour: Colour = Colour.WHITE
    watts: int = Field(ge=1, schema_extra={"examples": [1000]})


class LampCreate(LampBase, Input):
    pass


class LampUpdate(Input):
    colour: Colour = omittable()
    watts: int = omittable(ge=1)


class LampPublic(LampBase, Record):
    pass


class Lamp(LampPublic, table=True):
    __tablename__ = "lamps"
    __table_args__ = (UniqueConstraint("lighthouse_id", "colour"),)

    lighthouse_id: uuid.UUID = Field(foreign_key="lighthouses.id", ondelete="CASCADE")
    version: int = 1


CONSTRAINTS["uq_lamps_lighthouse_id_colour"] = ColourTaken


class LighthouseBase(SQLModel):
    name: Line = Field(min_length=1, max_length=100, schema_extra={"examples": ["Eddystone"]})
    story: Text | None = Field(default=None, max_length=2000)
    kind: Kind = Kind.TOWER
    height: int = Field(default=10, ge=1, description="In metres")
    flashes: int = Field(default=0, ge=0, le=2**53 - 1, sa_type=BigInteger, description="The number of flashes so far")
    reach: float = Field(default=1.5, ge=0, description="In nautical miles")
    price: Decimal = Field(default=Decimal("0.00"), ge=0, max_digits=10, decimal_places=2)
    built_on: date = date(1882, 5, 18)
    lit_at: time = time(18)
    surveyed_at: Instant | None = None
    is_automatic: bool = Field(default=False, schema_extra={"strict": True})
    equipment: Json = Field(default_factory=dict, sa_type=JSON)
    chart: Id = Field(default_factory=uuid.uuid4, description="The id of its chart")


class LighthouseCreate(LighthouseBase, Input):
    lamps: list[LampCreate] = Field(default_factory=list, max_length=3)


class LighthouseUpdate(Input):
    name: Line = omittable(min_length=1, max_length=100)
    story: Text | None = Field(default=None, max_length=2000)
    kind: Kind = omittable()
    height: int = omittable(ge=1)
    flashes: int = omittable(ge=0, le=2**53 - 1)
    reach: float = omittable(ge=0)
    price: Decimal = omittable(ge=0, max_digits=10, decimal_places=2)
    built_on: date = omittable()
    lit_at: time = omittable()
    surveyed_at: Instant | None = None
    is_automatic: bool = omittable(strict=True)
    equipment: Json = omittable()
    chart: Id = omittable()


class LighthousePublic(LighthouseBase, Record):
    owner_id: uuid.UUID = Field(foreign_key="users.id", ondelete="CASCADE", index=True)


class LighthouseView(LighthousePublic):
    """A lighthouse with its lamps and hazards."""

    lamps: list[LampPublic] = Field(max_length=3)
    hazards: list[HazardPublic] = Field(max_length=100, description="The hazards that it warns of")


class LighthouseHazard(SQLModel, table=True):
    __tablename__ = "lighthouse_hazards"

    lighthouse_id: uuid.UUID = Field(foreign_key="lighthouses.id", ondelete="CASCADE", primary_key=True)
    hazard_id: uuid.UUID = Field(foreign_key="hazards.id", ondelete="CASCADE", primary_key=True, index=True)


_SORT_KEYS = ("created_at", "name", "kind", "height", "flashes", "reach", "price", "built_on", "lit_at", "chart")


class Lighthouse(LighthousePublic, table=True):
    __tablename__ = "lighthouses"
    __table_args__ = tuple(Index(None, key, "id") for key in _SORT_KEYS)

    version: int = 1
    lamps: list[Lamp] = Relationship(
        cascade_delete=True, passive_deletes=True, sa_relationship_kwargs={"order_by": col(Lamp.id)}
    )
    hazards: list[Hazard] = Relationship(
        link_model=LighthouseHazard, passive_deletes=True, sa_relationship_kwargs={"order_by": col(Hazard.id)}
    )


class LighthousePage(Page):
    sort: Literal[
        "created_at",
        "-created_at",
        "name",
        "-name",
        "kind",
        "-kind",
        "height",
        "-height",
        "flashes",
        "-flashes",
        "reach",
        "-reach",
        "price",
        "-price",
        "built_on",
        "-built_on",
        "lit_at",
        "-lit_at",
        "chart",
        "-chart",
    ] = "name"
    kind: Annotated[Kind, Field(description="Only lighthouses of this kind")] | None = None


_ALL = select(Lighthouse)
_OF_KIND = _ALL.where(Lighthouse.kind == bindparam("kind"))
_BY_ID = _ALL.where(Lighthouse.id == bindparam("id")).options(eager(Lighthouse.lamps), eager(Lighthouse.hazards))


def get(
    session: Session, _caller: UserPublic | None, lighthouse_id: uuid.UUID, *, for_update: bool = False
) -> Lighthouse:
    """A lighthouse with its lamps and hazards. Raises NotFound."""
    statement = _BY_ID.with_for_update() if for_update else _BY_ID
    lighthouse = session.exec(statement, params={"id": lighthouse_id}).first()
    if lighthouse is None:
        raise NotFound
    return lighthouse


def page(
    session: Session, _caller: UserPublic | None, wanted: LighthousePage, after: Position | None = None
) -> Slice[LighthousePublic]:
    statement = _OF_KIND if wanted.kind else _ALL
    return paging.take(session, LighthousePublic, statement, wanted, after, kind=wanted.kind)


def create(session: Session, owner: UserPublic, new: LighthouseCreate) -> Lighthouse:
    lighthouse = Lighthouse.model_validate(new, update={"owner_id": owner.id, "lamps": [], "hazards": []})
    lighthouse.lamps = [_lamp(lighthouse, lamp) for lamp in new.lamps]
    session.add(lighthouse)
    session.flush()
    return lighthouse


def update(
    session: Session,
    caller: UserPublic,
    lighthouse_id: uuid.UUID,
    changes: LighthouseUpdate,
    conditions: Conditions = ANY,
) -> Lighthouse:
    lighthouse = _lock(session, caller, lighthouse_id, conditions)
    lighthouse.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return lighthouse


def delete(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, conditions: Conditions = ANY) -> None:
    session.delete(_lock(session, caller, lighthouse_id, conditions))


def get_lamp(session: Session, caller: UserPublic | None, lighthouse_id: uuid.UUID, lamp_id: uuid.UUID) -> Lamp:
    return _find_lamp(get(session, caller, lighthouse_id), lamp_id)


def add_lamp(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, new: LampCreate) -> Lamp:
    lighthouse = _lock(session, caller, lighthouse_id)
    lamp = _lamp(lighthouse, new)
    lighthouse.lamps.append(lamp)
    session.flush()
    return lamp


def update_lamp(
    session: Session,
    caller: UserPublic,
    lighthouse_id: uuid.UUID,
    lamp_id: uuid.UUID,
    changes: LampUpdate,
    conditions: Conditions = ANY,
) -> Lamp:
    lamp = _find_lamp(_lock(session, caller, lighthouse_id), lamp_id)
    conditions.check_row(session, lamp)
    lamp.sqlmodel_update(changes.model_dump(exclude_unset=True))
    session.flush()
    return lamp


def remove_lamp(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, lamp_id: uuid.UUID) -> None:
    lighthouse = _lock(session, caller, lighthouse_id)
    lighthouse.lamps.remove(_find_lamp(lighthouse, lamp_id))


def add_hazard(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, hazard_id: uuid.UUID) -> Lighthouse:
    """Add a hazard to a lighthouse. Returns the lighthouse."""
    lighthouse, hazard = _lock(session, caller, lighthouse_id), hazards.get(session, caller, hazard_id)
    if hazard not in lighthouse.hazards:
        lighthouse.hazards = sorted([*lighthouse.hazards, hazard], key=lambda each: each.id)
    return lighthouse


def remove_hazard(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, hazard_id: uuid.UUID) -> None:
    lighthouse = _lock(session, caller, lighthouse_id)
    lighthouse.hazards = [each for each in lighthouse.hazards if each.id != hazard_id]


def _lock(session: Session, caller: UserPublic, lighthouse_id: uuid.UUID, conditions: Conditions = ANY) -> Lighthouse:
    """Lock a lighthouse that the caller may change. Its lamps and hazards are changed under this lock too."""
    lighthouse = get(session, caller, lighthouse_id, for_update=True)
    if not (caller.is_superuser or caller.id == lighthouse.owner_id):
        raise Forbidden  # not NotFound, because anyone may read it
    conditions.check_row(session, lighthouse)
    return lighthouse


def _lamp(lighthouse: Lighthouse, new: LampCreate) -> Lamp:
    return Lamp.model_validate(new, update={"lighthouse_id": lighthouse.id})


def _find_lamp(lighthouse: Lighthouse, lamp_id: uuid.UUID) -> Lamp:
    for lamp in lighthouse.lamps:
        if lamp.id == lamp_id:
            return lamp
    raise NotFound
