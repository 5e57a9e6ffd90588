"""Errors: all have the same format, whatever raised them, and contain no internal information."""

import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http import HTTPStatus
from http.client import HTTPConnection
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import AfterValidator, Base64Bytes, BaseModel, Field, field_validator
from sqlalchemy import insert
from sqlmodel import Session
from starlette.exceptions import HTTPException

from app.api.deps import Db
from app.core.db import now
from app.core.errors import AppError
from app.core.fields import Input
from app.core.security import encode_token
from app.main import create_app
from app.users import User, UserPublic
from tests.service import KEY, Service

ORIGIN = "http://localhost:3000"
SECRET = "$argon2id$hunter2"
ID = "019b76da-a800-7000-8000-0000facade00"

on_one_database = pytest.mark.parametrize("backend", ["sqlite"])


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def _no_venue(_value: str) -> str:
    raise ValueError("a booking needs a venue, and a time")


class Picky(Input):
    """Fields with validators of a product, of libraries and of pydantic."""

    own: Annotated[str, AfterValidator(_no_venue)]
    asserted: str
    builtin: Annotated[str, AfterValidator(int)]
    called: str
    library: Annotated[str, AfterValidator(ip_address)]
    json_: Annotated[str, AfterValidator(json.loads)]
    encoded: Annotated[str, AfterValidator(lambda value: f"é{value}".encode("ascii"))]
    zone: ZoneInfo
    time: datetime
    coded: Base64Bytes
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    @field_validator("asserted")
    @classmethod
    def _assert(cls, value: str) -> str:
        if value:
            raise AssertionError("should be empty")
        return value

    @field_validator("called")
    @classmethod
    def _call(cls, value: str) -> int:
        return int(value)


def add_faults(app: FastAPI) -> None:
    """Routes with defects. Each raises an exception whose text contains a secret."""
    row = {"id": uuid.UUID(ID), "created_at": now(), "updated_at": now(), "hashed_password": SECRET, "is_active": True}

    def store_half_a_row(session: Session) -> None:
        session.execute(insert(User).values(**row, is_superuser=False, version=1, email=None))

    def store_a_row_twice(session: Session) -> None:
        for number in range(2):
            values = row | {"is_superuser": False, "version": 1, "email": f"{SECRET}{number}@example.com"}
            session.execute(insert(User).values(**values))

    def ask_nonsense(session: Session) -> None:
        session.connection().exec_driver_sql(f"SELECT '{SECRET}' FROM nowhere")

    @app.get("/faults/exception")
    async def fail() -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error

    @app.post("/faults/validators")
    async def validate(_given: Picky) -> None:
        """Never called."""

    @app.get("/faults/http")
    async def fail_as_starlette_does() -> None:
        raise HTTPException(500, SECRET)

    @app.get("/faults/response", response_model=UserPublic)
    async def answer_what_is_not_declared() -> dict[str, Any]:
        return {"email": "ada@example.com", "is_active": SECRET, "hashed_password": SECRET}

    @app.get("/faults/row")
    async def break_a_constraint(db: Db) -> None:
        await db.write(store_half_a_row)

    @app.get("/faults/key")
    async def break_a_key(db: Db) -> None:
        await db.write(store_a_row_twice)

    @app.get("/faults/statement")
    async def break_a_statement(db: Db) -> None:
        await db.read(ask_nonsense)


@pytest.fixture(scope="module")
def _faulty() -> Iterator[dict[str, Service]]:
    services: dict[str, Service] = {}
    yield services
    for service in services.values():
        service.stop()


@pytest.fixture
def service(service: Service, _faulty: dict[str, Service]) -> Service:
    """The service, with some routes that fail."""
    url = service.settings.database_url
    if url not in _faulty:
        app = create_app(service.settings)
        add_faults(app)
        _faulty[url] = Service(service.settings, app)
    return _faulty[url]


def check(answer: httpx2.Response, problem: dict[str, Any]) -> None:
    """The answer is exactly this problem, with the id of the request, and a browser can read it."""
    instance = answer.headers["X-Request-ID"]
    assert uuid.UUID(instance).version == 7
    assert answer.json() == {"type": "about:blank", **problem, "instance": instance}
    assert answer.status_code == problem["status"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


NOT_FOUND = {"title": "Not Found", "status": 404, "detail": "Resource not found", "code": "not_found"}
TOO_LARGE = {
    "title": "Content Too Large",
    "status": 413,
    "detail": "The body is too large",
    "code": "content_too_large",
}
INVALID = {
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "The request is not valid",
    "code": "validation_error",
    "errors": [{"loc": ["body", "token"], "msg": "Field required", "type": "missing"}],
}
NOT_JSON = {"title": "Bad Request", "status": 400, "detail": "The body is not valid JSON", "code": "bad_request"}
UNSUPPORTED = {
    "title": "Unsupported Media Type",
    "status": 415,
    "detail": "The resource does not support this type of body",
    "code": "unsupported_media_type",
}
FORBIDDEN = {
    "title": "Forbidden",
    "status": 403,
    "detail": "The user doesn't have enough privileges",
    "code": "forbidden",
}
NOT_ALLOWED = {
    "title": "Method Not Allowed",
    "status": 405,
    "detail": "This resource does not support this method",
    "code": "method_not_allowed",
}
INTERNAL = {
    "title": "Internal Server Error",
    "status": 500,
    "detail": "An unexpected error occurred",
    "code": "internal_error",
}
JSON = {"Content-Type": "application/json"}


def as_told_at(path: str, problem: dict[str, Any]) -> dict[str, Any]:
    """The fields of OAuth 2 are present at token endpoints only."""
    is_token_endpoint = path.endswith(("/auth/login", "/auth/refresh", "/auth/revoke"))
    oauth = {"error": "invalid_request", "error_description": problem["detail"]}
    return problem | oauth if is_token_endpoint else problem


@on_one_database
@pytest.mark.parametrize(
    ("method", "path", "request_", "problem"),
    [
        ("GET", "/nowhere", {}, NOT_FOUND),
        ("POST", "/nowhere", {"json": {}}, NOT_FOUND),
        ("GET", "/api/v1/nowhere/", {}, NOT_FOUND),
        ("GET", "/docs/assets/nowhere", {}, NOT_FOUND),
        ("GET", f"/api/v1/users/{ID}", {}, NOT_FOUND),
        ("DELETE", f"/api/v1/users/{ID}", {}, FORBIDDEN),
        ("POST", "/api/v1/auth/email/verify", {"json": {}}, INVALID),
        ("POST", "/api/v1/users/", {"content": "{", "headers": JSON}, NOT_JSON),
        ("POST", "/api/v1/users/", {"content": "{}"}, UNSUPPORTED),
        ("TRACE", "/api/v1/users/", {}, NOT_ALLOWED),
    ],
)
def test_every_error_is_a_problem_of_one_shape(
    client_of: Callable[[User], httpx2.Client],
    ada: User,
    method: str,
    path: str,
    request_: dict[str, Any],
    problem: dict[str, Any],
) -> None:
    client = client_of(ada)
    client.headers["Origin"] = ORIGIN
    check(client.request(method, path, **request_), problem)


@on_one_database
@pytest.mark.parametrize(
    ("headers", "code", "detail", "challenge"),
    [
        ({}, "not_authenticated", "Not authenticated", "Bearer"),
        (
            {"Authorization": "Bearer x"},
            "invalid_token",
            "Could not validate credentials",
            'Bearer error="invalid_token"',
        ),
    ],
    ids=["no token", "a bad token"],
)
def test_who_is_not_logged_in_is_told_how(
    client: httpx2.Client, headers: dict[str, str], code: str, detail: str, challenge: str
) -> None:
    answer = client.get("/api/v1/users/", headers={"Origin": ORIGIN, **headers})
    check(answer, {"title": "Unauthorized", "status": 401, "detail": detail, "code": code})
    assert answer.headers["WWW-Authenticate"] == challenge


@on_one_database
def test_a_token_that_has_expired_is_told_so(client: httpx2.Client, ada: User) -> None:
    token = encode_token("access", ada.id, ada.id, timedelta(minutes=-1), key=KEY, algorithm="HS256")
    answer = client.get("/api/v1/users/", headers={"Origin": ORIGIN, "Authorization": f"Bearer {token}"})
    detail = "The access token has expired. Log in again."
    check(answer, {"title": "Unauthorized", "status": 401, "detail": detail, "code": "invalid_token"})
    challenge = f'Bearer error="invalid_token", error_description="{detail}"'
    assert answer.headers["WWW-Authenticate"] == challenge


@on_one_database
def test_a_405_names_every_method_that_there_is(client: httpx2.Client, service: Service) -> None:
    paths = {path: set(operations) for path, operations in service.app.openapi()["paths"].items()}
    assets = ("/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json")
    for path, methods in (paths | {path: {"get"} for path in assets}).items():
        answer = client.request("TRACE", re.sub("{.*?}", ID, path), headers={"Origin": ORIGIN})
        check(answer, as_told_at(path, NOT_ALLOWED))
        expected = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
        assert set(answer.headers["Allow"].split(", ")) == expected, path


@on_one_database
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/v1/users/"), ("POST", "/api/v1/auth/login"), ("GET", "/"), ("POST", "/nowhere")]
)
def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(
    service: Service, method: str, path: str
) -> None:
    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=10)
    connection.putrequest(method, path)
    for name, value in (*JSON.items(), ("Origin", ORIGIN), ("Content-Length", "5000000")):
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    check(
        httpx2.Response(response.status, headers=response.getheaders(), content=response.read()),
        as_told_at(path, TOO_LARGE),
    )
    connection.close()


@on_one_database
@pytest.mark.parametrize("path", ["/api/v1/users/", "/api/v1/auth/login"])
def test_a_body_that_turns_out_too_large_is_refused_alike(client: httpx2.Client, path: str) -> None:
    chunks = (b" " * 65_536 for _ in range(32))
    kind = "application/x-www-form-urlencoded" if path.endswith("login") else "application/json"
    answer = client.post(path, content=chunks, headers={"Content-Type": kind, "Origin": ORIGIN})
    check(answer, as_told_at(path, TOO_LARGE))


@on_one_database
def test_a_body_may_be_as_large_as_the_limit(client: httpx2.Client, service: Service) -> None:
    limit = service.settings.max_body_bytes
    assert client.post("/api/v1/users/", content=b" " * limit, headers=JSON).status_code == 400
    assert client.post("/api/v1/users/", content=b" " * (limit + 1), headers=JSON).status_code == 413


@pytest.mark.parametrize(
    ("fault", "exception"),
    [
        ("exception", "builtins.RuntimeError"),
        ("http", "starlette.exceptions.HTTPException"),
        ("response", "fastapi.exceptions.ResponseValidationError"),
        ("row", "sqlalchemy.exc.IntegrityError"),
        ("key", "sqlalchemy.exc.IntegrityError"),
        ("statement", "sqlalchemy.exc.(OperationalError|ProgrammingError)"),
    ],
)
def test_an_unexpected_exception_is_logged_and_not_shown_to_the_client(
    client: httpx2.Client, log: io.StringIO, fault: str, exception: str
) -> None:
    answer = client.get(f"/faults/{fault}", headers={"Origin": ORIGIN})
    check(answer, INTERNAL)
    (entry,) = [json.loads(line) for line in log.getvalue().splitlines() if '"level": "error"' in line]
    assert entry["request_id"] == answer.json()["instance"]
    assert 'File "' in entry["trace"]
    assert re.fullmatch(exception, entry["trace"].splitlines()[-1])
    assert "hunter2" not in log.getvalue()
    assert client.get("/api/v1/users/me").status_code == 401


@on_one_database
def test_a_validator_is_quoted_and_the_input_is_not(client: httpx2.Client) -> None:
    sent = dict.fromkeys(Picky.model_fields, "é hunter2") | {"pet": {"kind": "hunter2"}}
    answer = client.post("/faults/validators", json=sent)
    assert answer.status_code == 422
    assert {error["loc"][1]: error["msg"] for error in answer.json()["errors"]} == {
        "own": "a booking needs a venue, and a time",
        "asserted": "should be empty",
        **dict.fromkeys(("builtin", "called", "library", "json_", "encoded"), "Value error"),
        "zone": "invalid timezone",
        "time": "Input should be a valid datetime",
        "coded": "Base64 decoding error",
        "pet": "Input tag found using 'kind' does not match any of the expected tags: 'cat', 'dog'",
    }
    assert "hunter2" not in answer.text


def subclasses(kind: type[AppError]) -> Iterator[type[AppError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_error_has_a_code_of_its_own_and_the_title_of_its_status() -> None:
    kinds: list[type[AppError]] = [AppError, *subclasses(AppError)]
    said = {kind.code: kind.detail for kind in kinds}
    # A code may have two statuses (email_taken), but never two meanings.
    assert all(said[kind.code] == kind.detail for kind in kinds)
    renamed = {
        413: "Content Too Large",
        414: "URI Too Long",
        422: "Unprocessable Content",
    }  # RFC 9110; older Pythons have the old names
    for kind in kinds:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.code)
        assert kind.title == renamed.get(kind.status, HTTPStatus(kind.status).phrase)
        assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", kind.detail)  # RFC 6749 section 5.2
