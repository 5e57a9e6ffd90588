"""Fixtures: the service, its databases and its users. Tests that use the service run on SQLite and on PostgreSQL."""

import asyncio
import email
import email.policy
import io
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

# Before the import of the app, which creates an app from the environment.
_folder = tempfile.TemporaryDirectory(prefix="onefold-tests-")
os.environ |= {
    "ENVIRONMENT": "development",
    "DATABASE_URL": f"sqlite:///{_folder.name}/unused.db",
    "SECRET_KEY": secrets.token_hex(32),
}

import asyncpg  # noqa: E402
import httpx2  # noqa: E402
import pytest  # noqa: E402
from pwdlib import PasswordHash  # noqa: E402
from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: E402
from sqlalchemy import event, make_url, text  # noqa: E402
from sqlmodel import Session, SQLModel, col, select  # noqa: E402

from app import auth, jobs, users  # noqa: E402
from app.auth import Caller, Context, LoginSession  # noqa: E402
from app.core import logs, migrations, security  # noqa: E402
from app.core.db import create_file, now  # noqa: E402
from app.core.jobs import next_due  # noqa: E402
from app.users import User, UserAdd  # noqa: E402
from app.worker import working  # noqa: E402
from tests import product  # noqa: E402
from tests.postgres import Postgres, find_binaries  # noqa: E402
from tests.service import KEY, NO_TLS, Service, elsewhere, settings  # noqa: E402

# A real hash takes 35 ms of a core, and the tests make some two thousand. Only tests of what a hash costs use COSTLY.
COSTLY = security._argon2id
security._argon2id = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))

PASSWORD = "correct horse battery"
HASHED = security._argon2id.hash(PASSWORD)

NO_POSTGRESQL = "no PostgreSQL: install its server, or set TEST_DATABASE_URL"


on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with slow tests, and run those that share a fixture of their module in one worker."""
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("backend") == "postgresql":
            item.add_marker(pytest.mark.postgresql)
        if not {"server", "chromium"}.isdisjoint(item.fixturenames) or item.get_closest_marker("postgresql"):
            item.add_marker(pytest.mark.slow)
        if any(definitions[-1].scope == "module" for definitions in item._fixtureinfo.name2fixturedefs.values()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


_running: pytest.Item | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _running
    _running = item
    try:
        return (yield)
    finally:
        _running = None


def refuse_processes(event: str, _args: tuple[object, ...]) -> None:
    """Fail a test that starts a process and is not marked as slow."""
    is_start = event in ("subprocess.Popen", "os.fork", "os.posix_spawn")
    if is_start and _running and not _running.get_closest_marker("slow"):
        pytest.fail("it starts a process: mark it with @pytest.mark.slow")


sys.addaudithook(refuse_processes)


def skip(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run, and report it at the end. In CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = {report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())}
    if terminalreporter.config.option.markexpr == "not slow":
        reasons.add("slow tests were left out: PostgreSQL, processes, browsers, copies of the project")
    for reason in sorted(reasons):
        terminalreporter.write_line(f"NOT EVERYTHING WAS TESTED: {reason}", red=True, bold=True)


def admin(url: str, statement: str) -> None:
    """Run one statement on a PostgreSQL server, outside any transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str | None]:
    """The URL of a PostgreSQL server on which databases may be created, or None if there is none."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    elif binaries := find_binaries():
        server = Postgres(binaries)
        try:
            server.start()
            yield server.url()
        finally:
            server.remove()
    else:
        yield None


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A PostgreSQL server for this test only, not started yet."""
    binaries = find_binaries()
    if binaries is None:
        skip(NO_POSTGRESQL)
    assert binaries
    server = Postgres(binaries)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The database that a test runs on."""
    name: str = request.param
    if name == "postgresql" and request.getfixturevalue("postgresql_url") is None:
        skip(NO_POSTGRESQL)
    return name


@pytest.fixture(scope="session")
def make_database(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Creates new databases and returns their URLs: empty ones, or copies of one that nobody is connected to."""
    made = []

    def make(backend: str, *, like: str | None = None) -> str:
        name = f"onefold_{uuid.uuid4().hex}"
        if backend == "sqlite":
            url = f"sqlite:///{_folder.name}/{name}.db"
            create_file(url)
            if like:
                shutil.copyfile(like.removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
            return url
        server = make_url(request.getfixturevalue("postgresql_url"))
        template = f"TEMPLATE {make_url(like).database}" if like else ""
        admin(server.render_as_string(hide_password=False), f"CREATE DATABASE {name} {template}")
        made.append(name)
        return server.set(database=name).render_as_string(hide_password=False)

    yield make
    if url := os.environ.get("TEST_DATABASE_URL"):  # another server is gone with all that it has
        for name in made:
            admin(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def make_migrated(make_database: Callable[..., str]) -> Callable[[str, bool], str]:
    """Makes databases with the schema and no rows, with or without tests/product: copies, which is faster."""

    @cache
    def template(backend: str, with_product: bool) -> str:
        url = make_database(backend)
        migrations.upgrade(url)
        if with_product:
            elsewhere(url, product.create_tables)
        return url

    return lambda backend, with_product: make_database(backend, like=template(backend, with_product))


@pytest.fixture
def empty_url(backend: str, make_database: Callable[..., str]) -> str:
    """The URL of an empty database for this test only."""
    return make_database(backend)


@pytest.fixture
def with_product(request: pytest.FixtureRequest) -> bool:
    """Whether the database and the service of a test also have the tables and routes of tests/product."""
    return request.node.get_closest_marker("product") is not None


@pytest.fixture
def migrated_url(backend: str, with_product: bool, make_migrated: Callable[[str, bool], str]) -> str:
    """The URL of a database for this test only, with the schema and without rows."""
    return make_migrated(backend, with_product)


@pytest.fixture(scope="session")
def _services(make_migrated: Callable[[str, bool], str]) -> Iterator[Callable[[str, bool], Service]]:
    running: dict[tuple[str, bool], Service] = {}

    def get(backend: str, with_product: bool) -> Service:
        if (backend, with_product) not in running:
            url = make_migrated(backend, with_product)
            made = settings(database_url=url, mail_url=f"file://{_folder.name}/mail-{uuid.uuid4().hex}")
            app = product.create_app(made) if with_product else None
            running[backend, with_product] = Service(made, app)
        return running[backend, with_product]

    yield get
    for service in running.values():
        service.stop()


def empty(session: Session, with_product: bool = False) -> None:
    tables = [*SQLModel.metadata.sorted_tables, *(product.TABLES if with_product else ())]
    for table in reversed(tables):
        session.execute(text(f"DELETE FROM {table.name}"))


@pytest.fixture
def service(backend: str, with_product: bool, _services: Callable[[str, bool], Service]) -> Service:
    """The running service, with an empty database."""
    service = _services(backend, with_product)
    service.write(empty, with_product)
    return service


@pytest.fixture
def serve(migrated_url: str, with_product: bool) -> Iterator[Callable[..., Service]]:
    """Starts more services, with other settings, on their own database."""
    running = []

    def start(**values: object) -> Service:
        mail_url = f"file://{_folder.name}/mail-{uuid.uuid4().hex}"
        made = settings(**{"database_url": migrated_url, "mail_url": mail_url, **values})
        running.append(Service(made, product.create_app(made) if with_product else None))
        return running[-1]

    yield start
    for service in running:
        service.stop()


def add_user(service: Service, name: str, *, is_active: bool = True, is_superuser: bool = False) -> User:
    """A user called `name`, with the address name@example.com and PASSWORD, who is logged in: see `token_of`."""

    def add(session: Session) -> User:
        user = User(
            email=f"{name}@example.com",
            full_name=name.capitalize(),
            hashed_password=HASHED,
            is_active=is_active,
            is_superuser=is_superuser,
        )
        session.add(user)
        session.flush()
        log_in(session, user)
        return user

    return service.write(add)


def add(session: Session, name: str, *, is_superuser: bool = False) -> User:
    """The same as a unit of work, for a user who has not verified the address."""
    user = users.create(session, UserAdd(email=f"{name}@example.com", is_superuser=is_superuser), HASHED)
    log_in(session, user)
    return user


def execute(session: Session, *statements: str) -> None:
    """A unit of work of plain SQL."""
    for statement in statements:
        session.execute(text(statement))


@pytest.fixture
def ada(service: Service) -> User:
    """An ordinary user."""
    return add_user(service, "ada")


@pytest.fixture
def bob(service: Service) -> User:
    """Another ordinary user."""
    return add_user(service, "bob")


@pytest.fixture
def root(service: Service) -> User:
    """A superuser."""
    return add_user(service, "root", is_superuser=True)


@pytest.fixture
def ivan(service: Service) -> User:
    """A user who was deactivated."""
    return add_user(service, "ivan", is_active=False)


def log_in(session: Session, user: User) -> None:
    """Start the session of `token_of`. Its id is the id of the user."""
    session.add(LoginSession(id=user.id, user_id=user.id, device="the tests"))


def token_of(user: User) -> str:
    return security.encode_token("access", user.id, user.id, timedelta(minutes=5), key=KEY, algorithm="HS256")


def client_at(url: str, user: User | None = None) -> httpx2.Client:
    """A client with the token of a user, or without a token."""
    headers = {"Authorization": f"Bearer {token_of(user)}"} if user else {}
    return httpx2.Client(base_url=url, headers=headers, timeout=30, verify=NO_TLS)


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    """A client without a token."""
    with client_at(service.url) as client:
        yield client


@pytest.fixture
def client_of(service: Service) -> Iterator[Callable[[User], httpx2.Client]]:
    """`client_of(ada)` is Ada's client."""
    clients = []

    def make(user: User) -> httpx2.Client:
        clients.append(client_at(service.url, user))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def outcome(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the code of an error response."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


def all_users(session: Session) -> Sequence[User]:
    """All users, the oldest first."""
    return session.exec(select(User).order_by(col(User.created_at), col(User.id))).all()


def caller_of(service: Service, user: User) -> Caller:
    """The caller that a unit loads for the token of a user."""
    claims = security.decode_token(token_of(user), "access", keys=(KEY,), algorithm="HS256")
    return service.read(auth.identify, service.settings, claims)


def context_of(service: Service) -> Context:
    """The context of a request from this machine."""
    return Context(service.database, service.app.state.passwords, service.settings, "127.0.0.1", "the tests")


@contextmanager
def statements(service: Service) -> Iterator[list[str]]:
    """Records the statements that the service sends to its database."""
    sent: list[str] = []
    engine = getattr(service.database._engine, "sync_engine", service.database._engine)

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def any_due(session: Session) -> bool:
    """Whether a message is queued, or any job is due."""
    ready, due_at = next_due(session, ["send_email"])
    return ready or (due_at is not None and due_at <= now())


def run_job(service: Service, job: Callable[..., Any], **arguments: object) -> None:
    """Run the coroutine of a job, like a worker of this service."""
    service.run(job(jobs.Context(service.database, service.settings, None), **arguments))


class Mailbox:
    """The mail of a service, as its receivers see it. Messages are sent only when a test reads them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._folder = Path((service.settings.mail_url or "").removeprefix("file://"))
        shutil.rmtree(self._folder, ignore_errors=True)

    def messages(self, to: str | None = None) -> list[EmailMessage]:
        """All messages so far, or those to one address, the oldest first."""
        self._service.run(self.deliver())
        found = [
            email.message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=email.policy.default)
            for path in sorted(self._folder.glob("*.eml"))
        ]
        return [message for message in found if to in (None, message["To"])]

    def subjects(self, to: str | None = None) -> list[str]:
        return [message["Subject"] for message in self.messages(to)]

    def token(self, to: str) -> str:
        """The token in the link of the newest message to an address."""
        text = self.messages(to)[-1].get_body(("plain",))
        assert text
        found = re.search(r"\?token=([\w-]+)\s", text.get_content())
        assert found
        return found[1]

    async def deliver(self) -> None:
        database = self._service.database
        async with working(database, self._service.settings.model_copy(update={"worker_enabled": True})):
            while await database.read(any_due):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)


@pytest.fixture
def mailbox(service: Service) -> Mailbox:
    return Mailbox(service)


@pytest.fixture
def verifications(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[bool]:  # the service hashes when it starts
    """Records the outcome of every argon2 verification."""
    done: list[bool] = []
    hasher = security._argon2id
    verify, verify_and_update = hasher.verify, hasher.verify_and_update

    def counting_verify(*args: Any) -> bool:
        done.append(verify(*args))
        return done[-1]

    def counting_verify_and_update(*args: Any) -> tuple[bool, str | None]:
        verdict = verify_and_update(*args)
        done.append(verdict[0])
        return verdict

    monkeypatch.setattr(hasher, "verify", counting_verify)
    monkeypatch.setattr(hasher, "verify_and_update", counting_verify_and_update)
    return done


@pytest.fixture
def log(service: Service) -> Iterator[io.StringIO]:  # the start of the service configures logging again
    """The log of the service, in the format of production."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter(texts=False))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)
