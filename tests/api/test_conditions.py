"""Conditional requests (RFC 9110 section 13)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from app.users import User
from tests.product import sightings
from tests.product.sightings import Sighting, SightingCreate
from tests.service import Service

pytestmark = pytest.mark.product

Clients = Callable[[User], httpx2.Client]


@pytest.fixture
def sighting(service: Service, ada: User) -> Sighting:
    return service.write(sightings.create, ada, SightingCreate(title="Notes"))


def test_every_answer_of_one_resource_carries_its_version(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    created = client.post("/api/v1/sightings/", json={"title": "Notes"})
    url = created.headers["Location"]
    assert url == f"/api/v1/sightings/{created.json()['id']}"
    assert created.headers["ETag"] == client.get(url).headers["ETag"] == '"1"'
    changed = client.patch(url, json={"title": "More notes"})
    assert changed.headers["ETag"] == client.get(url).headers["ETag"] == '"2"'
    assert client.patch(url, json={"title": "More notes"}).headers["ETag"] == '"2"'
    assert "ETag" not in client.get("/api/v1/sightings/").headers


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"1"', 304),
        ('W/"1"', 304),
        ("*", 304),
        ('"0", "1"', 304),
        ('"0",W/"1"', 304),
        ('"2"', 200),
        ("1", 200),
        ('""', 200),
    ],
)
def test_a_state_that_the_client_has_is_not_sent_again(
    client_of: Clients, ada: User, sighting: Sighting, tags: str, status: int
) -> None:
    answer = client_of(ada).get(f"/api/v1/sightings/{sighting.id}", headers={"If-None-Match": tags})
    assert answer.status_code == status
    assert answer.headers["ETag"] == '"1"'
    assert (answer.content == b"") == (status == 304)
    head = client_of(ada).head(f"/api/v1/sightings/{sighting.id}", headers={"If-None-Match": tags})
    assert head.status_code == status


@pytest.mark.parametrize(
    ("tags", "matches"),
    [
        ('"1"', True),
        ("*", True),
        ('"0", "1"', True),
        ('W/"1"', False),
        ('"2"', False),
        ("1", False),
        ("garbage", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_if_match_guards_every_method(
    client_of: Clients, service: Service, ada: User, sighting: Sighting, method: str, tags: str, matches: bool
) -> None:
    body = {"title": "Changed"} if method == "PATCH" else None
    answer = client_of(ada).request(method, f"/api/v1/sightings/{sighting.id}", json=body, headers={"If-Match": tags})
    if matches:
        assert answer.status_code in (200, 204)
    else:
        assert answer.status_code == 412
        assert answer.json()["code"] == "precondition_failed"
        assert service.read(sightings.get, ada, sighting.id).title == "Notes"


def test_if_none_match_refuses_a_change(client_of: Clients, ada: User, sighting: Sighting) -> None:
    for tags in ("*", '"1"', 'W/"1"'):
        answer = client_of(ada).patch(
            f"/api/v1/sightings/{sighting.id}", json={"title": "Changed"}, headers={"If-None-Match": tags}
        )
        assert answer.status_code == 412
    answer = client_of(ada).patch(f"/api/v1/sightings/{sighting.id}", json={}, headers={"If-None-Match": '"7"'})
    assert answer.status_code == 200


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
def test_tags_have_a_bound_over_all_their_lines(client_of: Clients, ada: User, sighting: Sighting, name: str) -> None:
    client, url = client_of(ada), f"/api/v1/sightings/{sighting.id}"
    for lines in (['"' + "x" * 1023 + '"'], ['"0123456789"'] * 74, ["x" * 600, '"1"', "x" * 600]):
        answer = client.get(url, headers=[(name, line) for line in lines])
        assert answer.status_code == 422
        assert [error["loc"] for error in answer.json()["errors"]] == [["header", name.lower()]]
    assert client.get(url, headers=[(name, '"0123456789"')] * 70).status_code in (200, 412)


def test_tags_on_several_lines_are_one_list(client_of: Clients, ada: User, sighting: Sighting) -> None:
    headers = [("If-Match", '"7"'), ("If-Match", '"1"')]
    assert client_of(ada).delete(f"/api/v1/sightings/{sighting.id}", headers=headers).status_code == 204


def test_of_any_number_of_writers_one_wins(client_of: Clients, ada: User, sighting: Sighting) -> None:
    def write(number: int) -> int:
        with httpx2.Client(base_url=client.base_url, headers=client.headers) as own:
            return own.patch(
                f"/api/v1/sightings/{sighting.id}", json={"title": f"Writer {number}"}, headers={"If-Match": '"1"'}
            ).status_code

    client = client_of(ada)
    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(write, range(10)))
    assert sorted(statuses) == [200] + [412] * 9
    assert client.get(f"/api/v1/sightings/{sighting.id}").headers["ETag"] == '"2"'


def test_conditions_tell_nothing_of_anothers_sighting(client_of: Clients, bob: User, sighting: Sighting) -> None:
    for name in ("If-Match", "If-None-Match"):
        for tags in ("*", '"1"', '"2"'):
            assert client_of(bob).get(f"/api/v1/sightings/{sighting.id}", headers={name: tags}).status_code == 404
            assert client_of(bob).delete(f"/api/v1/sightings/{sighting.id}", headers={name: tags}).status_code == 404


def test_you_are_a_resource_too(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    tag = client.get("/api/v1/users/me").headers["ETag"]
    assert client.get("/api/v1/users/me", headers={"If-None-Match": tag}).status_code == 304
    changed = client.patch("/api/v1/users/me", json={"full_name": "Countess"}, headers={"If-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert client.patch("/api/v1/users/me", json={"full_name": "x"}, headers={"If-Match": tag}).status_code == 412
    assert client.delete("/api/v1/users/me", headers={"If-Match": tag}).status_code == 412
    assert client.delete("/api/v1/users/me", headers={"If-Match": changed.headers["ETag"]}).status_code == 204


def test_signing_up_tells_where_the_user_is(client: httpx2.Client, client_of: Clients, root: User) -> None:
    created = client.post("/api/v1/users/", json={"email": "eve@example.com", "password": "correct horse battery"})
    url = created.headers["Location"]
    assert url == f"/api/v1/users/{created.json()['id']}"
    assert client_of(root).get(url).headers["ETag"] == created.headers["ETag"]


def test_a_patch_is_a_json_merge_patch(client_of: Clients, service: Service, ada: User) -> None:
    sighting = service.write(sightings.create, ada, SightingCreate(title="Notes", remarks="Long"))
    patched = client_of(ada).patch(
        f"/api/v1/sightings/{sighting.id}",
        content=b'{"remarks": null}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert (patched.status_code, patched.json()["title"], patched.json()["remarks"]) == (200, "Notes", None)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html", "application/json;q=0.1, */*;q=0", ""])
def test_no_accept_header_is_refused(client_of: Clients, ada: User, sighting: Sighting, accept: str) -> None:
    answer = client_of(ada).get(f"/api/v1/sightings/{sighting.id}", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
