"""Lists, page by page: by a cursor whose cost does not grow with depth, or by counting off rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import bindparam, func, tuple_
from sqlmodel import Session, select
from sqlmodel.sql.expression import SelectOfScalar

from app.db import Record
from app.fields import Flag, Instant, Integer

COUNTED = 10_000
"""How many rows are counted at most: a client could have all of a long list read again and again."""

Row = TypeVar("Row", bound=Record)
Position = tuple[Any, uuid.UUID]
"""Where a page ended: the sort key and the id of its last row."""


class Page(BaseModel, extra="forbid"):
    """Which part of a list is wanted. Each list adds its `sort` (column names, `-` for descending) and its filters."""

    sort: str
    cursor: Annotated[str, Field(max_length=2048, description="As in the `next` link of the page before")] | None = None
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


def take(session: Session, statement: SelectOfScalar[Row], wanted: Page, after: Position | None) -> Slice[Row]:
    """One page of what `statement` selects, in the total order of the sort key and the id.

    Every sort key is NOT NULL and stands in an index with the id, behind the columns that `statement` always names.
    """
    model = statement.column_descriptions[0]["entity"]
    key, identity = getattr(model, wanted.sort.removeprefix("-")), model.id
    descending = wanted.sort.startswith("-")
    if wanted.created_after:
        statement = statement.where(model.created_at > wanted.created_after)
    if wanted.created_before:
        statement = statement.where(model.created_at < wanted.created_before)
    total = None
    if wanted.count:
        counted = statement.with_only_columns(identity).limit(COUNTED).subquery()
        total = session.scalar(select(func.count()).select_from(counted))
    if after:
        end = tuple_(bindparam("key", after[0], key.type), bindparam("id", after[1], identity.type))
        statement = statement.where(tuple_(key, identity) < end if descending else tuple_(key, identity) > end)
    order = (key.desc(), identity.desc()) if descending else (key, identity)
    rows = session.exec(statement.order_by(*order).offset(wanted.skip).limit(wanted.limit + 1)).all()
    shown = rows[: wanted.limit]
    more = len(rows) > wanted.limit
    return Slice(shown, (getattr(shown[-1], key.key), shown[-1].id) if more else None, total)


def encode(position: Position) -> str:
    """A position as text."""
    key, identity = position
    return f"{identity} {key.isoformat() if isinstance(key, datetime) else key}"


def decode(text: str, sort: str) -> Position:
    """The position that was encoded; by convention, keys that end in `_at` are times."""
    identity, _, key = text.partition(" ")
    return datetime.fromisoformat(key) if sort.endswith("_at") else key, uuid.UUID(identity)
