"""Emails: superusers send messages and monitor the outbox."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import pytest
from jinja2 import ChoiceLoader, DictLoader, UndefinedError
from sqlmodel import Session, col, select

from app import emails
from app.core import mail
from app.emails import Email
from app.users import User
from tests.conftest import Mailbox, on_sqlite, outcome
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

EMAILS = "/api/v1/emails/"
FORGOT = "/api/v1/auth/password/forgot"

ACCESS = {
    "GET /api/v1/emails/": (401, 400, 403, 403, 200),
    "POST /api/v1/emails/": (401, 400, 403, 403, 202),
}
REQUESTS = {"POST /api/v1/emails/": {"json": {"email": "owner@example.com"}}}

EMAIL_FIELDS = [
    "id",
    "created_at",
    "updated_at",
    "kind",
    "email",
    "status",
    "attempts",
    "last_error",
    "due_at",
    "sent_at",
]


def stored(service: Service) -> Sequence[Email]:
    return service.read(lambda session: session.exec(select(Email).order_by(col(Email.created_at))).all())


def addresses(client: httpx2.Client, **query: str) -> list[str]:
    answer = client.get(EMAILS, params=query)
    assert answer.status_code == 200, answer.text
    return [email["email"] for email in answer.json()]


def add(session: Session, /, *to: str, **values: Any) -> None:
    for address in to:
        session.add(Email(kind="message", email=address, context={"subject": "News", "text": "Hello."}, **values))
        session.flush()


def test_a_superuser_sends_a_message(client_of: Clients, root: User, mailbox: Mailbox) -> None:
    body = {"email": "ada@example.com", "subject": "News from Ærø", "text": "Line 1\n\n<b>Line 2</b>"}
    answer = client_of(root).post(EMAILS, json=body)
    assert (answer.status_code, answer.json()) == (202, {"message": "Email queued"})
    (message,) = mailbox.messages("ada@example.com")
    assert message["Subject"] == "News from Ærø"
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text
    assert html
    assert text.get_content().splitlines() == ["Line 1", "", "<b>Line 2</b>"]
    assert "&lt;b&gt;Line 2&lt;/b&gt;" in html.get_content()


def test_only_an_address_is_required(client_of: Clients, root: User, mailbox: Mailbox) -> None:
    assert client_of(root).post(EMAILS, json={"email": "Ada@EXAMPLE.com"}).status_code == 202
    (message,) = mailbox.messages()
    assert message["To"] == "ada@example.com"
    assert message["Subject"] == "A message for you"
    text = message.get_body(("plain",))
    assert text
    assert text.get_content().strip() == "This message was sent to you by hand."


@on_sqlite
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "email"),
        ({"email": None}, "email"),
        ({"email": "ada"}, "email"),
        ({"email": "ada@example.com\r\nBcc: bob@example.com"}, "email"),
        ({"email": "ada@example.com, bob@example.com"}, "email"),
        ({"email": ["ada@example.com"]}, "email"),
        ({"email": "ada@example.com", "subject": "a\r\nBcc: bob@example.com"}, "subject"),
        ({"email": "ada@example.com", "subject": "a\nb"}, "subject"),
        ({"email": "ada@example.com", "subject": "a\rb"}, "subject"),
        ({"email": "ada@example.com", "subject": ""}, "subject"),
        ({"email": "ada@example.com", "subject": "x" * 256}, "subject"),
        ({"email": "ada@example.com", "text": ""}, "text"),
        ({"email": "ada@example.com", "text": "a\0b"}, "text"),
        ({"email": "ada@example.com", "text": "x" * 10_001}, "text"),
        ({"email": "ada@example.com", "kind": "reset_password"}, "kind"),
        ({"email": "ada@example.com", "context": {}}, "context"),
        ({"email": "ada@example.com", "bcc": "bob@example.com"}, "bcc"),
    ],
    ids=repr,
)
def test_what_makes_no_message_is_refused(
    client_of: Clients, service: Service, root: User, body: dict[str, object], field: str
) -> None:
    answer = client_of(root).post(EMAILS, json=body)
    assert outcome(answer) == (422, "validation_error")
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
    assert stored(service) == []


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", {"email": "ada@example.com"})])
def test_emails_are_for_superusers_only(
    client: httpx2.Client,
    client_of: Clients,
    service: Service,
    ada: User,
    ivan: User,
    method: str,
    body: dict[str, str] | None,
) -> None:
    callers = client, client_of(ivan), client_of(ada)
    assert [outcome(caller.request(method, EMAILS, json=body)) for caller in callers] == [
        (401, "not_authenticated"),
        (400, "inactive_user"),
        (403, "forbidden"),
    ]
    assert stored(service) == []


def test_the_list_tells_what_has_become_of_each_message(
    client_of: Clients, service: Service, root: User, mailbox: Mailbox
) -> None:
    client = client_of(root)
    client.post(EMAILS, json={"email": "ada@example.com"})
    mailbox.messages()
    client.post(EMAILS, json={"email": "bob@example.com"})
    ada, bob = stored(service)
    listed = client.get(EMAILS).json()
    assert [list(email) for email in listed] == [EMAIL_FIELDS] * 2
    assert listed == [email.model_dump(mode="json", include=set(EMAIL_FIELDS)) for email in (bob, ada)]
    assert listed[0] == {
        "id": str(bob.id),
        "created_at": listed[0]["created_at"],
        "updated_at": listed[0]["updated_at"],
        "kind": "message",
        "email": "bob@example.com",
        "status": "queued",
        "attempts": 0,
        "last_error": None,
        "due_at": listed[0]["due_at"],
        "sent_at": None,
    }
    assert (listed[1]["status"], listed[1]["attempts"], listed[1]["last_error"]) == ("sent", 1, None)
    assert listed[1]["created_at"] < listed[1]["sent_at"] <= listed[1]["updated_at"]


def test_no_token_can_be_read_from_the_list(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, root: User, mailbox: Mailbox
) -> None:
    assert client.post(FORGOT, json={"email": ada.email}).status_code == 202
    asked = client.post("/api/v1/auth/email/verify/request", json={"email": ada.email})
    assert asked.status_code == 202
    superuser = client_of(root)
    while_queued = superuser.get(EMAILS)
    tokens = [found for message in mailbox.messages() for found in re.findall(r"token=([\w-]+)", message.as_string())]
    assert len(set(tokens)) == 2
    once_sent = superuser.get(EMAILS)
    for answer, status in ((while_queued, "queued"), (once_sent, "sent")):
        assert [(email["kind"], email["status"]) for email in answer.json()] == [
            ("verify_email", status),
            ("reset_password", status),
        ]
        assert [list(email) for email in answer.json()] == [EMAIL_FIELDS] * 2
    kept = repr([email.model_dump() for email in stored(service)])
    assert not [token for token in tokens if token in kept + while_queued.text + once_sent.text]


def test_the_list_is_filtered_by_status_and_address(client_of: Clients, service: Service, root: User) -> None:
    client = client_of(root)
    for status in ("sent", "dead", "queued"):
        service.write(add, "ada@example.com", f"{status}@example.com", status=status)
    assert addresses(client, status="dead") == ["dead@example.com", "ada@example.com"]
    assert addresses(client, status="queued") == ["queued@example.com", "ada@example.com"]
    assert addresses(client, email="Sent@EXAMPLE.com") == ["sent@example.com"]
    assert addresses(client, email="ada@example.com") == ["ada@example.com"] * 3
    assert addresses(client, email="ada@example.com", status="sent") == ["ada@example.com"]
    assert addresses(client, email="queued@example.com", status="sent") == []
    for query in ({"status": "lost"}, {"email": "ada"}, {"kind": "message"}, {"sort": "email"}):
        assert outcome(client.get(EMAILS, params=query)) == (422, "validation_error")


def test_the_list_comes_in_pages_newest_first(client_of: Clients, service: Service, root: User) -> None:
    everyone = [f"user{number}@example.com" for number in range(5)]
    service.write(add, *everyone)
    client = client_of(root)
    first = client.get(EMAILS, params={"limit": 2})
    second = client.get(first.links["next"]["url"])
    third = client.get(second.links["next"]["url"])
    assert "next" not in third.links
    found = [email["email"] for page in (first, second, third) for email in page.json()]
    assert found == everyone[::-1]
    assert addresses(client, sort="created_at") == everyone


def test_what_was_to_be_sent_to_a_user_goes_with_them(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, bob: User, root: User, mailbox: Mailbox
) -> None:
    for user in (ada, bob):
        client.post(FORGOT, json={"email": user.email})
        service.write(emails.queue, "password_changed", user.email, user.id)
    assert len(mailbox.messages()) == 4
    for user in (ada, bob):
        client.post(FORGOT, json={"email": user.email})
        service.write(emails.queue, "password_changed", user.email, user.id)
    assert client_of(root).delete(f"/api/v1/users/{ada.id}").status_code == 204
    assert len(mailbox.messages(ada.email)) == 2
    assert len(mailbox.messages(bob.email)) == 4
    assert {email.email for email in stored(service)} == {bob.email}
    assert client_of(bob).delete("/api/v1/users/me").status_code == 204
    assert stored(service) == []


@pytest.fixture
def booking_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of message of a product: three files in app/templates/booking."""
    files = {
        "booking/subject.txt": "Your booking at {{ app_name }}",
        "booking/body.txt": "{{ day }} | {{ starts_at }} | {{ id }} | {{ lines[0].price }}",
        "booking/body.html": '{% extends "base.html" %}{% block content %}<p>{{ day }}</p>{% endblock %}',
    }
    known = mail._templates.loader
    assert known
    monkeypatch.setattr(mail._templates, "loader", ChoiceLoader([DictLoader(files), known]))


BOOKING = {
    "day": date(2026, 11, 25),
    "starts_at": datetime(2026, 11, 25, 17, 30, tzinfo=UTC),
    "id": UUID("019b76da-a800-7000-8000-0000facade00"),
    "lines": [{"price": Decimal("12.50")}],
}


@pytest.mark.usefixtures("booking_templates")
def test_a_kind_of_ones_own_is_sent_with_dates_ids_and_amounts(service: Service, mailbox: Mailbox, ada: User) -> None:
    service.write(emails.queue, "booking", ada.email, ada.id, **BOOKING)
    (message,) = mailbox.messages(ada.email)
    text = message.get_body(("plain",))
    assert text
    assert message["Subject"] == "Your booking at Onefold"
    assert text.get_content() == f"2026-11-25 | 2026-11-25 17:30:00+00:00 | {BOOKING['id']} | 12.50\r\n"


@on_sqlite
@pytest.mark.usefixtures("booking_templates")
@pytest.mark.parametrize(
    ("kind", "context", "error"),
    [
        ("bookings", BOOKING, LookupError),
        ("booking", {"day": "today"}, UndefinedError),
        ("booking", BOOKING | {"day": object()}, TypeError),
    ],
    ids=["no template", "a value that is missing", "a value that is no text"],
)
def test_what_could_not_be_sent_is_refused_when_it_is_queued(
    service: Service, kind: str, context: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        service.write(emails.queue, kind, "ada@example.com", **context)
    assert stored(service) == []
