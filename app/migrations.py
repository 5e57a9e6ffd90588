"""The schema: which revision the code needs, which one the database has, and how to get there."""

from functools import lru_cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlmodel import Session

from alembic import command


def _config() -> Config:
    return Config(Path(__file__).parent.parent / "alembic.ini")


@lru_cache
def head() -> str | None:
    """The newest revision that this code comes with."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def revision(session: Session) -> str | None:
    """The revision that the database is at; None for an empty one."""
    if not inspect(session.connection()).has_table("alembic_version"):
        return None
    found: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(url: str) -> None:
    """Bring the database at `url` to the newest revision. Only one process may do so at a time: see app.prestart."""
    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")
