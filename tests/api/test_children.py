"""Resources with children, and many-to-many: the entity tag of the parent depends on everything that it shows."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import Column, ForeignKey, MetaData, Table
from sqlmodel import Session, SQLModel, select

from app.api.openapi import HEADERS
from app.core import conditions
from app.core.db import build
from app.core.relations import eager
from app.users import User
from tests.conftest import outcome, statements
from tests.product import lighthouses
from tests.product.hazards import HazardPublic
from tests.product.lighthouses import Lighthouse, LighthousePublic, LighthouseView
from tests.service import Service

pytestmark = pytest.mark.product

Clients = Callable[[User], httpx2.Client]

LAMPS = [{"colour": "red", "watts": 1000}, {"colour": "green", "watts": 5}]


@pytest.fixture
def url(client_of: Clients, ada: User) -> str:
    """The URL of Ada's lighthouse with two lamps."""
    made = client_of(ada).post("/api/v1/lighthouses/", json={"name": "Eddystone", "lamps": LAMPS})
    assert made.status_code == 201, made.text
    return made.headers["Location"]


@pytest.fixture
def hazard(client_of: Clients, root: User) -> str:
    made = client_of(root).post("/api/v1/hazards/", json={"name": "Eddystone Rocks", "depth": 2})
    assert made.status_code == 201, made.text
    return made.headers["Location"]


def state(answer: httpx2.Response) -> tuple[bytes, str]:
    assert answer.is_success, answer.text
    return answer.content, answer.headers["ETag"]


def test_a_resource_is_answered_alike_by_every_method(
    client_of: Clients, client: httpx2.Client, ada: User, hazard: str
) -> None:
    mine = client_of(ada)
    key = {"Idempotency-Key": "1"}
    made = mine.post("/api/v1/lighthouses/", json={"name": "Eddystone", "lamps": LAMPS}, headers=key)
    url = made.headers["Location"]
    assert state(client.get(url)) == state(mine.get(url)) == state(made)
    assert state(mine.post("/api/v1/lighthouses/", json={"name": "Eddystone", "lamps": LAMPS}, headers=key)) == state(
        made
    )
    assert list(made.json()) == list(LighthouseView.model_fields)
    assert [{name: lamp[name] for name in ("colour", "watts")} for lamp in made.json()["lamps"]] == LAMPS
    assert state(mine.patch(url, json={})) == state(made)
    changed = mine.patch(url, json={"name": "Fastnet"})
    assert state(client.get(url)) == state(changed) != state(made)
    warning = mine.put(f"{url}/hazards/{hazard.rpartition('/')[2]}")
    assert [each["name"] for each in warning.json()["hazards"]] == ["Eddystone Rocks"]
    assert state(client.get(url)) == state(warning) != state(changed)


def test_its_tag_changes_when_a_child_does(
    client_of: Clients, client: httpx2.Client, ada: User, root: User, url: str, hazard: str
) -> None:
    mine, tags = client_of(ada), [client.get(url).headers["ETag"]]
    lamp = f"{url}/lamps/{client.get(url).json()['lamps'][0]['id']}"
    shared = f"{url}/hazards/{hazard.rpartition('/')[2]}"
    changes: tuple[Callable[[], httpx2.Response], ...] = (
        lambda: mine.post(f"{url}/lamps", json={"watts": 7}),
        lambda: mine.patch(lamp, json={"watts": 8}),
        lambda: mine.delete(lamp),
        lambda: mine.put(shared),
        lambda: client_of(root).patch(hazard, json={"name": "The Stones"}),
        lambda: mine.delete(shared),
    )
    for change in changes:
        assert change().is_success
        tags.append(client.get(url).headers["ETag"])
        assert client.get(url, headers={"If-None-Match": tags[-2]}).status_code == 200
        assert client.get(url, headers={"If-None-Match": tags[-1]}).status_code == 304
        assert mine.patch(url, json={"name": "Lost update"}, headers={"If-Match": tags[-2]}).status_code == 412
        assert mine.delete(url, headers={"If-Match": tags[-2]}).status_code == 412
    assert tags[-1] == tags[3]  # it has its old state again
    assert len(set(tags)) == len(tags) - 1
    assert mine.delete(url, headers={"If-Match": tags[-1]}).status_code == 204
    assert client.get(url).status_code == 404


def test_a_child_is_a_resource_of_its_own(client_of: Clients, client: httpx2.Client, ada: User, url: str) -> None:
    made = client_of(ada).post(f"{url}/lamps", json={"watts": 7})
    lamp = made.headers["Location"]
    assert state(client.get(lamp)) == state(made)
    assert made.headers["ETag"] == '"1"'
    changed = client_of(ada).patch(lamp, json={"watts": 8}, headers={"If-Match": '"1"'})
    assert state(client.get(lamp)) == state(changed)
    assert outcome(client_of(ada).patch(lamp, json={"watts": 9}, headers={"If-Match": '"1"'})) == (
        412,
        "precondition_failed",
    )
    assert outcome(client_of(ada).post(f"{url}/lamps", json={"watts": 7})) == (409, "colour_taken")
    assert outcome(client.get(f"{url}/lamps/{uuid4()}")) == (404, "not_found")
    assert outcome(client_of(ada).put(f"{url}/hazards/{uuid4()}")) == (404, "not_found")


def test_of_several_who_change_its_children_at_once_one_wins(client_of: Clients, ada: User, url: str) -> None:
    mine = client_of(ada)
    tag = {"If-Match": mine.get(url).headers["ETag"]}

    def change(number: int) -> int:
        if number % 2:
            return mine.patch(url, json={"name": f"Writer {number}"}, headers=tag).status_code
        return mine.post(f"{url}/lamps", json={"watts": 7}).status_code

    with ThreadPoolExecutor(6) as threads:
        statuses = list(threads.map(change, range(6)))
    assert sorted(statuses[::2]) == [201, 409, 409]
    assert sorted(statuses[1::2]) in ([200, 412, 412], [412, 412, 412])
    assert len(mine.get(url).json()["lamps"]) == 3


def test_deletion_includes_children_but_not_shared_rows(
    client_of: Clients, client: httpx2.Client, ada: User, url: str, hazard: str
) -> None:
    assert client_of(ada).put(f"{url}/hazards/{hazard.rpartition('/')[2]}").status_code == 200
    assert client_of(ada).delete(url).status_code == 204
    assert client.get(hazard).status_code == 200
    assert client_of(ada).delete("/api/v1/users/me").status_code == 204


def test_children_take_one_statement_however_many_they_are(client: httpx2.Client, service: Service, url: str) -> None:
    with statements(service) as sent:
        assert len(client.get(url).json()["lamps"]) == 2
    assert [statement.split("FROM ")[1].split()[0] for statement in sent] == [
        "lighthouses",
        "lamps",
        "lighthouse_hazards",
    ]


def test_the_error_for_an_unloaded_relationship_says_what_to_do(service: Service, url: str) -> None:
    lighthouse = service.read(lambda session: session.exec(select(Lighthouse)).one())
    for use in (
        lambda: lighthouse.lamps,
        lambda: conditions.etag(lighthouse),
        lambda: service.read(lambda session: session.exec(select(Lighthouse)).one().lamps),
    ):
        with pytest.raises(RuntimeError) as refused:
            use()
        assert str(refused.value) == (
            "Lighthouse.lamps was not loaded: add .options(eager(Lighthouse.lamps)) to the statement that selects the "
            "row, and set it on a new row"
        )
    loading = select(Lighthouse).options(eager(Lighthouse.lamps))
    assert len(service.read(lambda session: session.exec(loading).one()).lamps) == 2


def test_a_new_row_must_say_what_its_children_are(service: Service, ada: User) -> None:
    def create(session: Session) -> str:
        lighthouse = Lighthouse(name="Eddystone", owner_id=ada.id, hazards=[])
        session.add(lighthouse)
        session.flush()
        return conditions.etag(lighthouse)

    with pytest.raises(RuntimeError, match=r"Lighthouse\.lamps was not loaded"):
        service.write(create)


def test_a_tag_does_not_depend_on_the_order_of_attributes_or_children(service: Service, ada: User, url: str) -> None:
    row = service.read(lighthouses.get, None, service.read(lambda session: session.exec(select(Lighthouse.id)).one()))
    tag = conditions.etag(row)
    row.lamps.reverse()
    assert conditions.etag(row) == tag
    fields = HazardPublic(name="Kish Bank", depth=1).model_dump().items()
    one, other = build(HazardPublic, fields), build(HazardPublic, reversed(fields))
    assert one.model_dump_json() != other.model_dump_json()
    assert conditions.etag(one) == conditions.etag(other)


def test_a_tag_changes_when_the_database_sets_a_reference_to_null() -> None:
    class Berth(SQLModel):
        harbour_id: UUID | None
        version: int = 1

    harbour_id: Column[UUID] = Column("harbour_id", ForeignKey("harbours.id", ondelete="SET NULL"))
    Berth.__table__ = Table("berths", MetaData(), harbour_id)
    assert conditions.etag(Berth(harbour_id=uuid4())) == '"1"'
    cleared = conditions.etag(Berth(harbour_id=None))
    assert cleared == conditions.etag(Berth(harbour_id=None)) != '"1"'
    assert re.fullmatch(HEADERS["ETag"]["schema"]["pattern"], cleared)


def test_a_list_shows_rows_without_their_children(client: httpx2.Client, url: str) -> None:
    (listed,) = client.get("/api/v1/lighthouses/").json()
    assert list(listed) == list(LighthousePublic.model_fields)
