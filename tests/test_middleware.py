"""Middleware: request ids, headers, HEAD, trailing slashes, CORS, size limits."""

import asyncio
import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import Message

from app.main import create_app
from app.users import User
from tests.conftest import token_of
from tests.service import Service, settings

Clients = Callable[[User], httpx2.Client]
ORIGIN = "http://localhost:3000"
ID = "019b76da-a800-7000-8000-0000facade00"
EVERY_ANSWER = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def paths_of(app: FastAPI) -> dict[str, set[str]]:
    """All paths of the app, with example parameters, and the methods of their routes."""
    paths: dict[str, set[str]] = {"/docs/assets/swagger-ui.css": {"GET"}}
    for route in iter_route_contexts(app.routes):
        if route.methods:
            paths.setdefault(re.sub("{.*?}", ID, route.path or ""), set()).update(route.methods)
    return paths


def call(
    app: FastAPI, *, headers: dict[str, str] | None = None, body: tuple[bytes, ...] = (b"",), **scope: Any
) -> httpx2.Response:
    """Send one request directly to the application, like a server behind any proxy."""
    messages: list[Message] = []
    chunks = list(body)
    whole = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/health",
        "query_string": b"",
        "scheme": "http",
        "headers": [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in ({"Host": "localhost"} | (headers or {})).items()
        ],
        **scope,
    }

    async def receive() -> Message:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(app(whole, receive, send))
    start, *rest = messages
    content = b"".join(message["body"] for message in rest)
    return httpx2.Response(start["status"], headers=start["headers"], content=content)


@pytest.fixture
def backend() -> str:
    """The database does not matter here."""
    return "sqlite"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """An application without a server and a database."""
    return create_app(settings(max_body_bytes=1024))


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 64, "019b76da-a800-7000-8000-0000facade00"])
def test_a_request_keeps_the_id_that_it_came_with(client: httpx2.Client, given: str) -> None:
    answer = client.get("/nowhere", headers={"X-Request-ID": given})
    assert answer.headers.get_list("X-Request-ID") == [given]
    assert answer.json()["instance"] == given


@pytest.mark.parametrize(
    "given", ["", "x" * 65, "x" * 10_240, "a b", "a\tb", 'a"b', "a/b", "<b>", "a;b", "a,b", "ä", "日本"]
)
def test_an_id_that_could_be_anything_else_is_replaced(client: httpx2.Client, given: str) -> None:
    answer = client.get("/nowhere", headers=[(b"X-Request-ID", given.encode())])
    assert uuid.UUID(answer.headers["X-Request-ID"]).version == 7
    assert answer.json()["instance"] == answer.headers["X-Request-ID"]


def test_an_id_is_one_line_even_for_a_server_that_lets_more_through(app: FastAPI) -> None:
    for given in ("a\r\nSet-Cookie: b", "a\n", "a\0", "\x1b[31m"):
        answer = call(app, headers={"X-Request-ID": given})
        assert answer.headers["X-Request-ID"] != given
        assert "Set-Cookie" not in answer.headers


def test_every_answer_has_the_security_headers(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    for path in ("/", "/nowhere", "/api/v1/users/", "/api/v1/users/x", "/openapi.json"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in EVERY_ANSWER} == EVERY_ANSWER
        assert headers["Cache-Control"] == "no-store"


def test_documentation_has_them_too_with_a_policy_of_its_own(client: httpx2.Client) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/assets/swagger-ui.css"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert {name: headers[name] for name in EVERY_ANSWER} == EVERY_ANSWER | {"Content-Security-Policy": policy}
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy


def test_an_unexpected_error_has_them_too() -> None:
    app = create_app(settings())

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError

    answer = call(app, path="/fail", headers={"Origin": ORIGIN, "X-Request-ID": "this"})
    assert answer.status_code == 500
    assert {name: answer.headers[name] for name in EVERY_ANSWER} == EVERY_ANSWER
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-ID"] == answer.json()["instance"] == "this"
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_only_over_https_are_browsers_told_to_stay_there(app: FastAPI) -> None:
    for path in ("/health", "/nowhere"):
        assert "Strict-Transport-Security" not in call(app, path=path, scheme="http").headers
        policy = call(app, path=path, scheme="https").headers["Strict-Transport-Security"]
        assert int(policy.removeprefix("max-age=")) >= 31_536_000


def test_nobody_stores_what_was_answered_to_a_user(client_of: Clients, ada: User, service: Service) -> None:
    client = client_of(ada)
    for path, methods in paths_of(service.app).items():
        if path.startswith("/api/v1/"):
            for method in methods - {"DELETE"}:
                assert client.request(method, path, json={}).headers["Cache-Control"] == "no-store"


def test_head_is_get_without_the_body(client_of: Clients, ada: User, service: Service) -> None:
    client = client_of(ada)
    client.headers["X-Request-ID"] = "this"
    for path, methods in paths_of(service.app).items():
        if "GET" in methods:
            got, head = client.get(path), client.head(path)
            assert got.content
            assert (head.status_code, head.content) == (got.status_code, b""), path
            dated = {"date": "now"}
            assert dict(head.headers) | dated == dict(got.headers) | dated, path


def test_head_has_no_body_whatever_the_server_makes_of_it(app: FastAPI) -> None:
    for path in ("/health", "/nowhere", "/openapi.json"):
        got, head = (call(app, method=method, path=path) for method in ("GET", "HEAD"))
        assert (head.content, head.status_code) == (b"", got.status_code)
        assert head.headers["Content-Length"] == str(len(got.content))


def test_a_slash_at_the_end_makes_no_difference(client_of: Clients, ada: User, service: Service) -> None:
    client = client_of(ada)
    with_body = {
        (re.sub("{.*?}", ID, path), method.upper())
        for path, operations in service.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    for host in (client.base_url.netloc.decode(), "evil"):
        for path, methods in paths_of(service.app).items():
            if path == "/":
                continue
            other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
            # Requests without a body succeed, so the second one may be logged out.
            harmless = {method for method in methods if method in ("GET", "HEAD") or (path, method) in with_body}
            for method in harmless | {"OPTIONS", "TRACE"}:
                one, two = (client.request(method, each, headers={"Host": host}) for each in (path, other))
                assert one.status_code == two.status_code, (method, path)
                assert not one.is_redirect
                assert one.headers.get("Allow") == two.headers.get("Allow")
                if path != "/.well-known/oauth-authorization-server":  # it repeats the host of the request
                    assert "evil" not in f"{one.text}{two.text}{one.headers}{two.headers}"


def test_what_is_deleted_may_be_named_with_a_slash(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    assert client.delete(f"/api/v1/auth/sessions/{ID}/").status_code == 404
    assert client.delete("/api/v1/users/me/").status_code == 204
    assert client.delete("/api/v1/users/me").status_code == 401


@pytest.mark.parametrize("path", ["/health//", "//health", "/nowhere/", "/api/v1//users", "/docs//", "/api/v1"])
def test_other_slashes_lead_nowhere(client: httpx2.Client, path: str) -> None:
    assert client.get(f"{client.base_url}".rstrip("/") + path).status_code == 404


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT"])
def test_a_method_that_is_not_there_is_refused(client: httpx2.Client, method: str) -> None:
    answer = client.request(method, "/api/v1/users/")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_a_literal_path_is_never_taken_for_one_with_a_parameter() -> None:
    app = create_app(settings())

    @app.put("/things/{name}")
    async def replace_thing(name: str) -> str:
        return name

    @app.get("/things/all")
    async def list_things() -> list[str]:
        return []

    answer = call(app, method="PUT", path="/things/all")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert call(app, method="PUT", path="/things/one").json() == "one"


@pytest.mark.parametrize("method", ["BREW", "get", ""])
def test_a_method_of_no_standard_is_refused_where_the_server_lets_it_through(app: FastAPI, method: str) -> None:
    answer = call(app, method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_listed_origin_may_read_answers_and_errors(client: httpx2.Client) -> None:
    for path, status in (("/health", 200), ("/nowhere", 404), ("/api/v1/users/me", 401)):
        answer = client.get(path, headers={"Origin": ORIGIN})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000.evil.example", "https://localhost:3000", "*"]
)
def test_an_unlisted_origin_may_not(client: httpx2.Client, origin: str) -> None:
    answer = client.get("/health", headers={"Origin": origin})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Origin" in answer.headers["Vary"]
    preflight = client.options("/health", headers={"Origin": origin, "Access-Control-Request-Method": "GET"})
    assert (preflight.status_code, preflight.headers["Content-Type"]) == (400, "application/problem+json")
    assert preflight.json() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "This origin, method or header is not allowed",
        "code": "bad_request",
        "instance": preflight.headers["X-Request-ID"],
    }
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert "Origin" in preflight.headers["Vary"]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_a_preflight_is_answered_before_anybody_logs_in(client: httpx2.Client, method: str) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    answer = client.options("/api/v1/users/", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert method in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert {"authorization", "content-type"} <= set(re.split(", *", allowed))
    assert "Origin" in answer.headers["Vary"]


def test_a_preflight_for_a_strange_method_is_a_problem(client: httpx2.Client) -> None:
    answer = client.options("/health", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "BREW"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize(
    ("sizes", "status"), [((1024,), 400), ((512, 512), 400), ((512, 513), 413), ((1,) * 1025, 413)]
)
def test_a_body_is_measured_across_its_chunks(app: FastAPI, sizes: tuple[int, ...], status: int) -> None:
    answer = call(
        app,
        method="POST",
        path="/api/v1/users/",
        headers={"Content-Type": "application/json"},
        body=tuple(b" " * size for size in sizes),
    )
    assert answer.status_code == status


@pytest.mark.parametrize("declared", ["-1", "x", "1e9", "", "5.0", "0x5"])
def test_a_length_that_is_no_number_is_no_reason_to_fail(app: FastAPI, declared: str) -> None:
    assert call(app, headers={"Content-Length": declared}).status_code == 200


def test_a_token_is_never_answered(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    for path in ("/", "/nowhere", "/api/v1/users/me"):
        answer = client.get(path)
        assert token_of(ada).rpartition(".")[2] not in f"{answer.headers}{answer.text}"
