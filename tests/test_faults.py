"""The answers to clients when the database is read-only, hanging, damaged, missing, or older than the code."""

import asyncio
import io
import logging
import os
import pwd
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias

import httpx2
import pytest
from sqlalchemy import make_url, text

from app import emails, users
from app.core import migrations
from app.core.db import TIMEOUT, connector, create_file
from tests.conftest import NO_POSTGRESQL, PASSWORD, add, add_user, admin, client_at, execute, skip
from tests.postgres import Postgres, find_binaries
from tests.service import Process, Service, elsewhere, settings, until
from tests.test_db import Serve, assert_unavailable, fill_the_pool
from tests.test_prestart import prestart as prestart

OUTDATED = "The schema is not up to date: run scripts/prestart.sh"
EMAILS = "/api/v1/emails/"


def write(client: httpx2.Client) -> httpx2.Response:
    """By a superuser."""
    return client.post(EMAILS, json={"email": "ada@example.com"})


@pytest.fixture
def primary(server: Postgres) -> Postgres:
    """A running server for this test only, with the schema."""
    server.start()
    migrations.upgrade(server.url())
    return server


@pytest.fixture
def standby(primary: Postgres) -> Iterator[Postgres]:
    binaries = find_binaries()
    if binaries is None:
        skip(NO_POSTGRESQL)
    assert binaries
    standby = Postgres(binaries, primary)
    try:
        standby.start()
        yield standby
    finally:
        standby.remove()


def both(*servers: Postgres) -> str:
    return f"postgresql://onefold@{','.join(f'127.0.0.1:{each.port}' for each in servers)}/postgres"


@contextmanager
def running(url: str) -> Iterator[Service]:
    service = Service(settings(database_url=url, environment="production"))
    try:
        yield service
    finally:
        service.stop()


def set_read_only(server: Postgres, value: str) -> None:
    admin(server.url(), f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    admin(server.url(), "SELECT pg_reload_conf()")


def is_read_only(service: Service) -> bool:
    return bool(service.read(lambda session: session.scalar(text("SHOW default_transaction_read_only"))) == "on")


def test_a_read_only_server_serves_reads_and_answers_writes_with_503(primary: Postgres) -> None:
    with (
        running(primary.url()) as service,
        client_at(service.url, add_user(service, "ada", is_superuser=True)) as client,
    ):
        set_read_only(primary, "on")
        until(lambda: is_read_only(service))
        for _ in range(2):
            assert_unavailable(write(client))
            assert client.get(EMAILS).status_code == 200
        set_read_only(primary, "off")
        until(lambda: not is_read_only(service))
        assert write(client).status_code == 202


def test_a_standby_serves_reads_and_after_its_promotion_writes(primary: Postgres, standby: Postgres) -> None:
    ada = elsewhere(primary.url(), add, "ada", is_superuser=True)
    with running(standby.url()) as service, client_at(service.url, ada) as client:
        until(lambda: bool(service.read(users.find_by_email, "ada@example.com")))
        assert client.get(EMAILS).status_code == 200
        assert_unavailable(write(client))
        standby.promote()
        assert write(client).status_code == 202


def test_of_several_hosts_the_one_that_takes_writes_is_found(primary: Postgres, standby: Postgres) -> None:
    ada = elsewhere(primary.url(), add, "ada", is_superuser=True)
    with (
        running(both(primary, standby)) as service,
        running(both(standby, primary)) as other,
        client_at(service.url, ada) as client,
        client_at(other.url, ada) as other_client,
    ):
        assert [write(each).status_code for each in (client, other_client)] == [202, 202]
        primary.stop()
        for each in (client, other_client):
            assert_unavailable(write(each))
            assert_unavailable(each.get("/health/ready"))
        standby.promote()
        assert [write(each).status_code for each in (client, other_client)] == [202, 202]


def test_connections_to_a_primary_that_became_read_only_are_left_for_the_new_one(
    primary: Postgres, standby: Postgres
) -> None:
    ada = elsewhere(primary.url(), add, "ada", is_superuser=True)
    with running(both(primary, standby)) as service, client_at(service.url, ada) as client:
        service.run(fill_the_pool(service))
        standby.promote()
        set_read_only(primary, "on")
        until(lambda: is_read_only(service))
        assert write(client).status_code == 202
        found = elsewhere(standby.url(), emails.page, ada, emails.EmailPage()).rows
        assert [email.kind for email in found] == ["message", "verify_email"]


@pytest.fixture
def hanging() -> Iterator[socket.socket]:
    """Accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


def waiting(listener: socket.socket) -> int:
    """The number of new connections since the last call."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_host_that_hangs_is_passed_over_within_the_time_limit(
    primary: Postgres, hanging: socket.socket, prestart: Callable[..., Process]
) -> None:
    url = f"postgresql://onefold@127.0.0.1:{hanging.getsockname()[1]},127.0.0.1:{primary.port}/postgres"
    ada = elsewhere(primary.url(), add, "ada", is_superuser=True)
    with running(url) as service, client_at(service.url, ada) as client, ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: write(client), range(5)))
        assert [answer.status_code for answer in answers] == [202] * 5
    assert waiting(hanging)
    assert prestart(url).wait() == 0


def test_after_a_host_that_hangs_the_next_is_in_time_and_is_tried_first_from_then_on(
    primary: Postgres, hanging: socket.socket
) -> None:
    port = hanging.getsockname()[1]
    for url in (
        f"postgresql://onefold@127.0.0.1:{port},127.0.0.1:{primary.port}/postgres",
        f"postgresql://onefold@/postgres?host=127.0.0.1,127.0.0.1&port={port},{primary.port}",
    ):

        async def connect_twice(url: str) -> None:
            connect = connector(url)
            async with asyncio.timeout(TIMEOUT):
                first = await connect()
            for connection in [first, *await asyncio.gather(connect(), connect())]:
                await connection.close()

        asyncio.run(connect_twice(url))
        assert waiting(hanging) == 1


def test_when_all_hosts_hang_the_answer_is_503(hanging: socket.socket) -> None:
    port = hanging.getsockname()[1]
    with running(f"postgresql://127.0.0.1:{port},127.0.0.1:{port}/name") as service, client_at(service.url) as client:
        assert_unavailable(client.get("/health/ready"))


def test_a_damaged_table_is_503(primary: Postgres) -> None:
    with (
        running(primary.url()) as service,
        client_at(service.url, add_user(service, "ada", is_superuser=True)) as client,
    ):
        assert write(client).status_code == 202
        where = service.read(lambda session: session.scalar(text("SELECT pg_relation_filepath('emails')")))
        primary.stop()
        with (primary.data / str(where)).open("r+b") as file:
            file.write(random.Random(1).randbytes(8192))
        primary.start()
        assert_unavailable(client.get(EMAILS))


Damage: TypeAlias = Callable[[Path], None]


def replaced_by(content: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        draft = path.with_name("draft")
        draft.write_bytes(content(path.read_bytes()))
        draft.replace(path)

    return damage


def _delete(path: Path) -> None:
    path.unlink()


def _delete_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_unreadable(path: Path) -> None:
    replaced_by(lambda content: content)(path)
    path.chmod(0)


PAGE = 4096
NOISE = random.Random(1).randbytes(PAGE)
DAMAGES: dict[str, tuple[Damage, str | None]] = {
    "deleted": (_delete, None),
    "folder deleted": (_delete_folder, None),
    "a folder": (_make_folder, None),
    "unreadable": (_make_unreadable, None),
    "empty": (replaced_by(lambda content: b""), OUTDATED),
    "no database": (replaced_by(lambda content: b"Dear diary, " * 1000), None),
    "damaged at its beginning": (replaced_by(lambda content: NOISE[:100] + content[100:]), None),
    "damaged in its middle": (
        replaced_by(lambda content: content[:PAGE] + NOISE * (len(content) // PAGE - 1)),
        None,
    ),
    "cut short": (replaced_by(lambda content: content[:PAGE]), None),
}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Runs the test without the privileges of root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_database_file_that_goes_or_is_damaged_is_503_until_it_is_back(tmp_path: Path, name: str) -> None:
    damage, detail = DAMAGES[name]
    path, kept = tmp_path / "data" / "onefold.db", tmp_path / "kept.db"
    url = f"sqlite:///{path}"
    migrations.upgrade(url)

    def ask(client: httpx2.Client) -> list[httpx2.Response]:
        login = {"username": "ada@example.com", "password": PASSWORD}
        return [
            client.get(EMAILS),
            write(client),
            client.post("/api/v1/auth/login", data=login),
            client.get("/health/ready"),
        ]

    with running(url) as service, client_at(service.url, add_user(service, "ada", is_superuser=True)) as client:
        assert [answer.status_code for answer in ask(client)] == [200, 202, 200, 200]
        service.read(lambda session: session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).all())
        shutil.copy(path, kept)
        damage(path)
        there = sorted(path.parent.rglob("*.db"))
        with unprivileged() if name == "unreadable" else nullcontext():
            for _ in range(2):
                for answer in ask(client):
                    assert_unavailable(answer, *filter(None, [detail]))
                assert client.get("/health/live").status_code == 200
        assert sorted(path.parent.rglob("*.db")) == there
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(exist_ok=True)
        kept.replace(path)
        assert [answer.status_code for answer in ask(client)] == [200, 202, 200, 200]
        assert len(client.get(EMAILS).json()) == 2


def test_a_service_that_starts_without_its_file_does_not_make_one(tmp_path: Path) -> None:
    path = tmp_path / "data" / "onefold.db"
    with running(f"sqlite:///{path}") as service, client_at(service.url) as client:
        assert_unavailable(client.get("/health/ready"))
        assert not path.parent.exists()
        create_file(f"sqlite:///{path}")
        assert_unavailable(client.get("/health/ready"), OUTDATED)
        migrations.upgrade(f"sqlite:///{path}")
        assert client.get("/health/ready").status_code == 200


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "50% of a? #1 & more" / "one fold.db"
    path.parent.mkdir()
    url = make_url("sqlite://").set(database=str(path)).render_as_string()
    migrations.upgrade(url)
    elsewhere(url, add, "ada", is_superuser=True)
    assert path.stat().st_size > PAGE
    assert [each.name for each in path.parent.glob("*.db")] == [path.name]


@pytest.mark.parametrize("missing", ["ALTER TABLE emails DROP COLUMN last_error", "ALTER TABLE emails RENAME TO old"])
def test_on_an_older_schema_the_answer_is_to_run_prestart(serve: Serve, missing: str) -> None:
    service = serve()
    service.write(execute, missing, "UPDATE alembic_version SET version_num = 'older'")
    with client_at(service.url, add_user(service, "ada", is_superuser=True)) as client:
        for answer in (client.get(EMAILS), write(client), client.get("/health/ready")):
            assert_unavailable(answer, OUTDATED)
        assert client.get("/api/v1/users/me").status_code == 200


@pytest.mark.parametrize("missing", ["ALTER TABLE emails DROP COLUMN last_error", "ALTER TABLE emails RENAME TO old"])
def test_on_the_current_schema_an_unknown_table_or_column_is_a_defect(serve: Serve, missing: str) -> None:
    service = serve()
    service.write(execute, missing)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    with client_at(service.url, add_user(service, "ada", is_superuser=True)) as client:
        answers = [client.get(EMAILS), write(client)]
    logging.getLogger().removeHandler(handler)
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(500, "internal_error")] * 2
    assert stream.getvalue().count("unhandled ") == 2
    assert client_is_told_nothing(answers)


def client_is_told_nothing(answers: list[httpx2.Response]) -> bool:
    return not any(word in answer.text for answer in answers for word in ("last_error", "emails", "SELECT"))
