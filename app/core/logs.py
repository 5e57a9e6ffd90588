"""Logs: one record, one line, with nothing in it that the sender of a request could have shaped."""

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered, for every record made meanwhile."""


polled: ContextVar[bool] = ContextVar("polled", default=False)
"""Whether what is done now is done again and again, so that in development it is logged only if it fails."""

_security = logging.getLogger("app.security")


def event(name: str, user_id: UUID | None, *, level: int = logging.INFO, **data: object) -> None:
    """Record what was done by a user, or to one if nobody was logged in. Never pass a secret or somebody's email."""
    _security.log(level, name, extra={"data": {"user_id": user_id, **data}})


class _Formatter(logging.Formatter):
    def __init__(self, *, texts: bool) -> None:
        super().__init__()
        self._texts = texts

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra: dict[str, Any] = getattr(record, "data", {})
        return {"message": record.getMessage(), **extra, "request_id": request_id.get()}

    def trace(self, record: logging.LogRecord) -> str | None:
        """Where exceptions came from. What they say quotes rows and requests: it is logged in development only."""
        error = record.exc_info[1] if record.exc_info else None
        lines: list[str] = []
        seen: set[int] = set()
        while error and id(error) not in seen:
            seen.add(id(error))
            name = f"{type(error).__module__}.{type(error).__qualname__}"
            if self._texts:
                name += f": {error}"
            lines[:0] = [*traceback.format_tb(error.__traceback__), f"{name}\n"]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "".join(lines) or None


class JsonFormatter(_Formatter):
    """For machines: JSON in ASCII, in which every control character is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self.fields(record),
        }
        if trace := self.trace(record):
            entry["trace"] = trace
        return json.dumps({key: value for key, value in entry.items() if value is not None}, default=str)


class LineFormatter(_Formatter):
    """For people: one line, and below it, indented, where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        texts = [str(fields.pop("message")), *(f"{key}={value}" for key, value in fields.items() if value is not None)]
        lines = [" ".join(texts), *(self.trace(record) or "").splitlines()]
        escaped = "\n    ".join(line.encode("unicode_escape").decode() for line in lines)
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<8} {escaped}"


def _is_news(record: logging.LogRecord) -> bool:
    status: int = getattr(record, "data", {}).get("status", 0)
    return not polled.get() or record.levelno >= logging.WARNING or status >= 400


def configure(*, level: str, production: bool, sql: bool) -> None:
    """Send all logging, that of uvicorn and SQLAlchemy included, through one handler to standard error.

    Development has lines for people, with what exceptions say; production has JSON without it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(texts=False) if production else LineFormatter(texts=True))
    if not production:
        handler.addFilter(_is_news)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # the access log is ours: it has no query strings in it
    for name in ("asyncio", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO if sql else logging.WARNING)
