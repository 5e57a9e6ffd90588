"""Relationships: statements load them explicitly (eager loading). There is no lazy loading."""

from typing import Any, NoReturn

from sqlalchemy.orm import Mapper, RelationshipProperty, selectinload
from sqlalchemy.orm.interfaces import ORMOption
from sqlalchemy.orm.strategies import _LazyLoader


def eager(*path: Any) -> ORMOption:
    """Load a relationship, and nested ones, with the rows: `select(Venue).options(eager(Venue.rooms))`."""
    first, *rest = path
    load = selectinload(first)
    for each in rest:
        load = load.selectinload(each)
    return load


@RelationshipProperty.strategy_for(lazy="eager_only")
class _EagerOnly(_LazyLoader):
    """Like `lazy="raise"`, with an error that says what to do."""

    def __init__(self, parent: Any, strategy_key: Any) -> None:
        super().__init__(parent, strategy_key)
        self._raise_always = True

    def _invoke_raise_load(self, *_: object) -> NoReturn:
        raise RuntimeError(
            f"{self.parent_property} was not loaded: add .options(eager({self.parent_property})) to the statement that "
            "selects the row, and set it on a new row"
        )


def load_eagerly(mapper: Mapper[Any], _class: object) -> None:
    """Disable lazy loading for all relationships of a mapper."""
    # It would run one statement for each row of a list (N+1), and fail after the unit, when the session is closed.
    for relationship in mapper._props.values():
        if isinstance(relationship, RelationshipProperty) and relationship.lazy == "select":
            relationship.lazy = "eager_only"  # type: ignore[assignment]  # registered above
            relationship.strategy_key = (("lazy", "eager_only"),)
