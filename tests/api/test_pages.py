"""Lists: pages by cursor, sorting, filtering, counting."""

import random
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Query
from hypothesis import given, strategies
from pydantic import create_model
from sqlalchemy import Index, Uuid, bindparam, event, text
from sqlalchemy.orm import registry
from sqlmodel import Session, select

from app.api.calls import check_lists
from app.core import paging, search
from app.core.db import Record
from app.core.paging import Page
from app.users import User
from tests.conftest import add_user
from tests.product import sightings
from tests.product.lighthouses import Kind, Lighthouse, LighthousePage
from tests.product.sightings import Sighting, SightingCreate, SightingPage
from tests.service import Service

pytestmark = pytest.mark.product

Clients = Callable[[User], httpx2.Client]
START = datetime(2026, 1, 1, tzinfo=UTC)


def add_many(session: Session, owner: User, many: int, *, after: int = 0) -> None:
    """Add a number of sightings of a user with one statement. Their ids continue from `after`."""
    one = sightings.create(session, owner, SightingCreate(title="one"))
    names = ", ".join(name for name in sorted(one.model_dump()) if name != "id")
    key = "printf('%032x', n)"
    if session.get_bind().dialect.name == "postgresql":
        key = "lpad(to_hex(n), 32, '0')::uuid"
        session.execute(text("SET LOCAL statement_timeout = 0"))
    last = after + many - 1
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT {after + 1} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
    copies = f"SELECT {key}, {names} FROM numbers CROSS JOIN sightings WHERE id = :one"
    copy = text(f"{numbers} INSERT INTO sightings (id, {names}) {copies}")
    session.execute(copy.bindparams(bindparam("one", one.id, Uuid())))


def add_sightings(service: Service, owner: User, *titles: str, at: datetime | None = None) -> list[Sighting]:
    """Add sightings one minute apart, or all with the same time."""

    def add(session: Session) -> list[Sighting]:
        times = [at or START + timedelta(minutes=n) for n in range(len(titles))]
        rows = [
            Sighting(title=title, owner_id=owner.id, created_at=time, updated_at=time)
            for title, time in zip(titles, times, strict=True)
        ]
        session.add_all(rows)
        return rows

    return service.write(add)


def links(response: httpx2.Response) -> dict[str, str]:
    found = re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers.get("Link", ""))
    return {relation: target for target, relation in found}


def pages(client: httpx2.Client, url: str) -> Iterator[list[dict[str, Any]]]:
    following: str | None = url
    while following:
        response = client.get(following)
        assert response.status_code == 200, response.text
        yield response.json()
        following = links(response).get("next")


def titles(client: httpx2.Client, **query: Any) -> list[str]:
    response = client.get("/api/v1/sightings/", params=query)
    assert response.status_code == 200, response.text
    return [row["title"] for row in response.json()]


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "updated_at", "-updated_at", "title", "-title"])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_following_next_meets_every_row_once(
    client_of: Clients, service: Service, ada: User, bob: User, sort: str, limit: int
) -> None:
    add_sightings(service, bob, "not hers")
    add_sightings(service, ada, "b", "a", "c", "a", "b")
    add_sightings(service, ada, "same", "same", "same", at=START)
    found = list(pages(client_of(ada), f"/api/v1/sightings/?sort={sort}&limit={limit}"))
    rows = [row for page in found for row in page]
    assert all(len(page) == limit for page in found[:-1])
    assert len({row["id"] for row in rows}) == len(rows) == 8
    key = sort.removeprefix("-")
    assert [(row[key], row["id"]) for row in rows] == sorted(
        ((row[key], row["id"]) for row in rows), reverse=sort.startswith("-")
    )


LOWEST_AND_HIGHEST: dict[str, tuple[Any, ...]] = {
    "name": ("a", "b"),
    "kind": (Kind.BEACON, Kind.LIGHTSHIP, Kind.TOWER),
    "height": (1, 9, 10, 2**31 - 1),
    "flashes": (0, 9, 10, 2**63 - 1),
    "reach": (0.0, 0.1, 9.5, 10.0, 1e300),
    "price": (Decimal("0.00"), Decimal("0.10"), Decimal("9.99"), Decimal("10.00"), Decimal("99999999.99")),
    "built_on": (date.min, date(1882, 5, 18), date.max),
    "lit_at": (time.min, time(9), time(18, 30), time.max),
    "chart": (uuid.UUID(int=0), uuid.UUID(int=9), uuid.UUID(int=10), uuid.UUID(int=2**128 - 1)),
    "created_at": (START, START + timedelta(microseconds=1), START + timedelta(days=1)),
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("key", LOWEST_AND_HIGHEST)
def test_any_column_sorts_on_every_page(
    client: httpx2.Client, service: Service, ada: User, key: str, descending: bool
) -> None:
    def add(session: Session) -> list[Lighthouse]:
        values = LOWEST_AND_HIGHEST[key] * 2
        rows = [Lighthouse(**{"name": "x", "owner_id": ada.id, key: value}) for value in values]
        random.Random(1).shuffle(rows)
        session.add_all(rows)
        return rows

    added = sorted(service.write(add), key=lambda row: (getattr(row, key), row.id), reverse=descending)
    sort = f"-{key}" if descending else key
    found = [row["id"] for page in pages(client, f"/api/v1/lighthouses/?limit=1&sort={sort}") for row in page]
    assert found == [str(row.id) for row in added]


def test_every_sort_key_of_the_product_is_tried() -> None:
    sorts = get_args(LighthousePage.model_fields["sort"].annotation)
    assert {sort.removeprefix("-") for sort in sorts} == LOWEST_AND_HIGHEST.keys()


class Apart(Record, registry=registry()):
    """Base of models whose tables are separate from the app's."""


class CragPublic(Apart):
    height: int
    depth: int | None = None
    hidden_at: datetime | None = None


class Crag(CragPublic, table=True):
    __tablename__ = "crags"
    __table_args__ = (Index(None, "height", "id"), Index(None, "depth", "id"), Index(None, "secret", "id"))

    secret: int = 0


@pytest.mark.parametrize(
    ("sort", "complaint"),
    [
        (Literal["height", "colour"], "A list cannot sort Crag by 'colour': it has no such column"),
        (Literal["-depth"], "A list cannot sort Crag by 'depth': rows without a value would be lost: make it NOT NULL"),
        (Literal["-created_at"], r'it has no index: add Index\(None, "created_at", "id"\) to Crag.__table_args__'),
        (Literal["secret"], "A list cannot sort Crag by 'secret': it is not in CragPublic"),
        (str, "CragPage.sort is not a Literal"),
    ],
)
def test_a_sort_that_would_lose_rows_is_refused_when_the_app_is_made(sort: Any, complaint: str) -> None:
    wanted = create_model("CragPage", __base__=Page, sort=(sort, "height"))
    router = APIRouter()

    async def list_crags(wanted: Any) -> None: ...

    list_crags.__annotations__["wanted"] = Annotated[wanted, Query()]
    router.add_api_route("/crags/", list_crags, response_model=list[CragPublic])
    app = FastAPI()
    app.include_router(router)
    with pytest.raises(TypeError, match=complaint):
        check_lists(app)


def test_a_list_that_is_not_of_the_app_is_refused_when_it_is_asked_for(service: Service) -> None:
    wanted = create_model("CragPage", __base__=Page, sort=(str, "depth"))
    with pytest.raises(TypeError, match="A list cannot sort Crag by 'depth'"):
        service.read(paging.take, CragPublic, select(Crag), wanted.model_validate({}), None)


def test_anyone_pages_through_a_public_list(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User
) -> None:
    for name in ("a", "b", "c"):
        client_of(ada).post("/api/v1/lighthouses/", json={"name": name})
    first = client.get("/api/v1/lighthouses/?limit=1&count=true")
    assert (first.status_code, first.headers["X-Total-Count"]) == (200, "3")
    following = links(first)["next"]
    assert [row["name"] for row in client.get(following).json()] == ["b"]
    assert client_of(ada).get(following).status_code == 422  # users may see other rows than anonymous callers
    mine = links(client_of(ada).get("/api/v1/lighthouses/?limit=1"))["next"]
    assert client.get(mine).status_code == 422


def test_links_are_there_only_where_there_is_something_to_follow(
    client_of: Clients, service: Service, ada: User
) -> None:
    add_sightings(service, ada, "a", "b", "c")
    client = client_of(ada)
    first = client.get("/api/v1/sightings/?limit=2&sort=title")
    assert set(links(first)) == {"next", "first"}
    assert links(first)["first"] == "/api/v1/sightings/?limit=2&sort=title"
    last = client.get(links(first)["next"])
    assert links(last) == {"first": "/api/v1/sightings/?limit=2&sort=title"}
    assert "Link" not in client.get("/api/v1/sightings/?limit=3").headers


def test_rows_that_come_and_go_between_pages_make_no_duplicate_and_no_gap(
    client_of: Clients, service: Service, ada: User
) -> None:
    rows = add_sightings(service, ada, *(f"{n:02}" for n in range(20)))
    client = client_of(ada)
    seen = []
    for number, page in enumerate(pages(client, "/api/v1/sightings/?limit=4&sort=-created_at")):
        seen += [row["title"] for row in page]
        add_sightings(service, ada, f"new {number}", at=START + timedelta(days=1, minutes=number))
        client.delete(f"/api/v1/sightings/{page[0]['id']}")
        client.delete(f"/api/v1/sightings/{page[-1]['id']}")
    assert seen == [row.title for row in reversed(rows)]


def test_skip_still_counts_off_rows(client_of: Clients, service: Service, ada: User) -> None:
    add_sightings(service, ada, "a", "b", "c", "d")
    first = client_of(ada).get("/api/v1/sightings/?skip=1&limit=2")
    assert [row["title"] for row in first.json()] == ["b", "c"]
    assert [row["title"] for row in client_of(ada).get(links(first)["next"]).json()] == ["d"]


def test_a_cursor_serves_one_list_of_one_user_in_one_order(
    client_of: Clients, service: Service, ada: User, root: User
) -> None:
    add_sightings(service, ada, "a", "b", "c")
    add_user(service, "zoe")
    client = client_of(ada)
    following = links(client.get("/api/v1/sightings/?limit=1"))["next"]
    cursor = httpx2.URL(following).params["cursor"]

    def status(client: httpx2.Client, path: str = "/api/v1/sightings/", **query: Any) -> int:
        response = client.get(path, params={"cursor": cursor, **query})
        if response.status_code == 422:
            assert response.json()["errors"][0]["loc"] == ["query", "cursor"]
        return response.status_code

    assert status(client) == 200
    assert status(client, limit=50, count=True) == 200
    assert status(client_of(root)) == 422
    assert status(client, "/api/v1/users/") == 422
    assert status(client, sort="-created_at") == 422
    assert status(client, sort="title") == 422
    assert status(client, q="b") == 422
    assert status(client, skip=1) == 422


@pytest.mark.parametrize(
    "spoil", [lambda c: c[:-1], lambda c: c + "A", lambda c: "x", lambda c: c.swapcase(), lambda c: ""]
)
def test_a_cursor_that_was_changed_is_refused(
    client_of: Clients, service: Service, ada: User, spoil: Callable[[str], str]
) -> None:
    add_sightings(service, ada, "a", "b")
    cursor = httpx2.URL(links(client_of(ada).get("/api/v1/sightings/?limit=1"))["next"]).params["cursor"]
    refused = client_of(ada).get("/api/v1/sightings/", params={"cursor": spoil(cursor)})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", "cursor"]


def test_the_total_is_told_when_asked_for(client_of: Clients, service: Service, ada: User, bob: User) -> None:
    add_sightings(service, ada, "a", "b", "c")
    add_sightings(service, bob, "d")
    client = client_of(ada)
    assert "X-Total-Count" not in client.get("/api/v1/sightings/").headers
    counted = client.get("/api/v1/sightings/?count=true&limit=1")
    assert counted.headers["X-Total-Count"] == "3"
    assert client.get(links(counted)["next"]).headers["X-Total-Count"] == "3"
    assert client.get("/api/v1/sightings/?count=true&q=c").headers["X-Total-Count"] == "1"


def test_q_finds_a_part_of_the_title_in_any_case(client_of: Clients, service: Service, ada: User) -> None:
    add_sightings(service, ada, "Analytical Engine", "100% brass", "under_score", "back\\slash", "ÉTUDE")
    client = client_of(ada)
    assert titles(client, q="ENGINE") == ["Analytical Engine"]
    assert titles(client, q="%") == ["100% brass"]
    assert titles(client, q="_") == ["under_score"]
    assert titles(client, q="\\") == ["back\\slash"]
    assert titles(client, q="étude") == ["ÉTUDE"]
    assert titles(client, q="absent") == []


@pytest.mark.parametrize(
    ("title", "queries"),
    [
        ("\u0130STANBUL", ["istanbul", "\u0130stanbul", "I\u0307stan", "ISTANBUL"]),
        ("ΔΡΟΜΟΣ", ["δρομος", "δρομοσ", "Δρομος"]),
        ("Caf\u00e9", ["cafe\u0301", "CAF\u00c9", "\u00e9"]),
        ("Straße", ["STRASSE", "strasse", "ße"]),
        ("\uff21\uff22\uff23 \ufb01le", ["abc file", "\uff22"]),
        ("100% of a_b\\c", ["0% ", "A_B", "\\C"]),
    ],
)
def test_q_finds_what_reads_alike_and_follows_a_change(
    client_of: Clients, ada: User, title: str, queries: list[str]
) -> None:
    client = client_of(ada)
    other = [client.post("/api/v1/sightings/", json={"title": made}).json()["id"] for made in (title, "other")][1]
    assert [titles(client, q=query) for query in queries] == [[title]] * len(queries)
    assert titles(client, q="OTHER") == ["other"]
    assert client.patch(f"/api/v1/sightings/{other}", json={"title": title.lower()}).status_code == 200
    assert titles(client, q="other") == []
    assert [len(titles(client, q=query)) for query in queries] == [2] * len(queries)


@given(strategies.text(), strategies.text())
def test_folding_is_stable_and_keeps_parts_together(text: str, more: str) -> None:
    assert search.fold(search.fold(text)) == search.fold(text)
    assert search.fold(unicodedata.normalize("NFD", text)) == search.fold(text)
    assert search.fold(text) in search.fold(f"{more} {text} {more}")


def test_the_total_has_a_ceiling(client_of: Clients, service: Service, ada: User) -> None:
    service.write(add_many, ada, paging.COUNTED + 5)
    for query in ("", "&q=ONE"):
        answer = client_of(ada).get(f"/api/v1/sightings/?limit=1&count=true{query}")
        assert answer.headers["X-Total-Count"] == str(paging.COUNTED)


def test_times_bound_what_is_listed(client_of: Clients, service: Service, ada: User) -> None:
    add_sightings(service, ada, "a", "b", "c")
    client = client_of(ada)
    at = START + timedelta(minutes=1)
    assert titles(client, created_after=at.isoformat()) == ["c"]
    assert titles(client, created_before=at.isoformat()) == ["a"]
    assert titles(client, created_after="2026-01-01T05:00:30+05:00", created_before="2026-01-01T00:01:30Z") == ["b"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("sort=owner_id", "sort"),
        ("sort=hashed_password", "sort"),
        ("sort=", "sort"),
        ("sort=--title", "sort"),
        ("sort=title;drop", "sort"),
        ("unknown=1", "unknown"),
        ("limit=1&limit=2", "limit"),
        ("q=a&q=a", "q"),
        ("q=", "q"),
        ("q=%00", "q"),
        ("count=perhaps", "count"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=0000-01-01T00:00:00Z", "created_after"),
        ("created_after=10000-01-01T00:00:00Z", "created_after"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "created_before"),
        ("created_before=9999-12-31T23:59:59-14:00", "created_before"),
        ("created_before=2026-01-01T00:00:00%2B99:99", "created_before"),
    ],
)
def test_a_query_that_means_nothing_is_refused(client_of: Clients, ada: User, query: str, name: str) -> None:
    refused = client_of(ada).get(f"/api/v1/sightings/?{query}")
    assert refused.status_code == 422
    assert [error["loc"] for error in refused.json()["errors"]] == [["query", name]]


def test_users_are_sorted_and_filtered_alike(client_of: Clients, ada: User, bob: User, ivan: User, root: User) -> None:
    client = client_of(root)

    def names(query: str) -> list[str]:
        return [user["full_name"] for page in pages(client, f"/api/v1/users/?limit=2{query}") for user in page]

    assert names("") == ["Ada", "Bob", "Ivan", "Root"]
    assert names("&sort=-email") == ["Root", "Ivan", "Bob", "Ada"]
    assert names("&is_active=false") == ["Ivan"]
    assert names("&is_active=true&sort=-created_at") == ["Root", "Bob", "Ada"]
    assert names("&email=BOB@EXAMPLE.com") == ["Bob"]
    assert client.get("/api/v1/users/?sort=hashed_password").status_code == 422


def _plan(session: Session, statement: str, parameters: dict[str, Any]) -> str:
    dialect = session.get_bind().dialect.name
    prefix = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    return "\n".join(str(row) for row in session.connection().exec_driver_sql(f"{prefix} {statement}", parameters))


@pytest.mark.parametrize("caller", ["owner", "superuser"])
@pytest.mark.parametrize("sort", ["created_at", "-created_at", "updated_at", "-updated_at", "title", "-title"])
def test_a_deep_page_is_read_from_its_index_alone(
    service: Service, ada: User, bob: User, root: User, sort: str, caller: str
) -> None:
    user = ada if caller == "owner" else root
    number = random.Random(1)

    def fill(session: Session) -> None:
        rows = [
            {
                "id": uuid.uuid4(),
                "created_at": START + timedelta(seconds=n),
                "updated_at": START + timedelta(seconds=n),
                "title": f"{number.random()}",
                "owner_id": bob.id if n % 10 else ada.id,
                "version": 1,
            }
            for n in range(3000)
        ]
        session.execute(Sighting.__table__.insert(), rows)  # type: ignore[attr-defined]  # set by SQLAlchemy

    service.write(fill)
    service.run(_analyze(service))
    middle = f"{START + timedelta(seconds=1500)}" if sort.endswith("_at") else "0.5"
    after = f'{uuid.uuid4()} "{middle}"'
    plans: list[str] = []

    def explain(session: Session) -> None:
        def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
            if statement.startswith("SELECT"):
                statements.append((statement, parameters))

        statements: list[tuple[str, Any]] = []
        bind = session.connection()
        event.listen(bind, "before_cursor_execute", before)
        sightings.page(session, user, SightingPage.model_validate({"sort": sort, "limit": 20}), after)
        event.remove(bind, "before_cursor_execute", before)
        ((statement, parameters),) = statements
        plans.append(_plan(session, statement, parameters))

    service.read(explain)
    (plan,) = plans
    key = sort.removeprefix("-")
    index = f"ix_sightings_owner_id_{key}_id" if caller == "owner" else f"ix_sightings_{key}_id"
    assert index in plan
    assert not re.search(r"Sort|Seq Scan|TEMP B-TREE|Filter", plan), plan
    if service.database.dialect == "sqlite":
        assert "SEARCH" in plan, plan  # not SCAN: the index search starts at the start of the page


async def _analyze(service: Service) -> None:
    await service.database.write(lambda session: session.execute(text("ANALYZE")))


def test_pages_go_on_under_a_path_prefix_and_from_either_spelling(
    client_of: Clients, service: Service, ada: User
) -> None:
    add_sightings(service, ada, "a", "b")
    first = client_of(ada).get("/api/v1/sightings?limit=1", headers={"Host": "evil.example"})
    assert links(first)["next"].startswith("/api/v1/sightings/?limit=1&cursor=")
