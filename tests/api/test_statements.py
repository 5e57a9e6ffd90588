"""The number of SQL statements per route. They are the most expensive part of a request."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from app.api.v1.users import user_view
from app.users import User
from tests.conftest import PASSWORD, statements
from tests.product import lighthouses, sightings
from tests.product.lighthouses import Colour, LampCreate, LighthouseCreate
from tests.product.sightings import SightingCreate
from tests.service import Service

# BEGIN and COMMIT are not counted. A higher number makes every request slower. Keep a lower number.
STATEMENTS = {
    "GET /health/live": 0,
    "GET /health/ready": 2,
    "POST /api/v1/auth/login": 9,
    "POST /api/v1/auth/refresh": 1,
    "GET /api/v1/auth/sessions": 2,
    "DELETE /api/v1/auth/sessions/others": 2,
    "POST /api/v1/auth/logout": 3,
    "POST /api/v1/users/": 5,
    "GET /api/v1/users/me": 1,
    "PATCH /api/v1/users/me": 3,
    "GET /api/v1/users/": 2,
    "GET /api/v1/users/{ada}": 2,
}
SHOW_A_USER = {"POST /api/v1/users/", "GET /api/v1/users/{ada}"}
"""These routes also send the statements of the view of a user, which higher domains extend."""

BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/users/": {"json": {"email": "new@example.com", "password": PASSWORD}},
    "PATCH /api/v1/users/me": {"json": {"full_name": "Ada King"}},
    "POST /api/v1/auth/login": {"data": {"username": "ada@example.com", "password": PASSWORD}},
}


def assert_sends(service: Service, client: httpx2.Client, expected: int, route: str, **content: Any) -> None:
    """Assert that a route ("GET /path") sends the expected number of statements."""
    with statements(service) as sent:
        answer = client.request(*route.split(), **content)
    assert answer.is_success, answer.text
    sent = [statement for statement in sent if not statement.startswith("BEGIN")]
    listed = "\n\n".join(sent)
    assert len(sent) == expected, (
        f"{route} sends {len(sent)} statements. If this is intended, change STATEMENTS of this test:\n\n{listed}"
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


PRODUCT = {
    "GET /api/v1/sightings/": 2,
    "GET /api/v1/sightings/?count=true&limit=1": 3,
    "GET /api/v1/sightings/?q=sail": 2,
    "POST /api/v1/sightings/": 3,
    "GET /api/v1/sightings/{sighting}": 2,
    "PATCH /api/v1/sightings/{sighting}": 3,
    "DELETE /api/v1/sightings/{sighting}": 3,
    "GET /api/v1/lighthouses/": 2,
    "POST /api/v1/lighthouses/": 3,
    "GET /api/v1/lighthouses/{lighthouse}": 4,
    "PATCH /api/v1/lighthouses/{lighthouse}": 5,
    "POST /api/v1/lighthouses/{lighthouse}/lamps": 5,
}
"""One more statement for each relationship, for any number of rows."""

PRODUCT_BODIES: dict[str, Any] = {
    "POST /api/v1/sightings/": {"title": "A sail"},
    "PATCH /api/v1/sightings/{sighting}": {"title": "Two sails"},
    "POST /api/v1/lighthouses/": {"name": "Fastnet", "lamps": [{"watts": 1}, {"watts": 2, "colour": "red"}]},
    "PATCH /api/v1/lighthouses/{lighthouse}": {"name": "Fastnet"},
    "POST /api/v1/lighthouses/{lighthouse}/lamps": {"watts": 3, "colour": "green"},
}

LIGHTHOUSE = LighthouseCreate(name="Eddystone", lamps=[LampCreate(watts=1), LampCreate(watts=2, colour=Colour.RED)])


@pytest.mark.product
@pytest.mark.parametrize("route", PRODUCT)
def test_a_route_of_a_product_sends_as_many_statements_as_are_written_down(
    client_of: Callable[[User], httpx2.Client], service: Service, ada: User, route: str
) -> None:
    sighting = [service.write(sightings.create, ada, SightingCreate(title="A sail")) for _ in "123"][-1]
    lighthouse = service.write(lighthouses.create, ada, LIGHTHOUSE)
    target = route.format(sighting=sighting.id, lighthouse=lighthouse.id)
    assert_sends(service, client_of(ada), PRODUCT[route], target, json=PRODUCT_BODIES.get(route))
