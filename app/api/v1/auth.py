"""Log in and refresh tokens; manage sessions; verify an address; reset a password."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, status
from pydantic import Field

from app import accounts, auth
from app.accounts import EmailVerification, GivenEmail, InvalidLink, PasswordReset
from app.api.calls import Message
from app.api.deps import Me, RequestContext
from app.api.errors import problems
from app.api.oauth import form, form_body
from app.auth import LoginForm, RefreshForm, RevocationForm, SessionPublic, Token
from app.core.errors import NotFound
from app.core.fields import Id
from app.core.logs import event
from app.core.throttle import TooManyRequests
from app.users import EmailTaken

router = APIRouter()


REFUSALS = (auth.InvalidGrant, auth.UnsupportedGrantType)
LOGIN_REFUSALS = (auth.IncorrectLogin, auth.InactiveUser, *REFUSALS, TooManyRequests)


@router.post("/login", responses=problems(*LOGIN_REFUSALS), openapi_extra=form_body(LoginForm))
async def login(context: RequestContext, given: Annotated[LoginForm, form(LoginForm)]) -> Token:
    """Log in: start a session with an email and a password (OAuth2 password grant).

    This is the token endpoint of OAuth2. It also accepts the refresh grant.
    """
    return await auth.grant(context, given)


@router.post("/refresh", responses=problems(*REFUSALS), openapi_extra=form_body(RefreshForm))
async def refresh_token(context: RequestContext, given: Annotated[RefreshForm, form(RefreshForm)]) -> Token:
    """Refresh the tokens (OAuth2 refresh grant). A refresh token can be used once."""
    return await auth.refresh(context, given.refresh_token)


@router.post("/revoke", openapi_extra=form_body(RevocationForm))
async def revoke_token(context: RequestContext, given: Annotated[RevocationForm, form(RevocationForm)]) -> Message:
    """Revoke a token (RFC 7009). This ends its session. An invalid token gets the same answer."""
    await auth.revoke(context, given.token)
    return Message(message="The token is not valid now")


@router.post("/logout", status_code=status.HTTP_204_NO_CONTENT)
async def logout(me: Me) -> None:
    """Log out. This ends the session, and all its tokens become invalid."""
    await me.write(auth.end_session, me.session_id)
    event("logout", me.user_id, session_id=me.session_id)


@router.get("/sessions")
async def list_sessions(me: Me) -> Annotated[Sequence[SessionPublic], Field(max_length=auth.MOST_SESSIONS)]:
    """List your sessions. The most recently used comes first."""
    return await me.read(auth.sessions, me.context.settings, me.session_id)


@router.delete("/sessions/others", status_code=status.HTTP_204_NO_CONTENT)
async def delete_other_sessions(me: Me) -> None:
    """End all your other sessions."""
    await me.write(auth.end_other_sessions, me.session_id)
    event("other_sessions_ended", me.user_id)


@router.delete("/sessions/{session_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(NotFound))
async def delete_session(me: Me, session_id: Id) -> None:
    """End one of your sessions."""
    await me.write(auth.end_session, session_id)
    event("session_ended", me.user_id, session_id=session_id)


@router.post("/email/verify", status_code=status.HTTP_204_NO_CONTENT, responses=problems(InvalidLink, EmailTaken))
async def verify_email(context: RequestContext, given: EmailVerification) -> None:
    """Verify an address. Send the token from the message. This also completes a change of address."""
    await accounts.verify_email(context, given)


@router.post("/email/verify/request", status_code=status.HTTP_202_ACCEPTED, responses=problems(TooManyRequests))
async def request_verification(context: RequestContext, given: GivenEmail) -> Message:
    """Request another verification message. The answer is the same for unknown addresses."""
    await accounts.request_message(context, "verify_email", given.email)
    return Message(message="If this address is not verified yet, a message is on its way")


@router.post("/password/forgot", status_code=status.HTTP_202_ACCEPTED, responses=problems(TooManyRequests))
async def forgot_password(context: RequestContext, given: GivenEmail) -> Message:
    """Request a password reset. The answer is the same for unknown addresses."""
    await accounts.request_message(context, "reset_password", given.email)
    return Message(message="If this address is known, a message is on its way")


@router.post("/password/reset", status_code=status.HTTP_204_NO_CONTENT, responses=problems(InvalidLink))
async def reset_password(context: RequestContext, given: PasswordReset) -> None:
    """Set a new password. Send the token from the message. All your sessions end."""
    await accounts.reset_password(context, given)
