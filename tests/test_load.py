"""Load: a caller with many or slow requests does not delay other callers."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlmodel import Session

from app.api.deps import Db
from app.core.db import TIMEOUT, Database
from app.main import create_app
from app.users import User
from tests import product
from tests.api.test_pages import add_many
from tests.conftest import add, client_at, execute, on_sqlite, token_of
from tests.product import sightings
from tests.service import ROOT, Service, elsewhere, settings, started
from tests.test_db import NOTES, SLOW, assert_unavailable, slowest_answer_during, titles

pytestmark = pytest.mark.product

COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT max(i) FROM n"
FOREVER = COUNT.format(10**12)
A_WHILE = COUNT.format(3 * 10**6)
"""Takes some hundred milliseconds on SQLite: more than LOOP_LIMIT, and less than TIMEOUT."""


@on_sqlite
def test_a_unit_on_sqlite_that_takes_too_long_is_503_and_holds_up_nobody(migrated_url: str) -> None:
    chosen = settings(database_url=migrated_url)
    app = create_app(chosen)

    @app.get("/slow")
    async def slow(db: Db) -> None:
        await db.read(execute, FOREVER)

    service = Service(chosen, app)
    try:
        with client_at(service.url) as client, ThreadPoolExecutor() as pool:
            started = time.monotonic()
            late = [pool.submit(client.get, "/slow") for _ in range(2)]
            assert slowest_answer_during(late, client) < 1
            assert TIMEOUT <= time.monotonic() - started < SLOW
            for each in late:
                assert_unavailable(each.result())
            assert client.get("/health/ready").status_code == 200
    finally:
        service.stop()


@on_sqlite
def test_a_slow_unit_begins_anew_in_a_thread_and_what_it_does_is_done_once(service: Service, ada: User) -> None:
    threads = []
    service.database._slow.clear()  # work of the service itself in another test

    def work(session: Session) -> None:
        threads.append(threading.current_thread().name.partition("_")[0])
        sightings.create(session, ada, NOTES)
        execute(session, A_WHILE)

    for _ in range(2):
        service.write(work)
    assert titles(service.settings.database_url) == ["Notes", "Notes"]
    assert len(threads) == 3
    assert threads[0] != "sqlite"
    assert threads[1:] == ["sqlite", "sqlite"]  # the second time it began there


@on_sqlite
def test_writes_wait_for_a_slow_one_without_holding_up_reads(service: Service, ada: User, bob: User) -> None:
    begun = threading.Event()

    def slow(session: Session) -> None:
        sightings.create(session, ada, NOTES)
        begun.set()
        execute(session, A_WHILE)

    with client_at(service.url, bob) as client, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(service.write, slow)]
        assert begun.wait(30)
        waiting += [pool.submit(client.post, "/api/v1/sightings/", json={"title": "Bob's"}) for _ in range(4)]  # type: ignore[arg-type]
        assert client.get("/api/v1/sightings/").status_code == 200
        assert slowest_answer_during(waiting, client) < 1  # type: ignore[arg-type]
        waiting[0].result()
        assert [answer.result().status_code for answer in waiting[1:]] == [201] * 4  # type: ignore[attr-defined]
    assert len(titles(service.settings.database_url)) == 5


@on_sqlite
def test_a_database_is_closed_cleanly_while_a_unit_is_still_at_it(migrated_url: str) -> None:
    ada, idle = elsewhere(migrated_url, add, "ada"), set(threading.enumerate())

    def endless(session: Session) -> None:
        sightings.create(session, ada, NOTES)
        execute(session, FOREVER)

    async def scene() -> None:
        database = Database(migrated_url)
        late = asyncio.create_task(database.write(endless))
        while set(threading.enumerate()) <= idle:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        late.cancel()
        await database.close()

    started = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - started < SLOW
    assert set(threading.enumerate()) <= idle
    assert titles(migrated_url) == []


ATTACK = """
import asyncio, sys
port, connections, request = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
async def ask():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(request)
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0]))
async def attack():
    await asyncio.gather(*(ask() for _ in range(connections)))
asyncio.run(asyncio.wait_for(attack(), 60))
"""


@contextmanager
def flood(url: str, user: User, path: str) -> Iterator[None]:
    """Runs 64 connections of one user. Each sends the next request as soon as it has an answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(user)}\r\n\r\n"
    arguments = [url.rpartition(":")[2], "64", request.encode().hex()]
    process = subprocess.Popen([sys.executable, "-c", ATTACK, *arguments], cwd=ROOT)
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_64_connections_of_one_user_do_not_make_another_wait(migrated_url: str, tmp_path: Path) -> None:
    ada, bob = (elsewhere(migrated_url, add, name) for name in ("ada", "bob"))
    for after in range(0, 100_000, 20_000):  # each within the time that a statement is given, on a busy machine
        elsewhere(migrated_url, add_many, ada, 20_000, after=after)
    with started(product.UVICORN, migrated_url, tmp_path / "log") as (url, _), client_at(url, bob) as client:
        client.get("/api/v1/sightings/")
        with flood(url, ada, "/api/v1/sightings/?q=absent&count=true"):
            time.sleep(1)
            for _ in range(100):
                asked = time.monotonic()
                assert client.get("/api/v1/sightings/").status_code == 200
                assert time.monotonic() - asked < 1
                time.sleep(0.02)
