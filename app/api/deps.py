"""What a route asks for in its signature."""

from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer

from app import auth
from app.auth import Caller, Context
from app.config import Settings
from app.db import Database
from app.errors import Forbidden, InvalidToken, Unauthorized
from app.users import SignupClosed, User

# Swagger UI takes the URLs from the document, where app.api.openapi puts those that this service has.
_bearer = OAuth2PasswordBearer(tokenUrl="login", refreshUrl="refresh", auto_error=False)


async def _database(request: Request) -> Database:
    return request.app.state.database  # type: ignore[no-any-return]


async def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


Db = Annotated[Database, Depends(_database)]
AppSettings = Annotated[Settings, Depends(_settings)]


async def _context(request: Request, db: Db, settings: AppSettings) -> Context:
    # The peer, or what a proxy says that the server was told to trust: never a header that anyone could send.
    try:
        address = str(ip_address(request.client.host.partition("%")[0] if request.client else ""))
    except ValueError:  # a Unix socket has none, and a proxy may pass on what is none
        address = ""
    device = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))
    return Context(db, request.app.state.passwords, settings, address, device[:255])


RequestContext = Annotated[Context, Depends(_context)]


async def _caller(
    request: Request, db: Db, settings: AppSettings, token: Annotated[str | None, Depends(_bearer)]
) -> Caller | None:
    sent = request.headers.getlist("authorization")
    if not sent:
        return None
    if len(sent) > 1 or not token:
        raise InvalidToken
    return await auth.caller(db, settings, token)


AnyCaller = Annotated[Caller | None, Depends(_caller)]
"""Whoever calls: a user and their session where a token was sent, else None."""


async def _current_caller(caller: AnyCaller) -> Caller:
    if caller is None:
        raise Unauthorized
    return caller


CurrentCaller = Annotated[Caller, Depends(_current_caller)]


async def _current_user(caller: CurrentCaller) -> User:
    return caller.user


CurrentUser = Annotated[User, Depends(_current_user)]


async def _superuser(caller: CurrentCaller) -> Caller:
    if not caller.user.is_superuser:
        raise Forbidden
    return caller


Superuser = Annotated[Caller, Depends(_superuser)]


async def _directory_reader(user: CurrentUser, settings: AppSettings) -> User:
    if not (settings.directory_open or user.is_superuser):
        raise Forbidden
    return user


DirectoryReader = Annotated[User, Depends(_directory_reader)]
"""Who may list all users: any active one where the directory is open, else superusers."""


async def _may_sign_up(caller: AnyCaller, settings: AppSettings) -> Caller | None:
    if caller and caller.user.is_superuser:
        return caller
    if not settings.signup_open:
        raise SignupClosed
    return None


SignUp = Annotated[Caller | None, Depends(_may_sign_up)]
"""Who may add a user: anyone where sign-up is open, and superusers always."""
