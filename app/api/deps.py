"""Dependencies that state in a route's signature who may call it."""

from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import OAuth2PasswordBearer

from app import auth
from app.api.calls import Call, Check
from app.api.openapi import BEARER, OPTIONAL
from app.auth import Caller, Context
from app.config import Settings
from app.core import fairness, security, throttle
from app.core.db import Database
from app.core.errors import Forbidden, InvalidToken, Unauthorized
from app.core.security import Claims
from app.users import SignupClosed


async def _database(request: Request) -> Database:
    return request.app.state.database  # type: ignore[no-any-return]


Db = Annotated[Database, Depends(_database)]


async def _context(request: Request) -> Context:
    # The peer, or the address that a trusted proxy reports: never a header that any client could send.
    try:
        address = str(ip_address(request.client.host.partition("%")[0] if request.client else ""))
    except ValueError:  # a Unix socket has no address, and a proxy may forward an invalid one
        address = ""
    fairness.caller.set(throttle.network(address))
    device = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))
    state = request.app.state
    return Context(state.database, state.passwords, state.settings, address, device[:255])


RequestContext = Annotated[Context, Depends(_context)]
"""Any request, with or without a token. Nobody is authenticated."""


def _claims(request: Request, settings: Settings) -> Claims | None:
    """The claims of the token, or None without one. Raises InvalidToken if it is invalid or expired."""
    sent = request.headers.getlist("authorization")
    if not sent:
        return None
    scheme, _, token = sent[0].partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer":
        raise InvalidToken
    claims = security.decode_token(token, "access", keys=settings.keys, algorithm=settings.algorithm)
    fairness.caller.set(str(claims.sub))
    return claims


_TOKENS = (
    "`username` is your email. Sign up first with `POST /users/`. Access tokens are JWTs that follow RFC8725: one"
    " algorithm; issuer, audience, purpose and expiry are checked."
)


class _Bearer(OAuth2PasswordBearer):
    """Requires a token, unless `optional`. The unit of work loads and checks the caller."""

    def __init__(self, check: Check, *, optional: bool = False) -> None:
        # Swagger UI reads the URLs from the document, where app.api.openapi inserts the real ones.
        super().__init__("login", OPTIONAL if optional else BEARER, description=_TOKENS, refreshUrl="refresh")
        self._check, self._optional = check, optional

    async def __call__(self, request: Request, response: Response) -> Call[Any]:  # type: ignore[override]  # more than a token
        context = await _context(request)
        claims = _claims(request, context.settings)
        if claims is None and not self._optional:
            raise Unauthorized
        return Call(request, response, context, claims, self._check)


def _any_user(_caller: Caller, _settings: Settings) -> None:
    pass


def _superuser(caller: Caller, _settings: Settings) -> None:
    if not caller.is_superuser:
        raise Forbidden


def _directory_reader(caller: Caller, settings: Settings) -> None:
    if not (settings.directory_open or caller.is_superuser):
        raise Forbidden


Me = Annotated[Call[Caller], Depends(_Bearer(_any_user))]
"""An active user."""

Anyone = Annotated[Call[Caller | None], Depends(_Bearer(_any_user, optional=True))]
"""An active user, or None for a caller without a token. An invalid token is still refused."""

Superuser = Annotated[Call[Caller], Depends(_Bearer(_superuser))]

DirectoryReader = Annotated[Call[Caller], Depends(_Bearer(_directory_reader))]
"""A caller who may list all users: any active user if the directory is open, otherwise superusers only."""


async def _may_sign_up(request: Request, context: RequestContext) -> Caller | None:
    claims = _claims(request, context.settings)
    if claims:
        caller = await context.db.read(auth.identify, context.settings, claims)
        if caller.is_superuser:
            return caller
    if not context.settings.signup_open:
        raise SignupClosed
    return None


SignUp = Annotated[Caller | None, Depends(_may_sign_up)]
"""The superuser who adds a user, or None for a sign-up. Raises SignupClosed if sign-up is not open."""
