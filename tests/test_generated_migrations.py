"""Migrations that are generated on one database run on the other, and pass all checks unchanged."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from alembic import command
from tests.conftest import NO_POSTGRESQL, skip
from tests.service import elsewhere, run
from tests.test_migrations import Tree, alembic, schema
from tests.test_migrations import tree as tree

pytestmark = pytest.mark.slow

MODEL = '''
"""Specimens: what has a column of every type."""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, Enum, Index, String, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from app.core import search
from app.core.db import Record


class Specimen(Record, table=True):
    __tablename__ = "specimens"
    __table_args__ = (
{constraints}
    )

    owner_id: UUID = Field(foreign_key="users.id", ondelete="CASCADE", index=True)
    {columns}
'''

CONSTRAINTS = """
        UniqueConstraint("name"), Index(None, "owner_id", "day", "id"), CheckConstraint("number > 0", name="number"),
        CheckConstraint("status IN ('open', 'closed')", name="status"),
"""
COLUMNS = """
    version: int = 1
    name: str = Field(max_length=20)
    code: str
    about: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default="open", sa_type=String(6), sa_column_kwargs={"server_default": text("'open'")})
    mood: str = Field(sa_type=Enum("good", "bad", name="mood", native_enum=False, create_constraint=True))
    number: int
    large: int = Field(sa_type=BigInteger)
    share: float
    price: Decimal = Field(max_digits=12, decimal_places=2)
    is_new: bool
    day: date
    opens: time
    starts_at: datetime
    ends_at: datetime | None = None
    parent_id: UUID | None = Field(default=None, foreign_key="specimens.id", ondelete="SET NULL", index=True)
    data: dict[str, Any] = Field(sa_type=JSON)
    content: bytes = b""
    search: str = search.searchable("name")
"""
ALTERED = """
    name: str | None = Field(default=None, max_length=30)
    starts_at: datetime | None = None
    day: date | None = None
    extra: Decimal | None = Field(default=None, max_digits=12, decimal_places=4)
"""


def test_a_generated_migration_passes_the_checks_and_runs_on_the_other_database(
    empty_url: str, backend: str, make_database: Callable[[str], str], postgresql_url: str | None, tree: Tree
) -> None:
    if not postgresql_url:
        skip(NO_POSTGRESQL)
    other = make_database({"sqlite": "postgresql", "postgresql": "sqlite"}[backend])
    module, listing = tree.folder / "app/specimens.py", tree.folder / "app/api/v1/__init__.py"
    listing.write_text(f"{listing.read_text()}\nimport app.specimens\n")
    states: dict[str, list[Any]] = {empty_url: [], other: []}
    for url, found in states.items():
        tree.upgrade(url)
        found.append(elsewhere(url, schema))
    for name, columns, constraints in (("made", COLUMNS, CONSTRAINTS), ("altered", ALTERED, ""), ("gone", "", "")):
        module.write_text(MODEL.format(columns=columns, constraints=constraints) if columns else "")
        alembic(empty_url, f"revision --autogenerate -m {name}", "upgrade head", "check", cwd=tree.folder)
        alembic(other, "upgrade head", "check", cwd=tree.folder)
        for url, found in states.items():
            found.append(elsewhere(url, schema))

    versions = str(tree.folder / "alembic/versions")
    for checked in ("check", "format --check"):
        run(sys.executable, "-m", "ruff", *checked.split(), versions, cwd=tree.folder)
    for url, found in states.items():
        assert found[0] == found[3]
        for expected in reversed(found[:3]):
            command.downgrade(tree.config(url), "-1")
            assert elsewhere(url, schema) == expected
        tree.upgrade(url)
        assert elsewhere(url, schema) == found[3]
