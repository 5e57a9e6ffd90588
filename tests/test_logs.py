"""Logs: one line per request, without injected content and without secrets."""

import io
import json
import logging
import re
import signal
import socket
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from app.core import logs
from app.core.logs import JsonFormatter, LineFormatter
from app.main import create_app
from app.users import User
from tests.conftest import HASHED, PASSWORD, token_of
from tests.service import NO_TLS, Service, serving

ID = "019b76da-a800-7000-8000-0000facade00"
FAKE = "\r\nINFO: FAKE\x1b[31m\0\u2028\u202e\x85"

on_one_database = pytest.mark.parametrize("backend", ["sqlite"])


def entries(log: io.StringIO, requests: int) -> list[dict[str, Any]]:
    """The log entries of this many requests. They are written after the answers."""
    deadline = time.monotonic() + 10
    while True:
        # The tests' own client logs too, because it is in the same process.
        found = [entry for entry in map(json.loads, log.getvalue().splitlines()) if entry["logger"][:4] != "http"]
        if [entry["logger"] for entry in found].count("app.access") >= requests or time.monotonic() > deadline:
            return found
        time.sleep(0.005)


def record(message: str, error: BaseException | None = None, **data: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("app.test", logging.ERROR, __file__, 1, message, (), exc_info)
    made.data = data
    return made


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001  # whatever it is, it now has a traceback
        return caught


@on_one_database
@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("GET", f"/api/v1/users/{ID}", 404, "/api/v1/users/{user_id}"),
        ("HEAD", f"/api/v1/users/{ID}", 404, "/api/v1/users/{user_id}"),
        ("PATCH", f"/api/v1/users/{ID}", 422, "/api/v1/users/{user_id}"),
        ("TRACE", f"/api/v1/users/{ID}", 405, "/api/v1/users/{user_id}"),
        ("GET", "/api/v1/users?limit=1&FAKE=1", 422, "/api/v1/users/"),
        ("POST", "/api/v1/auth/login", 415, "/api/v1/auth/login"),
        ("GET", "/api/v1/users/me", 200, "/api/v1/users/me"),
        ("GET", "/health", 200, "/health"),
        ("GET", f"/{ID}", 404, "-"),
        ("OPTIONS", "/", 405, "/"),
    ],
)
def test_a_request_is_one_line_that_names_its_route(
    client_of: Callable[[User], httpx2.Client],
    root: User,
    log: io.StringIO,
    method: str,
    path: str,
    status: int,
    route: str,
) -> None:
    answer = client_of(root).request(method, path)
    (entry,) = entries(log, 1)
    assert entry == {
        "time": entry["time"],
        "level": "info",
        "logger": "app.access",
        "message": "request",
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": entry["duration_ms"],
        "request_id": answer.headers["X-Request-ID"],
    }
    assert answer.status_code == status
    assert 0 < entry["duration_ms"] < 60_000


@on_one_database
def test_nothing_that_a_client_writes_gets_into_the_log(client: httpx2.Client, log: io.StringIO) -> None:
    headers = dict.fromkeys(("User-Agent", "X-Request-ID", "Referer", "Origin", "X-Forwarded-For"), "INFO: FAKE")
    path = "/api/v1/users/%0d%0aINFO: FAKE%1b[31m"
    user = {"email": f"FAKE{FAKE}@example.com", "password": FAKE, "full_name": FAKE, "FAKE": FAKE}
    sent = [
        client.get(path, headers=headers | {"Authorization": "Bearer FAKE"}),
        client.get(path.replace("/api/v1/users", ""), headers=headers),
        client.get(f"/health?{path}", headers=headers),
        client.post("/api/v1/users/", json=user, headers=headers),
        client.post("/api/v1/auth/login", data={"username": FAKE, "password": FAKE}, headers=headers),
    ]
    assert [answer.status_code for answer in sent] == [401, 404, 200, 422, 422]
    written = entries(log, len(sent))
    assert [entry["request_id"] for entry in written] == [answer.headers["X-Request-ID"] for answer in sent]
    assert "FAKE" not in json.dumps(written)


@on_one_database
def test_a_forwarded_address_is_logged_only_if_it_is_valid(client: httpx2.Client, log: io.StringIO) -> None:
    form = {"username": "ada@example.com", "password": "not the one"}
    for address in ("FAKE ada@example.com", "fe80::1%FAKE", "192.0.2.1"):
        client.post("/api/v1/auth/login", data=form, headers={"X-Forwarded-For": address})
    failures = [json.loads(line) for line in log.getvalue().splitlines() if "login_failed" in line]
    assert [entry["address"] for entry in failures] == ["", "fe80::1", "192.0.2.1"]
    assert "FAKE" not in log.getvalue()


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("formatter", [JsonFormatter, LineFormatter])
def test_a_line_stays_one_line(formatter: type[JsonFormatter | LineFormatter], texts: bool) -> None:
    lines = formatter(texts=texts).format(record(FAKE, raised(ValueError(FAKE)), text=FAKE)).split("\n")
    assert not [c for line in lines for c in line if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    if formatter is JsonFormatter:
        (line,) = lines
        assert (json.loads(line)["message"], json.loads(line)["text"]) == (FAKE, FAKE)
    else:
        assert all(line.startswith("    ") for line in lines[1:])


@pytest.mark.parametrize("formatter", [JsonFormatter, LineFormatter])
def test_texts_of_exceptions_are_logged_only_in_development(formatter: type[JsonFormatter | LineFormatter]) -> None:
    def fail() -> None:
        try:
            raise KeyError("hunter2")
        except KeyError as error:
            raise ValueError("hunter3") from error

    with pytest.raises(ValueError, match="hunter3") as caught:
        fail()
    quiet, loud = (formatter(texts=texts).format(record("failed", caught.value)) for texts in (False, True))
    assert re.search(r"KeyError.*raise ValueError.*ValueError", quiet, re.DOTALL)
    assert "KeyError: 'hunter2'" in loud
    assert "ValueError: hunter3" in loud
    assert not re.search("Error: '?hunter", quiet)


@pytest.mark.timeout(10)
def test_an_exception_that_is_its_own_cause_has_an_end() -> None:
    error = raised(ValueError())
    error.__cause__ = error
    assert JsonFormatter(texts=False).format(record("failed", error)).count("ValueError") == 1


@pytest.mark.timeout(30)
def test_what_the_database_says_of_a_row_is_not_logged(service: Service, ada: User) -> None:
    values = ada.model_dump() | {"id": uuid.UUID(ID), "email": None, "full_name": HASHED}

    def store_half_a_row(session: Session) -> None:
        session.execute(insert(User).values(**values))

    with pytest.raises(IntegrityError) as caught:
        service.write(store_half_a_row)
    for formatter in (JsonFormatter(texts=False), LineFormatter(texts=False)):
        line = formatter.format(record("failed", caught.value))
        assert "IntegrityError" in line
        assert "argon2" not in line


@contextmanager
def listening() -> Iterator[io.StringIO]:
    """Records the log in the format of production, without the records of the tests' own client."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(texts=False))
    handler.addFilter(lambda record: not record.name.startswith("http"))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


@pytest.fixture(params=[False, True], ids=["as usual", "debugging"])
def debugged(request: pytest.FixtureRequest, service: Service) -> Iterator[Service]:
    """A second service, with or without debugging."""
    other = Service(service.settings.model_copy(update={"debug": request.param, "log_sql": request.param}))
    yield other
    other.stop()
    logs.configure(**service.settings.logging)


def test_no_secret_is_ever_logged(debugged: Service, ada: User) -> None:
    token = token_of(ada)
    new, wrong, weak = "a new passphrase", "a wrong passphrase", "hunter2"
    with listening() as log, httpx2.Client(base_url=f"{debugged.url}/api/v1", verify=NO_TLS) as client:

        def log_in(password: str) -> httpx2.Response:
            return client.post("/auth/login", data={"username": "bob@example.com", "password": password})

        def change(token: str, **values: str) -> httpx2.Response:
            return client.patch("/users/me", json=values, headers={"Authorization": f"Bearer {token}"})

        sent = [
            client.post("/users/", json={"email": "bob@example.com", "password": PASSWORD}),
            client.post("/users/", json={"email": "bob@example.com", "password": PASSWORD}),
            client.post("/users/", json={"email": "eve@example.com", "password": weak}),
            client.post("/users/", json={"email": "eve@example.com", "password": [PASSWORD], PASSWORD: 1}),
            client.post("/users/", content=json.dumps({"password": PASSWORD})),
            log_in(PASSWORD),
            log_in(wrong),
            change(token, current_password=PASSWORD, password=new),
            change(token, current_password=wrong, password=PASSWORD),
            change(f"{token}x", password=wrong),
            client.get(f"/users/?token={token}", headers={"Authorization": f"Basic {token}"}),
        ]
        assert [answer.status_code for answer in sent] == [201, 400, 422, 422, 415, 200, 401, 200, 400, 401, 401]
        loggers = [entry["logger"] for entry in entries(log, len(sent))]
    assert loggers.count("app.access") == len(sent)
    assert ("sqlalchemy.engine.Engine" in loggers) is debugged.settings.debug
    written = log.getvalue()
    secrets = (PASSWORD, new, wrong, weak, token, sent[5].json()["access_token"], "argon2", "Bearer", "Basic ")
    assert not [secret for secret in secrets if secret in written]
    assert "authorization" not in written.lower()


def test_in_development_polling_is_quiet_and_failures_are_told_in_full(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(service.settings.model_copy(update={"log_sql": True, "worker_enabled": True}))

    @app.get("/fail")
    async def fail() -> None:
        raise LookupError("no such venue")

    other = Service(app.state.settings, app)
    capsys.readouterr()
    try:
        for path in ("/health", "/health/ready", "/health/ready/", "/fail"):
            httpx2.get(f"{other.url}{path}", verify=NO_TLS)
        app.state.draining = True
        httpx2.get(f"{other.url}/health/ready", verify=NO_TLS)
        form = {"username": "ada@example.com", "password": PASSWORD}
        httpx2.post(f"{other.url}/api/v1/auth/login", data=form, verify=NO_TLS)
    finally:
        other.stop()
        logs.configure(**service.settings.logging)
    written = capsys.readouterr().err
    assert re.findall(r"route=(\S+) status=(\d+)", written) == [
        ("/fail", "500"),
        ("/health/ready", "503"),
        ("/api/v1/auth/login", "401"),
    ]
    assert "builtins.LookupError: no such venue" in written
    assert "FROM users" in written
    assert not re.search("FROM (jobs|alembic_version)", written)


@pytest.mark.slow
@on_one_database
def test_every_line_of_a_process_in_production_is_json(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log", ENVIRONMENT="production") as (url, process):
        for path in ("/health", "/%0d%0aINFO: FAKE%1b[31m", "/api/v1/users/me"):
            httpx2.get(url + path, headers={"X-Request-ID": "mine", "User-Agent": "FAKE"}, verify=NO_TLS)
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), 10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX-FAKE\x1b[31m\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        process.signal(signal.SIGTERM)
        process.wait()
        written = [json.loads(line) for line in process.text.splitlines()]
    messages = [entry["message"] for entry in written if entry["logger"].startswith("uvicorn")]
    assert any(message.startswith("Started server process") for message in messages)
    assert any(message.startswith("Finished server process") for message in messages)
    assert "Invalid HTTP request received." in messages
    mine = [entry for entry in written if entry.get("request_id") == "mine"]
    assert [(entry["route"], entry["status"]) for entry in mine] == [
        ("/health", 200),
        ("-", 404),
        ("/api/v1/users/me", 401),
    ]
    assert "FAKE" not in process.text
    assert "\x1b" not in process.text
