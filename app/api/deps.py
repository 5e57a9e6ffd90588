"""What a route asks for in its signature."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer

from app import auth
from app.config import Settings
from app.db import Database
from app.errors import Forbidden, InvalidToken, Unauthorized
from app.security import Passwords
from app.users import SignupClosed, User

# Swagger UI takes the URL from the document, where app.api.openapi puts the one that this service has.
_bearer = OAuth2PasswordBearer(tokenUrl="login", auto_error=False)


async def _database(request: Request) -> Database:
    return request.app.state.database  # type: ignore[no-any-return]


async def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


async def _passwords(request: Request) -> Passwords:
    return request.app.state.passwords  # type: ignore[no-any-return]


Db = Annotated[Database, Depends(_database)]
AppSettings = Annotated[Settings, Depends(_settings)]
PasswordService = Annotated[Passwords, Depends(_passwords)]


async def _caller(
    request: Request, db: Db, settings: AppSettings, token: Annotated[str | None, Depends(_bearer)]
) -> User | None:
    sent = request.headers.getlist("authorization")
    if not sent:
        return None
    if len(sent) > 1 or not token:
        raise InvalidToken
    return await auth.current_user(db, settings, token)


Caller = Annotated[User | None, Depends(_caller)]
"""Whoever calls: a user where a token was sent, else None."""


async def _current_user(caller: Caller) -> User:
    if caller is None:
        raise Unauthorized
    return caller


CurrentUser = Annotated[User, Depends(_current_user)]


async def _superuser(user: CurrentUser) -> User:
    if not user.is_superuser:
        raise Forbidden
    return user


Superuser = Annotated[User, Depends(_superuser)]


async def _directory_reader(user: CurrentUser, settings: AppSettings) -> User:
    if not (settings.directory_open or user.is_superuser):
        raise Forbidden
    return user


DirectoryReader = Annotated[User, Depends(_directory_reader)]
"""Who may list all users: any active one where the directory is open, else superusers."""


async def _may_sign_up(caller: Caller, settings: AppSettings) -> None:
    if not (settings.signup_open or (caller and caller.is_superuser)):
        raise SignupClosed


SignUp = Depends(_may_sign_up)
"""Lets anyone add a user where sign-up is open, and superusers always."""
