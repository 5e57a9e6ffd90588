"""The schema: which revision the code needs, which one the database has, and how to get there."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlmodel import Session

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is imported where it is used: a service that starts needs it only to tell whether it is ready.


OUTDATED = "The schema is not up to date: run scripts/prestart.sh"


def _config() -> "Config":
    from alembic.config import Config

    return Config(Path(__file__).parents[2] / "alembic.ini")


@lru_cache
def head() -> str | None:
    """The newest revision that this code comes with."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head()


def revision(session: Session) -> str | None:
    """The revision that the database is at; None for an empty one."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return None
    found: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(url: str) -> None:
    """Bring the database at `url` to the newest revision. Only one process may do so at a time: see app.prestart."""
    from alembic import command

    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")
