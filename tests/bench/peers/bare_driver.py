"""asyncpg or sqlite3 alone, with the service's statements on its database: no framework, no ORM, no validation."""

import json
import os
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import asyncpg
import jwt
from uuid_utils.compat import uuid7

_CALLER = (
    "SELECT u.id, u.is_active FROM users u JOIN login_sessions s ON s.user_id = u.id AND s.id = $1 WHERE u.id = $2"
)
_ITEM = "SELECT id, created_at, updated_at, title, remarks, owner_id FROM sightings"
_ONE = f"{_ITEM} WHERE id = $1"
_PAGE = f"{_ITEM} WHERE owner_id = $1 ORDER BY created_at, id LIMIT $2"
_INSERT = (
    "INSERT INTO sightings (id, created_at, updated_at, title, remarks, owner_id, version)"
    " VALUES ($1, $2, $2, $3, $4, $5, 1)"
)

Row = Mapping[str, Any]
Fetch = Callable[..., Awaitable[Sequence[Row]]]
"""Sends one statement with its parameters and returns its rows."""
Unit = Callable[[Fetch], Awaitable[tuple[int, Any]]]


class Sqlite:
    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self._connection.row_factory = lambda cursor, row: dict(zip((c[0] for c in cursor.description), row))  # noqa: B905
        for pragma in ("busy_timeout = 5000", "synchronous = NORMAL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")

    async def open(self) -> None:
        pass

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        stored = [_stored(value) for value in values]
        return self._connection.execute(statement.replace("$", "?"), stored).fetchall()

    async def run(self, unit: Unit, *, writes: bool) -> tuple[int, Any]:
        if not writes:
            return await unit(self._fetch)
        self._connection.execute("BEGIN IMMEDIATE")
        answer = await unit(self._fetch)  # without await, so no other unit runs in between
        self._connection.execute("COMMIT")
        return answer


class Postgresql:
    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        async def leave_as_it_is(_connection: object) -> None:
            """Replaces asyncpg's reset, which is a round trip."""

        self._pool = await asyncpg.create_pool(self._url, min_size=5, max_size=15, reset=leave_as_it_is)

    async def run(self, unit: Unit, *, writes: bool) -> tuple[int, Any]:
        async with self._pool.acquire() as connection:
            if not writes:
                return await unit(connection.fetch)
            async with connection.transaction():
                return await unit(connection.fetch)


URL = os.environ["DATABASE_URL"]
database = Sqlite(URL) if URL.startswith("sqlite") else Postgresql(URL)


def _stored(value: Any) -> Any:
    """The format in which the service stores the value on SQLite."""
    if isinstance(value, uuid.UUID):
        return value.hex
    return f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value


@lru_cache(maxsize=1024)
def _claims(token: str) -> tuple[uuid.UUID, uuid.UUID]:
    claims = jwt.decode(token, os.environ["SECRET_KEY"], ["HS256"], audience="access")
    return uuid.UUID(claims["sid"]), uuid.UUID(claims["sub"])


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await database.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    method, item_id = scope["method"], scope["path"].removeprefix("/api/v1/sightings/")
    body, more = b"", method == "POST"
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)

    async def unit(fetch: Fetch) -> tuple[int, Any]:
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        callers = await fetch(_CALLER, *_claims(authorization.removeprefix("Bearer ")))
        if not callers or not callers[0]["is_active"]:
            return 401, None
        owner_id = callers[0]["id"]
        if method == "POST":
            moment = datetime.now(UTC)
            item = {"id": uuid7(), "created_at": moment, "updated_at": moment, **json.loads(body), "owner_id": owner_id}
            await fetch(_INSERT, item["id"], moment, item["title"], item["remarks"], owner_id)
            return 201, item
        if not item_id:
            limit = int(parse_qs(scope["query_string"])[b"limit"][0])
            return 200, [dict(row) for row in (await fetch(_PAGE, owner_id, limit + 1))[:limit]]
        rows = await fetch(_ONE, uuid.UUID(item_id))
        if not rows or rows[0]["owner_id"] != owner_id:
            return 404, None
        return 200, dict(rows[0])

    if item_id == scope["path"]:
        status, answer = 404, None
    else:
        status, answer = await database.run(unit, writes=method == "POST")
    content = json.dumps(answer, default=str).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
