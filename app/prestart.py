"""Runs before replicas serve: waits for the database, migrates it, creates the first superuser.

Any number of processes may run this at the same time: one works, the others wait, and all succeed.
"""

import asyncio
import fcntl
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg
from pydantic import SecretStr

from app import users
from app.config import Settings, get_settings
from app.core import migrations
from app.core.db import Database, connector, create_file, sqlite_file
from app.core.errors import Unavailable
from app.core.security import Passwords
from app.users import EmailTaken, UserAdd

T = TypeVar("T")

_LOCK = 0x6F6E65666F6C64  # "onefold", the key of the advisory lock


async def prestart(settings: Settings) -> None:
    """Wait, lock, migrate, seed. Exits the process (SystemExit) if the database remains unreachable."""
    deadline = time.monotonic() + settings.prestart_timeout_seconds
    async with _locked(settings.database_url, deadline):
        await asyncio.to_thread(migrations.upgrade, settings.database_url)
        await _seed(settings)


async def first_run(settings: Settings) -> None:
    """The same for an empty database, so that the server can start without prestart in development."""
    create_file(settings.database_url)
    database = Database(settings.database_url)
    try:
        is_empty = await database.read(migrations.revision) is None
    except Unavailable:
        return
    finally:
        await database.close()
    if is_empty:
        await prestart(settings)


@asynccontextmanager
async def _locked(url: str, deadline: float) -> AsyncIterator[None]:
    """Holds a lock that is released even if the process is killed.

    It is polled: CREATE INDEX CONCURRENTLY would wait for a statement that waits for an advisory lock.
    """
    if database := sqlite_file(url):
        path = database.with_name(f"{database.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:

            async def flock() -> None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

            await _until(deadline, "another process to finish its migration", flock)
            yield
        return
    connection = await _until(deadline, "the database", connector(url, limit=None))
    try:

        async def lock() -> None:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                raise BlockingIOError

        await _until(deadline, "another process to finish its migration", lock)
        yield
    finally:
        await connection.close()


async def _until(deadline: float, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    told = False
    while True:
        try:
            return await attempt()
        except (OSError, asyncpg.PostgresError) as error:
            reason = type(error).__name__  # its text may quote the URL
            if time.monotonic() > deadline:
                raise SystemExit(f"Gave up waiting for {what} ({reason})") from None
        if not told:
            print(f"Waiting for {what} ({reason})", flush=True)
            told = True
        await asyncio.sleep(0.2)


async def _seed(settings: Settings) -> None:
    """Create the first superuser, if there is none and the settings name one."""
    email, given = settings.first_superuser_email, settings.first_superuser_password
    database = Database(settings.database_url)
    try:
        if email is None or await database.read(users.any_superuser):
            return
        if given is None and settings.environment == "production":
            raise SystemExit("FIRST_SUPERUSER_PASSWORD: is required to create the first superuser")
        password = given or SecretStr(secrets.token_urlsafe(15))
        hashed = await Passwords(slots=1).hash(password.get_secret_value())
        new = UserAdd(email=email, password=password, is_superuser=True, email_verified=True)  # trusts the operator
        await database.write(users.create, new, hashed)
        print(f"Created the first superuser: {email}", flush=True)
        if given is None:
            print(f"Password (shown only once): {password.get_secret_value()}", flush=True)
    except EmailTaken:
        print(f"{email} is an ordinary user and did not become a superuser", flush=True)
    finally:
        await database.close()


def main(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process and its script without a traceback
    asyncio.run(prestart(settings))
    if settings.mail_url and settings.mail_url.startswith("file://"):
        print(f"Mail is not sent but written to {settings.mail_url.removeprefix('file://')}", flush=True)


if __name__ == "__main__":
    main(get_settings())
