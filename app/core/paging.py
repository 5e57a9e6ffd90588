"""Lists, page by page: by a cursor whose cost does not grow with depth, or by counting off rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Select, bindparam, func, tuple_
from sqlmodel import Session, select
from sqlmodel.sql.expression import SelectOfScalar

from app.core.db import Record, build
from app.core.fields import Flag, Instant, Integer
from app.core.security import SEALED

COUNTED = 10_000
"""How many rows are counted at most: a client could have all of a long list read again and again."""

Row = TypeVar("Row", bound=Record)
Position = tuple[Any, uuid.UUID]
"""Where a page ended: the sort key and the id of its last row."""


class Page(BaseModel, extra="forbid"):
    """Which part of a list is wanted. Each list adds its `sort` (column names, `-` for descending) and its filters."""

    sort: str
    cursor: (
        Annotated[str, Field(max_length=2048, pattern=SEALED, description="As in the `next` link of the page before")]
        | None
    ) = None
    skip: Annotated[Integer, Field(ge=0, le=1_000_000, description="Rows to leave out; a cursor is faster")] = 0
    limit: Annotated[Integer, Field(ge=1, le=100, description="How many rows to answer at most")] = 100
    count: Annotated[
        Flag,
        Field(description=f"Whether to tell the number of all rows in `X-Total-Count`: {COUNTED} for those and more"),
    ] = False
    created_after: Annotated[Instant, Field(description="Only what was created later")] | None = None
    created_before: Annotated[Instant, Field(description="Only what was created earlier")] | None = None


@dataclass(frozen=True)
class Slice(Generic[Row]):
    """The rows of a page, where it ends if there are more, and if asked for the number of all rows, up to COUNTED."""

    rows: Sequence[Row]
    end: Position | None
    total: int | None


def take(
    session: Session,
    public: type[Row],
    statement: SelectOfScalar[Any],
    wanted: Page,
    after: Position | None,
    **values: Any,
) -> Slice[Row]:
    """One page of what `statement` selects, in the total order of the sort key and the id, as its public model.

    Every sort key is NOT NULL and stands in an index with the id, behind the columns that `statement` always names. A
    statement that is a module constant, with a `bindparam` for each of `values`, is built only once. Only the public
    columns are loaded, and no entities: these would take most of the time of a list.
    """
    shape = _shape(public, statement, wanted.sort, bool(after), bool(wanted.created_after), bool(wanted.created_before))
    values |= {"created_after": wanted.created_after, "created_before": wanted.created_before}
    if after:
        values |= {"after_key": after[0], "after_id": after[1]}
    connection = session.connection()
    total = connection.scalar(shape.count, values) if wanted.count else None
    found = connection.execute(shape.page, values | {"skip": wanted.skip, "limit": wanted.limit + 1}).all()
    names = tuple(public.model_fields)
    rows = [build(public, zip(names, row, strict=True)) for row in found[: wanted.limit]]
    more = len(found) > wanted.limit
    return Slice(rows, (getattr(rows[-1], shape.key), rows[-1].id) if more else None, total)


@dataclass(frozen=True)
class _Shape:
    key: str
    page: Select[Any]
    count: Select[Any]


@lru_cache(maxsize=512)
def _shape(
    public: type[Record],
    statement: SelectOfScalar[Any],
    sort: str,
    after: bool,
    created_after: bool,
    created_before: bool,
) -> _Shape:
    model = statement.column_descriptions[0]["entity"]
    key, identity = getattr(model, sort.removeprefix("-")), model.id
    descending = sort.startswith("-")
    if created_after:
        statement = statement.where(model.created_at > bindparam("created_after"))
    if created_before:
        statement = statement.where(model.created_at < bindparam("created_before"))
    counted = statement.with_only_columns(identity).limit(COUNTED).subquery()
    if after:
        end = tuple_(bindparam("after_key", type_=key.type), bindparam("after_id", type_=identity.type))
        statement = statement.where(tuple_(key, identity) < end if descending else tuple_(key, identity) > end)
    columns = statement.with_only_columns(*(getattr(model, name) for name in public.model_fields))
    order = (key.desc(), identity.desc()) if descending else (key, identity)
    page = columns.order_by(*order).offset(bindparam("skip")).limit(bindparam("limit"))
    return _Shape(key.key, page, select(func.count()).select_from(counted))


def encode(position: Position) -> str:
    """A position as text."""
    key, identity = position
    return f"{identity} {key.isoformat() if isinstance(key, datetime) else key}"


def decode(text: str, sort: str) -> Position:
    """The position that was encoded; by convention, keys that end in `_at` are times."""
    identity, _, key = text.partition(" ")
    return datetime.fromisoformat(key) if sort.endswith("_at") else key, uuid.UUID(identity)
