"""Public routes: callers without a token are allowed, and an invalid token is still refused."""

from collections.abc import Callable

import httpx2
import pytest
from fastapi import Response

from app.api.deps import Anyone
from app.core.db import Session
from app.users import User, UserPublic
from tests.conftest import add_user, client_at, outcome
from tests.product import hazards
from tests.product.hazards import Hazard, HazardCreate, HazardPublic
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

pytestmark = pytest.mark.product

# In the order nobody, inactive, other, owner, superuser.
ACCESS = {
    "GET /api/v1/lighthouses/": (200, 400, 200, 200, 200),
    "GET {lighthouse}": (200, 400, 200, 200, 200),
    "POST /api/v1/lighthouses/": (401, 400, 201, 201, 201),
    "PATCH {lighthouse}": (401, 400, 403, 200, 200),
    "POST {lighthouse}/lamps": (401, 400, 403, 201, 409),
    "PUT {lighthouse}/hazards/{hazard}": (401, 400, 403, 200, 200),
    "DELETE {lighthouse}/hazards/{hazard}": (401, 400, 403, 204, 204),
    "GET /api/v1/hazards/": (200, 400, 200, 200, 200),
    "POST /api/v1/hazards/": (401, 400, 403, 403, 201),
    "DELETE {lighthouse}": (401, 400, 403, 204, 404),
}
BODIES = {"lamps": {"watts": 7}, "lighthouses": {"name": "Fastnet"}, "hazards": {"name": "Kish Bank"}}


@pytest.mark.parametrize("route", ACCESS)
def test_who_may_call_a_public_resource(
    client: httpx2.Client, client_of: Clients, ada: User, bob: User, ivan: User, root: User, route: str
) -> None:
    lighthouse = client_of(ada).post("/api/v1/lighthouses/", json={"name": "Eddystone"}).headers["Location"]
    hazard = client_of(root).post("/api/v1/hazards/", json={"name": "Eddystone Rocks"}).json()["id"]
    method, path = route.format(lighthouse=lighthouse, hazard=hazard).split()
    body = BODIES.get(path.rstrip("/").rpartition("/")[2], {}) if method in ("POST", "PATCH") else None
    callers = (client, *map(client_of, (ivan, bob, ada, root)))
    assert tuple(each.request(method, path, json=body).status_code for each in callers) == ACCESS[route]


@pytest.mark.parametrize("authorization", ["Bearer x", "Basic x", "Bearer", ""])
def test_a_token_that_is_not_good_is_refused_where_none_is_needed(client: httpx2.Client, authorization: str) -> None:
    answer = client.get("/api/v1/lighthouses/", headers={"Authorization": authorization})
    assert outcome(answer) == (401, "invalid_token")


def test_work_is_given_nobody_or_the_caller(serve: Callable[..., Service]) -> None:
    service = serve()

    @service.app.get("/who")
    async def who(me: Anyone) -> str | None:
        def name(_session: Session, caller: UserPublic | None) -> str | None:
            return caller.full_name if caller else None

        assert await me.caller() == await me.write(lambda _session, caller: caller)
        return await me.read(name)

    @service.app.get("/user-id")
    async def user_id(me: Anyone) -> str:
        return str(me.user_id)

    ada = add_user(service, "ada")
    with client_at(service.url) as nobody, client_at(service.url, ada) as somebody:
        assert (nobody.get("/who").json(), somebody.get("/who").json()) == (None, "Ada")
        assert outcome(nobody.get("/user-id")) == (401, "not_authenticated")
        assert somebody.get("/user-id").json() == str(ada.id)


def test_a_key_of_nobody_is_refused_because_strangers_would_share_it(serve: Callable[..., Service]) -> None:
    service = serve()

    @service.app.post("/reports", response_model=HazardPublic, status_code=201)
    async def create_report(me: Anyone, new: HazardCreate) -> Hazard | Response:
        return await me.create(lambda session, _by, new: hazards.create(session, _by, new), new)  # type: ignore[arg-type]

    key = {"Idempotency-Key": "1"}
    with client_at(service.url) as nobody:
        refused = nobody.post("/reports", json={"name": "Kish Bank"}, headers=key)
        assert outcome(refused) == (422, "validation_error")
        assert refused.json()["errors"][0]["loc"] == ["header", "idempotency-key"]
        assert nobody.get("/api/v1/hazards/").json() == []
        made = nobody.post("/reports", json={"name": "Kish Bank"})
        assert made.status_code == 201
        assert nobody.get("/api/v1/hazards/").json() == [made.json()]


def test_the_document_says_that_a_token_may_be_left_out(service: Service) -> None:
    document = service.app.openapi()
    security = {
        f"{method} {path}": operation["security"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert security["get /api/v1/lighthouses/"] == [{"OAuth2PasswordBearer": []}, {}]
    assert security["post /api/v1/lighthouses/"] == [{"OAuth2PasswordBearer": []}]
    assert set(document["components"]["securitySchemes"]) == {"OAuth2PasswordBearer"}
    told = document["paths"]["/api/v1/lighthouses/"]["get"]["responses"]["401"]
    shared = document["components"]["responses"][told["$ref"].rpartition("/")[2]]
    assert set(shared["content"]["application/problem+json"]["examples"]) == {"invalid_token"}
