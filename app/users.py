"""Users: who they are, and what they may."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from sqlalchemy import Index, UniqueConstraint, bindparam, update
from sqlmodel import Field, Session, SQLModel, col, select

from app import emails, paging
from app.db import CONSTRAINTS, Record, insert, now
from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.fields import Email, Flag, GivenPassword, Input, Line, Password, omittable
from app.paging import Page, Position, Slice


class EmailTaken(BadRequest):
    code = "email_taken"
    detail = "User with this email already exists."


class SignupClosed(Forbidden):
    code = "signup_closed"
    detail = "Sign-up is closed: ask a superuser for an account"


class LastSuperuser(Conflict):
    code = "last_superuser"
    detail = "The last active superuser must stay one"


class UserBase(SQLModel):
    email: Email = Field(max_length=254)
    full_name: Line | None = Field(default=None, max_length=255, schema_extra={"examples": ["Ada Lovelace"]})


class UserCreate(UserBase, Input):
    password: Password


class UserUpdateMe(Input):
    """What you may change of yourself; a new email or password needs the current password.

    A new email counts once it is confirmed, by the link that is sent there.
    """

    full_name: Line | None = Field(default=None, max_length=255)
    email: Email = omittable()
    password: Password = omittable()
    current_password: GivenPassword = omittable()


class UserUpdate(Input):
    """What a superuser may change of a user."""

    full_name: Line | None = Field(default=None, max_length=255)
    email: Email = omittable()
    password: Password = omittable()
    is_active: bool = omittable(strict=True)
    is_superuser: bool = omittable(strict=True)


class UserPage(Page):
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "email", "-email"] = "created_at"
    is_active: Annotated[Flag, Field(description="Only active users, or only inactive ones")] | None = None
    email: Annotated[Email, Field(description="Only the user of this address")] | None = None


class UserPublic(UserBase, Record):
    is_active: bool = True
    is_superuser: bool = False
    email_verified_at: datetime | None = None


class User(UserPublic, table=True):
    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        *(Index(None, key, "id") for key in ("created_at", "updated_at", "email")),
    )

    hashed_password: str = Field(max_length=255, repr=False)
    version: int = 1


VOID = "!"
"""In place of a hash: no password is right."""

CONSTRAINTS["uq_users_email"] = EmailTaken

Check = Callable[[Session, User], None]
"""Refuses a change of a user in this state, by raising."""

_BY_ID = select(User).where(User.id == bindparam("id"))
_BY_EMAIL = select(User).where(User.email == bindparam("email"))
_ACTIVE_SUPERUSERS = (
    select(User.id).where(col(User.is_superuser), col(User.is_active)).order_by(col(User.id)).with_for_update()
)


def find(session: Session, user_id: uuid.UUID, *, for_update: bool = False) -> User | None:
    statement = _BY_ID.with_for_update() if for_update else _BY_ID
    return session.exec(statement, params={"id": user_id}).first()


def find_by_email(session: Session, email: str) -> User | None:
    """`email` in its canonical form."""
    return session.exec(_BY_EMAIL, params={"email": email}).first()


def any_superuser(session: Session) -> bool:
    return session.exec(select(User.id).where(col(User.is_superuser)).limit(1)).first() is not None


def get(session: Session, user_id: uuid.UUID) -> User:
    user = find(session, user_id)
    if user is None:
        raise NotFound
    return user


def page(session: Session, _by: UserPublic, wanted: UserPage, after: Position | None = None) -> Slice[User]:
    statement = select(User)
    if wanted.is_active is not None:
        statement = statement.where(User.is_active == wanted.is_active)
    if wanted.email:
        statement = statement.where(User.email == wanted.email)
    return paging.take(session, statement, wanted, after)


def create(session: Session, new: UserCreate, hashed_password: str, *, is_superuser: bool = False) -> User:
    """A user whose address is still to be verified, by the message that is queued here; the operator vouches for a
    superuser's."""
    user = _build(new, hashed_password, is_superuser=is_superuser, email_verified_at=now() if is_superuser else None)
    session.add(user)
    session.flush()
    if not is_superuser:
        emails.queue(session, "verify_email", user.email, user.id)
    return user


def create_discreetly(session: Session, new: UserCreate, hashed_password: str) -> User:
    """The same, but where the address is known its owner alone is told: the answer, and the time it takes, is alike.

    Of several who sign up with an address that nobody has verified yet, none is believed: all passwords are void, and
    the owner of the address can set one.
    """
    user = _build(new, hashed_password)
    added = session.execute(insert(session, User).values(user.model_dump()).on_conflict_do_nothing())
    others = update(User).where(col(User.email) == user.email, col(User.id) != user.id)
    voided = session.execute(others.where(col(User.email_verified_at).is_(None)).values(hashed_password=VOID))
    is_new, is_contested = added.rowcount == 1, voided.rowcount == 1  # type: ignore[attr-defined]  # CursorResults
    kind = "verify_email" if is_new else "reset_password" if is_contested else "known_email"
    emails.queue(session, kind, user.email, user.id if is_new else None)
    return user


def _build(new: UserCreate, hashed_password: str, **values: Any) -> User:
    return User.model_validate(new, update={"hashed_password": hashed_password, **values})


def change(session: Session, user_id: uuid.UUID, changes: dict[str, Any], check: Check | None = None) -> User:
    """Change columns of a user, and tell them by mail. What follows for their logins is up to `accounts.change`."""
    if changes.get("is_active") is False or changes.get("is_superuser") is False:
        _keep_a_superuser(session, user_id)
    user = _get_for_update(session, user_id, check)
    before = user.email
    user.sqlmodel_update(({"email_verified_at": None} if changes.get("email", before) != before else {}) | changes)
    session.flush()
    if "hashed_password" in changes:
        emails.queue(session, "password_changed", before, user_id)
    if user.email != before:
        emails.queue(session, "email_changed", before, user_id, email=user.email)
        if not user.email_verified_at:
            emails.queue(session, "verify_email", user.email, user_id)
    return user


def delete(session: Session, user_id: uuid.UUID, check: Check | None = None) -> None:
    _keep_a_superuser(session, user_id)
    session.delete(_get_for_update(session, user_id, check))


def _get_for_update(session: Session, user_id: uuid.UUID, check: Check | None) -> User:
    user = find(session, user_id, for_update=True)
    if user is None:
        raise NotFound
    if check:
        check(session, user)
    return user


def _keep_a_superuser(session: Session, user_id: uuid.UUID) -> None:
    # Locks them all, always in one order: of two who demote each other at the same moment the second sees the first.
    if session.exec(_ACTIVE_SUPERUSERS).all() == [user_id]:
        raise LastSuperuser
