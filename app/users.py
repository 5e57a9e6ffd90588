"""Users: their data and their privileges."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, StrictBool
from sqlalchemy import Index, UniqueConstraint, bindparam, update
from sqlmodel import Field, Session, SQLModel, col, select

from app import emails
from app.core import paging
from app.core.db import CONSTRAINTS, Record, insert, now
from app.core.errors import BadRequest, Conflict, Forbidden, NotFound
from app.core.fields import Email, Flag, GivenPassword, Input, Line, Password, omittable
from app.core.paging import Page, Position, Slice


class EmailTaken(Conflict):
    code = "email_taken"
    detail = "User with this email already exists."


class EmailKnown(BadRequest):
    """The same for a sign-up."""

    code = EmailTaken.code
    detail = EmailTaken.detail


class SignupClosed(Forbidden):
    code = "signup_closed"
    detail = "Sign-up is closed. Ask a superuser for an account."


class LastSuperuser(Conflict):
    code = "last_superuser"
    detail = "The last superuser who can log in cannot be removed"


_NAMED = {"examples": ["Ada Lovelace"]}


class UserBase(SQLModel):
    email: Email = Field(max_length=254)
    full_name: Line | None = Field(default=None, max_length=255, schema_extra=_NAMED)


class UserCreate(UserBase, Input):
    password: Password


class UserAdd(UserBase, Input):
    """A new user, added by a superuser. Without a password, the user receives a link to set one."""

    password: Password = omittable()
    is_active: StrictBool = True
    is_superuser: StrictBool = False
    email_verified: StrictBool = False


def _new_user(sent: Any) -> UserCreate | UserAdd:
    more = UserAdd.model_fields.keys() - UserCreate.model_fields.keys()
    is_plain = isinstance(sent, dict) and "password" in sent and not more & sent.keys()
    return (UserCreate if is_plain else UserAdd).model_validate(sent)


# The model is chosen by the fields that were sent, so that errors name the fields of one model only.
NewUser = Annotated[UserCreate | UserAdd, PlainValidator(_new_user, json_schema_input_type=UserCreate | UserAdd)]


class UserUpdateMe(Input):
    """Changes to your own account. A new email or password requires the current password.

    A new email takes effect when it is verified by the link that is sent there.
    """

    full_name: Line | None = Field(default=None, max_length=255, schema_extra=_NAMED)
    email: Email = omittable()
    password: Password = omittable()
    current_password: GivenPassword = omittable()


class UserUpdate(Input):
    """Changes to a user, by a superuser."""

    full_name: Line | None = Field(default=None, max_length=255, schema_extra=_NAMED)
    email: Email = omittable()
    password: Password = omittable()
    is_active: bool = omittable(strict=True)
    is_superuser: bool = omittable(strict=True)
    email_verified: bool = omittable(strict=True)


class UserPage(Page):
    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "email", "-email"] = "created_at"
    is_active: Annotated[Flag, Field(description="Only active users, or only inactive ones")] | None = None
    email: Annotated[Email, Field(description="Only the user with this address")] | None = None


class UserPublic(UserBase, Record):
    is_active: bool = True
    is_superuser: bool = False
    email_verified_at: datetime | None = None


class UserMe(UserPublic):
    """Your own account, with fields that no other user sees."""

    pending_email: Email | None = Field(
        default=None, max_length=254, description="A new email that is not verified yet"
    )


class User(UserPublic, table=True):
    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        *(Index(None, key, "id") for key in ("created_at", "updated_at", "email")),
    )

    hashed_password: str = Field(max_length=255, repr=False)
    pending_email: str | None = Field(default=None, max_length=254)
    """An address that is not verified yet: a new one or, if it equals `email`, that of a sign-up with required
    verification. Such an account is only a claim to the address, which others can claim too."""
    version: int = 1


VOID = "!"
"""Stored instead of a hash: no password matches it."""

CONSTRAINTS["uq_users_email"] = EmailTaken

Check = Callable[[Session, User], None]
"""Raises an error to refuse a change of the user in this state."""
View = Callable[[Session, User], Record]
"""Builds the resource that the URL of a user returns."""

_BY_ID = select(User).where(User.id == bindparam("id"))
_BY_EMAIL = select(User).where(User.email == bindparam("email"))
_ACTIVE_SUPERUSERS = (
    select(User.id, User.email_verified_at)
    .where(col(User.is_superuser), col(User.is_active))
    .order_by(col(User.id))
    .with_for_update()
)


def find(session: Session, user_id: uuid.UUID, *, for_update: bool = False) -> User | None:
    statement = _BY_ID.with_for_update() if for_update else _BY_ID
    return session.exec(statement, params={"id": user_id}).first()


def find_by_email(session: Session, email: str) -> User | None:
    """`email` must be in canonical form."""
    return session.exec(_BY_EMAIL, params={"email": email}).first()


def any_superuser(session: Session) -> bool:
    return session.exec(select(User.id).where(col(User.is_superuser)).limit(1)).first() is not None


def get(session: Session, user_id: uuid.UUID) -> User:
    user = find(session, user_id)
    if user is None:
        raise NotFound
    return user


def show(session: Session, caller: UserPublic, user_id: uuid.UUID, view: View) -> Record:
    """The resource of a user. Callers can read themselves, superusers all users. Raises NotFound."""
    if not (caller.is_superuser or caller.id == user_id):
        raise NotFound
    return view(session, get(session, user_id))


def page(session: Session, _by: UserPublic, wanted: UserPage, after: Position | None = None) -> Slice[UserPublic]:
    statement = select(User)
    if wanted.is_active is not None:
        statement = statement.where(User.is_active == wanted.is_active)
    if wanted.email:
        statement = statement.where(User.email == wanted.email)
    return paging.take(session, UserPublic, statement, wanted, after)


def add(session: Session, new: UserBase, hashed_password: str, *, email_verified: bool = False) -> User:
    """Add a user without sending a message."""
    user = _build(new, hashed_password, email_verified_at=now() if email_verified else None)
    session.add(user)
    session.flush()
    return user


def create(session: Session, new: UserCreate | UserAdd, hashed_password: str) -> User:
    """Add a user and send a message if needed: to set a password, or to verify the address."""
    user = add(session, new, hashed_password, email_verified=isinstance(new, UserAdd) and new.email_verified)
    _welcome(session, user)
    return user


def _welcome(session: Session, user: User) -> None:
    if user.hashed_password == VOID:
        emails.queue(session, "invitation", user.email, user.id)
    elif not user.email_verified_at:
        emails.queue(session, "verify_email", user.email, user.id)


def create_discreetly(session: Session, new: UserBase, hashed_password: str) -> User:
    """The same without account enumeration: a known address gets the same answer in the same time.

    Only the owner of the address is notified. If several people sign up with the same unverified address, none is
    trusted: all their passwords become void, and the owner of the address can set one. Accounts that were created in
    another way are not changed.
    """
    user = _build(new, hashed_password, pending_email=new.email)
    user.updated_at = user.created_at
    added = session.execute(insert(session, User).values(user.model_dump()).on_conflict_do_nothing())
    claims = update(User).where(col(User.email) == user.email, col(User.pending_email) == user.email)
    voided = session.execute(claims.where(col(User.id) != user.id).values(hashed_password=VOID))
    is_new, is_contested = added.rowcount == 1, voided.rowcount == 1  # type: ignore[attr-defined]  # CursorResults
    kind = "verify_email" if is_new else "reset_password" if is_contested else "known_email"
    emails.queue(session, kind, user.email, user.id if is_new else None)
    return user


def _build(new: UserBase, hashed_password: str, **values: Any) -> User:
    return User.model_validate(new, update={"hashed_password": hashed_password, **values})


def change(
    session: Session,
    user_id: uuid.UUID,
    changes: dict[str, Any],
    check: Check | None = None,
    *,
    verification_required: bool = False,
) -> User:
    """Change columns of a user, and `email_verified`. Notifies the user by mail.

    `accounts.change` also ends sessions.
    """
    loses = False in map(changes.get, ("is_active", "is_superuser", "email_verified"))
    loses |= verification_required and "email" in changes and not changes.get("email_verified")
    superusers = _lock_superusers(session, verification_required) if loses else []
    user = _get_for_update(session, user_id, check)
    before = user.email
    moves = changes.get("email", before) != before
    since = None if moves else user.email_verified_at
    verified_at = (since or now()) if changes.get("email_verified", since) else None
    values = {name: value for name, value in changes.items() if name != "email_verified"}
    if moves or "hashed_password" in values or (verified_at and user.pending_email == before):
        values["pending_email"] = None
    user.sqlmodel_update(values | {"email_verified_at": verified_at})
    stays = user.is_active and user.is_superuser and (verified_at or not verification_required)
    if superusers == [user_id] and not stays:
        raise LastSuperuser
    session.flush()
    if "hashed_password" in values:
        emails.queue(session, "password_changed", before, user_id)
    if moves:
        emails.queue(session, "email_changed", before, user_id, email=user.email)
        _welcome(session, user)
    return user


def delete(
    session: Session, user_id: uuid.UUID, check: Check | None = None, *, verification_required: bool = False
) -> None:
    if _lock_superusers(session, verification_required) == [user_id]:
        raise LastSuperuser
    session.delete(_get_for_update(session, user_id, check))


def _get_for_update(session: Session, user_id: uuid.UUID, check: Check | None) -> User:
    user = find(session, user_id, for_update=True)
    if user is None:
        raise NotFound
    if check:
        check(session, user)
    return user


def _lock_superusers(session: Session, verification_required: bool) -> list[uuid.UUID]:
    """The ids of the superusers who can log in."""
    # Locks all of them, always in the same order: if two demote each other at once, the second sees the first change.
    locked = session.exec(_ACTIVE_SUPERUSERS).all()
    return [user_id for user_id, verified_at in locked if verified_at or not verification_required]
