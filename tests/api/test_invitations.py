"""Users that a superuser adds: with privileges, verified or not, and invited to set a password."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import time_machine

from app import users
from app.users import User
from tests.api.test_accounts import INVALID_LINK, VERIFY, reset, verify
from tests.api.test_auth import log_in
from tests.conftest import PASSWORD, Mailbox, add_user, client_at, outcome
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

USERS = "/api/v1/users/"
INVITATION = "Your account at Onefold"
CAROL = "carol@example.com"


@pytest.fixture(params=[False, True], ids=["open", "strict"])
def house(request: pytest.FixtureRequest, serve: Callable[..., Service]) -> Service:
    """A service that requires verification, or does not."""
    return serve(email_verification_required=request.param, signup_open=False)


def test_who_is_added_without_a_password_is_invited_to_set_one(house: Service) -> None:
    root, mailbox = add_user(house, "root", is_superuser=True), Mailbox(house)
    house.write(users.change, root.id, {"email_verified": True})
    with client_at(house.url, root) as roots, client_at(house.url) as client:
        created = roots.post(USERS, json={"email": CAROL, "full_name": "Carol", "is_superuser": True})
        assert created.status_code == 201
        assert (created.json()["is_superuser"], created.json()["email_verified_at"]) == (True, None)
        assert roots.get(created.headers["Location"]).headers["ETag"] == created.headers["ETag"]
        for guess in ("!", PASSWORD):
            assert outcome(log_in(client, CAROL, guess)) == (401, "incorrect_login")
        assert mailbox.subjects() == [INVITATION]
        token = mailbox.token(CAROL)
        assert f"/reset-password?token={token}" in mailbox.messages()[0].as_string()
        assert "7 days" in mailbox.messages()[0].as_string()
        assert outcome(verify(client, token)) == INVALID_LINK
        assert reset(client, token, PASSWORD).status_code == 204
        assert outcome(reset(client, token, PASSWORD)) == INVALID_LINK
        token = log_in(client, CAROL).json()["access_token"]
        me = client.get(f"{USERS}me", headers={"Authorization": f"Bearer {token}"}).json()
        assert me["email_verified_at"]
        assert client.get("/api/v1/emails/", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_an_invitation_is_good_for_seven_days(
    client: httpx2.Client, client_of: Clients, root: User, mailbox: Mailbox
) -> None:
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        client_of(root).post(USERS, json={"email": CAROL})
        token = mailbox.token(CAROL)
        clock.shift(timedelta(days=7))
        assert outcome(reset(client, token)) == INVALID_LINK
        clock.shift(timedelta(seconds=-1))
        assert reset(client, token).status_code == 204


@pytest.mark.parametrize(
    ("more", "sent", "status"),
    [
        ({"password": PASSWORD}, [VERIFY], 200),
        ({"password": PASSWORD, "email_verified": True}, [], 200),
        ({"password": PASSWORD, "is_active": False}, [], 400),
        ({"is_active": False}, [], 401),
        ({"email_verified": True}, [INVITATION], 401),
    ],
)
def test_a_superuser_says_what_a_new_user_is(
    client: httpx2.Client,
    client_of: Clients,
    root: User,
    mailbox: Mailbox,
    more: dict[str, Any],
    sent: list[str],
    status: int,
) -> None:
    created = client_of(root).post(USERS, json={"email": CAROL, **more}).json()
    assert created["is_active"] is more.get("is_active", True)
    assert bool(created["email_verified_at"]) is more.get("email_verified", False)
    assert mailbox.subjects(CAROL) == sent
    assert log_in(client, CAROL).status_code == status


def test_who_was_invited_at_a_wrong_address_is_invited_again(
    client: httpx2.Client, client_of: Clients, root: User, mailbox: Mailbox
) -> None:
    wrong = client_of(root).post(USERS, json={"email": "carrol@example.com"}).json()["id"]
    token = mailbox.token("carrol@example.com")
    assert client_of(root).patch(USERS + wrong, json={"email": CAROL}).status_code == 200
    assert outcome(reset(client, token)) == INVALID_LINK
    assert mailbox.subjects(CAROL) == [INVITATION]
    assert reset(client, mailbox.token(CAROL)).status_code == 204


def test_an_invitation_is_not_sent_once_there_is_a_password(client_of: Clients, root: User, mailbox: Mailbox) -> None:
    carol = client_of(root).post(USERS, json={"email": CAROL}).json()["id"]
    assert client_of(root).patch(USERS + carol, json={"password": PASSWORD}).status_code == 200
    assert mailbox.subjects(CAROL) == ["Your password for Onefold has changed"]


@pytest.mark.parametrize("is_known", [False, True], ids=["nobody", "an ordinary user"])
def test_only_superusers_may_set_privileges_of_new_users(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, is_known: bool
) -> None:
    def refused(**body: object) -> list[tuple[list[str], str]]:
        answer = (client_of(ada) if is_known else client).post(USERS, json={"email": CAROL, **body})
        assert outcome(answer) == (422, "validation_error")
        return [(error["loc"], error["type"]) for error in answer.json()["errors"]]

    for name in ("is_active", "is_superuser", "email_verified"):
        assert refused(password=PASSWORD, **{name: True}) == [(["body", name], "extra_forbidden")]
    assert refused() == [(["body", "password"], "missing")]
    assert refused(password="short") == [(["body", "password"], "password_length")]
    assert refused(password=PASSWORD, version=1) == [(["body", "version"], "extra_forbidden")]
    assert service.read(users.find_by_email, CAROL) is None


def test_the_fields_of_one_form_are_named_in_errors(client_of: Clients, root: User) -> None:
    for body, loc, kind in (
        ({"email": CAROL, "is_superuser": "yes"}, ["body", "is_superuser"], "bool_type"),
        ({"email": CAROL, "is_superuser": None}, ["body", "is_superuser"], "bool_type"),
        ({"email": CAROL, "password": None}, ["body", "password"], "string_type"),
        ({"email": CAROL, "password": "iloveyou"}, ["body", "password"], "password_weak"),
        ({"email": "x", "is_active": True}, ["body", "email"], "email"),
        ({"email": CAROL, "is_active": True, "version": 1}, ["body", "version"], "extra_forbidden"),
        ({}, ["body", "email"], "missing"),
        ([], ["body"], "model_attributes_type"),
        ("x", ["body"], "model_attributes_type"),
        (None, ["body"], "missing"),
    ):
        answer = client_of(root).post(USERS, json=body)
        assert answer.status_code == 422, answer.text
        assert [(error["loc"], error["type"]) for error in answer.json()["errors"]] == [(loc, kind)]


def test_a_known_address_is_told_to_a_superuser(client_of: Clients, ada: User, root: User, mailbox: Mailbox) -> None:
    for body in ({"email": ada.email.upper()}, {"email": ada.email, "password": PASSWORD}):
        assert outcome(client_of(root).post(USERS, json=body)) == (400, "email_taken")
    assert mailbox.messages() == []
