"""Runs migrations, on either database, each in a transaction of its own."""

import asyncio
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

import app.api.v1  # noqa: F401  # registers every table
from alembic import context
from app.config import get_settings
from app.core.db import create_file, make_engine


def render(kind: str, obj: Any, _autogen: AutogenContext) -> str | Literal[False]:
    """Plain SQLAlchemy types, so that old migrations do not depend on what SQLModel becomes."""
    if kind == "type" and isinstance(obj, AutoString):
        return f"sa.String({obj.impl.length or ''})" if isinstance(obj.impl, sa.String) else False
    if kind == "type" and isinstance(obj, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def migrate(connection: Connection) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # Rebuilding a table drops it, and with enforcement on that deletes the rows that refer to it. Only outside
        # a transaction does the pragma count, so it is given to the driver before SQLAlchemy begins one.
        raw: Any = connection.connection.dbapi_connection
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA busy_timeout = 10000")
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=is_sqlite,
        render_item=render,
        compare_server_default=True,
        transactional_ddl=True,
        transaction_per_migration=True,
        on_version_apply=check_references if is_sqlite else None,
    )
    with context.begin_transaction():
        context.run_migrations()


def check_references(ctx: MigrationContext, *_: object, **__: object) -> None:
    if ctx.connection and (broken := ctx.connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RuntimeError(f"the migration leaves {len(broken)} rows that refer to nothing")


async def migrate_on(engine: AsyncEngine) -> None:
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


url = context.config.attributes.get("url") or get_settings().database_url
create_file(url)
engine = make_engine(url, limit=None)
if isinstance(engine, AsyncEngine):
    asyncio.run(migrate_on(engine))
else:
    try:
        with engine.connect() as connection:
            migrate(connection)
    finally:
        engine.dispose()
