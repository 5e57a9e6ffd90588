"""Accounts: signing up, changing what one logs in with, and what messages with a token in them can do."""

import hashlib
import json
import logging
import uuid
from datetime import timedelta
from typing import Any, Literal

from sqlmodel import Field, Session

from app import auth, emails, fields, throttle, users
from app.auth import Caller, Context
from app.config import Settings
from app.db import now
from app.emails import Email
from app.errors import BadRequest, Invalid
from app.fields import Input, Line, Password
from app.logs import event
from app.security import claimed, seal, unseal
from app.users import Check, EmailTaken, User, UserCreate, UserUpdate, UserUpdateMe

VERIFY_LIFETIME = timedelta(hours=24)
RESET_LIFETIME = timedelta(hours=1)


class IncorrectPassword(BadRequest):
    code = "incorrect_password"
    detail = "The current password is not right"


class InvalidLink(BadRequest):
    code = "invalid_link"
    detail = "The token is not good, or not any more: ask for another message"


class GivenEmail(Input):
    email: fields.Email


class EmailVerification(Input):
    token: Line = Field(min_length=1, max_length=1024)


class PasswordReset(EmailVerification):
    new_password: Password


async def sign_up(context: Context, new: UserCreate, by: Caller | None = None) -> User:
    """A new user, who is sent a message to verify the address with. A known address raises EmailTaken.

    Where verification is a condition of login, a known address is not told to who signs up, but to its owner.
    """
    by_superuser = bool(by and by.user.is_superuser)
    discreet = context.settings.email_verification_required and not by_superuser
    if not by_superuser:
        limits = () if discreet else (throttle.ADDRESS, throttle.ACCOUNT)  # all of them where it sends mail to others
        await context.attempt("sign_up", new.email, *limits).count(context.db)
    hashed = await users.hash_password(context.passwords, new.password, "password", new.email, new.full_name)
    user = await context.db.write(users.create_discreetly if discreet else users.create, new, hashed)
    if by and by.user.is_superuser:
        event("user_created", by.user.id, target=user.id)
    else:
        event("sign_up", None if discreet else user.id, address=context.address)
    return user


async def update_me(context: Context, caller: Caller, changes: UserUpdateMe, check: Check | None = None) -> User:
    """Change oneself. A new address is asked to confirm first; a new password ends all other sessions."""
    me = caller.user
    values = changes.model_dump(exclude_unset=True)
    current, address = values.pop("current_password", None), values.pop("email", me.email)
    if "password" not in values and address == me.email:
        return await context.db.write(users.change, me.id, values, check)
    if current is None:
        msg = "Field required to change email or password"
        raise Invalid({"loc": ["body", "current_password"], "msg": msg, "type": "missing"})
    attempt = context.attempt("current_password", str(me.id))
    await attempt.count(context.db)
    if not (await context.passwords.verify(current.get_secret_value(), me.hashed_password)).right:
        event("incorrect_password", me.id, level=logging.WARNING, address=context.address)
        raise IncorrectPassword
    if address != me.email:
        await context.attempt("verify_email", address).count(context.db)
    await _hash_new(context, values, me)

    def unit(session: Session) -> User:
        def still(session: Session, user: User) -> None:
            if user.hashed_password != me.hashed_password:
                raise IncorrectPassword
            if check:
                check(session, user)

        user = change(session, me.id, values, still, keep=caller.session_id)
        attempt.forgive(session)
        if address != user.email:
            if not context.settings.email_verification_required and users.find_by_email(session, address):
                raise EmailTaken
            emails.queue(session, "verify_email", address, user.id, state=_state(user, "verify_email"))
            emails.queue(session, "email_changing", user.email, user.id, email=address)
        return user

    user = await context.db.write(unit)
    if address != user.email:
        event("email_change_requested", me.id)
    if "hashed_password" in values:
        event("password_changed", me.id)
    return user


async def update(
    context: Context, caller: Caller, user_id: uuid.UUID, changes: UserUpdate, check: Check | None = None
) -> None:
    """Change any user, as a superuser: what is changed holds at once, and a new address is still to be verified."""
    values = changes.model_dump(exclude_unset=True)
    await _hash_new(context, values, await context.db.read(users.get, user_id))
    await context.db.write(change, user_id, values, check, keep=caller.session_id)
    event("user_updated", caller.user.id, target=user_id, fields=sorted(changes.model_fields_set))


async def delete(context: Context, caller: Caller, user_id: uuid.UUID, check: Check | None = None) -> None:
    """Delete a user and all that is theirs."""
    await context.db.write(users.delete, user_id, check)
    event("user_deleted", caller.user.id, target=user_id)


async def _hash_new(context: Context, values: dict[str, Any], user: User) -> None:
    if password := values.pop("password", None):
        email, name = values.get("email", user.email), values.get("full_name", user.full_name)
        values["hashed_password"] = await users.hash_password(context.passwords, password, "password", email, name)


def change(
    session: Session,
    user_id: uuid.UUID,
    values: dict[str, Any],
    check: Check | None = None,
    *,
    keep: uuid.UUID | None = None,
) -> User:
    """Change columns of a user, with all that follows for their sessions (all but `keep`), and tell them by mail."""
    before = ""

    def look(session: Session, user: User) -> None:
        nonlocal before
        before = user.email
        if check:
            check(session, user)
        if values.get("email", before) != before:
            values.setdefault("email_verified_at", None)

    user = users.change(session, user_id, values, look)
    if "hashed_password" in values or values.get("is_active") is False:
        auth.end_sessions(session, user_id, keep=keep if user.is_active else None)
    if "hashed_password" in values:
        emails.queue(session, "password_changed", before, user_id)
    if user.email != before:
        emails.queue(session, "email_changed", before, user_id, email=user.email)
        if not user.email_verified_at:
            emails.queue(session, "verify_email", user.email, user_id)
    return user


async def request_message(context: Context, kind: Literal["verify_email", "reset_password"], email: str) -> None:
    """Ask for a message. Whether the address is anybody's is found out when it is sent, where no one can watch."""
    await context.attempt(kind, email).count(context.db)
    await context.db.write(emails.queue, kind, email)
    event(f"{kind}_requested", None, address=context.address)


async def verify_email(context: Context, given: EmailVerification) -> None:
    """Verify the address that a token was sent to, and make it the user's. Raises InvalidLink, or EmailTaken."""

    def unit(session: Session) -> tuple[User, str]:
        user, address = _redeem(session, context.settings, "verify_email", given.token, for_update=True)
        before = user.email
        return change(session, user.id, {"email": address, "email_verified_at": now()}), before

    user, before = await context.db.write(unit)
    event("email_verified" if user.email == before else "email_changed", user.id)


async def reset_password(context: Context, given: PasswordReset) -> None:
    """Set a new password with a token that was sent to the user's address. Ends all sessions. Raises InvalidLink."""
    user, _ = await context.db.read(_redeem, context.settings, "reset_password", given.token)
    hashed = await users.hash_password(
        context.passwords, given.new_password, "new_password", user.email, user.full_name
    )

    def unit(session: Session) -> User:
        user, _ = _redeem(session, context.settings, "reset_password", given.token, for_update=True)
        context.attempt("login", user.email).forgive(session)
        values = {"hashed_password": hashed, "email_verified_at": user.email_verified_at or now()}
        return change(session, user.id, values)

    await context.db.write(unit)
    event("password_reset", user.id, address=context.address)


def _verify_letter(session: Session, email: Email, settings: Settings) -> emails.Content | None:
    """For the address of a user, unless it is verified, or for one that a user wants and nobody else has."""
    user = users.find(session, email.user_id) if email.user_id else users.find_by_email(session, email.email)
    if user is None or not user.is_active:
        return None
    if user.email == email.email:
        if user.email_verified_at:
            return None
    elif email.context.get("state") != _state(user, "verify_email") or users.find_by_email(session, email.email):
        return None  # since it was asked for, the password has changed, for example: it may be for a thief
    return _letter(email, user, "verify_email", VERIFY_LIFETIME, settings)


def _reset_letter(session: Session, email: Email, settings: Settings) -> emails.Content | None:
    user = users.find_by_email(session, email.email)
    if user is None or not user.is_active:
        return None
    return _letter(email, user, "reset_password", RESET_LIFETIME, settings)


def _known_letter(session: Session, email: Email, _settings: Settings) -> emails.Content | None:
    user = users.find_by_email(session, email.email)
    if user is None or not user.is_active:
        return None
    email.user_id = user.id
    return {"name": _name(email, user)}


LETTERS: dict[str, emails.Letter] = {
    "verify_email": _verify_letter,
    "reset_password": _reset_letter,
    "known_email": _known_letter,
}


def _letter(email: Email, user: User, purpose: str, lifetime: timedelta, settings: Settings) -> emails.Content:
    email.user_id = user.id
    text = f"{user.id} {int((now() + lifetime).timestamp())} {email.email}"
    token = seal(text, _state(user, purpose), key=settings.key)
    hours = int(lifetime.total_seconds() // 3600)
    link = settings.link(purpose.replace("_", "-"), token)
    return {"name": _name(email, user), "token": token, "link": link, "hours": hours}


def _name(email: Email, user: User) -> str | None:
    """Whom to greet: at an address that nobody verified it would be the words of a stranger, with a link perhaps."""
    return user.full_name if user.email_verified_at and user.email == email.email else None


def _redeem(
    session: Session, settings: Settings, purpose: str, token: str, *, for_update: bool = False
) -> tuple[User, str]:
    """The user whose token this is, and the address it was sent to; InvalidLink once its purpose is fulfilled."""
    try:
        user_id, ends_at, address = (claimed(token) or "").split()
        user = users.find(session, uuid.UUID(user_id), for_update=for_update)
        is_current = user and user.is_active and int(ends_at) > now().timestamp()
        if user and is_current and unseal(token, _state(user, purpose), key=settings.key):
            return user, address
    except ValueError:
        pass
    raise InvalidLink


def _state(user: User, purpose: str) -> str:
    """All that a token of this purpose ends, or that ends it: it is worth nothing after a change of any of these."""
    state = [purpose, user.hashed_password, user.email]
    if purpose == "verify_email":
        state.append(str(user.email_verified_at))
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
