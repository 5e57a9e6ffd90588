"""Units of work: commits, retries, and the answers to clients when the database is slow or unreachable."""

import asyncio
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import asyncpg
import httpx2
import pytest
from fastapi import BackgroundTasks
from sqlalchemy import Engine, inspect, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from app import users
from app.api.deps import Db
from app.core import migrations
from app.core.db import make_engine
from app.core.errors import Conflict, Unavailable
from app.main import create_app
from app.users import EmailTaken, User
from tests import product
from tests.conftest import (
    HASHED,
    PASSWORD,
    add,
    add_user,
    admin,
    all_users,
    client_at,
    empty,
    execute,
    on_postgresql,
    on_sqlite,
    token_of,
)
from tests.postgres import Postgres
from tests.product import sightings
from tests.product.sightings import Sighting, SightingCreate, SightingPage, SightingPublic, SightingUpdate
from tests.service import Process, Service, elsewhere, settings, started, until

pytestmark = pytest.mark.product

P = ParamSpec("P")
T = TypeVar("T")

Clients = Callable[[User], httpx2.Client]
Serve = Callable[..., Service]

NOTES = SightingCreate(title="Notes")
SLOW = 6.0
"""Seconds after which a wait of 3 seconds has surely ended, even on a slow machine."""


def stored(session: Session) -> Sequence[Sighting]:
    return session.exec(select(Sighting)).all()


def titles(url: str) -> list[str]:
    return sorted(sighting.title for sighting in elsewhere(url, stored))


def assert_unavailable(answer: httpx2.Response, detail: str = "The service is temporarily unavailable") -> None:
    assert answer.status_code == 503
    assert (answer.headers["Content-Type"], answer.headers["Retry-After"]) == ("application/problem+json", "2")
    problem = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": detail,
        "code": "unavailable",
        "instance": answer.headers["X-Request-ID"],
    }
    oauth = {"error": "temporarily_unavailable", "error_description": detail}
    assert answer.json() == (problem | oauth if answer.request.url.path.endswith("/auth/login") else problem)


def test_a_write_is_committed_when_it_returns(service: Service, ada: User) -> None:
    service.write(sightings.create, ada, NOTES)
    assert titles(service.settings.database_url) == ["Notes"]


def test_a_unit_that_raises_leaves_nothing(service: Service, ada: User) -> None:
    def create_and_raise(session: Session) -> None:
        sightings.create(session, ada, NOTES)
        raise LookupError

    with pytest.raises(LookupError):
        service.write(create_and_raise)
    assert titles(service.settings.database_url) == []


def _add(session: Session, owner: User) -> None:
    session.add(Sighting.model_validate(NOTES, update={"owner_id": owner.id}))


def _create(session: Session, owner: User) -> None:
    sightings.create(session, owner, NOTES)


def _change(session: Session, owner: User) -> None:
    users.get(session, owner.id).full_name = "Changed"


def _delete(session: Session, owner: User) -> None:
    session.delete(users.get(session, owner.id))


@pytest.mark.parametrize("work", [_add, _create, _change, _delete])
def test_a_read_that_would_write_is_refused(service: Service, ada: User, work: Callable[[Session, User], None]) -> None:
    with pytest.raises(RuntimeError, match="must not write"):
        service.read(work, ada)
    assert elsewhere(service.settings.database_url, users.get, ada.id).full_name == "Ada"
    assert titles(service.settings.database_url) == []


def test_rows_come_back_complete_detached_and_in_the_declared_order(service: Service) -> None:
    ada = service.write(add, "ada")
    written = service.write(sightings.create, ada, NOTES)
    changed = service.write(sightings.update, ada, written.id, SightingUpdate(title="Edited"))
    for row in (
        ada,
        written,
        changed,
        service.read(users.get, ada.id),
    ):
        state = inspect(row)
        assert state.detached
        assert state.unloaded == set()
        assert list(json.loads(row.model_dump_json())) == list(type(row).model_fields)


def test_a_page_has_the_public_columns_and_no_others(service: Service) -> None:
    ada = service.write(add, "ada")
    written = service.write(sightings.create, ada, NOTES)
    (row,) = service.read(sightings.page, ada, SightingPage()).rows
    assert row == SightingPublic(**written.model_dump())
    assert row.__dict__.keys() == SightingPublic.model_fields.keys()


@on_postgresql
@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
@pytest.mark.parametrize("failures", [1, 99])
def test_a_unit_that_the_database_rolled_back_is_run_three_times_at_most(
    service: Service, ada: User, sqlstate: str, failures: int
) -> None:
    tries = []

    def work(session: Session) -> None:
        tries.append(sightings.create(session, ada, NOTES).id)
        if len(tries) <= failures:
            execute(session, f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$")

    if failures == 1:
        service.write(work)
    else:
        with pytest.raises(Unavailable):
            service.write(work)
    assert len(tries) == min(failures + 1, 3)
    assert titles(service.settings.database_url) == (["Notes"] if failures == 1 else [])


@pytest.mark.usefixtures("ada")
def test_a_violated_constraint_raises_the_error_of_its_domain(service: Service) -> None:
    with pytest.raises(EmailTaken):
        service.write(add, "ada")


def test_a_sighting_of_a_user_who_is_gone_is_a_conflict(service: Service) -> None:
    with pytest.raises(Conflict) as caught:
        service.write(sightings.create, User(email="gone@example.com", hashed_password=HASHED), NOTES)
    assert (type(caught.value), str(caught.value)) == (Conflict, "The referenced resource does not exist")


def test_a_broken_constraint_that_nobody_knows_is_a_defect(serve: Serve) -> None:
    service = serve()
    service.write(execute, "CREATE UNIQUE INDEX surprise ON sightings (title)")
    ada = add_user(service, "ada")
    with client_at(service.url, ada) as client:
        answers = [client.post("/api/v1/sightings/", json={"title": title}) for title in ("one", "one", "two")]
    assert [answer.status_code for answer in answers] == [201, 500, 201]
    assert answers[1].json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "An unexpected error occurred",
        "code": "internal_error",
        "instance": answers[1].headers["X-Request-ID"],
    }
    with pytest.raises(IntegrityError):
        service.write(sightings.create, ada, SightingCreate(title="one"))


@on_sqlite
def test_every_connection_to_sqlite_enforces_references(migrated_url: str) -> None:
    engine = make_engine(migrated_url)
    assert isinstance(engine, Engine)
    orphan = text("INSERT INTO sightings VALUES ('1', '2026-01-01', '2026-01-01', 'Orphan', NULL, 'nobody', 1, '')")
    with ExitStack() as stack:
        for connection in [stack.enter_context(engine.connect().execution_options(onefold_read=True)) for _ in "12345"]:
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            with pytest.raises(IntegrityError, match="FOREIGN KEY"):
                connection.execute(orphan)
    engine.dispose()


def slowest_answer_during(waiting: Sequence[Future[httpx2.Response]], client: httpx2.Client) -> float:
    """Ask for liveness until all these have ended; the most seconds that one answer took."""
    slowest = 0.0
    while not all(each.done() for each in waiting):
        asked = time.monotonic()
        assert client.get("/health/live").status_code == 200
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.02)
    return slowest


@on_sqlite
def test_a_lock_on_sqlite_that_is_held_too_long_is_503_and_holds_up_nobody_else(service: Service, ada: User) -> None:
    with client_at(service.url, ada) as client, ThreadPoolExecutor() as pool:
        path = make_url(service.settings.database_url).database or ""
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            started = time.monotonic()
            late = pool.submit(client.post, "/api/v1/sightings/", json={"title": "Late"})
            assert slowest_answer_during([late], client) < 1
            assert time.monotonic() - started < SLOW
            assert_unavailable(late.result())
            assert client.get("/api/v1/sightings/").json() == []
        assert client.post("/api/v1/sightings/", json={"title": "In time"}).status_code == 201


@contextmanager
def sightings_held(url: str) -> Iterator[None]:
    """Hold the lock on every sighting, on another connection."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("BEGIN; SELECT 1 FROM sightings FOR UPDATE"))
        yield
        runner.run(connection.close())


@on_postgresql
def test_a_lock_a_slow_statement_and_an_exhausted_pool_are_503_and_are_recovered_from(serve: Serve) -> None:
    roomy, crowded = serve(), serve(database_pool_size=1)
    ada = add_user(roomy, "ada")
    sighting = f"/api/v1/sightings/{roomy.write(sightings.create, ada, NOTES).id}"
    begun = threading.Event()

    def hold(session: Session) -> None:
        begun.set()
        execute(session, "SELECT pg_sleep(1)", "SELECT pg_sleep(60)")

    with client_at(roomy.url, ada) as client, client_at(crowded.url, ada) as other, ThreadPoolExecutor() as pool:
        with sightings_held(roomy.settings.database_url):
            started = time.monotonic()
            slow = pool.submit(crowded.read, hold)
            assert begun.wait(30)
            late = [pool.submit(other.get, sighting), pool.submit(client.patch, sighting, json={"title": "Late"})]
            assert slowest_answer_during(late, client) < 1
            assert time.monotonic() - started < SLOW
            for refused in late:
                assert_unavailable(refused.result())
            assert isinstance(slow.exception(30), Unavailable)
            assert time.monotonic() - started < 1 + SLOW
        for each in (client, other):
            assert each.patch(sighting, json={"title": "In time"}).status_code == 200


@on_postgresql
@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
def test_the_server_itself_bounds_what_a_unit_may_take(service: Service, setting: str) -> None:
    assert service.read(lambda session: session.scalar(text(f"SHOW {setting}"))) == "3s"


@on_postgresql
def test_a_connection_is_free_before_the_answer_is_sent(migrated_url: str) -> None:
    chosen = settings(database_url=migrated_url, database_pool_size=1)
    app = create_app(chosen)
    done = threading.Event()

    @app.get("/busy")
    async def busy(db: Db, tasks: BackgroundTasks) -> int:
        tasks.add_task(done.wait, 30)
        return len(await db.read(all_users))

    service = Service(chosen, app)
    try:
        with client_at(service.url) as client, ThreadPoolExecutor() as pool:
            still_at_it = pool.submit(client.get, "/busy")
            assert client.get("/health/ready").status_code == 200
            assert not done.is_set()
            done.set()
            assert still_at_it.result().json() == 0
    finally:
        service.stop()


def test_a_database_that_is_down_is_503_and_is_used_again_as_soon_as_it_is_back(server: Postgres) -> None:
    chosen = settings(database_url=server.url())
    service = Service(chosen, product.create_app(chosen))
    client = client_at(service.url)

    def ask(token: str) -> Iterator[httpx2.Response]:
        headers = {"Authorization": f"Bearer {token}"}
        yield client.post("/api/v1/sightings/", json={"title": "Notes"}, headers=headers)
        yield client.get("/api/v1/sightings/", headers=headers)
        yield client.post("/api/v1/auth/login", data={"username": "ada@example.com", "password": PASSWORD})
        yield client.get("/health/ready")

    def assert_down(token: str) -> None:
        answers = ask(token)
        for _ in range(4):
            started = time.monotonic()
            assert_unavailable(next(answers))
            assert time.monotonic() - started < SLOW
            assert client.get("/health/live").status_code == 200

    try:
        assert_unavailable(client.get("/health/ready"))
        server.start()
        migrations.upgrade(server.url())
        elsewhere(server.url(), product.create_tables)
        token = token_of(add_user(service, "ada"))
        for _ in range(2):
            assert [answer.status_code for answer in ask(token)] == [201, 200, 200, 200]
            server.stop()
            assert_down(token)
            server.start()
        assert [answer.status_code for answer in ask(token)] == [201, 200, 200, 200]
    finally:
        client.close()
        service.stop()


async def fill_the_pool(service: Service) -> None:
    await asyncio.gather(*(service.database.read(execute, "SELECT pg_sleep(0.2)") for _ in range(5)))


@on_postgresql
@pytest.mark.parametrize(("method", "body", "status"), [("GET", None, 200), ("POST", {"title": "Notes"}, 201)])
def test_connections_that_were_cut_are_replaced_unnoticed(
    service: Service, client_of: Clients, ada: User, method: str, body: dict[str, str] | None, status: int
) -> None:
    service.run(fill_the_pool(service))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'onefold'"
    admin(service.settings.database_url, f"{cut} AND datname = current_database()")
    assert client_of(ada).request(method, "/api/v1/sightings/", json=body).status_code == status


@on_postgresql
def test_a_unit_whose_connection_is_cut_is_run_again(service: Service, ada: User) -> None:
    tries = []

    def work(session: Session) -> None:
        tries.append(sightings.create(session, ada, NOTES).id)
        if len(tries) == 1:
            execute(session, "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1")

    service.write(work)
    assert [sighting.id for sighting in elsewhere(service.settings.database_url, stored)] == tries[1:]


@on_postgresql
@pytest.mark.parametrize(
    ("failure", "status", "detail"),
    [
        ("RAISE EXCEPTION 'no'", 500, "An unexpected error occurred"),
        (
            "PERFORM pg_terminate_backend(pg_backend_pid())",
            503,
            "The connection was lost. It is unknown whether the change was made.",
        ),
    ],
)
def test_a_commit_that_fails_is_never_reported_as_success(serve: Serve, failure: str, status: int, detail: str) -> None:
    service = serve()
    ada = add_user(service, "ada")
    service.write(
        execute,
        "CREATE SEQUENCE commits",
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM nextval('commits'); {failure}; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON sightings DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with client_at(service.url, ada) as client:
        answer = client.post("/api/v1/sightings/", json={"title": "Notes"})
        assert (answer.status_code, answer.json()["detail"]) == (status, detail)
        assert client.get("/api/v1/sightings/").json() == []
    assert service.read(lambda session: session.scalar(text("SELECT last_value FROM commits"))) == 1


def test_a_reference_that_is_broken_at_the_commit_is_a_conflict(serve: Serve, backend: str) -> None:
    service = serve()
    ada = add_user(service, "ada")
    insert = "INSERT INTO promises VALUES (1);"
    function = f"CREATE FUNCTION promise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {insert} RETURN NULL; END $$"
    trigger = "CREATE TRIGGER promise AFTER INSERT ON sightings FOR EACH ROW"
    service.write(
        execute,
        "CREATE TABLE kept (id INTEGER PRIMARY KEY)",
        "CREATE TABLE promises (id INTEGER REFERENCES kept (id) DEFERRABLE INITIALLY DEFERRED)",
        *(
            [f"{trigger} BEGIN {insert} END"]
            if backend == "sqlite"
            else [function, f"{trigger} EXECUTE FUNCTION promise()"]
        ),
    )
    with client_at(service.url, ada) as client:
        assert client.post("/api/v1/sightings/", json={"title": "Notes"}).status_code == 409
        assert client.get("/api/v1/sightings/").json() == []
        service.write(execute, "INSERT INTO kept VALUES (1)")
        assert client.post("/api/v1/sightings/", json={"title": "Notes"}).status_code == 201


@on_postgresql
@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
@pytest.mark.parametrize("query", ["", "sslmode=disable", "sslmode=disable&channel_binding=prefer"])
def test_urls_are_taken_as_people_write_them(service: Service, scheme: str, query: str) -> None:
    url = make_url(service.settings.database_url).set(drivername=scheme).update_query_string(query)
    written = url.render_as_string(hide_password=False)
    assert elsewhere(written, lambda session: session.scalar(text("SELECT current_database()"))) == url.database


@dataclass(frozen=True)
class Pair:
    """Two processes of the service on one database."""

    database_url: str
    urls: list[str]


@contextmanager
def several(count: int, database_url: str, folder: Path) -> Iterator[list[tuple[str, Process]]]:
    """Several processes of the service, each with another hash seed."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:

        def start(number: int) -> tuple[str, Process]:
            log = folder / f"{number}.log"
            return stack.enter_context(started(product.UVICORN, database_url, log, PYTHONHASHSEED=str(number)))

        yield list(pool.map(start, range(count)))


@pytest.fixture(scope="module")
def _pairs(
    make_migrated: Callable[[str, bool], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Pair]]:
    running: dict[str, Pair] = {}
    with ExitStack() as stack:

        def get(backend: str) -> Pair:
            if backend not in running:
                url = make_migrated(backend, True)
                servers = stack.enter_context(several(2, url, tmp_path_factory.mktemp(backend)))
                running[backend] = Pair(url, [url for url, _ in servers])
            return running[backend]

        yield get


@pytest.fixture
def pair(backend: str, _pairs: Callable[[str], Pair]) -> Pair:
    """Two running processes of the service, with an empty database."""
    pair = _pairs(backend)
    elsewhere(pair.database_url, empty, with_product=True)
    return pair


@pytest.mark.slow
def test_every_process_answers_the_same_bytes(pair: Pair) -> None:
    ada = elsewhere(pair.database_url, add, "ada")
    sighting = elsewhere(pair.database_url, sightings.create, ada, NOTES)
    for path in (
        "/api/v1/users/me",
        f"/api/v1/sightings/{sighting.id}",
        "/api/v1/sightings/",
        f"/api/v1/users/{ada.id}",
    ):
        answers = []
        for url in pair.urls:
            with client_at(url, ada) as client:
                answers.append(client.get(path))
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].content == answers[1].content


@pytest.mark.slow
def test_two_processes_lose_no_write(pair: Pair) -> None:
    ada = elsewhere(pair.database_url, add, "ada")
    shared = elsewhere(pair.database_url, sightings.create, ada, SightingCreate(title="shared"))

    def work(number: int) -> list[tuple[int, int]]:
        with client_at(pair.urls[number % 2], ada) as client:
            return [
                (
                    client.post("/api/v1/sightings/", json={"title": f"{number}-{turn}"}).status_code,
                    client.patch(f"/api/v1/sightings/{shared.id}", json={"remarks": f"{number}-{turn}"}).status_code,
                )
                for turn in range(12)
            ]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[(201, 200)] * 12] * 8
    found = {sighting.title: sighting.version for sighting in elsewhere(pair.database_url, stored)}
    assert found == {f"{number}-{turn}": 1 for number in range(8) for turn in range(12)} | {"shared": 97}


@pytest.mark.slow
def test_of_many_sign_ups_with_one_address_one_succeeds(pair: Pair) -> None:
    address = "ada.lovelace@example.com"

    def sign_up(number: int) -> tuple[int, str | None]:
        spelt = address[:number] + address[number].upper() + address[number + 1 :]
        body = {"email": spelt, "password": PASSWORD}
        with client_at(pair.urls[number % 2]) as client:
            answer = client.post("/api/v1/users/", json=body)
        return answer.status_code, answer.json().get("code")

    with ThreadPoolExecutor(20) as pool:
        answers = sorted(pool.map(sign_up, range(20)))
    assert answers == [(201, None), *[(400, "email_taken")] * 19] or answers[-1] == (201, None)
    assert [user.email for user in elsewhere(pair.database_url, all_users)] == [address]


@pytest.mark.slow
def test_of_two_superusers_who_demote_each_other_one_remains(pair: Pair) -> None:
    cast = [elsewhere(pair.database_url, add, name, is_superuser=True) for name in ("ada", "bob")]

    def superusers(session: Session) -> int:
        return session.exec(select(func.count()).where(col(User.is_superuser), col(User.is_active))).one()

    together = threading.Barrier(2)
    with ExitStack() as stack:
        clients = [stack.enter_context(client_at(*each)) for each in zip(pair.urls, cast, strict=True)]
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def demote_the_other(caller: int) -> int:
            together.wait(30)
            answer = clients[caller].patch(f"/api/v1/users/{cast[1 - caller].id}", json={"is_superuser": False})
            return answer.status_code

        for _ in range(10):
            assert sorted(pool.map(demote_the_other, range(2))) in ([200, 403], [200, 409])
            assert elsewhere(pair.database_url, superusers) == 1
            elsewhere(pair.database_url, execute, "UPDATE users SET is_superuser = true")


@pytest.mark.slow
def test_committed_changes_survive_a_killed_server(migrated_url: str, backend: str, tmp_path: Path) -> None:
    ada = elsewhere(migrated_url, add, "ada")
    acknowledged: list[str] = []

    def write_until_killed(url: str) -> None:
        with client_at(url, ada) as client:
            while True:
                try:
                    answer = client.post("/api/v1/sightings/", json={"title": "Notes"})
                except httpx2.TransportError:
                    return
                assert answer.status_code == 201
                acknowledged.append(answer.json()["id"])

    with several(3, migrated_url, tmp_path) as servers, ThreadPoolExecutor() as pool:
        writers = [pool.submit(write_until_killed, url) for url, _ in servers for _ in range(2)]
        for _, process in servers:
            enough = len(acknowledged) + 20
            until(lambda enough=enough: len(acknowledged) >= enough)  # type: ignore[misc]
            process.signal(signal.SIGKILL)
        for writer in writers:
            writer.result(30)
    found = {str(sighting.id) for sighting in elsewhere(migrated_url, stored)}
    assert found >= set(acknowledged)
    assert len(acknowledged) >= 60
    if backend == "sqlite":
        check = elsewhere(migrated_url, lambda session: session.scalar(text("PRAGMA integrity_check")))
        assert check == "ok"


@on_postgresql
def test_units_go_on_while_a_migration_changes_their_table(serve: Callable[..., Service]) -> None:
    service = serve()
    ada = service.write(add, "ada")
    sighting = service.write(sightings.create, ada, NOTES)
    assert service.read(sightings.get, ada, sighting.id).title == sighting.title
    admin(service.settings.database_url, "ALTER TABLE sightings ALTER COLUMN title TYPE varchar(300)")
    assert service.read(sightings.get, ada, sighting.id).title == sighting.title
    assert service.write(sightings.get, ada, sighting.id, for_update=True).title == sighting.title
    admin(service.settings.database_url, "ALTER TABLE sightings ALTER COLUMN title TYPE varchar(400)")
    service.write(sightings.delete, ada, sighting.id)
