"""How many statements each route sends to its database. They cost more than anything else that a request does."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sqlmodel import Session

from app import items
from app.items import Item, ItemCreate
from app.users import User
from tests.conftest import PASSWORD, statements
from tests.service import Service

# BEGIN and COMMIT are not counted. A number that rises is a cost for every request; one that falls is a gain to keep.
STATEMENTS = {
    "GET /health/live": 0,
    "GET /health/ready": 2,
    "POST /auth/login": 11,
    "POST /auth/refresh": 1,
    "GET /auth/sessions": 2,
    "DELETE /auth/sessions/others": 2,
    "POST /auth/logout": 3,
    "POST /users/": 6,
    "GET /users/me": 1,
    "PATCH /users/me": 3,
    "GET /users/": 2,
    "GET /users/{ada}": 3,
    "GET /items/": 2,
    "GET /items/?count=true&limit=1": 3,
    "GET /items/?q=it": 2,
    "POST /items/": 3,
    "GET /items/{item}": 2,
    "PATCH /items/{item}": 3,
    "DELETE /items/{item}": 3,
}

BODIES: dict[str, dict[str, Any]] = {
    "POST /users/": {"json": {"email": "new@example.com", "password": PASSWORD}},
    "PATCH /users/me": {"json": {"full_name": "Ada King"}},
    "POST /items/": {"json": {"title": "Item"}},
    "PATCH /items/{item}": {"json": {"title": "Other"}},
    "POST /auth/login": {"data": {"username": "ada@example.com", "password": PASSWORD}},
    "POST /auth/refresh": {"data": {"grant_type": "refresh_token"}},
}


def add_items(session: Session, owner: User) -> Item:
    return [items.create(session, owner, ItemCreate(title=f"Item {n}")) for n in range(3)][-1]


@pytest.mark.parametrize("route", STATEMENTS)
def test_a_route_sends_as_many_statements_as_are_written_down(
    client_of: Callable[[User], httpx2.Client], service: Service, ada: User, route: str
) -> None:
    client = client_of(ada)
    item = service.write(add_items, ada)
    method, path = route.format(ada=ada.id, item=item.id).split()
    prefix = "" if path.startswith("/health") else "/api/v1"
    content = BODIES.get(route, {})
    if route == "POST /auth/refresh":
        login = client.post("/api/v1/auth/login", **BODIES["POST /auth/login"]).json()
        content = {"data": content["data"] | {"refresh_token": login["refresh_token"]}}
    with statements(service) as sent:
        answer = client.request(method, prefix + path, **content)
    assert answer.is_success, answer.text
    sent = [statement for statement in sent if not statement.startswith("BEGIN")]
    listed = "\n\n".join(sent)
    assert len(sent) == STATEMENTS[route], (
        f"{route} sends {len(sent)} statements. If that is meant, change STATEMENTS in {__file__}:\n\n{listed}"
    )
