"""Sign up, see and change yourself; superusers look after everybody."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import items, users
from app.api.deps import CurrentUser, Db, DirectoryReader, PasswordService, SignUp, Superuser
from app.api.errors import problems
from app.errors import Forbidden, NotFound
from app.fields import Id
from app.items import UserWithItems
from app.paging import Page
from app.users import (
    EmailTaken,
    IncorrectPassword,
    LastSuperuser,
    SignupClosed,
    User,
    UserCreate,
    UserPublic,
    UserUpdate,
    UserUpdateMe,
)

router = APIRouter()


@router.get("/", response_model=list[UserPublic], responses=problems(Forbidden))
async def list_users(db: Db, _: DirectoryReader, page: Annotated[Page, Query()]) -> Sequence[User]:
    """List all users, oldest first: the directory may be open to superusers only."""
    return await db.read(users.page, page)


@router.post(
    "/",
    response_model=UserPublic,
    status_code=status.HTTP_201_CREATED,
    dependencies=[SignUp],
    responses=problems(EmailTaken, SignupClosed),
)
async def create_user(db: Db, passwords: PasswordService, new: UserCreate) -> User:
    """Sign up. Where sign-up is closed, a superuser adds users here."""
    return await users.sign_up(db, passwords, new)


@router.get("/me", response_model=UserPublic)
async def read_me(user: CurrentUser) -> User:
    """Read yourself."""
    return user


@router.patch("/me", response_model=UserPublic, responses=problems(EmailTaken, IncorrectPassword))
async def update_me(db: Db, passwords: PasswordService, user: CurrentUser, changes: UserUpdateMe) -> User:
    """Change yourself; a new email or password needs your current password."""
    return await users.update_me(db, passwords, user, changes)


@router.delete("/me", status_code=status.HTTP_204_NO_CONTENT, responses=problems(LastSuperuser))
async def delete_me(db: Db, user: CurrentUser) -> None:
    """Delete yourself and all that is yours."""
    await db.write(users.delete, user.id)


@router.get("/{user_id}", responses=problems(NotFound))
async def read_user(db: Db, user: CurrentUser, user_id: Id) -> UserWithItems:
    """Read a user with their newest 100 items: yourself, or anyone as a superuser."""
    return await db.read(items.owner, user, user_id)


@router.patch(
    "/{user_id}", response_model=UserPublic, responses=problems(EmailTaken, Forbidden, NotFound, LastSuperuser)
)
async def update_user(db: Db, passwords: PasswordService, _: Superuser, user_id: Id, changes: UserUpdate) -> User:
    """Change any user, as a superuser."""
    return await users.update(db, passwords, user_id, changes)


@router.delete(
    "/{user_id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(Forbidden, NotFound, LastSuperuser)
)
async def delete_user(db: Db, _: Superuser, user_id: Id) -> None:
    """Delete any user and all that is theirs, as a superuser."""
    await db.write(users.delete, user_id)
