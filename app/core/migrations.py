"""Migrations: the revision that the code needs, the revision of the database, and the upgrade."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlmodel import Session

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is imported inside the functions, because a replica needs it only for the readiness check.


OUTDATED = "The schema is not up to date: run scripts/prestart.sh"


def _config() -> "Config":
    from alembic.config import Config

    return Config(Path(__file__).parents[2] / "alembic.ini")


@lru_cache
def head() -> str | None:
    """The newest revision of this code."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head()


def revision(session: Session) -> str | None:
    """The revision of the database; None if it is empty."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return None
    found: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(url: str) -> None:
    """Upgrade the database at `url` to the newest revision. Only one process at a time may do it: see app.prestart."""
    from alembic import command

    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")
