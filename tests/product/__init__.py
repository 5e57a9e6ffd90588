"""A small product to test the platform: written as a team would write it, but placed beside the tests.

Its tables are not part of the app's schema: no migration creates them, and Alembic ignores them.
"""

from fastapi import FastAPI
from sqlmodel import Session, SQLModel

import app.main
from app.api import v1
from app.api.calls import check_lists
from app.config import Settings

_apps = set(SQLModel.metadata.tables)

from tests.product import api  # noqa: E402  # its tables are the new ones

TABLES = [table for table in SQLModel.metadata.sorted_tables if table.name not in _apps]
for _table in TABLES:
    SQLModel.metadata.remove(_table)

UVICORN = ("-m", "uvicorn", "tests.product.main:app")
"""Arguments of `started` for a process of the app with the product."""


def create_app(settings: Settings) -> FastAPI:
    """The app with the routes of the product."""
    made = app.main.create_app(settings)
    made.include_router(api.router, prefix=settings.api_v1_prefix)
    made.openapi_tags = [*(made.openapi_tags or ()), *map(v1.tag, api.DOMAINS)]
    check_lists(made)
    return made


def create_tables(session: Session) -> None:
    SQLModel.metadata.create_all(session.connection(), tables=TABLES)
