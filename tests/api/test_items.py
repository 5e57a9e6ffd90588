"""Items: for their owners, other users and superusers."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import event
from sqlmodel import Session

from alembic import command
from app import items
from app.core import migrations
from app.items import Item, ItemCreate, ItemPage, ItemPublic
from app.users import User, UserPublic
from tests.api.test_statements import assert_sends
from tests.conftest import add, add_user, client_at, statements
from tests.service import Service, elsewhere
from tests.test_migrations import configured

Clients = Callable[[User], httpx2.Client]


ACCESS = {
    "GET /api/v1/items/": (401, 400, 200, 200, 200),
    "POST /api/v1/items/": (401, 400, 201, 201, 201),
    "GET /api/v1/items/{item_id}": (401, 400, 404, 200, 200),
    "PATCH /api/v1/items/{item_id}": (401, 400, 404, 200, 200),
    "DELETE /api/v1/items/{item_id}": (401, 400, 404, 204, 204),
}
REQUESTS = {
    "POST /api/v1/items/": {"json": {"title": "New"}},
    "PATCH /api/v1/items/{item_id}": {"json": {"title": "Changed"}},
}


def stage(session: Session, owner: User) -> dict[str, object]:
    return {"item_id": items.create(session, owner, ItemCreate(title="Notes")).id}


def test_an_item_is_created_read_changed_and_deleted(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    created = client.post("/api/v1/items/", json={"title": "Notes"})
    assert created.status_code == 201
    item = created.json()
    assert list(item) == ["id", "created_at", "updated_at", "title", "description", "owner_id"]
    assert item["updated_at"] == item["created_at"]
    assert (item["title"], item["description"], item["owner_id"]) == ("Notes", None, str(ada.id))

    assert client.get(f"/api/v1/items/{item['id']}").json() == item
    changed = client.patch(f"/api/v1/items/{item['id']}", json={"description": "On the engine"})
    assert changed.status_code == 200
    assert changed.json() == item | {"description": "On the engine", "updated_at": changed.json()["updated_at"]}
    assert changed.json()["updated_at"] > item["updated_at"]

    deleted = client.delete(f"/api/v1/items/{item['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(f"/api/v1/items/{item['id']}").status_code == 404


def test_a_patch_that_changes_nothing_changes_nothing(client_of: Clients, service: Service, ada: User) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Notes"))
    for body in ({}, {"title": "Notes"}):
        answer = client_of(ada).patch(f"/api/v1/items/{item.id}", json=body)
        assert answer.json() == item.model_dump(mode="json", exclude={"version", "search"})
    assert service.read(items.get, ada, item.id).version == 1


def test_null_clears_what_may_be_empty_and_is_refused_elsewhere(
    client_of: Clients, service: Service, ada: User
) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Notes", description="Long"))
    client = client_of(ada)
    refused = client.patch(f"/api/v1/items/{item.id}", json={"title": None})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "title"]
    assert client.patch(f"/api/v1/items/{item.id}", json={"description": None}).json()["description"] is None


def test_another_users_item_is_like_an_absent_one(client_of: Clients, service: Service, ada: User, bob: User) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Secret"))
    client = client_of(bob)
    for method, body in (("GET", None), ("PATCH", {"title": "Mine"}), ("DELETE", None)):
        answers = [
            client.request(method, f"/api/v1/items/{item_id}", json=body, headers={"X-Request-ID": "same"})
            for item_id in (item.id, uuid4())
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
        assert [(k, v) for k, v in answers[0].headers.items() if k != "date"] == [
            (k, v) for k, v in answers[1].headers.items() if k != "date"
        ]
    assert service.read(items.get, ada, item.id).title == "Secret"


def test_lists_hold_ones_own_and_all_for_a_superuser(
    client_of: Clients, service: Service, ada: User, bob: User, root: User
) -> None:
    for owner, title in ((ada, "a"), (ada, "b"), (ada, "c"), (bob, "d")):
        service.write(items.create, owner, ItemCreate(title=title))

    def titles(user: User, **query: int) -> list[str]:
        return [item["title"] for item in client_of(user).get("/api/v1/items/", params=query).json()]

    assert titles(ada) == ["a", "b", "c"]
    assert titles(bob) == ["d"]
    assert titles(root) == ["a", "b", "c", "d"]
    assert titles(ada, skip=1, limit=1) == ["b"]
    assert titles(ada, skip=3) == []


def test_a_superuser_changes_and_deletes_anyones_item(
    client_of: Clients, service: Service, ada: User, root: User
) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Notes"))
    changed = client_of(root).patch(f"/api/v1/items/{item.id}", json={"title": "Edited"})
    assert (changed.json()["title"], changed.json()["owner_id"]) == ("Edited", str(ada.id))
    assert client_of(root).delete(f"/api/v1/items/{item.id}").status_code == 204


def test_items_go_with_their_owner(client_of: Clients, service: Service, ada: User, root: User) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Notes"))
    assert client_of(ada).delete("/api/v1/users/me").status_code == 204

    def count(session: Session) -> int:
        return len(items.page(session, root, ItemPage()).rows)

    assert service.read(count) == 0
    assert client_of(root).get(f"/api/v1/items/{item.id}").status_code == 404


def test_another_users_item_is_looked_for_as_an_absent_one(
    client_of: Clients, service: Service, ada: User, bob: User
) -> None:
    theirs = service.write(items.create, ada, ItemCreate(title="Notes")).id
    loaded: list[Item] = []

    def note(row: Item, _context: object) -> None:
        loaded.append(row)

    event.listen(Item, "load", note)
    for method, body in (("GET", None), ("PATCH", {"title": "Bob's"}), ("DELETE", None)):
        sent = []
        for item in (theirs, uuid4()):
            with statements(service) as each:
                assert client_of(bob).request(method, f"/api/v1/items/{item}", json=body).status_code == 404
            sent.append(each)
        assert sent[0] == sent[1]
    event.remove(Item, "load", note)
    assert loaded == []  # which would have taken longer


def test_a_user_is_shown_with_their_items(
    client_of: Clients, service: Service, ada: User, bob: User, root: User
) -> None:
    mine = [service.write(items.create, ada, ItemCreate(title=title)) for title in ("first", "second")]
    service.write(items.create, bob, ItemCreate(title="not hers"))
    answer = client_of(ada).get(f"/api/v1/users/{ada.id}")
    *fields, last = answer.json()
    assert (fields, last) == (list(UserPublic.model_fields), "items")
    assert answer.json()["items"] == [
        item.model_dump(mode="json", exclude={"version", "search"}) for item in reversed(mine)
    ]
    changed = client_of(root).patch(f"/api/v1/users/{ada.id}", json={})
    assert changed.json() == answer.json()
    assert changed.headers["ETag"] == answer.headers["ETag"]


def _add_items(session: Session, owner: User, count: int) -> None:
    for number in range(count):
        items.create(session, owner, ItemCreate(title=str(number)))


def test_a_user_comes_with_the_newest_hundred_items_in_a_constant_number_of_queries(
    client_of: Clients, service: Service, ada: User
) -> None:
    client = client_of(ada)
    service.write(_add_items, ada, 1)
    with statements(service) as for_one:
        assert len(client.get(f"/api/v1/users/{ada.id}").json()["items"]) == 1
    service.write(_add_items, ada, 101)
    with statements(service) as for_many:
        titles = [item["title"] for item in client.get(f"/api/v1/users/{ada.id}").json()["items"]]
    assert titles == [str(number) for number in range(100, 0, -1)]
    assert for_one == for_many != []


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/items/"), ("PATCH", "/api/v1/items/{item_id}")])
@pytest.mark.parametrize("field", ["id", "created_at", "updated_at", "version", "surprise", "owner_id"])
def test_fields_that_are_not_the_clients_to_set_are_refused_and_change_nothing(
    client_of: Clients, service: Service, ada: User, method: str, path: str, field: str
) -> None:
    item = service.write(items.create, ada, ItemCreate(title="Notes"))
    body: dict[str, Any] = {"title": "Changed", field: str(getattr(item, field, 1))}
    answer = client_of(ada).request(method, path.format(item_id=item.id), json=body)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert service.read(items.page, ada, ItemPage()).rows == [ItemPublic(**item.model_dump())]


def test_items_that_are_there_already_can_be_searched(migrated_url: str) -> None:
    ada = elsewhere(migrated_url, add, "ada")
    item = elsewhere(migrated_url, items.create, ada, ItemCreate(title="Notes of ADA"))
    assert item.search == "notes of ada"
    command.downgrade(configured(migrated_url), "961ac46eb26c")
    migrations.upgrade(migrated_url)
    assert elsewhere(migrated_url, items.get, ada, item.id) == item


STATEMENTS = {
    "GET /api/v1/items/": 2,
    "GET /api/v1/items/?count=true&limit=1": 3,
    "GET /api/v1/items/?q=no": 2,
    "POST /api/v1/items/": 3,
    "GET /api/v1/items/{item_id}": 2,
    "PATCH /api/v1/items/{item_id}": 3,
    "DELETE /api/v1/items/{item_id}": 3,
}


@pytest.mark.parametrize("route", STATEMENTS)
def test_a_route_sends_as_many_statements_as_are_written_down(
    client_of: Clients, service: Service, ada: User, route: str
) -> None:
    service.write(_add_items, ada, 3)
    path = route.format(**service.write(stage, ada))
    assert_sends(service, client_of(ada), STATEMENTS[route], path, **REQUESTS.get(route, {}))


def test_the_number_of_items_of_a_user_is_limited(serve: Callable[..., Service]) -> None:
    service = serve(max_rows_per_user=2)
    bob = add_user(service, "bob")
    for user in (add_user(service, "ada"), add_user(service, "root", is_superuser=True)):
        with client_at(service.url, user) as client:
            made = [client.post("/api/v1/items/", json={"title": "Notes"}) for _ in range(3)]
            assert [answer.status_code for answer in made] == [201, 201, 409]
            assert made[2].json()["code"] == "quota_exceeded"
            with_key = {"Idempotency-Key": "1"}
            assert client.post("/api/v1/items/", json={"title": "Notes"}, headers=with_key).status_code == 409
            assert client.delete(made[0].headers["Location"]).status_code == 204
            assert client.post("/api/v1/items/", json={"title": "Notes"}, headers=with_key).status_code == 201
    with client_at(service.url, bob) as client:
        assert client.post("/api/v1/items/", json={"title": "Notes"}).status_code == 201


def test_a_user_with_items_has_a_tag_of_both(client_of: Clients, service: Service, ada: User, root: User) -> None:
    url = f"/api/v1/users/{ada.id}"
    client = client_of(root)
    before = client.get(url)
    assert client.get(url, headers={"If-None-Match": before.headers["ETag"]}).status_code == 304
    service.write(items.create, ada, ItemCreate(title="Notes"))
    after = client.get(url)
    assert after.headers["ETag"] != before.headers["ETag"]
    assert len(after.json()["items"]) == 1
    stale = client.patch(url, json={"is_active": False}, headers={"If-Match": before.headers["ETag"]})
    assert stale.status_code == 412
    changed = client.patch(url, json={"is_active": False}, headers={"If-Match": after.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.json() == client.get(url).json()
    assert changed.headers["ETag"] == client.get(url).headers["ETag"]
    assert client.delete(url, headers={"If-Match": after.headers["ETag"]}).status_code == 412
    assert client.delete(url, headers={"If-Match": changed.headers["ETag"]}).status_code == 204
