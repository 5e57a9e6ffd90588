"""Accounts: sign-up, changes of email and password, verification and recovery."""

import hashlib
import json
import logging
import uuid
from datetime import timedelta
from typing import Any, Literal

from pydantic import SecretStr
from sqlmodel import Field, Session

from app import auth, emails, users
from app.auth import Caller, Context
from app.config import Settings
from app.core import fields
from app.core.db import now
from app.core.errors import BadRequest, Forbidden, Invalid
from app.core.fields import Input, Line, Password, normal_password
from app.core.logs import event
from app.core.security import seal, unseal, weakness
from app.core.throttle import ADDRESS, MESSAGE, PAIR
from app.emails import Email
from app.users import (
    VOID,
    Check,
    EmailKnown,
    EmailTaken,
    User,
    UserAdd,
    UserCreate,
    UserPublic,
    UserUpdate,
    UserUpdateMe,
)

LINKS = {
    "verify_email": ("verify_email", timedelta(hours=24)),
    "reset_password": ("reset_password", timedelta(hours=1)),
    "invitation": ("reset_password", timedelta(days=7)),
}
"""The purpose and the lifetime of the link in each kind of message."""
MESSAGES = (PAIR, ADDRESS, MESSAGE)
"""The limits of actions that send messages to other people."""


class IncorrectPassword(BadRequest):
    code = "incorrect_password"
    detail = "The current password is wrong"


class InvalidLink(BadRequest):
    code = "invalid_link"
    detail = "The token is invalid or expired. Request a new message."


class OwnAccount(Forbidden):
    code = "own_account"
    detail = "Change your own email and password at /users/me, which requires the current password"


class GivenEmail(Input):
    email: fields.Email


class EmailVerification(Input):
    token: Line = Field(min_length=1, max_length=1024, schema_extra={"examples": ["the-token-from-the-message"]})


class PasswordReset(EmailVerification):
    new_password: Password


async def sign_up(context: Context, new: UserCreate | UserAdd, by: Caller | None = None) -> User:
    """A new user, who receives a message to verify the address. A known address raises EmailKnown.

    If verification is required, EmailKnown is not raised (account enumeration). The owner of the address is notified.
    """
    if by is None and isinstance(new, UserAdd):
        msg, more = "Extra inputs are not permitted", new.model_fields_set - UserCreate.model_fields.keys()
        extra = [{"loc": ["body", name], "msg": msg, "type": "extra_forbidden"} for name in sorted(more)]
        raise Invalid(*extra or [{"loc": ["body", "password"], "msg": "Field required", "type": "missing"}])
    discreet = context.settings.email_verification_required and by is None
    if by is None:
        limits = MESSAGES if discreet else (ADDRESS,)  # only a discreet sign-up sends mail to existing users
        await context.attempt("sign_up", new.email, *limits).count(context.db)
    hashed = await _hash(context, new.password, "password", new.email, new.full_name) if new.password else VOID
    try:
        user = await context.db.write(users.create_discreetly if discreet else users.create, new, hashed)
    except EmailTaken as error:
        raise EmailKnown from error
    if by:
        event("user_created", by.id, target=user.id, fields=sorted(new.model_fields_set))
    else:
        event("sign_up", None if discreet else user.id, address=context.address)
    return user


async def update_me(context: Context, caller: Caller, changes: UserUpdateMe, check: Check | None = None) -> User:
    """Change your own account. A new address takes effect when verified. A new password ends all other sessions."""
    values = changes.model_dump(exclude_unset=True)
    current, address = values.pop("current_password", None), values.pop("email", caller.email)
    if "password" not in values and address == caller.email:
        return await context.db.write(users.change, caller.id, values, check)
    if current is None:
        msg = "Field required to change email or password"
        raise Invalid({"loc": ["body", "current_password"], "msg": msg, "type": "missing"})
    attempt = context.attempt("current_password", caller.email)  # never forgiven, because it can cause messages
    await attempt.count(context.db)
    if not (await context.verify(attempt, current, caller.hashed_password)).right:
        event("incorrect_password", caller.id, level=logging.WARNING, address=context.address)
        raise IncorrectPassword
    if address != caller.email:
        await context.attempt("verify_email", address, *MESSAGES).count(context.db)
    if changes.password and _same(changes.password, current):
        del values["password"]
    await _hash_new(context, values, caller)

    def unit(session: Session) -> User:
        def still(session: Session, user: User) -> None:
            if user.hashed_password != caller.hashed_password:
                raise IncorrectPassword
            if check:
                check(session, user)

        user = change(session, context.settings, caller.id, values, still, keep=caller.session_id)
        if address != user.email:
            if not context.settings.email_verification_required and users.find_by_email(session, address):
                raise EmailTaken
            user.pending_email = address
            emails.queue(session, "verify_email", address, user.id)
            emails.queue(session, "email_changing", user.email, user.id, email=address)
        return user

    user = await context.db.write(unit)
    if address != user.email:
        event("email_change_requested", caller.id)
    if "hashed_password" in values:
        event("password_changed", caller.id)
    return user


async def cancel_email_change(context: Context, caller: Caller) -> None:
    """Cancel a change of address. The links to verify the new address become invalid."""
    await context.db.write(users.change, caller.id, {"pending_email": None})
    event("email_change_cancelled", caller.id)


async def update(
    context: Context, caller: Caller, user_id: uuid.UUID, changes: UserUpdate, check: Check | None = None
) -> None:
    """Change any user, as a superuser. Changes take effect at once; a new address still has to be verified.

    A superuser's own email and password raise OwnAccount: a stolen session must not change them without the password.
    """
    values = changes.model_dump(exclude_unset=True)
    if user_id == caller.id:
        moves = values.pop("email", caller.email) != caller.email
        if moves or "password" in values or "email_verified" in values:
            raise OwnAccount
    user = await context.db.read(users.get, user_id)
    is_claim = user.pending_email == user.email  # a password that a superuser sets turns it into an account
    if changes.password and not is_claim and await _has(context, user, changes.password):
        del values["password"]
    await _hash_new(context, values, user)
    await context.db.write(change, context.settings, user_id, values, check)
    event("user_updated", caller.id, target=user_id, fields=sorted(changes.model_fields_set))


async def delete(context: Context, caller: Caller, user_id: uuid.UUID, check: Check | None = None) -> None:
    """Delete a user and everything that belongs to the user."""
    required = context.settings.email_verification_required
    await context.db.write(users.delete, user_id, check, verification_required=required)
    event("user_deleted", caller.id, target=user_id)


def _same(one: SecretStr, other: SecretStr) -> bool:
    return normal_password(one.get_secret_value()) == normal_password(other.get_secret_value())


async def _has(context: Context, user: User, password: SecretStr) -> bool:
    return (await context.passwords.verify(password.get_secret_value(), user.hashed_password)).right


async def _hash_new(context: Context, values: dict[str, Any], user: UserPublic) -> None:
    if password := values.pop("password", None):
        email, name = values.get("email", user.email), values.get("full_name", user.full_name)
        values["hashed_password"] = await _hash(context, password, "password", email, name)


async def _hash(context: Context, password: SecretStr, field: str, email: str, full_name: str | None) -> str:
    """The hash of a new password. A weak one raises Invalid, with the name of its field."""
    if reason := weakness(password.get_secret_value(), email, full_name or "", context.settings.app_name):
        raise Invalid({"loc": ["body", field], "msg": reason, "type": "password_weak"})
    return await context.passwords.hash(password.get_secret_value())


def change(
    session: Session,
    settings: Settings,
    user_id: uuid.UUID,
    values: dict[str, Any],
    check: Check | None = None,
    *,
    keep: uuid.UUID | None = None,
) -> User:
    """Change columns of a user. A new password or deactivation ends all sessions (except `keep`)."""
    required = settings.email_verification_required
    user = users.change(session, user_id, values, check, verification_required=required)
    if "hashed_password" in values or values.get("is_active") is False:
        auth.end_sessions(session, user_id, keep=keep if user.is_active else None)
    return user


async def request_message(context: Context, kind: Literal["verify_email", "reset_password"], email: str) -> None:
    """Request a message.

    The address is looked up when the message is sent, so the response time reveals nothing (account enumeration).
    """
    await context.attempt(kind, email, *MESSAGES).count(context.db)
    await context.db.write(emails.queue, kind, email)
    event(f"{kind}_requested", None, address=context.address)


async def verify_email(context: Context, given: EmailVerification) -> None:
    """Verify the address of a token. It becomes the address of the user. Raises InvalidLink or EmailTaken."""

    def unit(session: Session) -> tuple[User, str]:
        user, address = _redeem(session, context.settings, "verify_email", given.token)
        before = user.email
        return change(session, context.settings, user.id, {"email": address, "email_verified": True}), before

    user, before = await context.db.write(unit)
    event("email_verified" if user.email == before else "email_changed", user.id)


async def reset_password(context: Context, given: PasswordReset) -> None:
    """Set a new password with the token from a message. Ends all sessions. Raises InvalidLink."""
    user, _ = await context.db.read(_redeem, context.settings, "reset_password", given.token)
    hashed = await _hash(context, given.new_password, "new_password", user.email, user.full_name)

    def unit(session: Session) -> User:
        user, _ = _redeem(session, context.settings, "reset_password", given.token)
        context.attempt("login", user.email).forgive(session)
        values = {"hashed_password": hashed, "email_verified": True}
        return change(session, context.settings, user.id, values)

    await context.db.write(unit)
    event("password_reset", user.id, address=context.address)


def letter(session: Session, email: Email, settings: Settings) -> dict[str, Any] | None:
    """The template values of a message. None if the message is obsolete; then it is deleted.

    `token` is a secret and is stored only in the message.
    """
    user = users.find(session, email.user_id) if email.user_id else users.find_by_email(session, email.email)
    if user is None or not user.is_active or _is_pointless(session, email, user):
        session.delete(email)
        return None
    email.user_id = user.id
    # A name is not sent to an unverified address: it would be a stranger's text, possibly with a link.
    content: dict[str, Any] = {"name": user.full_name if user.email_verified_at and user.email == email.email else None}
    if email.kind in LINKS:
        purpose, lifetime = LINKS[email.kind]
        text = f"{user.id} {int((now() + lifetime).timestamp())} {email.email} {_state(user, purpose)}"
        token = seal(text, purpose, key=settings.key)
        link = f"{settings.frontend_url}/{purpose.replace('_', '-')}?token={token}"
        content |= {"token": token, "link": link, "hours": int(lifetime.total_seconds() // 3600)}
    return content


emails.LETTERS |= dict.fromkeys((*LINKS, "known_email"), letter)


def _is_pointless(session: Session, email: Email, user: User) -> bool:
    if email.kind == "reset_password" and now() - email.created_at > timedelta(days=1):
        return True  # too late for the user who requested it
    if user.email == email.email:
        done = {"verify_email": user.email_verified_at is not None, "invitation": user.hashed_password != VOID}
        return done.get(email.kind, False)
    # A new address is verified only while the change is pending.
    wanted = email.kind == "verify_email" and user.pending_email == email.email
    return not wanted or users.find_by_email(session, email.email) is not None


def _redeem(session: Session, settings: Settings, purpose: str, token: str) -> tuple[User, str]:
    """The user of a token, and the address that it was sent to. Raises InvalidLink, also for a used token."""
    if said := unseal(token, purpose, keys=settings.keys):
        user_id, ends_at, address, state = said.split()
        user = users.find(session, uuid.UUID(user_id), for_update=True)
        is_current = user and address in (user.email, user.pending_email) and state == _state(user, purpose)
        if user and is_current and user.is_active and int(ends_at) > now().timestamp():
            return user, address
    raise InvalidLink


def _state(user: User, purpose: str) -> str:
    """The state that the token depends on. Any change of it invalidates the token."""
    state = [purpose, user.hashed_password, user.email]
    if purpose == "verify_email":
        state.append(str(user.email_verified_at))
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
