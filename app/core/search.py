"""Search: ignores case and Unicode composition, and finds the same rows on both databases.

Databases fold differently, so the folded text is computed here and stored in a column. The column has no index. A
trigram index (pg_trgm) needs an extension that not every operator may create, and SQLite has no index that finds one
letter. The quota limits the rows of a user, and the time limit of a unit limits the search of a superuser.
"""

import unicodedata
from typing import Any

from sqlalchemy import ColumnElement, event, func, text
from sqlalchemy.orm import Mapper
from sqlmodel import Field, Session


def fold(given: str) -> str:
    """The same spelling for texts that read alike (UAX 15 NFKC, UAX 21 case folding). A dotted capital I becomes i."""
    folded = unicodedata.normalize("NFKC", given).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", folded)


def searchable(*fields: str) -> Any:
    """A hidden column with the folded text of these fields: `search: str = searchable("title")`."""
    return Field(default="", sa_column_kwargs={"server_default": text("''"), "info": {"folds": fields}})


def found(session: Session, column: Any, wanted: str) -> ColumnElement[bool]:
    """Whether a searchable column contains this text: without wildcards and in linear time, unlike LIKE."""
    position = func.strpos if session.get_bind().dialect.name == "postgresql" else func.instr
    return position(column, fold(wanted)) > 0


@event.listens_for(Mapper, "before_insert")
@event.listens_for(Mapper, "before_update")
def _follow(mapper: Mapper[Any], _connection: object, row: Any) -> None:
    for column in mapper.columns:
        if fields := column.info.get("folds"):
            setattr(row, column.key, fold("\n".join(getattr(row, field) or "" for field in fields)))
