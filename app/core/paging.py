"""Lists, page by page: by a cursor whose cost does not grow with depth, or by counting off rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import Select, bindparam, func, tuple_
from sqlmodel import Session, select
from sqlmodel.sql.expression import SelectOfScalar

from app.core.db import Record, build
from app.core.fields import Bounded, Flag, Instant, Integer
from app.core.security import SEALED

COUNTED = 10_000
"""How many rows are counted at most: a client could have all of a long list read again and again."""

Row = TypeVar("Row", bound=Record)
Position = str
"""Where a page ended: the id and, as JSON, the sort key of its last row."""


class Page(Bounded, BaseModel, extra="forbid"):
    """Which part of a list is wanted.

    Each list adds its filters, and its `sort`: a Literal of column names, with `-` before them for descending. Any
    column may be one that is public, NOT NULL and in an index with the id. Text, and so an enum, sorts by code point on
    SQLite; on PostgreSQL by the collation of the database, which is the same order if that is `C`.
    """

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

    Every sort key stands in an index with the id, behind the columns that `statement` always names. A statement that is
    a module constant, with a `bindparam` for each of `values`, is built only once. Only the public columns are loaded,
    and no entities: these would take most of the time of a list.
    """
    shape = _shape(public, statement, wanted.sort, bool(after), bool(wanted.created_after), bool(wanted.created_before))
    values |= {"created_after": wanted.created_after, "created_before": wanted.created_before}
    if after:
        identity, _, key = after.partition(" ")
        values |= {"after_key": shape.keys.validate_json(key), "after_id": uuid.UUID(identity)}
    connection = session.connection()
    total = connection.scalar(shape.count, values) if wanted.count else None
    found = connection.execute(shape.page, values | {"skip": wanted.skip, "limit": wanted.limit + 1}).all()
    names = tuple(public.model_fields)
    rows = [build(public, zip(names, row, strict=True)) for row in found[: wanted.limit]]
    if len(found) <= wanted.limit:
        return Slice(rows, None, total)
    key = shape.keys.dump_json(getattr(rows[-1], shape.key)).decode()
    return Slice(rows, f"{rows[-1].id} {key}", total)


@dataclass(frozen=True)
class _Shape:
    key: str
    keys: TypeAdapter[Any]
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
    key, identity = _sort_key(model, public, sort), model.id
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
    keys: TypeAdapter[Any] = TypeAdapter(public.model_fields[key.key].annotation or Any)
    return _Shape(key.key, keys, page, select(func.count()).select_from(counted))


def check(page: type[Page], public: type[Record]) -> None:
    """Refuse a list whose pages would lose rows or become slow (TypeError); `public` is the public model of a table."""
    sorts = get_args(page.model_fields["sort"].annotation)
    if not sorts:
        raise TypeError(f'{page.__name__}.sort is no Literal: write it as Literal["created_at", "-created_at"]')
    for model in public.__subclasses__():
        if hasattr(model, "__table__"):
            for sort in sorts:
                _sort_key(model, public, sort)


def _sort_key(model: Any, public: type[Record], sort: str) -> Any:
    name = sort.removeprefix("-")
    column = model.__table__.c.get(name)
    if column is None:
        problem = "it has no such column: correct the `sort` of its page"
    elif name not in public.model_fields:
        problem = f"it is not in {public.__name__}: clients may not see it, and so not sort by it"
    elif column.nullable:
        problem = "rows without a value would be lost: make it NOT NULL, or take it out of `sort`"
    elif name != "id" and not any(index.columns.keys()[-2:] == [name, "id"] for index in model.__table__.indexes):
        problem = f'it has no index: add Index(None, "{name}", "id") to {model.__name__}.__table_args__'
    else:
        return getattr(model, name)
    raise TypeError(f"A list cannot sort {model.__name__} by {name!r}: {problem}")
