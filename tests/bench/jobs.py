"""`python -m tests.bench.jobs`: measures the throughput of jobs, the cost to queue one, and the delay of its start."""

import asyncio
import logging
import tempfile
import time
import uuid
from contextlib import ExitStack
from statistics import median

from sqlalchemy import insert
from sqlmodel import Session, col, func, select

from app.core import jobs, migrations
from app.core.db import Database, now
from app.core.jobs import Job
from app.core.throttle import Bucket
from app.core.worker import Worker
from app.jobs import Context
from tests.postgres import Postgres, find_binaries
from tests.service import settings

MANY = 2_000
DEEP = 100_000


@jobs.job
def bench_unit(session: Session, *, number: int) -> None:
    session.add(Bucket(key=uuid.uuid4().hex, count=number, ends_at=now()))


@jobs.job
async def bench_coroutine(context: Context, *, number: int) -> None: ...


def add(session: Session, name: str, many: int) -> None:
    rows = [Job(name=name, arguments={"number": number}).model_dump() for number in range(many)]
    session.execute(insert(Job), rows)


def left(session: Session, name: str) -> int:
    waiting = select(func.count()).where(col(Job.status).in_(("queued", "running")), Job.name == name)
    return session.exec(waiting).one()


async def rate(db: Database, name: str, many: int) -> str:
    """The jobs per second of one worker with a full queue."""
    before = await db.read(left, name) - many
    worker = Worker(Context(db, settings(), None))
    started, used = time.perf_counter(), time.process_time()
    running = asyncio.create_task(worker.run())
    while await db.read(left, name) > before:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.1)
    took, used = time.perf_counter() - started, time.process_time() - used
    worker.stop()
    await running
    return f"{many / took:.0f} a second, {1000 * used / many:.2f} ms of CPU each"


async def queueing(db: Database) -> tuple[float, float]:
    """Milliseconds of a unit that writes a row, and of one that queues a job too."""

    def write(session: Session, *, queues: bool) -> None:
        session.add(Bucket(key=uuid.uuid4().hex, count=1, ends_at=now()))
        session.flush()
        if queues:
            jobs.queue(session, "bench_coroutine", number=1)

    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(300):
        for queues, times in took.items():
            started = time.perf_counter()
            await db.write(write, queues=queues)
            times.append(1000 * (time.perf_counter() - started))
    return median(took[False]), median(took[True])


async def latency(db: Database, url: str) -> float:
    """Milliseconds from the commit of another process (on SQLite: of this one) to the beginning of a job."""
    began: list[float] = []

    @jobs.job(name=f"bench_{uuid.uuid4().hex}")
    async def begin(context: Context) -> None:
        began.append(time.perf_counter())

    other = Database(url) if db.dialect == "postgresql" else db
    worker = Worker(Context(db, settings(), None))
    running = asyncio.create_task(worker.run())
    took = []
    for _ in range(50):
        await asyncio.sleep(0.02)
        many = len(began)
        await other.write(lambda session: jobs.queue(session, begin))
        committed = time.perf_counter()
        while len(began) == many:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        took.append(1000 * (began[-1] - committed))
    worker.stop()
    await running
    return median(took)


async def measure(url: str) -> None:
    db = Database(url)
    name = db.dialect
    print(f"{name}: a job begins {await latency(db, url):.1f} ms after the commit that queued it", flush=True)
    alone, both = await queueing(db)
    print(f"{name}: a unit with one row {alone:.2f} ms, one that queues a job too {both:.2f} ms", flush=True)
    for kind in ("bench_unit", "bench_coroutine"):
        await db.write(add, kind, MANY)
        print(f"{name}: {kind}: {await rate(db, kind, MANY)}", flush=True)
    for _ in range(DEEP // 1_000):
        await db.write(add, "bench_unit", 1_000)
    worker = Worker(Context(db, settings(), None))
    running, before = asyncio.create_task(worker.run()), await db.read(left, "bench_unit")
    await asyncio.sleep(5)
    worker.stop()
    await running
    done = before - await db.read(left, "bench_unit")
    print(f"{name}: {done / 5:.0f} a second of bench_unit with {DEEP:,} in the queue", flush=True)
    started = time.perf_counter()
    await db.read(jobs.next_due, ["bench_unit"])
    print(f"{name}: one look at that queue {1000 * (time.perf_counter() - started):.1f} ms", flush=True)
    await db.close()


def main() -> None:
    logging.disable(logging.WARNING)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onefold-bench-"))
        urls = [f"sqlite:///{folder}/jobs.db"]
        if binaries := find_binaries():
            server = Postgres(binaries)
            stack.callback(server.remove)
            server.start()
            urls.append(server.url())
        for url in urls:
            migrations.upgrade(url)
            asyncio.run(measure(url))


if __name__ == "__main__":
    main()
