"""Users: who they are, and what they may."""

import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import SecretStr
from sqlalchemy import Index, UniqueConstraint, bindparam
from sqlmodel import Field, Session, SQLModel, col, select

from app import paging
from app.db import CONSTRAINTS, Database, Record
from app.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound
from app.fields import Email, GivenPassword, Input, Line, Password, omittable
from app.paging import Page, Position, Slice
from app.security import Passwords, weakness


class EmailTaken(BadRequest):
    code = "email_taken"
    detail = "User with this email already exists."


class IncorrectPassword(BadRequest):
    code = "incorrect_password"
    detail = "The current password is not right"


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
    """What you may change of yourself; a new email or password needs the current password."""

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
    is_active: Annotated[bool, Field(description="Only active users, or only inactive ones")] | None = None
    email: Annotated[Email, Field(description="Only the user of this address")] | None = None


class UserPublic(UserBase, Record):
    is_active: bool = True
    is_superuser: bool = False


class User(UserPublic, table=True):
    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        *(Index(None, key, "id") for key in ("created_at", "updated_at", "email")),
    )

    hashed_password: str = Field(max_length=255, repr=False)
    version: int = 1


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


def page(session: Session, wanted: UserPage, after: Position | None = None) -> Slice[User]:
    statement = select(User)
    if wanted.is_active is not None:
        statement = statement.where(User.is_active == wanted.is_active)
    if wanted.email:
        statement = statement.where(User.email == wanted.email)
    return paging.take(session, statement, wanted, after)


def create(session: Session, new: UserCreate, hashed_password: str, *, is_superuser: bool = False) -> User:
    user = User.model_validate(new, update={"hashed_password": hashed_password, "is_superuser": is_superuser})
    session.add(user)
    session.flush()
    return user


def change(
    session: Session,
    user_id: uuid.UUID,
    changes: dict[str, Any],
    *,
    check: Check | None = None,
    seen_hash: str | None = None,
) -> User:
    """Change columns of a user. Where `seen_hash` is what a password was checked against, it must still be theirs."""
    if changes.get("is_active") is False or changes.get("is_superuser") is False:
        _keep_a_superuser(session, user_id)
    user = _get_for_update(session, user_id, check)
    if seen_hash and user.hashed_password != seen_hash:
        raise IncorrectPassword
    user.sqlmodel_update(changes)
    session.flush()
    return user


def delete(session: Session, user_id: uuid.UUID, check: Check | None = None) -> None:
    _keep_a_superuser(session, user_id)
    session.delete(_get_for_update(session, user_id, check))


def rehash(session: Session, user_id: uuid.UUID, *, old: str, new: str) -> None:
    """Store the same password under newer parameters, unless it was changed meanwhile."""
    user = find(session, user_id, for_update=True)
    if user and user.hashed_password == old:
        user.hashed_password = new


async def sign_up(db: Database, passwords: Passwords, new: UserCreate, *, is_superuser: bool = False) -> User:
    hashed = await _hash(passwords, new.password, new.email, new.full_name)
    return await db.write(create, new, hashed, is_superuser=is_superuser)


async def update(
    db: Database, passwords: Passwords, user_id: uuid.UUID, changes: UserUpdate, check: Check | None = None
) -> User:
    return await _update(db, passwords, await db.read(get, user_id), changes.model_dump(exclude_unset=True), check)


async def update_me(
    db: Database, passwords: Passwords, me: User, changes: UserUpdateMe, check: Check | None = None
) -> User:
    values = changes.model_dump(exclude_unset=True)
    current = values.pop("current_password", None)
    if "password" not in values and values.get("email", me.email) == me.email:
        return await _update(db, passwords, me, values, check)
    if current is None:
        raise _invalid("current_password", "Field required to change email or password", "missing")
    if not (await passwords.verify(current.get_secret_value(), me.hashed_password)).right:
        raise IncorrectPassword
    return await _update(db, passwords, me, values, check, seen_hash=me.hashed_password)


async def _update(
    db: Database,
    passwords: Passwords,
    user: User,
    values: dict[str, Any],
    check: Check | None,
    *,
    seen_hash: str | None = None,
) -> User:
    if password := values.pop("password", None):
        about = {"email": user.email, "full_name": user.full_name} | values
        values["hashed_password"] = await _hash(passwords, password, about["email"], about["full_name"])
    return await db.write(change, user.id, values, check=check, seen_hash=seen_hash)


def _invalid(field: str, msg: str, type_: str) -> Invalid:
    return Invalid({"loc": ["body", field], "msg": msg, "type": type_})


async def _hash(passwords: Passwords, password: SecretStr, email: str, full_name: str | None) -> str:
    if reason := weakness(password.get_secret_value(), email, full_name or ""):
        raise _invalid("password", reason, "password_weak")
    return await passwords.hash(password.get_secret_value())


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
