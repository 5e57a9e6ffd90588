"""Runs migrations on both databases, each in its own transaction."""

import asyncio
import re
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import (
    CreateCheckConstraintOp,
    CreateIndexOp,
    DropIndexOp,
    DropTableOp,
    MigrateOperation,
    MigrationScript,
    ModifyTableOps,
)
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

import app.api.v1  # noqa: F401  # registers every table
from alembic import context
from app.config import get_settings
from app.core.db import create_file, make_engine

PARTICULAR = (postgresql.JSONB, postgresql.ARRAY, postgresql.ENUM, postgresql.TSVECTOR)
"""Types that only PostgreSQL has. A team may decide to use them."""


def render(kind: str, obj: Any, _autogen: AutogenContext) -> str | Literal[False]:
    """Portable source for both databases. A downgrade is generated from the types of the database that is in use."""
    if kind == "type" and isinstance(obj, TypeEngine):
        return render_type(obj)
    if kind == "server_default" and isinstance(text := getattr(obj, "arg", None), sa.TextClause):
        literal = re.fullmatch(r"\(?('.*'|[\w.-]+)(::[\w ]+|\))", text.text)
        return f"sa.text({literal[1] if literal else text.text!r})"
    if kind == "check" and not obj._type_bound:  # the check of an enum is created by its type
        return f"sa.CheckConstraint({portable(obj.sqltext)!r}, name=op.f({obj.name!r}))"
    return False


def portable(condition: object) -> str:
    """A condition as it was written, without PostgreSQL's rewriting: `status IN ('open', 'closed')`."""
    plain = re.sub(r"::(text|character varying)(\[\])?", "", str(condition))
    return re.sub(r"= ANY \(ARRAY\[(.*?)\]\)", r"IN (\1)", plain)


def render_type(kind: TypeEngine[Any]) -> str | Literal[False]:
    """Plain SQLAlchemy types, so that old migrations do not depend on future versions of SQLModel."""
    if isinstance(kind, AutoString) and isinstance(kind.impl, sa.String):
        kind = kind.impl
    if isinstance(kind, UTCDateTime | sa.DATETIME):
        return "sa.DateTime(timezone=True)"
    if isinstance(kind, sa.DOUBLE_PRECISION):  # PostgreSQL's type of a float
        return "sa.Float()"
    if isinstance(kind, sa.CHAR) and kind.length == 32:  # SQLite's type of a UUID
        return "sa.Uuid()"
    if isinstance(kind, sa.JSON) and not isinstance(kind, postgresql.JSONB):
        return "sa.JSON()"
    if isinstance(kind, sa.String) and not isinstance(kind, sa.Text | sa.Enum):
        return f"sa.String({kind.length or ''})"
    if type(kind).__name__.isupper() and not isinstance(kind, PARTICULAR):
        return f"sa.{kind.as_generic()!r}"
    return False


def tidy(_context: MigrationContext, _revision: object, directives: list[MigrationScript]) -> None:
    """Create indexes outside a batch. Do not drop the indexes of a dropped table."""
    for half in [half for script in directives for half in (script.upgrade_ops, script.downgrade_ops) if half]:
        dropped = {op.table_name for op in half.ops if isinstance(op, DropTableOp)}
        kept: list[MigrateOperation] = []
        for op in half.ops:
            inner = op.ops if isinstance(op, ModifyTableOps) else [op]
            indexes = [each for each in inner if isinstance(each, CreateIndexOp | DropIndexOp)]
            for check in [each for each in inner if isinstance(each, CreateCheckConstraintOp)]:
                check.condition = portable(check.condition)
            only_indexes = len(indexes) == len(inner)
            kept += [each for each in indexes if each.table_name not in dropped] if only_indexes else [op]
        half.ops = kept


def migrate(connection: Connection) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # A batch rebuilds a table by dropping it. With foreign keys enforced, this would delete all rows that refer to
        # it. The pragma has no effect inside a transaction, so it runs before SQLAlchemy begins one.
        raw: Any = connection.connection.dbapi_connection
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA busy_timeout = 10000")
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,  # SQLite needs it, even if the migration is generated on PostgreSQL
        render_item=render,
        process_revision_directives=tidy,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        compare_server_default=True,
        transactional_ddl=True,
        transaction_per_migration=True,
        on_version_apply=check_references if is_sqlite else None,
    )
    with context.begin_transaction():
        context.run_migrations()


def check_references(ctx: MigrationContext, *_: object, **__: object) -> None:
    if ctx.connection and (broken := ctx.connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RuntimeError(f"the migration leaves {len(broken)} rows with broken foreign keys")


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
