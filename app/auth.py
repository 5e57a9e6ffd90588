"""Logins: a password for a token, a token for a user."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app import fields, users
from app.config import Settings
from app.db import Database
from app.errors import BadRequest, InvalidToken, Unauthorized
from app.fields import GivenPassword, Line
from app.security import Passwords, decode_token, encode_token
from app.users import User


class IncorrectLogin(Unauthorized):
    code = "incorrect_login"
    detail = "Incorrect email or password"


class InactiveUser(BadRequest):
    code = "inactive_user"
    detail = "Inactive user"


class LoginForm(BaseModel):
    """The password grant (RFC 6749 section 4.3.2); unknown parameters are ignored, as its section 3.2 asks."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: Annotated[Line, Field(max_length=320, examples=["ada@example.com"])]
    password: GivenPassword
    grant_type: Literal["password"] | None = None
    scope: Annotated[Line, Field(max_length=1024)] | None = None
    client_id: Annotated[Line, Field(max_length=1024)] | None = None
    client_secret: Annotated[SecretStr, Field(max_length=1024)] | None = None


class Token(BaseModel):
    access_token: str = Field(max_length=4096)
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the name of a scheme
    expires_in: int = Field(ge=1, le=2**31, description="Seconds for which the access token is good")


async def login(db: Database, passwords: Passwords, settings: Settings, form: LoginForm) -> Token:
    """A token for the user of this address and password.

    Unknown addresses and wrong passwords cost the same and are answered alike (IncorrectLogin); that a user is
    inactive is told only to who knows the password (InactiveUser).
    """
    try:
        email = fields.canonical_email(form.username)
    except ValueError:  # no address at all, and so nobody's
        user = None
    else:
        user = await db.read(users.find_by_email, email)
    password = form.password.get_secret_value()
    verdict = await passwords.verify(password, user.hashed_password if user else None)
    if user is None or not verdict.right:
        raise IncorrectLogin
    if not user.is_active:
        raise InactiveUser
    if verdict.rehashed:
        await db.write(users.rehash, user.id, old=user.hashed_password, new=verdict.rehashed)
    lifetime = timedelta(minutes=settings.access_token_expire_minutes)
    return Token(
        access_token=encode_token(
            "access", user.id, lifetime, key=settings.secret_key.get_secret_value(), algorithm=settings.algorithm
        ),
        expires_in=int(lifetime.total_seconds()),
    )


async def current_user(db: Database, settings: Settings, token: str) -> User:
    """The active user whose access token this is, as the database knows them now; else InvalidToken or InactiveUser."""
    key = settings.secret_key.get_secret_value()
    claims = decode_token(token, "access", key=key, algorithm=settings.algorithm)
    user = await db.read(users.find, claims.sub)
    if user is None:
        raise InvalidToken
    if not user.is_active:
        raise InactiveUser
    return user
