"""Logs: one line per record. Clients cannot inject content into them."""

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current request, for all its log records."""


polled: ContextVar[bool] = ContextVar("polled", default=False)
"""Whether the current work is polling. Development logs it only if it fails."""

_security = logging.getLogger("app.security")


def event(name: str, user_id: UUID | None, *, level: int = logging.INFO, **data: object) -> None:
    """Log an action by a user, or on a user if nobody is logged in. Never pass a secret or an email address."""
    _security.log(level, name, extra={"data": {"user_id": user_id, **data}})


class _Formatter(logging.Formatter):
    def __init__(self, *, texts: bool) -> None:
        super().__init__()
        self._texts = texts

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra: dict[str, Any] = getattr(record, "data", {})
        return {"message": record.getMessage(), **extra, "request_id": request_id.get()}

    def trace(self, record: logging.LogRecord) -> str | None:
        """The tracebacks of an exception and its causes. Their texts quote rows and requests: development only."""
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
    """For machines: JSON in ASCII, with all control characters escaped."""

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
    """For people: one line, and the traceback of an exception indented below it."""

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
    """Send all logs, including those of uvicorn and SQLAlchemy, through one handler to standard error.

    Development logs lines for people, with the texts of exceptions. Production logs JSON without these texts.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(texts=False) if production else LineFormatter(texts=True))
    if not production:
        handler.addFilter(_is_news)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # replaced by our access log, which has no query strings
    for name in ("asyncio", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO if sql else logging.WARNING)
