"""Relationships: the rows that a row is shown with. A statement says which it loads, and nothing else loads them."""

from typing import Any, NoReturn

from sqlalchemy.orm import Mapper, RelationshipProperty, selectinload
from sqlalchemy.orm.interfaces import ORMOption
from sqlalchemy.orm.strategies import _LazyLoader


def eager(*path: Any) -> ORMOption:
    """Load a relationship, and those behind it, with the rows: `select(Venue).options(eager(Venue.rooms))`."""
    first, *rest = path
    load = selectinload(first)
    for each in rest:
        load = load.selectinload(each)
    return load


@RelationshipProperty.strategy_for(lazy="eager_only")
class _EagerOnly(_LazyLoader):
    """As `lazy="raise"`, with an error that says what to do."""

    def __init__(self, parent: Any, strategy_key: Any) -> None:
        super().__init__(parent, strategy_key)
        self._raise_always = True

    def _invoke_raise_load(self, *_: object) -> NoReturn:
        raise RuntimeError(
            f"{self.parent_property} was not loaded: add .options(eager({self.parent_property})) to the statement that "
            "finds the row, and set it on a row that is new"
        )


def load_eagerly(mapper: Mapper[Any], _class: object) -> None:
    """Let no relationship load by itself."""
    # One statement for each row of a list would pass unnoticed, and once the unit has ended there is no session.
    for relationship in mapper._props.values():
        if isinstance(relationship, RelationshipProperty) and relationship.lazy == "select":
            relationship.lazy = "eager_only"  # type: ignore[assignment]  # which is registered above
            relationship.strategy_key = (("lazy", "eager_only"),)
