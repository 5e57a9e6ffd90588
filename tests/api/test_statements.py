"""How many statements each route sends to its database. They cost more than anything else that a request does."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from app.api.v1.users import user_view
from app.users import User
from tests.conftest import PASSWORD, statements
from tests.service import Service

# BEGIN and COMMIT are not counted. A number that rises is a cost for every request; one that falls is a gain to keep.
STATEMENTS = {
    "GET /health/live": 0,
    "GET /health/ready": 2,
    "POST /api/v1/auth/login": 11,
    "POST /api/v1/auth/refresh": 1,
    "GET /api/v1/auth/sessions": 2,
    "DELETE /api/v1/auth/sessions/others": 2,
    "POST /api/v1/auth/logout": 3,
    "POST /api/v1/users/": 6,
    "GET /api/v1/users/me": 1,
    "PATCH /api/v1/users/me": 3,
    "GET /api/v1/users/": 2,
    "GET /api/v1/users/{ada}": 2,
}
SHOW_A_USER = {"POST /api/v1/users/", "GET /api/v1/users/{ada}"}
"""These send what the view of a user sends, too: what the domains above show of a user."""

BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/users/": {"json": {"email": "new@example.com", "password": PASSWORD}},
    "PATCH /api/v1/users/me": {"json": {"full_name": "Ada King"}},
    "POST /api/v1/auth/login": {"data": {"username": "ada@example.com", "password": PASSWORD}},
}


def assert_sends(service: Service, client: httpx2.Client, expected: int, route: str, **content: Any) -> None:
    """That a route ("GET /path") sends so many statements."""
    with statements(service) as sent:
        answer = client.request(*route.split(), **content)
    assert answer.is_success, answer.text
    sent = [statement for statement in sent if not statement.startswith("BEGIN")]
    listed = "\n\n".join(sent)
    assert len(sent) == expected, (
        f"{route} sends {len(sent)} statements. If that is meant, change STATEMENTS of this test:\n\n{listed}"
    )


@pytest.mark.parametrize("route", STATEMENTS)
def test_a_route_sends_as_many_statements_as_are_written_down(
    client_of: Callable[[User], httpx2.Client], service: Service, ada: User, route: str
) -> None:
    client = client_of(ada)
    content = BODIES.get(route, {})
    if route == "POST /api/v1/auth/refresh":
        login = client.post("/api/v1/auth/login", **BODIES["POST /api/v1/auth/login"]).json()
        content = {"data": {"grant_type": "refresh_token", "refresh_token": login["refresh_token"]}}
    expected = STATEMENTS[route]
    if route in SHOW_A_USER:
        with statements(service) as of_the_view:
            service.read(user_view, ada)
        expected += len(of_the_view)
    assert_sends(service, client, expected, route.format(ada=ada.id), **content)
