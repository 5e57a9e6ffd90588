"""Emails: the outbox. A message is stored in the transaction that causes it, and sent after its commit."""

import json
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from sqlalchemy import JSON, Index, String, update
from sqlmodel import Field, Session, col, select

from app import jobs
from app.config import Settings
from app.core import fields, mail, paging
from app.core.db import Record, now
from app.core.fields import Input, Line, Text
from app.core.jobs import Job
from app.core.paging import Page, Position, Slice
from app.jobs import Context

TRIES = 8
KEPT = timedelta(days=30)
"""How long messages are kept, whether they are sent, dead or still queued."""

Status = Literal["queued", "sent", "dead"]

Letter = Callable[[Session, "Email", Settings], dict[str, Any] | None]
LETTERS: dict[str, Letter] = {}
"""Builds the template values of a kind when the message is sent; None if the message is obsolete. Domains register
theirs. The templates of other kinds get the queued context."""


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
    __table_args__ = (Index(None, "created_at", "id"),)

    user_id: uuid.UUID | None = Field(default=None, foreign_key="users.id", ondelete="CASCADE", index=True)
    context: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class EmailPage(Page):
    sort: Literal["created_at", "-created_at"] = "-created_at"
    status: Annotated[Status, Field(description="Only what is queued, sent or dead")] | None = None
    email: Annotated[fields.Email, Field(description="Only messages to this address")] | None = None


def queue(session: Session, kind: str, to: str, user_id: uuid.UUID | None = None, /, **context: Any) -> None:
    """Send a message after the commit of this transaction. `context` is for its templates and must contain no secrets.

    `kind` is the folder of its templates. They receive dates, times, UUIDs and Decimals as text. A missing template or
    value is an error here, not when the message is sent.
    """
    context = json.loads(json.dumps(context, default=_text))
    if kind not in LETTERS:
        mail.render(kind, context, app_name="")
    email = Email(kind=kind, email=to, user_id=user_id, context=context)
    session.add(email)
    jobs.queue(session, deliver, email_id=email.id)


def _text(value: object) -> str:
    if isinstance(value, date | time | uuid.UUID | Decimal):  # a datetime is a date
        return str(value)
    raise TypeError(f"The context of an email cannot contain a {type(value).__name__}")


def send(session: Session, _by: object, new: EmailCreate) -> None:
    """Queue a message from a superuser."""
    queue(session, "message", new.email, subject=new.subject, text=new.text)


def page(session: Session, _by: object, wanted: EmailPage, after: Position | None = None) -> Slice[EmailPublic]:
    statement = select(Email)
    if wanted.status:
        statement = statement.where(Email.status == wanted.status)
    if wanted.email:
        statement = statement.where(Email.email == wanted.email)
    return paging.take(session, EmailPublic, statement, wanted, after)


def _note(session: Session, job: Job, *, email_id: uuid.UUID) -> None:
    """Copy the outcome of its job to the message, for superusers."""
    status = {"done": "sent", "dead": "dead"}.get(job.status, "queued")
    values = job.model_dump(include={"attempts", "last_error", "due_at"})
    sent_at = job.updated_at if status == "sent" else None
    this = update(Email).where(col(Email.id) == email_id)
    session.execute(this.values(**values, status=status, sent_at=sent_at))


@jobs.job(name="send_email", tries=TRIES, when=lambda context: context.mail is not None, after=_note)
async def deliver(context: Context, *, email_id: uuid.UUID) -> None:
    """Send a message (at-least-once delivery), with retries for 10 hours.

    It is sent twice only if the worker ends, or loses the database, after the server has accepted it and before this is
    stored. The second message has the same Message-ID.
    """
    secret = ""
    try:
        found = await context.db.write(_letter, email_id, context.settings)
        if found is None or context.mail is None:
            return
        email, content = found
        secret = content.get("token", "")
        by = context.settings.app_name, context.settings.mail_from
        await context.mail.send(mail.compose(email.kind, content, by, email.email, key=email.id, date=email.created_at))
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        if secret:  # a server may quote it in a refusal
            text = text.replace(secret, "...")
        failure = jobs.GiveUp if isinstance(error, mail.Rejected | mail.Malformed) else jobs.Failed
        raise failure(text) from error


def _letter(session: Session, email_id: uuid.UUID, settings: Settings) -> tuple[Email, dict[str, Any]] | None:
    email = session.get(Email, email_id)
    if email is None:
        return None
    content = LETTERS[email.kind](session, email, settings) if email.kind in LETTERS else email.context
    return None if content is None else (email, content)


@jobs.every(hours=1)
async def sweep_emails(context: Context) -> None:
    await context.db.sweep(Email, col(Email.created_at) < now() - KEPT)
