"""Logins: a password is exchanged for the tokens of a session, a token identifies the calling user."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy import ColumnElement, and_, bindparam, delete, inspect, update
from sqlalchemy import select as select_columns
from sqlmodel import Field, Session, SQLModel, col, select
from uuid_utils.compat import uuid7

from app import jobs, users
from app.config import Settings
from app.core import fields
from app.core.db import Database, build, now
from app.core.errors import BadRequest, Invalid, InvalidToken, NotFound, Unauthorized, Unavailable
from app.core.fields import GivenPassword, Line, omittable
from app.core.logs import event
from app.core.security import SEALED, Claims, Passwords, Verdict, decode_token, encode_token, seal, unseal
from app.core.throttle import ACCOUNT, ADDRESS, PAIR, Attempt, Limit
from app.users import User, UserMe, UserPublic

MOST_SESSIONS = 20
"""The maximum number of login sessions of a user. The next login ends the oldest one."""


class IncorrectLogin(Unauthorized):
    code = "incorrect_login"
    detail = "Incorrect email or password"


class InactiveUser(BadRequest):
    code = "inactive_user"
    detail = "Inactive user"


class InvalidGrant(BadRequest):
    code = "invalid_grant"
    detail = "The refresh token is invalid or expired. Log in again."


class UnsupportedGrantType(BadRequest):
    code = "unsupported_grant_type"
    detail = "This endpoint does not support this grant type"


_JWT = {"examples": ["header.claims.signature"], "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}
_OPAQUE = {"examples": ["the-refresh-token"]}


class _Grant(BaseModel):
    """Parameters that every token request may have. Unknown ones are ignored (RFC 6749 section 3.2)."""

    model_config = ConfigDict(hide_input_in_errors=True)

    # Not documented: they have no effect, and /docs would ask for them.
    scope: SkipJsonSchema[Line] = omittable(max_length=1024)
    client_id: SkipJsonSchema[Line] = omittable(max_length=1024)
    client_secret: SkipJsonSchema[SecretStr] = omittable(max_length=1024)


class LoginForm(_Grant):
    """The password grant (RFC 6749 section 4.3.2), or the refresh of an access token (section 6)."""

    grant_type: Literal["password", "refresh_token"] = omittable()
    username: Line = omittable(max_length=320, examples=["ada@example.com"], description="The email, for `password`")
    password: GivenPassword = omittable(description="For `password`")
    refresh_token: Line = omittable(max_length=1024, examples=[""], description="For `refresh_token`")


class RefreshForm(_Grant):
    """The refresh of an access token (RFC 6749 section 6)."""

    grant_type: Literal["refresh_token"]
    refresh_token: Line = Field(min_length=1, max_length=1024, schema_extra=_OPAQUE)


class RevocationForm(BaseModel):
    """The revocation of a token (RFC 7009 section 2.1)."""

    token: Line = Field(
        min_length=1, max_length=4096, description="A refresh token, or an access token", schema_extra=_OPAQUE
    )
    token_type_hint: Line = omittable(
        max_length=1024, examples=["refresh_token"], description="Optional: the service recognises the type"
    )


class Token(BaseModel):
    access_token: str = Field(max_length=4096, schema_extra=_JWT)
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # the name of a scheme
    expires_in: int = Field(ge=1, le=2**31 - 1, description="Seconds for which the access token is valid")
    refresh_token: str = Field(
        max_length=1024,
        schema_extra=_OPAQUE | {"pattern": SEALED},
        description="Can be used once, for the next tokens",
    )


class SessionPublic(SQLModel):
    id: uuid.UUID
    created_at: datetime
    last_used_at: datetime = Field(description="When the last access token was issued")
    device: Line = Field(
        max_length=255, description="The User-Agent at login", schema_extra={"examples": ["Mozilla/5.0"]}
    )
    current: bool = Field(description="Whether it is the session of this request")


class LoginSession(SQLModel, table=True):
    """A login session. It lasts while its row exists and is used. No tokens are stored: the secret key signs them."""

    __tablename__ = "login_sessions"

    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)
    user_id: uuid.UUID = Field(foreign_key="users.id", ondelete="CASCADE", index=True)
    device: str = Field(max_length=255)
    created_at: datetime = Field(default_factory=now)
    last_used_at: datetime = Field(default_factory=now, index=True)
    generation: int = 0
    """The number of refresh token rotations. Only the token of this generation is valid."""


@dataclass(frozen=True)
class Context:
    """The services that a request uses, and its origin: the IP address (or "") and the device."""

    db: Database
    passwords: Passwords
    settings: Settings
    address: str
    device: str

    def attempt(self, action: str, account: str, *limits: Limit) -> Attempt:
        limits = limits or (PAIR, ADDRESS, ACCOUNT)
        enabled = self.settings.throttling_enabled
        return Attempt(self.settings.key, action, account, self.address, limits, enabled=enabled)

    async def verify(self, attempt: Attempt, password: SecretStr, hashed: str | None) -> Verdict:
        """Verify a password. If this is not possible (Unavailable), the attempt does not count."""
        try:
            return await self.passwords.verify(password.get_secret_value(), hashed)
        except Unavailable:
            await self.db.write(attempt.take_back)
            raise


class Caller(UserMe):
    """The calling user as read from the database. Immutable."""

    model_config = ConfigDict(frozen=True)  # type: ignore[assignment]  # SQLModel narrows it

    hashed_password: str = Field(repr=False)
    version: int
    session_id: uuid.UUID


# Columns, not entities: this runs for every request, and building an entity would double its time.
_CALLER = (
    select_columns(*inspect(User).columns, col(LoginSession.id).label("session_id"))
    .outerjoin(LoginSession, and_(col(LoginSession.user_id) == User.id, col(LoginSession.id) == bindparam("sid")))
    .where(col(User.id) == bindparam("user_id"))
)


async def grant(context: Context, form: LoginForm) -> Token:
    """Tokens for both grants: many OAuth 2 clients use a single token endpoint."""
    match form:
        case LoginForm(grant_type="refresh_token", refresh_token=str(token)):
            return await refresh(context, token)
        case LoginForm(grant_type="password" | None, username=str(username), password=SecretStr() as password):
            return await login(context, username, password)
    needed = ("refresh_token",) if form.grant_type == "refresh_token" else ("username", "password")
    missing = [name for name in needed if getattr(form, name) is None]
    raise Invalid(*({"loc": ["body", name], "msg": "Field required", "type": "missing"} for name in missing))


async def login(context: Context, username: str, password: SecretStr) -> Token:
    """The tokens of a new session for the user with this address and password.

    Unknown addresses and wrong passwords take the same time, count the same and get the same answer (IncorrectLogin).
    InactiveUser is raised only for a correct password. If verification is required, an unverified address gets the same
    answer as a wrong password. Otherwise a sign-up followed by a login would reveal known addresses.
    """
    try:
        email = fields.canonical_email(username)
    except ValueError:  # not an address, so it has no account
        email = username
    attempt = context.attempt("login", email)
    await attempt.count(context.db)
    user = await context.db.read(users.find_by_email, email)
    user_id = user.id if user else None
    verdict = await context.verify(attempt, password, user.hashed_password if user else None)
    verified = user is not None and _is_verified(context.settings, user)
    try:
        if user is None or not verdict.right or not verified:
            raise IncorrectLogin
        login = await context.db.write(_start, context, user, verdict.rehashed, attempt)
    except (IncorrectLogin, InactiveUser) as error:
        about = {"reason": error.code, "verified": verified, "address": context.address}
        event("login_failed", user_id, level=logging.WARNING, **about)
        raise
    event("login", user.id, session_id=login.id, address=context.address)
    return _tokens(context.settings, login)


def _is_verified(settings: Settings, user: UserPublic) -> bool:
    """Whether the address is verified, or need not be."""
    return not settings.email_verification_required or user.email_verified_at is not None


def _start(session: Session, context: Context, proved: User, rehashed: str | None, attempt: Attempt) -> LoginSession:
    """A session for the user whose password was verified, unless the user has changed since then."""
    user = users.find(session, proved.id, for_update=True)
    if user is None or user.hashed_password != proved.hashed_password:
        raise IncorrectLogin
    if not user.is_active:
        raise InactiveUser
    if rehashed:
        user.hashed_password = rehashed
    attempt.forgive(session)
    login = LoginSession(user_id=user.id, device=context.device)
    session.add(login)
    session.flush()
    newest = col(LoginSession.created_at).desc(), col(LoginSession.id).desc()
    surplus = select(LoginSession.id).where(LoginSession.user_id == user.id).order_by(*newest).offset(MOST_SESSIONS)
    session.execute(delete(LoginSession).where(col(LoginSession.id).in_(session.exec(surplus).all())))
    return login


async def refresh(context: Context, token: str) -> Token:
    """The next tokens of a session. An invalid token raises InvalidGrant, and a reused one also ends the session."""
    said = unseal(token, "refresh", keys=context.settings.keys)
    if said is None:
        raise InvalidGrant
    session_id, generation = said.split()
    login, reused = await context.db.write(_rotate, context.settings, uuid.UUID(session_id), int(generation))
    if reused:
        event("refresh_token_reused", reused.user_id, level=logging.WARNING, session_id=session_id)
    if login is None:
        raise InvalidGrant
    return _tokens(context.settings, login)


def _rotate(
    session: Session, settings: Settings, session_id: uuid.UUID, generation: int
) -> tuple[LoginSession | None, LoginSession | None]:
    """The session with its next generation, or the session that was ended because of token reuse.

    If the previous token is used again within the grace period (an answer was lost, or requests were concurrent), the
    session is returned unchanged. This never raises, so that the end of a session is committed.
    """
    moment = now()
    active = select(User.id).where(col(User.is_active))
    if settings.email_verification_required:
        active = active.where(col(User.email_verified_at).is_not(None))
    this = and_(col(LoginSession.id) == session_id, col(LoginSession.user_id).in_(active), _lives(settings))
    rotation = (
        update(LoginSession)
        .where(this, col(LoginSession.generation) == generation)
        .values(generation=generation + 1, last_used_at=moment)
        .returning(LoginSession)
    )
    if login := session.scalars(rotation).first():
        return login, None
    login = session.exec(select(LoginSession).where(this).with_for_update()).first()
    if login is None or generation >= login.generation:
        return None, None
    grace = timedelta(seconds=settings.refresh_grace_seconds)
    if generation == login.generation - 1 and moment - login.last_used_at < grace:
        return login, None
    session.delete(login)
    return None, login


async def revoke(context: Context, token: str) -> None:
    """End the session of a refresh token or an access token (RFC 7009). An invalid token has no effect."""
    settings = context.settings
    if said := unseal(token, "refresh", keys=settings.keys):
        session_id = uuid.UUID(said.split()[0])
    else:
        try:
            session_id = decode_token(token, "access", keys=settings.keys, algorithm=settings.algorithm).sid
        except InvalidToken:
            return
    end = delete(LoginSession).where(col(LoginSession.id) == session_id).returning(col(LoginSession.user_id))
    if user_id := await context.db.write(lambda session: session.scalars(end).first()):
        event("token_revoked", user_id, session_id=session_id)


def _tokens(settings: Settings, login: LoginSession) -> Token:
    ends_in = login.created_at + timedelta(days=settings.session_max_days) - now()
    idle = timedelta(days=settings.session_idle_days)
    lifetime = min(timedelta(minutes=settings.access_token_expire_minutes), idle, ends_in)
    return Token(
        access_token=encode_token(
            "access", login.user_id, login.id, lifetime, key=settings.key, algorithm=settings.algorithm
        ),
        expires_in=max(1, int(lifetime.total_seconds())),
        refresh_token=seal(f"{login.id} {login.generation}", "refresh", key=settings.key),
    )


def _lives(settings: Settings) -> ColumnElement[bool]:
    moment = now()
    return and_(
        col(LoginSession.last_used_at) > moment - timedelta(days=settings.session_idle_days),
        col(LoginSession.created_at) > moment - timedelta(days=settings.session_max_days),
    )


def identify(session: Session, settings: Settings, claims: Claims) -> Caller:
    """The active user of an access token, read from the database. Raises InvalidToken or InactiveUser."""
    found = session.connection().execute(_CALLER, {"sid": claims.sid, "user_id": claims.sub}).first()
    if found is None:
        raise InvalidToken
    caller = build(Caller, found._mapping.items())
    if not caller.is_active:
        raise InactiveUser
    if caller.session_id is None or not _is_verified(settings, caller):
        raise InvalidToken
    return caller


def sessions(session: Session, user: UserPublic, settings: Settings, current: uuid.UUID) -> Sequence[SessionPublic]:
    """The sessions of a user, the most recently used first. `current` is the session of the request."""
    mine = select(LoginSession).where(LoginSession.user_id == user.id, _lives(settings))
    newest = col(LoginSession.last_used_at).desc(), col(LoginSession.id).desc()
    rows = session.exec(mine.order_by(*newest).limit(MOST_SESSIONS))
    return [SessionPublic.model_validate(row, update={"current": row.id == current}) for row in rows]


def end_session(session: Session, user: UserPublic, session_id: uuid.UUID) -> None:
    mine = select(LoginSession).where(LoginSession.id == session_id, LoginSession.user_id == user.id)
    login = session.exec(mine.with_for_update()).first()
    if login is None:
        raise NotFound
    session.delete(login)


def end_other_sessions(session: Session, user: UserPublic, current: uuid.UUID) -> None:
    end_sessions(session, user.id, keep=current)


def end_sessions(session: Session, user_id: uuid.UUID, *, keep: uuid.UUID | None = None) -> None:
    """End all sessions of a user, including their access tokens, except `keep`."""
    whose = delete(LoginSession).where(col(LoginSession.user_id) == user_id)
    session.execute(whose.where(col(LoginSession.id) != keep) if keep else whose)


@jobs.every(hours=1)
async def sweep_sessions(context: jobs.Context) -> None:
    idle = timedelta(days=context.settings.session_idle_days)  # an ended session becomes idle too
    await context.db.sweep(LoginSession, col(LoginSession.last_used_at) <= now() - idle)
