"""Emails: the outbox. A message is a row of the transaction that causes it, and is sent once that is committed."""

import json
import random
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from sqlalchemy import JSON, ColumnElement, Index, String, and_, update
from sqlmodel import Field, Session, col, select

from app.core import fields, mail, paging
from app.core.db import Record, now, sweep
from app.core.fields import Input, Line, Text
from app.core.paging import Page, Position, Slice

TRIES = 8
LEASE = timedelta(minutes=2)
"""For how long a sender has a message to itself: longer than it may take to send one."""
KEPT = timedelta(days=30)
"""How long a message is kept that was sent, was given up, or that nobody sends."""

LATE = ("verify_email", "reset_password", "invitation", "known_email")
"""The kinds whose content is found out when they are sent, by `accounts.letter`."""

Status = Literal["queued", "sent", "dead"]


class EmailCreate(Input):
    email: fields.Email
    subject: Line = Field(default="A message for you", min_length=1, max_length=255)
    text: Text = Field(default="This message was sent to you by hand.", min_length=1, max_length=10_000)


class EmailPublic(Record):
    kind: Line = Field(max_length=32, schema_extra={"examples": ["message"]})
    email: fields.Email = Field(max_length=254)
    status: Status = Field(default="queued", sa_type=String(6))
    attempts: int = Field(default=0, ge=0, le=TRIES)
    last_error: Line | None = Field(default=None, max_length=255)
    due_at: datetime = Field(default_factory=now)
    sent_at: datetime | None = None


class Email(EmailPublic, table=True):
    __tablename__ = "emails"
    __table_args__ = (
        Index(None, "created_at", "id"),
        Index(None, "status", "due_at"),
    )

    user_id: uuid.UUID | None = Field(default=None, foreign_key="users.id", ondelete="CASCADE", index=True)
    context: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class EmailPage(Page):
    sort: Literal["created_at", "-created_at"] = "-created_at"
    status: Annotated[Status, Field(description="Only what is queued, sent or dead")] | None = None
    email: Annotated[fields.Email, Field(description="Only messages to this address")] | None = None


def queue(session: Session, kind: str, to: str, user_id: uuid.UUID | None = None, /, **context: Any) -> None:
    """Have a message sent if this transaction is committed; `context` is for its templates, and holds no secrets.

    `kind` is the folder of its templates, which see dates, times, UUIDs and Decimals as text. A missing template or
    value is an error here, and not when the message is sent.
    """
    context = json.loads(json.dumps(context, default=_text))
    if kind not in LATE:
        mail.render(kind, context, app_name="")
    sweep(session, Email, col(Email.created_at) < now() - KEPT)
    session.add(Email(kind=kind, email=to, user_id=user_id, context=context))


def _text(value: object) -> str:
    if isinstance(value, date | time | uuid.UUID | Decimal):  # a datetime is a date
        return str(value)
    raise TypeError(f"The context of an email cannot hold a {type(value).__name__}")


def send(session: Session, _by: object, new: EmailCreate) -> None:
    """Queue a message that a superuser wrote."""
    queue(session, "message", new.email, subject=new.subject, text=new.text)


def page(session: Session, _by: object, wanted: EmailPage, after: Position | None = None) -> Slice[EmailPublic]:
    statement = select(Email)
    if wanted.status:
        statement = statement.where(Email.status == wanted.status)
    if wanted.email:
        statement = statement.where(Email.email == wanted.email)
    return paging.take(session, EmailPublic, statement, wanted, after)


def any_due(session: Session) -> bool:
    return session.exec(select(Email.id).where(_due(now())).limit(1)).first() is not None


def claim(session: Session, most: int) -> list[Email]:
    """Up to so many due messages: no other sender gets them before LEASE is over, and a crash loses none."""
    moment = now()
    due = select(Email).where(_due(moment)).order_by(col(Email.due_at)).limit(most).with_for_update(skip_locked=True)
    claims = []
    for email in session.exec(due):
        if email.attempts >= TRIES:  # the last of its senders did not live to tell
            email.status = "dead"
        else:
            email.attempts += 1
            email.due_at = moment + LEASE
            claims.append(email)
    return claims


def sent(session: Session, claimed: Email) -> None:
    session.execute(
        update(Email).where(col(Email.id) == claimed.id).values(status="sent", sent_at=now(), last_error=None)
    )


def failed(session: Session, claimed: Email, error: str, *, for_good: bool = False) -> None:
    """Try again after half a minute, then each time three times as long (10 hours in all), unless it is of no use."""
    wait = timedelta(seconds=30 * 3 ** (claimed.attempts - 1) * random.uniform(1, 1.2))  # noqa: S311  # jitter
    status: Status = "dead" if for_good or claimed.attempts >= TRIES else "queued"
    values = {"status": status, "last_error": error[:255], "due_at": now() + wait}
    session.execute(update(Email).where(_still(claimed)).values(values))


def release(session: Session, claimed: Email) -> None:
    """Let another sender have it at once, as if it had not been claimed."""
    session.execute(update(Email).where(_still(claimed)).values(due_at=now(), attempts=claimed.attempts - 1))


def _due(moment: datetime) -> ColumnElement[bool]:
    return and_(col(Email.status) == "queued", col(Email.due_at) <= moment)


def _still(claimed: Email) -> ColumnElement[bool]:
    """Whether nobody else has claimed it since: every claim is another attempt."""
    mine = (col(Email.id) == claimed.id, col(Email.attempts) == claimed.attempts, col(Email.status) == "queued")
    return and_(*mine)
