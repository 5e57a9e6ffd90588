"""Sign up, see and change yourself; superusers look after everybody."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import accounts, items, users
from app.accounts import IncorrectPassword
from app.api.deps import CurrentCaller, CurrentUser, Db, DirectoryReader, RequestContext, SignUp, Superuser
from app.api.errors import problems
from app.api.resources import Created, OneResource, Pages
from app.errors import Forbidden, NotFound
from app.fields import Id
from app.items import UserWithItems
from app.throttle import TooManyRequests
from app.users import (
    EmailTaken,
    LastSuperuser,
    SignupClosed,
    User,
    UserCreate,
    UserPage,
    UserPublic,
    UserUpdate,
    UserUpdateMe,
)

router = APIRouter()


@router.get("/", response_model=list[UserPublic], responses=problems(Forbidden))
async def list_users(pages: Pages, _: DirectoryReader, wanted: Annotated[UserPage, Query()]) -> Sequence[User]:
    """List all users, oldest first unless sorted otherwise: the directory may be open to superusers only."""
    return await pages.of(wanted, users.page)


@router.post(
    "/",
    response_model=UserPublic,
    status_code=status.HTTP_201_CREATED,
    responses=problems(EmailTaken, SignupClosed, TooManyRequests),
    openapi_extra={"security": [{}]},  # a token is one way, none is the other
)
async def create_user(context: RequestContext, by: SignUp, created: Created, new: UserCreate) -> User:
    """Sign up. Where sign-up is closed, a superuser adds users here."""
    user = await accounts.sign_up(context, new, by)
    return created(user, shown_as=items.without_items(user))


@router.get("/me", response_model=UserPublic)
async def read_me(user: CurrentUser, resource: OneResource) -> User:
    """Read yourself."""
    return resource.show(user)


@router.patch("/me", response_model=UserPublic, responses=problems(EmailTaken, IncorrectPassword, TooManyRequests))
async def update_me(
    context: RequestContext, caller: CurrentCaller, resource: OneResource, changes: UserUpdateMe
) -> User:
    """Change yourself (JSON merge patch); a new email or password needs your current password.

    A new password ends your other sessions. A new email is yours once you verify it, by the message that is sent there.
    """
    check = resource.conditions.check_row
    return resource.show(await accounts.update_me(context, caller, changes, check))


@router.delete("/me", status_code=status.HTTP_204_NO_CONTENT, responses=problems(LastSuperuser))
async def delete_me(context: RequestContext, caller: CurrentCaller, resource: OneResource) -> None:
    """Delete yourself and all that is yours."""
    await accounts.delete(context, caller, caller.user.id, resource.conditions.check_row)


@router.get("/{user_id}", responses=problems(NotFound))
async def read_user(db: Db, user: CurrentUser, resource: OneResource, user_id: Id) -> UserWithItems:
    """Read a user with their newest 100 items: yourself, or anyone as a superuser."""
    return resource.show(await db.read(items.owner, user, user_id))


@router.patch("/{user_id}", responses=problems(EmailTaken, Forbidden, NotFound, LastSuperuser))
async def update_user(
    context: RequestContext, caller: Superuser, resource: OneResource, user_id: Id, changes: UserUpdate
) -> UserWithItems:
    """Change any user, as a superuser (JSON merge patch)."""
    check = resource.conditions.check_as(items.with_items)
    await accounts.update(context, caller, user_id, changes, check)
    return resource.show(await context.db.read(items.owner, caller.user, user_id))


@router.delete(
    "/{user_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound, LastSuperuser),
)
async def delete_user(context: RequestContext, caller: Superuser, resource: OneResource, user_id: Id) -> None:
    """Delete any user and all that is theirs, as a superuser."""
    await accounts.delete(context, caller, user_id, resource.conditions.check_as(items.with_items))
