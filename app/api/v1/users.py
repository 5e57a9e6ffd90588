"""Sign up; read and change your account. Superusers manage all users."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status

from app import accounts, users
from app.accounts import IncorrectPassword, OwnAccount
from app.api.calls import created
from app.api.deps import DirectoryReader, Me, RequestContext, SignUp, Superuser
from app.api.errors import problems
from app.api.views import View
from app.auth import Caller
from app.core.conditions import PreconditionFailed
from app.core.db import Record
from app.core.errors import Forbidden, NotFound
from app.core.fields import Id
from app.core.throttle import TooManyRequests
from app.users import (
    EmailKnown,
    EmailTaken,
    LastSuperuser,
    NewUser,
    SignupClosed,
    User,
    UserMe,
    UserPage,
    UserPublic,
    UserUpdate,
    UserUpdateMe,
)

router = APIRouter()

user_view = View[User](router, "/{user_id}")


@router.get("/", response_model=list[UserPublic], responses=problems(Forbidden))
async def list_users(me: DirectoryReader, wanted: Annotated[UserPage, Query()]) -> Sequence[UserPublic]:
    """List all users. The oldest comes first, unless `sort` is given. This may be open to superusers only."""
    return await me.page(users.page, wanted)


@router.post(
    "/",
    response_model=UserPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(EmailKnown, SignupClosed, TooManyRequests),
    openapi_extra={"security": [{"OAuth2PasswordBearer": []}, {}]},  # the token is optional
)
async def create_user(request: Request, response: Response, context: RequestContext, by: SignUp, new: NewUser) -> User:
    """Sign up. A superuser can add any user here, with the fields of `UserAdd`, which is for superusers only."""
    user = await accounts.sign_up(context, new, by)
    response.headers.update(created(request, user, await context.db.read(user_view, user)))
    return user


@router.get("/me", response_model=UserMe, responses=problems(PreconditionFailed))
async def read_me(me: Me) -> Caller:
    """Read your account."""
    return me.show(await me.caller())


@router.patch(
    "/me",
    response_model=UserMe,
    responses=problems(EmailTaken, IncorrectPassword, PreconditionFailed, TooManyRequests),
)
async def update_me(me: Me, changes: UserUpdateMe) -> User:
    """Change your account (JSON merge patch). A new email or password requires your current password.

    A new password ends your other sessions. A new email takes effect when you verify it with the message that is sent
    there. Until then it is your `pending_email`.
    """
    check = me.conditions.check_row
    return me.show(await accounts.update_me(me.context, await me.caller(), changes, check))


@router.delete("/me", status_code=status.HTTP_204_NO_CONTENT, responses=problems(LastSuperuser, PreconditionFailed))
async def delete_me(me: Me) -> None:
    """Delete your account. Everything that belongs to it is deleted too."""
    caller = await me.caller()
    await accounts.delete(me.context, caller, caller.id, me.conditions.check_row)


@router.delete("/me/pending-email", status_code=status.HTTP_204_NO_CONTENT)
async def delete_pending_email(me: Me) -> None:
    """Cancel a change of email. The new email can no longer be verified."""
    await accounts.cancel_email_change(me.context, await me.caller())


@router.get("/{user_id}", response_model=UserPublic, responses=problems(NotFound, PreconditionFailed))
async def read_user(me: Me, user_id: Id) -> Record:
    """Read a user: yourself, or any user as a superuser."""
    return me.show(await me.read(users.show, user_id, user_view))


@router.patch(
    "/{user_id}",
    response_model=UserPublic,
    responses=problems(EmailTaken, Forbidden, OwnAccount, NotFound, LastSuperuser, PreconditionFailed),
)
async def update_user(me: Superuser, user_id: Id, changes: UserUpdate) -> Record:
    """Change any user, as a superuser (JSON merge patch). Change your own email and password at `/users/me`."""
    caller = await me.caller()
    await accounts.update(me.context, caller, user_id, changes, me.conditions.check_as(user_view))
    return me.show(await me.context.db.read(users.show, caller, user_id, user_view))


@router.delete(
    "/{user_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound, LastSuperuser, PreconditionFailed),
)
async def delete_user(me: Superuser, user_id: Id) -> None:
    """Delete any user, as a superuser. Everything that belongs to the user is deleted too."""
    await accounts.delete(me.context, await me.caller(), user_id, me.conditions.check_as(user_view))
