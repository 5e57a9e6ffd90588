"""Access: the status of every route for every kind of caller."""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel
from sqlmodel import Session, SQLModel

from app.api import v1
from app.main import create_app
from app.users import User
from tests.conftest import HASHED, empty, log_in, token_of
from tests.service import Service, settings

CALLERS = ("nobody", "inactive", "other", "owner", "superuser")

EVERYONE = (200, 200, 200, 200, 200)
# Routes that belong to no domain. The tests of each domain define the same names for its routes.
ACCESS = {
    "GET /": EVERYONE,
    "GET /health": EVERYONE,
    "GET /health/live": EVERYONE,
    "GET /health/ready": EVERYONE,
    "GET /.well-known/oauth-authorization-server": EVERYONE,
    "GET /openapi.json": EVERYONE,
    "GET /docs": EVERYONE,
    "GET /docs/start.js": EVERYONE,
    "GET /docs/page.css": EVERYONE,
    "GET /docs/assets": EVERYONE,
    "GET /favicon.ico": EVERYONE,
}
FILES = {"/docs/assets": "/docs/assets/swagger-ui.css", "/favicon.ico": "/favicon.ico"}
"""What is a file, which a browser may keep, and the path to ask for it."""
PREFIX = "/api/v1/"

REMEDY = """Who may call these routes? Add a row for each to ACCESS in the file below.
A row has the status for each caller: nobody, an inactive user, another user, the owner, a superuser.
The rows below are guesses. REQUESTS of the same file has the arguments of the requests. `stage(session, owner)` adds
the rows that they need and returns the values of path parameters.
"""


class Row(NamedTuple):
    """The row of a route: the status for each caller, the arguments of the request, and the stage."""

    statuses: tuple[int, ...]
    request: dict[str, Any]
    stage: Callable[[Session, User], dict[str, object]]


def file_of(path: str) -> str:
    """The test file for the row of a path."""
    domain = path.removeprefix(PREFIX).partition("/")[0]
    return f"tests/api/test_{domain if path.startswith(PREFIX) else 'access'}.py"


def rows_of(file: str) -> dict[str, Row]:
    module = file.removesuffix(".py").replace("/", ".")
    if not importlib.util.find_spec(module):
        return {}
    found = vars(importlib.import_module(module))
    requests, stage = found.get("REQUESTS", {}), found.get("stage", lambda _session, _owner: {})
    return {name: Row(statuses, requests.get(name, {}), stage) for name, statuses in found.get("ACCESS", {}).items()}


def all_rows() -> dict[str, Row]:
    """The rows of all domains, and of what belongs to none."""
    files = [file_of(f"{PREFIX}{v1.tag(domain)['name']}") for domain in v1.DOMAINS]
    return {name: row for file in (file_of("/"), *files) for name, row in rows_of(file).items()}


ROWS = all_rows()


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(settings())


def routes(app: FastAPI) -> Iterator[tuple[str, RouteContext]]:
    for route in iter_route_contexts(app.routes):
        methods = route.methods or {"GET"}  # a mount has no methods
        for method in methods - {"HEAD"} or methods:
            yield f"{method} {route.path}", route


def api_routes(app: FastAPI) -> list[tuple[str, RouteContext]]:
    found = [(name, route) for name, route in routes(app) if isinstance(route.original_route, APIRoute)]
    assert found
    return found


def needs_a_token(app: FastAPI, name: str) -> bool:
    """Whether the document requires a token. An operation may have alternatives, and one may be without a token."""
    method, path = name.split()
    ways = app.openapi()["paths"].get(path, {}).get(method.lower(), {}).get("security", [])
    return bool(ways) and {} not in ways


def test_every_route_has_its_row_and_every_row_its_route(app: FastAPI) -> None:
    missing: dict[str, list[str]] = {}
    for name, route in routes(app):
        status = getattr(route, "status_code", None) or 200
        guess = (401, 400, *[status] * 3) if needs_a_token(app, name) else (status,) * 5
        if name not in ROWS:
            missing.setdefault(file_of(route.path or ""), []).append(f'    "{name}": {guess},')
    if missing:
        lines = [line for file, rows in missing.items() for line in (f"{file}:", *rows)]
        pytest.fail("\n".join([REMEDY, *lines]), pytrace=False)
    assert set(ROWS) == {name for name, _ in routes(app)}


@pytest.mark.parametrize(("name", "row"), ROWS.items(), ids=ROWS)
def test_each_caller_may_do_what_the_table_says(client: httpx2.Client, service: Service, name: str, row: Row) -> None:
    def set_the_stage(session: Session) -> tuple[dict[str, User], dict[str, object]]:
        empty(session)
        cast = {caller: User(email=f"{caller}@example.com", hashed_password=HASHED) for caller in CALLERS[1:]}
        cast["second"] = User(email="second@example.com", hashed_password=HASHED, is_superuser=True)
        cast["inactive"].is_active = False
        cast["superuser"].is_superuser = True
        session.add_all(cast.values())
        session.flush()
        for user in cast.values():
            log_in(session, user)
        return cast, row.stage(session, cast["owner"])

    method, template = name.split()
    answers = []
    for caller in CALLERS:
        cast, values = service.write(set_the_stage)
        path = re.sub(r":\w+}", "}", template).format(**values)
        headers = {} if caller == "nobody" else {"Authorization": f"Bearer {token_of(cast[caller])}"}
        answers.append(client.request(method, FILES.get(path, path), headers=headers, **row.request))
    assert dict(zip(CALLERS, [answer.status_code for answer in answers], strict=True)) == dict(
        zip(CALLERS, row.statuses, strict=True)
    )
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers) or template in FILES


def test_the_document_says_which_operations_need_a_token(app: FastAPI) -> None:
    for name, row in ROWS.items():
        assert needs_a_token(app, name) == (row.statuses[0] == 401), name


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models in an annotation, at any depth."""
    pending, seen = [annotation], set()
    while pending:
        each = pending.pop()
        if isinstance(each, type) and issubclass(each, BaseModel):
            if each not in seen:
                seen.add(each)
                yield each
                pending += [field.annotation for field in each.model_fields.values()]
        else:
            pending += get_args(each)


def is_table(model: type[BaseModel]) -> bool:
    return issubclass(model, SQLModel) and hasattr(model, "__table__")


def test_models_are_found_at_any_depth() -> None:
    class Page(BaseModel):
        rows: dict[str, list[User | None]]

    assert [model for model in models_in(list[Page]) if is_table(model)] == [User]


def test_no_request_body_is_a_table_and_each_refuses_unknown_fields(app: FastAPI) -> None:
    # A form is documented separately, and ignores unknown parameters, as OAuth 2 requires.
    bodies = [(name, route.body_field) for name, route in api_routes(app) if route.body_field]
    assert bodies
    for name, field in bodies:
        for model in models_in(field.field_info.annotation):
            assert not is_table(model), name
            assert model.model_config.get("extra") == "forbid", (name, model)


def test_no_answer_is_a_table(app: FastAPI) -> None:
    for name, route in api_routes(app):
        assert not any(map(is_table, models_in(route.response_model))), name


def test_no_schema_has_a_hidden_column(app: FastAPI) -> None:
    hidden = {"hashed_password", "version"}
    assert hidden <= set(User.model_fields)
    schemas = app.openapi()["components"]["schemas"]
    assert "UserPublic" in schemas
    for name, schema in schemas.items():
        assert not hidden & set(schema.get("properties", {})), name
