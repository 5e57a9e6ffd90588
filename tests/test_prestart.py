"""prestart: any number of processes wait, migrate and create the first superuser, each step only once."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.core import migrations
from tests.conftest import HASHED, add, all_users, client_at, on_postgresql, on_sqlite
from tests.postgres import Postgres
from tests.service import ROOT, Process, Service, elsewhere, environment, serving, settings, until
from tests.test_migrations import Tree

Prestart = Callable[..., Process]

WAIT_TO_GO = (
    "import pathlib, time",
    "pathlib.Path('begun').touch()",
    "while not pathlib.Path('go').exists():",
    "    time.sleep(0.02)",
)


@pytest.fixture
def prestart(tmp_path: Path) -> Iterator[Prestart]:
    """`prestart(url, cwd, NAME=value)` starts the command on this database, in this copy of the project."""
    started: list[Process] = []

    def start(url: str, cwd: Path = ROOT, **values: str) -> Process:
        env = environment(url, PYTHON=sys.executable, **values)
        started.append(Process(["scripts/prestart.sh"], env, tmp_path / f"{len(started)}.log", cwd))
        return started[-1]

    yield start
    for process in started:
        process.end()


def assert_terminates(process: Process) -> None:
    asked = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait() != 0
    assert time.monotonic() - asked < 2


@pytest.mark.slow
def test_many_at_once_all_succeed_and_make_one_superuser(empty_url: str, prestart: Prestart) -> None:
    root = "root@example.com"
    first = [prestart(empty_url, FIRST_SUPERUSER_EMAIL=root) for _ in range(4)]
    assert [process.wait(60) for process in first] == [0] * 4
    said = "".join(process.text for process in first)
    assert said.count(f"Created the first superuser: {root}\n") == 1
    [password] = re.findall(r"Password \(shown only once\): (\S+)\n", said)

    other = "another horse battery"
    again = prestart(empty_url, FIRST_SUPERUSER_EMAIL=root, FIRST_SUPERUSER_PASSWORD=other, MAIL_URL="smtp://localhost")
    assert (again.wait(60), again.text) == (0, "")
    assert elsewhere(empty_url, migrations.revision) == migrations.head()
    assert [(user.email, user.is_superuser) for user in elsewhere(empty_url, all_users)] == [(root, True)]
    service = Service(settings(database_url=empty_url))
    with client_at(service.url) as client:
        forms = [{"username": root, "password": each} for each in (password, other)]
        assert [client.post("/api/v1/auth/login", data=form).status_code for form in forms] == [200, 401]
    service.stop()


@pytest.mark.slow
def test_when_the_one_at_work_is_killed_one_that_waits_takes_over(
    migrated_url: str, prestart: Prestart, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "tree")
    tree.add(*WAIT_TO_GO)
    at_work = prestart(migrated_url, tree.folder)
    until((tree.folder / "begun").exists)
    waiting, stopped = (prestart(migrated_url, tree.folder) for _ in range(2))
    for process in (waiting, stopped):
        until(lambda process=process: "Waiting for another process" in process.text)  # type: ignore[misc]
    assert_terminates(stopped)
    at_work.signal(signal.SIGKILL)
    (tree.folder / "go").touch()
    assert waiting.wait() == 0
    assert elsewhere(migrated_url, migrations.revision) == "next"


@on_postgresql
def test_one_that_waits_does_not_hold_up_a_concurrent_index(
    migrated_url: str, prestart: Prestart, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "tree")
    tree.add(
        *WAIT_TO_GO,
        "with op.get_context().autocommit_block():",
        "    op.create_index('extra', 'users', ['full_name'], postgresql_concurrently=True)",
    )
    at_work = prestart(migrated_url, tree.folder)
    until((tree.folder / "begun").exists)
    waiting = prestart(migrated_url, tree.folder)
    until(lambda: "Waiting for another process" in waiting.text)
    (tree.folder / "go").touch()
    assert (at_work.wait(), waiting.wait()) == (0, 0)
    assert elsewhere(migrated_url, migrations.revision) == "next"


def test_it_waits_for_the_database_to_come_up_but_not_for_ever(server: Postgres, prestart: Prestart) -> None:
    url = server.url().replace("onefold@", "onefold:hunter2secret@")
    impatient = prestart(url, PRESTART_TIMEOUT_SECONDS="1")
    patient, stopped = prestart(url), prestart(url)
    for process in (patient, stopped):
        until(lambda process=process: "Waiting for the database" in process.text)  # type: ignore[misc]
    assert_terminates(stopped)
    assert impatient.wait() == 1
    assert "Gave up waiting for the database" in impatient.text
    server.start()
    assert patient.wait() == 0
    assert elsewhere(url, migrations.revision) == migrations.head()
    for process in (impatient, patient, stopped):
        assert "hunter2secret" not in process.text


@pytest.mark.slow
def test_an_ordinary_user_of_that_address_is_not_promoted(migrated_url: str, prestart: Prestart) -> None:
    elsewhere(migrated_url, add, "ada")
    process = prestart(migrated_url, FIRST_SUPERUSER_EMAIL="ADA@Example.com")
    assert process.wait() == 0
    assert process.text.startswith("ada@example.com is an ordinary user and did not become a superuser\n")
    found = elsewhere(migrated_url, all_users)
    assert [(user.email, user.is_superuser, user.hashed_password) for user in found] == [
        ("ada@example.com", False, HASHED)
    ]


@pytest.mark.slow
@on_sqlite
def test_a_first_superuser_needs_a_strong_password_which_production_requires(
    empty_url: str, prestart: Prestart
) -> None:
    email = "root.of.all@example.com"
    common, own, none = (
        prestart(empty_url, FIRST_SUPERUSER_EMAIL=email, **values)
        for values in (
            {"FIRST_SUPERUSER_PASSWORD": "password1"},
            {"FIRST_SUPERUSER_PASSWORD": email},
            {"ENVIRONMENT": "production"},
        )
    )
    for process, given, reason in (
        (common, "password1", "Password should not be among the most common ones"),
        (own, email, "Password should not be your address or name, or the name of this service"),
        (none, email, "is required to create the first superuser"),
    ):
        assert process.wait() == 1
        assert process.text.splitlines()[-1].strip() == f"FIRST_SUPERUSER_PASSWORD: {reason}"
        assert given not in process.text
    assert elsewhere(empty_url, all_users) == []


@pytest.mark.slow
@on_sqlite
def test_in_development_the_server_alone_makes_an_empty_database_ready(empty_url: str, tmp_path: Path) -> None:
    with serving(empty_url, tmp_path / "log") as (url, process), client_at(url) as client:
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert process.text.count("Password (shown only once): ") == 1


@pytest.mark.parametrize(
    ("environment", "status", "detail"),
    [
        ("development", 200, None),
        ("production", 503, "The schema is not up to date: run scripts/prestart.sh"),
    ],
)
def test_an_empty_database_is_made_ready_in_development_only(
    empty_url: str, environment: str, status: int, detail: str | None
) -> None:
    service = Service(settings(database_url=empty_url, environment=environment))
    with client_at(service.url) as client:
        answer = client.get("/health/ready")
    service.stop()
    assert (answer.status_code, answer.json().get("detail")) == (status, detail)
    expected = migrations.head() if environment == "development" else None
    assert elsewhere(empty_url, migrations.revision) == expected
