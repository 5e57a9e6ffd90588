"""Idempotency keys: a repeated POST is carried out once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from sqlmodel import Session, func, select

from app.core import idempotency
from app.core.db import now
from app.core.idempotency import LIFETIME, Answer, IdempotencyKey
from app.users import User
from tests.conftest import add_user, run_job, token_of
from tests.product.sightings import Sighting
from tests.service import Service

pytestmark = pytest.mark.product

Clients = Callable[[User], httpx2.Client]


def post(client: httpx2.Client, key: str, body: Any = None, **headers: str) -> httpx2.Response:
    return client.post(
        "/api/v1/sightings/", json=body or {"title": "Notes"}, headers={"Idempotency-Key": key, **headers}
    )


def count(service: Service) -> int:
    return service.read(lambda session: session.exec(select(func.count()).select_from(Sighting)).one())


def told(response: httpx2.Response) -> tuple[Any, ...]:
    names = ("Content-Type", "Location", "ETag", "Content-Length")
    return response.status_code, response.content, *(response.headers[name] for name in names)


def age(service: Service, by: timedelta) -> None:
    def move(session: Session) -> None:
        for row in session.exec(select(IdempotencyKey)):
            row.created_at -= by

    service.write(move)


def test_the_same_request_is_answered_again(client_of: Clients, service: Service, ada: User) -> None:
    first = post(client_of(ada), "k")
    assert first.status_code == 201
    assert client_of(ada).get(first.headers["Location"]).json() == first.json()
    again = post(client_of(ada), "k")
    assert told(again) == told(first)
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert count(service) == 1


def test_it_is_answered_as_without_a_key(client_of: Clients, ada: User) -> None:
    with_key, without = post(client_of(ada), "k"), client_of(ada).post("/api/v1/sightings/", json={"title": "Notes"})
    assert with_key.status_code == without.status_code
    assert list(with_key.json()) == list(without.json())
    assert set(with_key.headers) == set(without.headers)


def test_another_request_under_the_same_key_is_refused(client_of: Clients, service: Service, ada: User) -> None:
    post(client_of(ada), "k")
    refused = post(client_of(ada), "k", {"title": "Other"})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert count(service) == 1


def test_a_key_belongs_to_its_user(client_of: Clients, service: Service, ada: User, bob: User) -> None:
    hers, his = post(client_of(ada), "k"), post(client_of(bob), "k")
    assert (hers.status_code, his.status_code) == (201, 201)
    assert hers.json()["id"] != his.json()["id"]
    assert count(service) == 2


def test_ten_at_once_make_one_row_and_ten_equal_answers(client_of: Clients, service: Service, ada: User) -> None:
    clients = [client_of(ada) for _ in range(10)]
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda client: post(client, "k"), clients))
    assert len({told(answer) for answer in answers}) == 1
    assert answers[0].status_code == 201
    assert count(service) == 1


def test_a_refused_request_leaves_its_key_free(client_of: Clients, service: Service, ada: User) -> None:
    assert post(client_of(ada), "k", {"title": ""}).status_code == 422
    assert post(client_of(ada), "k").status_code == 201
    assert count(service) == 1


def test_work_that_fails_leaves_its_key_free(service: Service, ada: User) -> None:
    def fail(session: Session) -> Answer:
        session.add(Sighting(title="Half done", owner_id=ada.id))
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        service.write(idempotency.once, ada.id, "k", "f", fail)
    answer = Answer(status=201, headers={}, body=b"done")
    assert service.write(idempotency.once, ada.id, "k", "f", lambda _: answer).body == b"done"
    assert count(service) == 0


def test_an_answer_is_kept_for_a_day(client_of: Clients, service: Service, ada: User) -> None:
    first = post(client_of(ada), "k")
    age(service, timedelta(hours=23, minutes=59))
    assert told(post(client_of(ada), "k")) == told(first)
    age(service, timedelta(minutes=2))
    assert post(client_of(ada), "k").json()["id"] != first.json()["id"]
    assert count(service) == 2


def test_expired_keys_are_removed(client_of: Clients, service: Service, ada: User, bob: User) -> None:
    for number in range(5):
        post(client_of(ada), f"k{number}")
    age(service, timedelta(hours=25))
    post(client_of(bob), "new")
    run_job(service, idempotency.sweep_keys)
    keys = service.read(lambda session: session.exec(select(IdempotencyKey.key)).all())
    assert keys == ["new"]


@pytest.mark.parametrize("key", ["", "a b", "é".encode().decode("latin-1"), "x" * 256])
def test_a_key_is_a_short_token(client_of: Clients, ada: User, key: str) -> None:
    refused = client_of(ada).post(
        "/api/v1/sightings/", json={"title": "Notes"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["header", "idempotency-key"]


def test_an_answer_that_was_lost_is_given_by_another_replica(serve: Callable[..., Service]) -> None:
    one, other = serve(), serve()
    headers = {"Authorization": f"Bearer {token_of(add_user(one, 'eve'))}"}
    answers = []
    for service in (one, other):
        with httpx2.Client(base_url=service.url, headers=headers) as client:
            answers.append(told(post(client, "k")))
    assert answers[0] == answers[1]


def test_a_user_has_so_many_keys_a_day(client_of: Clients, service: Service, ada: User, bob: User) -> None:
    post(client_of(ada), "first")

    def fill(session: Session) -> None:
        row = session.exec(select(IdempotencyKey)).one().model_dump()
        rows = [row | {"key": str(n)} for n in range(idempotency.MOST - 1)]
        session.execute(IdempotencyKey.__table__.insert(), rows)  # type: ignore[attr-defined]  # set by SQLAlchemy

    service.write(fill)
    for key, status in (("new", 409), ("first", 201)):
        assert post(client_of(ada), key).status_code == status
    assert post(client_of(bob), "new").status_code == 201
    assert count(service) == 2
    service.write(lambda session: session.execute(update(IdempotencyKey).values(created_at=now() - LIFETIME)))
    assert post(client_of(ada), "new").status_code == 201
