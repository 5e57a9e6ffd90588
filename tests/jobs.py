"""Jobs for tests; `python -m tests.jobs` is a worker that knows them.

What they did is counted in a table that is there: a row of `throttle_buckets` each time, with the job's number.
"""

import asyncio
import itertools
import os
import signal
import sys
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlmodel import Session, col, select

from app import jobs
from app.config import get_settings
from app.core import jobs as engine
from app.core.db import Database
from app.core.jobs import Job
from app.core.throttle import Bucket
from app.jobs import Context
from app.worker import working

FOREVER = datetime(2999, 1, 1, tzinfo=UTC)

SECRET = "what an exception says"

SEEN: list[Any] = []
"""What jobs of this process were given."""


def mark(session: Session, number: int) -> None:
    session.add(Bucket(key=uuid.uuid4().hex, count=number, ends_at=FOREVER))


def marks(session: Session) -> list[int]:
    """The numbers of the jobs that took effect, once for each time."""
    return sorted(session.exec(select(Bucket.count).where(Bucket.ends_at == FOREVER)))


@jobs.job(tries=1000, backoff=0.1)
def unit(session: Session, *, number: int, seconds: float = 0, begun: Path | None = None) -> None:
    mark(session, number)
    session.flush()
    if begun:
        begun.touch()
    time.sleep(seconds)


@jobs.job(tries=1000, backoff=0.1)
async def coroutine(context: Context, *, number: int, seconds: float = 0, begun: Path | None = None) -> None:
    if begun:
        begun.touch()  # noqa: ASYNC240  # one file
    await asyncio.sleep(seconds)
    await context.db.write(mark, number)


@jobs.job(tries=3)
async def poison(context: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@jobs.job(tries=3)
def failing(session: Session, *, number: int, for_good: bool = False) -> None:
    mark(session, number)
    session.flush()
    if for_good:
        raise jobs.GiveUp("never\n")
    raise ValueError(SECRET)


@jobs.job(timeout=0.05)
async def endless(context: Context) -> None:
    await asyncio.Event().wait()


@jobs.job(limit=1)
async def lonely(context: Context, *, number: int) -> None:
    SEEN.append("begin")
    await asyncio.sleep(0.02)
    SEEN.append("end")


def noted(session: Session, job: Job, *, number: int) -> None:
    SEEN.append((job.status, number))


@jobs.job(show_arguments=True, tries=2, after=noted)
async def told(context: Context, *, number: int) -> None:
    if number < 0:
        raise jobs.Failed("a number below zero")


@jobs.job(name="all_types")
async def typed(
    context: Context,
    *,
    identity: uuid.UUID,
    day: date,
    moment: datetime,
    price: Decimal,
    many: list[int],
    extra: int = 7,
) -> None:
    SEEN.append((identity, day, moment, price, many, extra))


@jobs.job
def slow_query(session: Session) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)"
    session.execute(text(f"{numbers} SELECT count(*) FROM n"))


@jobs.every(days=1)
def daily(session: Session) -> None:
    mark(session, 0)


def unfinished(session: Session) -> bool:
    left = col(Job.status).in_(("queued", "running", "waiting"))
    return session.exec(select(Job.id).where(left, col(Job.occurrence).is_(None)).limit(1)).first() is not None


def die_at(database: Database, number: int) -> None:
    """End this process before its statement of this number, each BEGIN and COMMIT counted: in any phase of its work."""
    counter = itertools.count(1)

    def count(*_: object) -> None:
        if next(counter) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = getattr(database._engine, "sync_engine", database._engine)
    for name in ("begin", "before_cursor_execute", "commit"):
        event.listen(engine, name, count)


async def work(dies_at: int = 0, *, ends: bool = True) -> None:
    settings = get_settings()
    database = Database(settings.database_url)
    if dies_at:
        die_at(database, dies_at)
    async with working(database, settings.model_copy(update={"worker_enabled": True})):
        while not ends or await database.read(unfinished):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.02)
    await database.close()


def fork(dies_at: int = 0) -> int:
    if pid := os.fork():
        return pid
    asyncio.run(work(dies_at))
    os._exit(0)


def main(mode: str, many: int, lease: float) -> None:
    """Start workers, with leases of so many seconds.

    `for_ever`: one. `share`: so many, until all is done. `die`: so many, one after another, each of which is killed one
    statement later than the one before; then one that lives.
    """
    engine.LEASE = timedelta(seconds=lease)
    if mode == "for_ever":
        asyncio.run(work(ends=False))
    elif mode == "share":
        for pid in [fork() for _ in range(many)]:
            print(os.waitpid(pid, 0)[1], flush=True)
    else:
        for number in [*range(1, many + 1), 0]:
            print(os.waitpid(fork(number), 0)[1], flush=True)
            time.sleep(lease)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
