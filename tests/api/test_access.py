"""Who may do what: every route, for every kind of caller."""

import uuid
from collections.abc import Iterator
from typing import Any, get_args

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from sqlalchemy import delete
from sqlmodel import Session, SQLModel

from app.items import Item
from app.main import create_app
from app.users import User
from tests.conftest import HASHED, PASSWORD, log_in, token_of
from tests.service import Service, settings

CALLERS = ("nobody", "inactive", "other", "owner", "superuser")

EVERYONE = (200, 200, 200, 200, 200)
# In the order of CALLERS. What is asked for belongs to the owner; a second superuser looks on.
ACCESS = {
    "GET /": EVERYONE,
    "GET /health": EVERYONE,
    "GET /health/live": EVERYONE,
    "GET /health/ready": EVERYONE,
    "GET /.well-known/oauth-authorization-server": EVERYONE,
    "GET /openapi.json": EVERYONE,
    "GET /docs": EVERYONE,
    "GET /docs/start.js": EVERYONE,
    "GET /docs/assets": EVERYONE,
    "POST /api/v1/auth/login": EVERYONE,
    "POST /api/v1/auth/refresh": (400, 400, 400, 400, 400),
    "POST /api/v1/auth/revoke": EVERYONE,
    "POST /api/v1/auth/logout": (401, 400, 204, 204, 204),
    "GET /api/v1/auth/sessions": (401, 400, 200, 200, 200),
    "DELETE /api/v1/auth/sessions/others": (401, 400, 204, 204, 204),
    "DELETE /api/v1/auth/sessions/{session_id}": (401, 400, 404, 204, 404),
    "POST /api/v1/auth/email/verify": (400, 400, 400, 400, 400),
    "POST /api/v1/auth/email/verify/request": (202, 202, 202, 202, 202),
    "POST /api/v1/auth/password/forgot": (202, 202, 202, 202, 202),
    "POST /api/v1/auth/password/reset": (400, 400, 400, 400, 400),
    "GET /api/v1/users/": (401, 400, 200, 200, 200),
    "POST /api/v1/users/": (201, 400, 201, 201, 201),
    "GET /api/v1/users/me": (401, 400, 200, 200, 200),
    "PATCH /api/v1/users/me": (401, 400, 200, 200, 200),
    "DELETE /api/v1/users/me": (401, 400, 204, 204, 204),
    "DELETE /api/v1/users/me/pending-email": (401, 400, 204, 204, 204),
    "GET /api/v1/users/{user_id}": (401, 400, 404, 200, 200),
    "PATCH /api/v1/users/{user_id}": (401, 400, 403, 403, 200),
    "DELETE /api/v1/users/{user_id}": (401, 400, 403, 403, 204),
    "GET /api/v1/items/": (401, 400, 200, 200, 200),
    "POST /api/v1/items/": (401, 400, 201, 201, 201),
    "GET /api/v1/items/{item_id}": (401, 400, 404, 200, 200),
    "PATCH /api/v1/items/{item_id}": (401, 400, 404, 200, 200),
    "DELETE /api/v1/items/{item_id}": (401, 400, 404, 204, 204),
    "GET /api/v1/emails/": (401, 400, 403, 403, 200),
    "POST /api/v1/emails/": (401, 400, 403, 403, 202),
}
REQUESTS: dict[str, dict[str, Any]] = {
    "POST /api/v1/auth/login": {"data": {"username": "owner@example.com", "password": PASSWORD}},
    "POST /api/v1/auth/refresh": {"data": {"grant_type": "refresh_token", "refresh_token": "none"}},
    "POST /api/v1/auth/revoke": {"data": {"token": "none"}},
    "POST /api/v1/auth/email/verify": {"json": {"token": "none"}},
    "POST /api/v1/auth/email/verify/request": {"json": {"email": "owner@example.com"}},
    "POST /api/v1/auth/password/forgot": {"json": {"email": "owner@example.com"}},
    "POST /api/v1/auth/password/reset": {"json": {"token": "none", "new_password": PASSWORD}},
    "POST /api/v1/emails/": {"json": {"email": "owner@example.com"}},
    "POST /api/v1/users/": {"json": {"email": "new@example.com", "password": PASSWORD}},
    "PATCH /api/v1/users/me": {"json": {"full_name": "Changed"}},
    "PATCH /api/v1/users/{user_id}": {"json": {"full_name": "Changed"}},
    "POST /api/v1/items/": {"json": {"title": "New"}},
    "PATCH /api/v1/items/{item_id}": {"json": {"title": "Changed"}},
}
FILES = {"/docs/assets": "/docs/assets/swagger-ui.css"}

PUBLIC = {
    "GET /",
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "GET /.well-known/oauth-authorization-server",
    "GET /openapi.json",
    "GET /docs",
    "GET /docs/start.js",
    "GET /docs/assets",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/revoke",  # these prove by a token of their own who asks, or ask for one to be sent
    "POST /api/v1/auth/email/verify",
    "POST /api/v1/auth/email/verify/request",
    "POST /api/v1/auth/password/forgot",
    "POST /api/v1/auth/password/reset",
    "POST /api/v1/users/",  # where sign-up is open: it asks who calls, and is content with nobody
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(settings())


def routes(app: FastAPI) -> Iterator[tuple[str, RouteContext]]:
    for route in iter_route_contexts(app.routes):
        methods = route.methods or {"GET"}  # a mount has none
        for method in methods - {"HEAD"} or methods:
            yield f"{method} {route.path}", route


def api_routes(app: FastAPI) -> list[tuple[str, RouteContext]]:
    found = [(name, route) for name, route in routes(app) if isinstance(route.original_route, APIRoute)]
    assert len(found) >= 18
    return found


def test_every_route_has_its_row_in_the_table_and_every_row_its_route(app: FastAPI) -> None:
    assert sorted(name for name, _ in routes(app)) == sorted(ACCESS)
    assert set(REQUESTS) <= set(ACCESS)


@pytest.mark.parametrize(("name", "expected"), ACCESS.items(), ids=ACCESS)
def test_each_caller_may_do_what_the_table_says(
    client: httpx2.Client, service: Service, name: str, expected: tuple[int, ...]
) -> None:
    def set_the_stage(session: Session) -> tuple[dict[str, User], uuid.UUID]:
        session.execute(delete(User))
        cast = {caller: User(email=f"{caller}@example.com", hashed_password=HASHED) for caller in CALLERS[1:]}
        cast["second"] = User(email="second@example.com", hashed_password=HASHED, is_superuser=True)
        cast["inactive"].is_active = False
        cast["superuser"].is_superuser = True
        session.add_all(cast.values())
        session.flush()
        for user in cast.values():
            log_in(session, user)
        item = Item(title="Notes", owner_id=cast["owner"].id)
        session.add(item)
        return cast, item.id

    method, template = name.split()
    answers = []
    for caller in CALLERS:
        cast, item_id = service.write(set_the_stage)
        owner_id = cast["owner"].id
        path = FILES.get(template, template).format(user_id=owner_id, item_id=item_id, session_id=owner_id)
        headers = {} if caller == "nobody" else {"Authorization": f"Bearer {token_of(cast[caller])}"}
        answers.append(client.request(method, path, headers=headers, **REQUESTS.get(name, {})))
    assert dict(zip(CALLERS, [answer.status_code for answer in answers], strict=True)) == dict(
        zip(CALLERS, expected, strict=True)
    )
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers) or template in FILES


def test_routes_that_ask_for_no_user_are_listed(app: FastAPI) -> None:
    def asks(dependant: Dependant) -> bool:
        return isinstance(dependant.call, SecurityBase) or any(map(asks, dependant.dependencies))

    public = {
        name
        for name, route in routes(app)
        if not (isinstance(route.original_route, APIRoute) and asks(route.dependant))
    }
    assert public == PUBLIC


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation is made of, to any depth."""
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


def test_no_request_body_is_a_table(app: FastAPI) -> None:
    bodies = set()
    for name, route in api_routes(app):
        if "requestBody" in (route.openapi_extra or {}):
            bodies.add(
                name
            )  # a form, whose model the document describes as it is: see test_no_schema_has_a_hidden_column
        if field := route.body_field:
            models = list(models_in(field.field_info.annotation))
            assert models, name
            assert not any(map(is_table, models)), name
            bodies.add(name)
    assert bodies == set(REQUESTS)


def test_every_body_refuses_fields_that_it_does_not_know(app: FastAPI) -> None:
    for _, route in api_routes(app):
        if field := route.body_field:  # OAuth2 asks to ignore them in forms
            for model in models_in(field.field_info.annotation):
                assert model.model_config.get("extra") == "forbid", model


def test_every_answer_is_a_public_model(app: FastAPI) -> None:
    for name, route in api_routes(app):
        if route.status_code == 204:
            assert route.response_model is None, name
            continue
        assert not any(map(is_table, models_in(route.response_model))), name
        assert list(models_in(route.response_model)), name


def test_no_schema_has_a_hidden_column(app: FastAPI) -> None:
    hidden = {"hashed_password", "version"}
    assert hidden <= set(User.model_fields)
    schemas = app.openapi()["components"]["schemas"]
    assert {"UserPublic", "ItemPublic", "UserWithItems"} <= set(schemas)
    for name, schema in schemas.items():
        assert not hidden & set(schema.get("properties", {})), name
