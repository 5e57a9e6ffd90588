"""`python -m tests.budget`: counts function calls per request, a measure of cost that does not depend on the clock.

Compares the counts with tests/budget.json and fails if they differ. `--update` writes the new counts into that file.
"""

import asyncio
import cProfile
import io
import json
import logging
import pstats
import sys
import tempfile
from contextlib import redirect_stderr
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from sqlmodel import Session

from app.auth import LoginSession
from app.core import migrations, security
from app.users import User
from tests import product
from tests.product import sightings
from tests.product.sightings import SightingCreate
from tests.service import KEY, elsewhere, settings

BUDGET = Path(__file__).with_suffix(".json")
MOST, LEAST = 1.01, 0.97
"""Limits as shares of the budget. Counts are the same in every run, with every hash seed and patch version of Python;
3.13 makes up to 1.7 % fewer calls than 3.11. A count far below its budget fails too, so that no cost grows back."""


def seed(session: Session) -> tuple[str, str]:
    """Add a user with 100 sightings. Returns a token, and the id of one sighting."""
    user = User(email="ada@example.com", hashed_password="!")
    session.add(user)
    session.flush()
    session.add(LoginSession(id=user.id, user_id=user.id, device="the budget"))
    made = [sightings.create(session, user, SightingCreate(title=f"Sail {n}", remarks="x" * 100)) for n in range(100)]
    token = security.encode_token("access", user.id, user.id, timedelta(hours=1), key=KEY, algorithm="HS256")
    return token, str(made[0].id)


async def ask(app: Any, token: str, method: str, target: str, body: bytes) -> int:
    """Send one request to the app, without a server. Returns the number of calls."""
    path, _, query = target.partition("?")
    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode())]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    profile = cProfile.Profile()
    profile.enable()
    await app(scope, receive, send)
    profile.disable()
    assert 200 <= statuses[0] < 300, statuses
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]  # recursive calls included


async def count(url: str) -> dict[str, int]:
    """The calls of each kind of request: the median of several, after a warm-up."""
    with redirect_stderr(io.StringIO()):  # the log goes there
        app = product.create_app(settings(environment="production", database_url=url))
    async with app.router.lifespan_context(app):
        token, sighting_id = await app.state.database.write(seed)
        routes: dict[str, tuple[str, str, bytes]] = {
            "health": ("GET", "/health/live", b""),
            "the caller": ("GET", "/api/v1/users/me", b""),
            "read one": ("GET", f"/api/v1/sightings/{sighting_id}", b""),
            "list of 1": ("GET", "/api/v1/sightings/?limit=1", b""),
            "list of 100": ("GET", "/api/v1/sightings/?limit=100", b""),
            "create": ("POST", "/api/v1/sightings/", b'{"title": "Sail"}'),
        }
        found = {}
        for name, request in routes.items():
            counts = [await ask(app, token, *request) for _ in range(10)]
            found[name] = int(median(counts[5:]))
        return found


def main() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/budget.db"
        migrations.upgrade(url)
        elsewhere(url, product.create_tables)
        found = asyncio.run(count(url))
    if "--update" in sys.argv:
        BUDGET.write_text(json.dumps(found, indent=2) + "\n")
    budget = json.loads(BUDGET.read_text())
    for name, calls in found.items():
        print(f"{name:12} {calls:7,} calls, {calls / budget[name] - 1:+.1%} of the budget")
    off = [name for name, calls in found.items() if not LEAST < calls / budget[name] < MOST]
    if off:
        sys.exit(f"Differs from the budget: {', '.join(off)}. If this is intended: python -m tests.budget --update")


if __name__ == "__main__":
    main()
