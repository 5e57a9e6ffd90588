"""Accounts by mail: verification, changes of address, password resets, and their log entries."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import httpx2
import pytest
import time_machine
from sqlmodel import SQLModel

from app import accounts, users
from app.core.db import now
from app.users import User, UserUpdate
from tests.api.test_auth import log_in
from tests.api.test_throttle import spend
from tests.conftest import PASSWORD, Mailbox, add_user, caller_of, client_at, context_of, outcome, statements
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

AUTH = "/api/v1/auth"
USERS = "/api/v1/users/"
ME = "/api/v1/users/me"
NEW = "a new passphrase"
AT_NEW = "new@example.com"

VERIFY = "Verify your email for Onefold"
RESET = "Set a new password for Onefold"
IS_ABOUT_TO_CHANGE = "Your email for Onefold is about to change"
EMAIL_CHANGED = "Your email for Onefold has changed"
PASSWORD_CHANGED = "Your password for Onefold has changed"
HAS_AN_ACCOUNT = "You have an account at Onefold"

INVALID_LINK = (400, "invalid_link")
EMAIL_KNOWN = (400, "email_taken")
EMAIL_TAKEN = (409, "email_taken")
INCORRECT_LOGIN = (401, "incorrect_login")


def post(client: httpx2.Client, path: str, **body: str) -> httpx2.Response:
    content = json.dumps(body)  # in ASCII, with any content
    return client.post(f"{AUTH}/{path}", content=content, headers={"Content-Type": "application/json"})


def verify(client: httpx2.Client, token: str) -> httpx2.Response:
    return post(client, "email/verify", token=token)


def reset(client: httpx2.Client, token: str, new_password: str = NEW) -> httpx2.Response:
    return post(client, "password/reset", token=token, new_password=new_password)


def refresh(client: httpx2.Client, token: str) -> httpx2.Response:
    return client.post(f"{AUTH}/refresh", data={"grant_type": "refresh_token", "refresh_token": token})


def sign_up(client: httpx2.Client, email: str, password: str = PASSWORD) -> httpx2.Response:
    return client.post(USERS, json={"email": email, "password": password})


def change(client: httpx2.Client, **values: str) -> httpx2.Response:
    return client.patch(ME, json={"current_password": PASSWORD, **values})


def of_token(client: httpx2.Client, token: str) -> httpx2.Response:
    """The id of the user of a token."""
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def stored(service: Service, user: User) -> User:
    return service.read(users.get, user.id)


def set_verified(service: Service, user: User) -> None:
    service.write(users.change, user.id, {"email_verified": True})


@dataclass(frozen=True)
class Link:
    """A kind of link: how to request it, its effect, its lifetime."""

    path: str
    use: Callable[[httpx2.Client, str], httpx2.Response]
    lifetime: timedelta
    subject: str
    answer: str

    def ask(self, client: httpx2.Client, email: str) -> httpx2.Response:
        return post(client, self.path, email=email)

    def token(self, client: httpx2.Client, mailbox: Mailbox, email: str) -> str:
        assert self.ask(client, email).status_code == 202
        assert mailbox.subjects(email)[-1] == self.subject
        return mailbox.token(email)


TO_VERIFY = Link(
    "email/verify/request",
    verify,
    timedelta(hours=24),
    VERIFY,
    "If this address is not verified yet, a message is on its way",
)
TO_RESET = Link(
    "password/forgot", reset, timedelta(hours=1), RESET, "If this address is known, a message is on its way"
)

each_link = pytest.mark.parametrize("link", [TO_VERIFY, TO_RESET], ids=["verify", "reset"])


def test_who_signs_up_verifies_the_address_by_a_link(
    client: httpx2.Client, client_of: Clients, root: User, mailbox: Mailbox
) -> None:
    created = sign_up(client, "carol@example.com").json()
    assert created["email_verified_at"] is None
    assert mailbox.subjects() == [VERIFY]
    token = mailbox.token("carol@example.com")
    verified = verify(client, token)
    assert (verified.status_code, verified.content) == (204, b"")
    at = client_of(root).get(USERS + created["id"]).json()["email_verified_at"]
    assert abs(datetime.fromisoformat(at) - now()) < timedelta(minutes=1)
    again = verify(client, token)
    assert again.json() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "The token is invalid or expired. Request a new message.",
        "code": "invalid_link",
        "instance": again.headers["X-Request-ID"],
    }
    assert mailbox.subjects() == [VERIFY]


@each_link
def test_known_and_unknown_addresses_get_the_same_answer(
    client: httpx2.Client,
    client_of: Clients,
    service: Service,
    ada: User,
    bob: User,
    ivan: User,
    root: User,
    mailbox: Mailbox,
    link: Link,
) -> None:
    set_verified(service, bob)
    client.headers["X-Request-ID"] = "same"
    answers, work = [], []
    for email in ("nobody@example.com", ada.email, bob.email, ivan.email):
        with statements(service) as sent:
            answers.append(link.ask(client, email))
        del answers[-1].headers["date"]
        work.append(sent)
    assert work == [work[0]] * 4 != [[]] * 4  # so that the response time reveals nothing
    assert {(each.status_code, *each.headers.multi_items()) for each in answers} == {
        (202, *answers[0].headers.multi_items())
    }
    assert [each.json() for each in answers] == [{"message": link.answer}] * 4
    receivers = {ada.email} if link is TO_VERIFY else {ada.email, bob.email}
    assert {message["To"] for message in mailbox.messages()} == receivers
    outbox = client_of(root).get("/api/v1/emails/").json()
    assert {(row["email"], row["status"]) for row in outbox} == {(receiver, "sent") for receiver in receivers}


def test_a_new_address_is_ones_own_once_it_is_verified(
    client: httpx2.Client, client_of: Clients, ada: User, mailbox: Mailbox
) -> None:
    mine = client_of(ada)
    asked = change(mine, email=AT_NEW)
    assert (asked.status_code, asked.json()["email"]) == (200, ada.email)
    assert mailbox.subjects(ada.email) == [IS_ABOUT_TO_CHANGE]
    assert AT_NEW in mailbox.messages(ada.email)[0].as_string()
    assert log_in(client, ada.email).status_code == 200
    assert outcome(log_in(client, AT_NEW)) == INCORRECT_LOGIN
    token = mailbox.token(AT_NEW)
    assert verify(client, token).status_code == 204
    me = mine.get(ME).json()
    assert me["email"] == AT_NEW
    assert me["email_verified_at"]
    assert log_in(client, AT_NEW).status_code == 200
    assert outcome(log_in(client, ada.email)) == INCORRECT_LOGIN
    assert mailbox.subjects(ada.email) == [IS_ABOUT_TO_CHANGE, EMAIL_CHANGED]
    assert mailbox.subjects(AT_NEW) == [VERIFY]
    assert outcome(verify(client, token)) == INVALID_LINK


def test_a_link_to_a_former_address_is_not_good_again(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    set_verified(service, ada)
    tokens = []
    for there in (AT_NEW, ada.email):
        assert change(client_of(ada), email=there).status_code == 200
        tokens.append(mailbox.token(there))
        assert verify(client, tokens[-1]).status_code == 204
    for token in tokens:
        assert outcome(verify(client, token)) == INVALID_LINK
    assert stored(service, ada).email == ada.email


def test_nobody_can_change_to_an_address_that_is_taken(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, bob: User, mailbox: Mailbox
) -> None:
    assert outcome(change(client_of(ada), email=bob.email)) == EMAIL_TAKEN
    assert mailbox.messages() == []
    change(client_of(ada), email=AT_NEW)
    token = mailbox.token(AT_NEW)
    add_user(service, "new")
    assert outcome(verify(client, token)) == EMAIL_TAKEN
    assert (stored(service, ada).email, stored(service, ada).email_verified_at) == (ada.email, None)


def test_an_address_that_was_taken_meanwhile_is_not_written_to(
    client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    change(client_of(ada), email=AT_NEW)
    add_user(service, "new")
    assert mailbox.subjects() == [IS_ABOUT_TO_CHANGE]


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_new_password_ends_a_change_of_address(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox, is_sent: bool
) -> None:
    change(client_of(ada), email=AT_NEW)
    token = mailbox.token(AT_NEW) if is_sent else None
    assert change(client_of(ada), password=NEW).status_code == 200
    if token:
        assert outcome(verify(client, token)) == INVALID_LINK
        assert stored(service, ada).email == ada.email
    else:
        assert mailbox.subjects() == [IS_ABOUT_TO_CHANGE, PASSWORD_CHANGED]


def test_a_pending_change_of_address_is_shown_to_oneself_alone(
    client: httpx2.Client, client_of: Clients, ada: User, root: User, mailbox: Mailbox
) -> None:
    mine, theirs = client_of(ada), client_of(root)
    before = mine.get(ME)
    assert before.json()["pending_email"] is None
    assert change(mine, email=AT_NEW).json()["pending_email"] == AT_NEW
    pending = mine.get(ME, headers={"If-None-Match": before.headers["ETag"]})
    assert (pending.json()["email"], pending.json()["pending_email"]) == (ada.email, AT_NEW)
    for answer in (theirs.get(USERS), theirs.get(f"{USERS}{ada.id}"), mine.get(USERS), mine.get(f"{USERS}{ada.id}")):
        assert AT_NEW not in answer.text
        assert "pending" not in answer.text
    assert verify(client, mailbox.token(AT_NEW)).status_code == 204
    after = mine.get(ME).json()
    assert (after["email"], after["pending_email"]) == (AT_NEW, None)


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_change_of_address_can_be_cancelled(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox, is_sent: bool
) -> None:
    mine = client_of(ada)
    change(mine, email=AT_NEW)
    token = mailbox.token(AT_NEW) if is_sent else None
    for _ in range(2):
        cancelled = mine.delete(f"{ME}/pending-email")
        assert (cancelled.status_code, cancelled.content) == (204, b"")
    assert mine.get(ME).json()["pending_email"] is None
    if token:
        assert outcome(verify(client, token)) == INVALID_LINK
        assert stored(service, ada).email == ada.email
    assert mailbox.subjects(AT_NEW) == ([VERIFY] if is_sent else [])


def test_of_two_changes_of_address_the_later_counts(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    tokens = []
    for email in (AT_NEW, "newer@example.com"):
        change(client_of(ada), email=email)
        tokens.append(mailbox.token(email))
    assert [verify(client, token).status_code for token in tokens] == [400, 204]
    assert stored(service, ada).email == "newer@example.com"


def test_verifying_the_current_address_keeps_a_pending_change(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    change(client_of(ada), email=AT_NEW)
    assert verify(client, TO_VERIFY.token(client, mailbox, ada.email)).status_code == 204
    assert stored(service, ada).pending_email == AT_NEW
    change(client_of(ada), email=AT_NEW)
    assert verify(client, mailbox.token(AT_NEW)).status_code == 204


def test_what_a_superuser_changes_holds_at_once_and_is_to_be_verified(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, root: User, mailbox: Mailbox
) -> None:
    set_verified(service, ada)
    changed = client_of(root).patch(f"{USERS}{ada.id}", json={"email": AT_NEW})
    assert changed.status_code == 200
    assert (changed.json()["email"], changed.json()["email_verified_at"]) == (AT_NEW, None)
    assert outcome(log_in(client, ada.email)) == INCORRECT_LOGIN
    assert mailbox.subjects(ada.email) == [EMAIL_CHANGED]
    assert mailbox.subjects(AT_NEW) == [VERIFY]
    assert verify(client, mailbox.token(AT_NEW)).status_code == 204
    assert stored(service, ada).email_verified_at
    assert len(mailbox.messages()) == 2


def test_a_forgotten_password_is_replaced_and_every_session_ends(
    client: httpx2.Client, client_of: Clients, ada: User, mailbox: Mailbox
) -> None:
    tokens = log_in(client, ada.email).json()
    done = reset(client, TO_RESET.token(client, mailbox, ada.email))
    assert (done.status_code, done.content) == (204, b"")
    assert outcome(refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")
    assert outcome(of_token(client, tokens["access_token"])) == (401, "invalid_token")
    assert outcome(client_of(ada).get(ME)) == (401, "invalid_token")
    assert outcome(log_in(client, ada.email)) == INCORRECT_LOGIN
    assert log_in(client, ada.email, NEW).status_code == 200


def test_who_replaced_a_password_has_verified_the_address_and_is_told(
    client: httpx2.Client, service: Service, ada: User, mailbox: Mailbox
) -> None:
    reset(client, TO_RESET.token(client, mailbox, ada.email))
    verified_at = stored(service, ada).email_verified_at
    assert verified_at
    assert mailbox.subjects() == [RESET, PASSWORD_CHANGED]
    reset(client, TO_RESET.token(client, mailbox, ada.email), PASSWORD)
    assert stored(service, ada).email_verified_at == verified_at


def test_after_a_password_reset_earlier_failed_attempts_do_not_count(
    client: httpx2.Client, service: Service, ada: User, mailbox: Mailbox
) -> None:
    spend(service, 90, "login", account=ada.email, address="10.0.0.{}")
    spend(service, 10, "login", account=ada.email)
    assert outcome(log_in(client, ada.email)) == (429, "too_many_requests")
    reset(client, TO_RESET.token(client, mailbox, ada.email))
    assert log_in(client, ada.email, NEW).status_code == 200


@each_link
def test_a_link_is_good_for_its_lifetime(client: httpx2.Client, ada: User, mailbox: Mailbox, link: Link) -> None:
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        token = link.token(client, mailbox, ada.email)
        clock.shift(link.lifetime)
        assert outcome(link.use(client, token)) == INVALID_LINK
        clock.shift(timedelta(seconds=-1))
        assert link.use(client, token).status_code == 204


def test_who_verifies_the_address_meanwhile_can_still_set_a_new_password(
    client: httpx2.Client, ada: User, mailbox: Mailbox
) -> None:
    token = TO_RESET.token(client, mailbox, ada.email)
    verify(client, TO_VERIFY.token(client, mailbox, ada.email))
    assert reset(client, token).status_code == 204


@each_link
@pytest.mark.parametrize("first", [0, 1])
def test_all_links_are_good_until_one_is_used(
    client: httpx2.Client, ada: User, mailbox: Mailbox, link: Link, first: int
) -> None:
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        older = link.token(client, mailbox, ada.email)
        clock.shift(1)
        newer = link.token(client, mailbox, ada.email)
        assert older != newer
        used, left = (older, newer) if first == 0 else (newer, older)
        assert link.use(client, used).status_code == 204
        for token in (used, left):
            assert outcome(link.use(client, token)) == INVALID_LINK


ENDS: dict[str, Callable[[Clients, User, User], httpx2.Response]] = {
    "the password was changed": lambda client_of, user, _: change(client_of(user), password=NEW),
    "the address was changed": lambda client_of, user, root: client_of(root).patch(
        f"{USERS}{user.id}", json={"email": AT_NEW}
    ),
    "the user was deactivated": lambda client_of, user, root: client_of(root).patch(
        f"{USERS}{user.id}", json={"is_active": False}
    ),
    "the user was deleted": lambda client_of, user, _: client_of(user).delete(ME),
}


@each_link
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_link_ends_when(
    client: httpx2.Client,
    client_of: Clients,
    ada: User,
    root: User,
    mailbox: Mailbox,
    link: Link,
    end: Callable[[Clients, User, User], httpx2.Response],
) -> None:
    token = link.token(client, mailbox, ada.email)
    assert end(client_of, ada, root).status_code in (200, 204)
    assert outcome(link.use(client, token)) == INVALID_LINK


def forged(text: str) -> str:
    return base64.urlsafe_b64encode(b"\0" * 16 + text.encode()).decode().rstrip("=")


@each_link
def test_a_link_is_good_for_one_purpose_only(client: httpx2.Client, ada: User, mailbox: Mailbox, link: Link) -> None:
    other = TO_RESET if link is TO_VERIFY else TO_VERIFY
    login = log_in(client, ada.email).json()
    foreign = [other.token(client, mailbox, ada.email), login["refresh_token"], login["access_token"]]
    own = link.token(client, mailbox, ada.email)
    for token in foreign:
        assert outcome(link.use(client, token)) == INVALID_LINK
    assert outcome(refresh(client, own)) == (400, "invalid_grant")
    assert outcome(of_token(client, own)) == (401, "invalid_token")
    assert link.use(client, own).status_code == 204


@each_link
def test_what_is_no_token_is_refused(client: httpx2.Client, ada: User, mailbox: Mailbox, link: Link) -> None:
    good = link.token(client, mailbox, ada.email)
    later = int(now().timestamp()) + 60
    for token in (
        "x",
        "é",
        "====",
        f"{good} ",
        f"{good[:8]}!!!!{good[8:]}",
        good[:-1],
        ("B" if good[0] == "A" else "A") + good[1:],
        forged(f"{ada.id} {later} {ada.email}"),
        forged(f"{ada.id} {'9' * 600} {ada.email}"),
        forged(f"{ada.id} nan {ada.email}"),
        forged(f"\0 {later} {ada.email}"),
        forged("\0"),
    ):
        assert outcome(link.use(client, token)) == INVALID_LINK, token
    for token in ("", "\0", f"{good}\0", f"{good}\n", "\ud800", "x" * 1025, "x" * 1_000_000):
        refused = link.use(client, token)
        assert outcome(refused) == (422, "validation_error")
        assert [error["loc"] for error in refused.json()["errors"]] == [["body", "token"]]
        assert len(refused.text) < 1000
    assert link.use(client, good).status_code == 204


def test_a_weak_password_does_not_use_up_the_link(client: httpx2.Client, ada: User, mailbox: Mailbox) -> None:
    token = TO_RESET.token(client, mailbox, ada.email)
    for weak in ("short", "password1", "ADA@example.com", "x" * 129, "no\0control characters"):
        refused = reset(client, token, weak)
        assert outcome(refused) == (422, "validation_error")
        assert [error["loc"] for error in refused.json()["errors"]] == [["body", "new_password"]]
        assert weak not in refused.text
    assert reset(client, token).status_code == 204


def test_no_token_is_kept_in_the_database(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    tokens = [link.token(client, mailbox, ada.email) for link in (TO_VERIFY, TO_RESET)]
    change(client_of(ada), email=AT_NEW)
    tokens += [mailbox.token(AT_NEW), *map(str, log_in(client, ada.email).json().values())]
    tables = SQLModel.metadata.sorted_tables
    rows = service.read(lambda session: [list(session.execute(table.select())) for table in tables])
    assert AT_NEW in repr(rows)
    assert not [token for token in tokens if len(token) > 20 and token in repr(rows)]


def test_only_who_verified_the_address_is_greeted_by_name(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, mailbox: Mailbox
) -> None:
    def greeting(to: str) -> str:
        text = mailbox.messages(to)[-1].get_body(("plain",))
        assert text
        return str(text.get_content()).splitlines()[0]

    for link in (TO_VERIFY, TO_RESET):
        link.ask(client, ada.email)
        assert greeting(ada.email) == "Hello,"
    set_verified(service, ada)
    TO_RESET.ask(client, ada.email)
    assert greeting(ada.email) == "Hello Ada,"
    change(client_of(ada), email=AT_NEW)
    assert greeting(AT_NEW) == "Hello,"


def test_a_password_that_was_forgotten_yesterday_is_not_written_about_any_more(
    client: httpx2.Client, ada: User, mailbox: Mailbox
) -> None:
    with time_machine.travel(datetime.now(UTC), tick=True) as clock:
        TO_RESET.ask(client, ada.email)
        TO_VERIFY.ask(client, ada.email)
        clock.shift(timedelta(days=1, minutes=1))
        assert mailbox.subjects(ada.email) == [VERIFY]


def test_links_lead_to_the_frontend(serve: Callable[..., Service]) -> None:
    service = serve(frontend_url="https://shop.example.org/account/", app_name="The <Shop>")
    ada, mailbox = add_user(service, "ada"), Mailbox(service)
    with client_at(service.url) as client:
        for link, page in ((TO_VERIFY, "verify-email"), (TO_RESET, "reset-password")):
            link.ask(client, ada.email)
            url = f"https://shop.example.org/account/{page}?token={mailbox.token(ada.email)}"
            message = mailbox.messages(ada.email)[-1]
            text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
            assert text
            assert html
            assert f"\n{url}\n" in text.get_content().replace("\r\n", "\n")
            assert f'href="{url}"' in html.get_content()


@pytest.fixture
def strict(serve: Callable[..., Service]) -> Service:
    """A service that requires a verified address to log in."""
    return serve(email_verification_required=True)


def test_where_verification_is_required_it_comes_before_a_login(strict: Service) -> None:
    ada, mailbox = add_user(strict, "ada"), Mailbox(strict)
    with client_at(strict.url) as client:
        assert outcome(log_in(client, ada.email)) == INCORRECT_LOGIN
        verify(client, TO_VERIFY.token(client, mailbox, ada.email))
        assert log_in(client, ada.email).status_code == 200


def test_where_verification_is_required_signing_up_does_not_tell_who_is_known(strict: Service) -> None:
    ada, root, mailbox = add_user(strict, "ada"), add_user(strict, "root", is_superuser=True), Mailbox(strict)
    for user in (ada, root):
        set_verified(strict, user)
    before = stored(strict, ada)
    with client_at(strict.url) as client, client_at(strict.url, root) as roots:
        with statements(strict) as for_known:
            known = sign_up(client, ada.email, NEW)
        with statements(strict) as for_unknown:
            unknown = sign_up(client, "eve@example.com", NEW)
        assert for_known == for_unknown != []
        assert outcome(sign_up(roots, ada.email, NEW)) == EMAIL_KNOWN
        assert [user["email"] for user in roots.get(USERS).json()] == [ada.email, root.email, "eve@example.com"]

    def form(answer: httpx2.Response) -> tuple[Any, ...]:
        body = answer.json()
        varied = {name: len(body.pop(name)) for name in ("id", "created_at", "updated_at", "email")}
        return answer.status_code, list(answer.headers), list(answer.json()), body, set(varied)

    assert known.status_code == 201
    assert known.json()["created_at"] == known.json()["updated_at"]
    assert form(known) == form(unknown)
    with client_at(strict.url) as client:  # neither does a login
        told = [log_in(client, email, NEW) for email in (ada.email, "eve@example.com")]
    assert [answer.status_code for answer in told] == [401, 401]
    assert len({answer.content.replace(answer.headers["X-Request-ID"].encode(), b"") for answer in told}) == 1
    assert known.json()["id"] != str(ada.id)
    assert stored(strict, ada) == before
    assert mailbox.subjects(ada.email) == [HAS_AN_ACCOUNT]
    assert mailbox.subjects("eve@example.com") == [VERIFY]


def test_where_verification_is_required_a_change_of_address_does_not_tell_who_is_known(strict: Service) -> None:
    ada, bob, mailbox = add_user(strict, "ada"), add_user(strict, "bob"), Mailbox(strict)
    set_verified(strict, ada)
    with client_at(strict.url, ada) as client:
        known, unknown = change(client, email=bob.email), change(client, email=AT_NEW)
        assert known.status_code == 200
        assert known.json() | {"pending_email": AT_NEW, "updated_at": ANY} == unknown.json() | {"updated_at": ANY}
        assert known.json()["pending_email"] == bob.email
    assert mailbox.subjects(bob.email) == []
    assert mailbox.subjects(AT_NEW) == [VERIFY]
    assert mailbox.subjects(ada.email) == [IS_ABOUT_TO_CHANGE] * 2


def test_if_several_sign_up_with_an_address_only_its_owner_gets_access(strict: Service) -> None:
    mailbox, theirs, mine = Mailbox(strict), "the thief's password", "the owner's password"
    with client_at(strict.url) as client:
        for password in (theirs, mine, theirs):
            assert sign_up(client, "carol@example.com", password).status_code == 201
        verify(client, TO_VERIFY.token(client, mailbox, "carol@example.com"))
        assert {outcome(log_in(client, "carol@example.com", password)) for password in (theirs, mine)} == {
            INCORRECT_LOGIN
        }
        assert reset(client, TO_RESET.token(client, mailbox, "carol@example.com"), mine).status_code == 204
        assert outcome(log_in(client, "carol@example.com", theirs)) == INCORRECT_LOGIN
        assert log_in(client, "carol@example.com", mine).status_code == 200
    assert mailbox.subjects("carol@example.com")[:3] == [VERIFY, RESET, RESET]


def test_a_stranger_who_signs_up_changes_no_account_that_exists(strict: Service) -> None:
    ada, root, mailbox = add_user(strict, "ada"), add_user(strict, "root", is_superuser=True), Mailbox(strict)
    for user in (ada, root):
        set_verified(strict, user)
    with client_at(strict.url) as client, client_at(strict.url, root) as roots:
        assert roots.patch(f"{USERS}{ada.id}", json={"email": AT_NEW}).status_code == 200
        token, before = mailbox.token(AT_NEW), stored(strict, ada)
        made = roots.post(USERS, json={"email": "carol@example.com", "password": PASSWORD}).json()["id"]
        for email in (AT_NEW, "carol@example.com"):
            assert sign_up(client, email, "a stranger's password").status_code == 201
        assert mailbox.subjects(AT_NEW) == mailbox.subjects("carol@example.com") == [VERIFY, HAS_AN_ACCOUNT]
        assert stored(strict, ada) == before
        assert verify(client, token).status_code == 204
        assert log_in(client, AT_NEW).status_code == 200
        assert roots.patch(USERS + made, json={"email_verified": True}).status_code == 200
        assert log_in(client, "carol@example.com").status_code == 200


@pytest.mark.parametrize("by", ["verifying", "a superuser's word", "a superuser's password"])
def test_a_claim_to_an_address_becomes_an_account(strict: Service, by: str) -> None:
    root, mailbox, email = add_user(strict, "root", is_superuser=True), Mailbox(strict), "carol@example.com"
    set_verified(strict, root)
    with client_at(strict.url) as client, client_at(strict.url, root) as roots:
        sign_up(client, email)
        carol = strict.read(users.find_by_email, email)
        assert carol
        if by == "verifying":
            verify(client, mailbox.token(email))
        else:
            word = {"email_verified": True} if by == "a superuser's word" else {"password": PASSWORD}
            assert roots.patch(f"{USERS}{carol.id}", json=word).status_code == 200
        before = stored(strict, carol)
        assert sign_up(client, email, "a stranger's password").status_code == 201
        assert stored(strict, carol) == before
        assert mailbox.subjects(email)[-1] == HAS_AN_ACCOUNT


def test_where_verification_is_required_a_session_ends_with_it(strict: Service) -> None:
    ada, root, mailbox = add_user(strict, "ada"), add_user(strict, "root", is_superuser=True), Mailbox(strict)
    for user in (ada, root):
        set_verified(strict, user)
    with client_at(strict.url) as client, client_at(strict.url, root) as roots:
        for body in ({"email": AT_NEW}, {"email_verified": False}):
            tokens = log_in(client, stored(strict, ada).email).json()
            assert of_token(client, tokens["access_token"]).status_code == 200
            assert roots.patch(f"{USERS}{ada.id}", json=body).status_code == 200
            assert outcome(of_token(client, tokens["access_token"])) == (401, "invalid_token")
            assert outcome(refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")
            verified = roots.patch(f"{USERS}{ada.id}", json={"email_verified": True}).json()
            assert verified["email_verified_at"]
        again = roots.patch(f"{USERS}{ada.id}", json={"email_verified": True}).json()
        assert again == verified
    assert mailbox.subjects(AT_NEW) == []  # it was verified before the message was sent


LOCKING_OUT: dict[str, dict[str, object]] = {
    "another address": {"email": AT_NEW},
    "not verified": {"email_verified": False},
    "no superuser": {"is_superuser": False},
    "inactive": {"is_active": False},
}


@pytest.mark.parametrize("body", LOCKING_OUT.values(), ids=LOCKING_OUT)
def test_where_verification_is_required_one_superuser_can_always_log_in(
    strict: Service, body: dict[str, object]
) -> None:
    root, second = (add_user(strict, name, is_superuser=True) for name in ("root", "second"))
    set_verified(strict, root)
    set_verified(strict, second)
    with client_at(strict.url, second) as client, client_at(strict.url) as anyone:
        assert client.patch(f"{USERS}{root.id}", json=body).status_code == 200
        assert log_in(anyone, root.email).is_success is ("is_superuser" in body)
        for leaving in ({"is_superuser": False}, {"is_active": False}):
            assert outcome(client.patch(f"{USERS}{second.id}", json=leaving)) == (409, "last_superuser")
        assert outcome(client.delete(ME)) == (409, "last_superuser")
        assert log_in(anyone, second.email).status_code == 200


@pytest.mark.parametrize("is_moved", [False, True])
def test_two_superusers_do_not_lock_each_other_out(strict: Service, is_moved: bool) -> None:
    pair = [add_user(strict, name, is_superuser=True) for name in ("root", "second")]
    for user in pair:
        set_verified(strict, user)
    context, callers = context_of(strict), [caller_of(strict, user) for user in pair]
    addresses = ("first@example.net", "second@example.net")
    bodies = [{"email": each} if is_moved else {"email_verified": False} for each in addresses]

    async def at_once() -> list[object]:
        return await asyncio.gather(
            *(
                accounts.update(context, by, other.id, UserUpdate.model_validate(changes))
                for (by, other), changes in zip((callers, callers[::-1]), bodies, strict=True)
            ),
            return_exceptions=True,
        )

    done = strict.run(at_once())
    assert sorted(type(each).__name__ for each in done) == ["LastSuperuser", "NoneType"]


@pytest.mark.parametrize(
    "body", [{"email": AT_NEW}, {"password": NEW}, {"email_verified": True}, {"full_name": "Root", "email": AT_NEW}]
)
def test_a_superuser_has_no_way_round_the_current_password(
    client_of: Clients, service: Service, root: User, mailbox: Mailbox, body: dict[str, object]
) -> None:
    before = stored(service, root)
    refused = client_of(root).patch(f"{USERS}{root.id}", json=body)
    assert (*outcome(refused), "/users/me" in refused.json()["detail"]) == (403, "own_account", True)
    assert stored(service, root) == before
    assert mailbox.messages() == []
    allowed = client_of(root).patch(f"{USERS}{root.id}", json={"full_name": "Ruth", "email": root.email.upper()})
    assert (allowed.status_code, allowed.json()["full_name"]) == (200, "Ruth")


def test_where_signing_up_sends_mail_to_others_it_does_so_ten_times(strict: Service) -> None:
    ada, mailbox = add_user(strict, "ada"), Mailbox(strict)
    set_verified(strict, ada)
    with client_at(strict.url) as client:
        assert [sign_up(client, ada.email, NEW).status_code for _ in range(11)] == [201] * 10 + [429]
    assert mailbox.subjects(ada.email) == [HAS_AN_ACCOUNT] * 10


def test_without_required_verification_a_sign_up_with_a_known_address_is_refused(
    client: httpx2.Client, ada: User, mailbox: Mailbox
) -> None:
    assert outcome(sign_up(client, ada.email)) == EMAIL_KNOWN
    assert mailbox.messages() == []


def test_what_concerns_security_is_logged_with_its_request_and_without_secrets(
    client: httpx2.Client, client_of: Clients, service: Service, root: User, mailbox: Mailbox, log: io.StringIO
) -> None:
    expected: list[tuple[str, str, str | None]] = []
    sent = 0

    def expect(event: str | None, user_id: UUID | str | None, act: Callable[..., Any], *args: Any) -> Any:
        """Run an action in its own request, and record the expected log entries."""
        nonlocal sent
        sent += 1
        for each in (client, admin):
            each.headers["X-Request-ID"] = f"request-{sent}"
        if event:
            expected.append((f"request-{sent}", event, str(user_id) if user_id else None))
        return act(*args)

    def logout(token: str) -> int:
        return client.post(f"{AUTH}/logout", headers={"Authorization": f"Bearer {token}"}).status_code

    def with_token(token: str, **values: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.patch(ME, json={"current_password": PASSWORD, **values}, headers=headers)
        assert answer.status_code == 200

    admin = client_of(root)
    carol = expect("user_created", root.id, sign_up, admin, "carol@example.com").json()["id"]
    expect("login_failed", carol, log_in, client, "carol@example.com", "a wrong passphrase")
    expect("login_failed", None, log_in, client, "nobody@example.com", "a wrong passphrase")
    login = expect("login", carol, log_in, client, "carol@example.com").json()
    second = expect(None, None, refresh, client, login["refresh_token"]).json()
    third = expect(None, None, refresh, client, second["refresh_token"]).json()
    expect("refresh_token_reused", carol, refresh, client, login["refresh_token"])
    to_verify = mailbox.token("carol@example.com")
    expect("email_verified", carol, verify, client, to_verify)
    other = expect("login", carol, log_in, client, "carol@example.com").json()
    expect("email_change_requested", carol, lambda: with_token(other["access_token"], email=AT_NEW))
    to_change = mailbox.token(AT_NEW)
    expect("email_changed", carol, verify, client, to_change)
    expect("password_changed", carol, lambda: with_token(other["access_token"], password=NEW))
    expect("logout", carol, logout, other["access_token"])
    expect("reset_password_requested", None, TO_RESET.ask, client, AT_NEW)
    to_reset = mailbox.token(AT_NEW)
    expect("password_reset", carol, reset, client, to_reset, "a third passphrase")
    spend(service, 10, "verify_email", account="nobody@example.com")
    expect("throttled", None, TO_VERIFY.ask, client, "nobody@example.com")
    expect("user_updated", root.id, lambda: admin.patch(USERS + carol, json={"email": "carola@example.com"}))
    assert mailbox.subjects("carola@example.com") == [VERIFY]
    expect("user_deleted", root.id, lambda: admin.delete(USERS + carol))

    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    events = [entry for entry in entries if entry["logger"] == "app.security"]
    assert [(each["request_id"], each["message"], each.get("user_id")) for each in events] == expected
    assert {each["target"] for each in events if each["message"].startswith("user_")} == {carol}

    tokens = [each[name] for each in (login, second, third, other) for name in ("access_token", "refresh_token")]
    secrets = [PASSWORD, NEW, "passphrase", *tokens, to_verify, to_change, to_reset, "argon2", "carol", "@", AT_NEW]
    assert not [secret for secret in secrets if secret in log.getvalue()]
