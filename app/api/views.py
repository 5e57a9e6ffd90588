"""What a row is shown as at its own URL, where a domain above that of the row has something to add."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.core.db import Record, Session

R = TypeVar("R", bound=Record)


class View(Generic[R]):
    """How the routes at one path of a router show their row: as it is, until `replace` is called.

    So a user can be shown with what is theirs, and the module of users need not know of it.
    """

    def __init__(self, router: APIRouter, path: str) -> None:
        self._router, self._path = router, path
        self._make: Callable[[Session, R], Record] = lambda _session, row: row

    def __call__(self, session: Session, row: R) -> Record:
        return self._make(session, row)

    def replace(self, model: type[Record], make: Callable[[Session, R], Record]) -> None:
        """Answer `model`, which `make` makes of the row. Call it when a module is imported, before there is an app."""
        self._make = make
        for route in self._router.routes:
            if isinstance(route, APIRoute) and route.path == self._path and route.response_model:
                route.response_model = model
