"""Views: let a higher domain add data to the resource of a row in a lower domain."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.core.db import Record, Session

R = TypeVar("R", bound=Record)


class View(Generic[R]):
    """How the routes at one path of a router show their row: unchanged, unless `replace` is called.

    For example, a user is shown with items, although the module of users does not depend on items.
    """

    def __init__(self, router: APIRouter, path: str) -> None:
        self._router, self._path = router, path
        self._make: Callable[[Session, R], Record] = lambda _session, row: row

    def __call__(self, session: Session, row: R) -> Record:
        return self._make(session, row)

    def replace(self, model: type[Record], make: Callable[[Session, R], Record]) -> None:
        """Answer with `model`, which `make` builds from the row. Call it on import, before the app is created."""
        self._make = make
        for route in self._router.routes:
            if isinstance(route, APIRoute) and route.path == self._path and route.response_model:
                route.response_model = model
