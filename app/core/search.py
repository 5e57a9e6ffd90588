"""Search: text is found whatever its case and composition, and the same rows on both databases.

Databases fold differently, so this is done here, into a column. It has no index. A trigram index (pg_trgm) would need
an extension that not every operator may create, and SQLite has none that finds one letter; a user's own rows are
bounded by a quota, and what a superuser searches by the time limit of a unit.
"""

import unicodedata
from typing import Any

from sqlalchemy import ColumnElement, event, func, text
from sqlalchemy.orm import Mapper
from sqlmodel import Field, Session


def fold(given: str) -> str:
    """One spelling of what reads alike (UAX 15 NFKC, UAX 21 case folding); a dotted capital I is an i."""
    folded = unicodedata.normalize("NFKC", given).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", folded)


def searchable(*fields: str) -> Any:
    """A hidden column of a table that follows these fields: `search: str = searchable("title")`."""
    return Field(default="", sa_column_kwargs={"server_default": text("''"), "info": {"folds": fields}})


def found(session: Session, column: Any, wanted: str) -> ColumnElement[bool]:
    """Whether a searchable column has this text in it: literally, and in linear time, unlike LIKE."""
    position = func.strpos if session.get_bind().dialect.name == "postgresql" else func.instr
    return position(column, fold(wanted)) > 0


@event.listens_for(Mapper, "before_insert")
@event.listens_for(Mapper, "before_update")
def _follow(mapper: Mapper[Any], _connection: object, row: Any) -> None:
    for column in mapper.columns:
        if fields := column.info.get("folds"):
            setattr(row, column.key, fold("\n".join(getattr(row, field) or "" for field in fields)))
