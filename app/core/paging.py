"""Lists in pages: by cursor (keyset pagination, the same cost at any depth) or by skipping rows."""

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
"""The maximum count. Without it, a client could make the database read a long list again and again."""

Row = TypeVar("Row", bound=Record)
Position = str
"""The end of a page: the id of its last row and, as JSON, its sort key."""


class Page(Bounded, BaseModel, extra="forbid"):
    """The query parameters of a list.

    Each list adds its filters, and its `sort`: a Literal of column names, with `-` before them for descending order. A
    column must be public, NOT NULL and in an index with the id. Text (enums too) sorts by code point on SQLite, and by
    the collation of the database on PostgreSQL. The order is the same if this collation is `C`.
    """

    sort: str
    cursor: (
        Annotated[str, Field(max_length=2048, pattern=SEALED, description="From the `next` link of the previous page")]
        | None
    ) = None
    skip: Annotated[Integer, Field(ge=0, le=1_000_000, description="Rows to skip; a cursor is faster")] = 0
    limit: Annotated[Integer, Field(ge=1, le=100, description="Maximum number of rows")] = 100
    count: Annotated[
        Flag,
        Field(description=f"Return the number of rows in `X-Total-Count`, up to {COUNTED}"),
    ] = False
    created_after: Annotated[Instant, Field(description="Only rows created after this time")] | None = None
    created_before: Annotated[Instant, Field(description="Only rows created before this time")] | None = None


@dataclass(frozen=True)
class Slice(Generic[Row]):
    """The rows of a page, its end if more rows follow, and on request the number of all rows, up to COUNTED."""

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
    """One page of the rows that `statement` selects, as `public` models, in the total order of sort key and id.

    Every sort key needs an index that ends in the key and the id, after the columns that `statement` always filters by.
    Make the statement a module constant, with a `bindparam` for each of `values`: then it is compiled only once. Only
    the public columns are loaded, no entities: building entities would take most of the time of a list.
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
    """Refuse a list whose pages would lose rows or be slow (TypeError). `public` is the public model of a table."""
    sorts = get_args(page.model_fields["sort"].annotation)
    if not sorts:
        raise TypeError(f'{page.__name__}.sort is not a Literal: write it as Literal["created_at", "-created_at"]')
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
        problem = f"it is not in {public.__name__}: clients cannot see it, so they must not sort by it"
    elif column.nullable:
        problem = "rows without a value would be lost: make it NOT NULL, or remove it from `sort`"
    elif name != "id" and not any(index.columns.keys()[-2:] == [name, "id"] for index in model.__table__.indexes):
        problem = f'it has no index: add Index(None, "{name}", "id") to {model.__name__}.__table_args__'
    else:
        return getattr(model, name)
    raise TypeError(f"A list cannot sort {model.__name__} by {name!r}: {problem}")
