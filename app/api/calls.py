"""One request: its caller, its unit of work, and the headers of its response."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_type_hints
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, Field, TypeAdapter

from app import auth
from app.auth import Caller, Context
from app.config import Settings
from app.core import idempotency, paging
from app.core.conditions import Conditions, etag
from app.core.db import Database, Record, Session
from app.core.errors import Invalid, Unauthorized
from app.core.fields import Line
from app.core.idempotency import Answer
from app.core.paging import Page, Position, Slice
from app.core.security import Claims, seal, unseal

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R", bound=Record)
C = TypeVar("C", bound=Caller | None)

Check = Callable[[Caller, Settings], None]
"""Raises an error for callers that may not call the route."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_TAGS = 1024
"""The maximum length of `If-Match` or `If-None-Match` in characters, all lines together."""

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class Message(BaseModel):
    """A text for people, for a request whose outcome is not known yet."""

    message: Line = Field(max_length=255)


class Call(Generic[C]):
    """The interface between a route and its unit of work.

    `read` and `write` run one unit in one transaction: it loads the caller, checks that they may call this route, and
    runs `work(session, caller, *args)`. Before that, only the token itself is verified. On a route for `Anyone`, a
    caller without a token is None.
    """

    def __init__(
        self, request: Request, response: Response, context: Context, claims: Claims | None, check: Check
    ) -> None:
        self.context = context
        self._request, self._response, self._claims, self._check = request, response, claims, check

    @property
    def claims(self) -> Claims:
        """The claims of the token. Raises Unauthorized if there is none."""
        if self._claims is None:
            raise Unauthorized
        return self._claims

    @property
    def user_id(self) -> UUID:
        return self.claims.sub

    @property
    def session_id(self) -> UUID:
        """The login session of the token. A unit has checked that it has not ended."""
        return self.claims.sid

    async def read(self, work: Callable[Concatenate[Session, C, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.read(lambda session: work(session, self._caller(session), *args, **kwargs))

    async def write(self, work: Callable[Concatenate[Session, C, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.write(lambda session: work(session, self._caller(session), *args, **kwargs))

    async def caller(self) -> C:
        """The caller, for work in several units. Each unit must check again what it depends on."""
        return await self._db.read(self._caller)

    @property
    def conditions(self) -> Conditions:
        """The headers `If-Match` and `If-None-Match`. A list may be split into several header lines."""
        return Conditions(self._tags("if-match"), self._tags("if-none-match"))

    def show(self, resource: M) -> M:
        """A resource with its entity tag. On GET, 304 without a body if the client has it already."""
        tag = etag(resource)
        if self._request.method == "GET":
            self.conditions.check(tag, reading=True)
        self._response.headers["ETag"] = tag
        return resource

    async def page(self, work: Callable[[Session, C, Any, Position | None], Slice[R]], wanted: Page) -> Sequence[R]:
        """The rows of one page, which `work(session, caller, wanted, after)` selects, with a link to the next page."""
        self._refuse_repeated_parameters()
        context = self._list(wanted)
        page = await self.read(work, wanted, self._position(wanted, context))
        if page.total is not None:
            self._response.headers["X-Total-Count"] = str(page.total)
        links = []
        if page.end:
            links.append(self._link("next", cursor=seal(page.end, context, key=self._settings.key)))
        if page.end or wanted.cursor or wanted.skip:
            links.append(self._link("first"))
        if links:
            self._response.headers["Link"] = ", ".join(links)
        return page.rows

    async def create(
        self, work: Callable[Concatenate[Session, C, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R | Response:
        """The row that `work` creates, with its location and entity tag.

        With an `Idempotency-Key`, the answer is stored for 24 hours and returned again for the same request. Keys
        belong to a user. A caller without a token may not send one (Invalid): two strangers with the same key would
        read each other's answers. To ignore the key would break the promise that the request is carried out once.
        """
        key = self._idempotency_key()
        if key is None:
            row = await self.write(work, *args, **kwargs)
            self._response.headers.update(created(self._request, row, row))
            return row
        scope = self._request.scope
        same = f"{scope['method']} {scope['path'].rstrip('/')} ".encode() + await self._request.body()
        route: APIRoute = scope["route"]
        model = _adapter(route.response_model)

        def once(session: Session, caller: C) -> Answer:
            if caller is None:
                msg = "Header should be omitted without a token, because keys belong to users"
                raise Invalid({"loc": ["header", "idempotency-key"], "msg": msg, "type": "idempotency_key"})

            def answer(session: Session) -> Answer:
                row = work(session, caller, *args, **kwargs)
                body = model.dump_json(model.validate_python(row))
                return Answer(status=route.status_code or 200, headers=created(self._request, row, row), body=body)

            return idempotency.once(session, caller.id, key, hashlib.sha256(same).hexdigest(), answer)

        kept = await self.write(once)
        return Response(kept.body, kept.status, kept.headers, "application/json")

    @property
    def _db(self) -> Database:
        return self.context.db

    @property
    def _settings(self) -> Settings:
        return self.context.settings

    def _caller(self, session: Session) -> C:
        if self._claims is None:
            return None  # type: ignore[return-value]  # if C is Caller, there is a token
        caller = auth.identify(session, self._settings, self._claims)
        self._check(caller, self._settings)
        return caller  # type: ignore[return-value]

    def _tags(self, name: str) -> str | None:
        lines = self._request.headers.getlist(name)
        tags = ", ".join(lines)
        if len(tags) > _MOST_TAGS:
            msg = f"String should have at most {_MOST_TAGS} characters"
            raise Invalid({"loc": ["header", name], "msg": msg, "type": "string_too_long"})
        return tags if lines else None

    def _idempotency_key(self) -> str | None:
        keys = self._request.headers.getlist("idempotency-key")
        if len(keys) > 1 or (keys and not _KEY.fullmatch(keys[0])):
            msg = "Header should be given once, with 1 to 255 visible ASCII characters"
            raise Invalid({"loc": ["header", "idempotency-key"], "msg": msg, "type": "idempotency_key"})
        return keys[0] if keys else None

    def _refuse_repeated_parameters(self) -> None:
        given = self._request.query_params.multi_items()
        if len(given) == len({name for name, _ in given}):
            return
        repeated = [name[:64] for name, times in Counter(name for name, _ in given).items() if times > 1]
        msg = "Parameter should be given once"
        raise Invalid(*({"loc": ["query", name], "msg": msg, "type": "repeated"} for name in repeated[:20]))

    def _list(self, wanted: Page) -> str:
        """The context of a cursor. It is valid for this list, user (or no user), order and filters only."""
        filters = wanted.model_dump(mode="json", exclude={"cursor", "skip", "limit", "count"})
        whose = str(self._claims.sub) if self._claims else None
        return json.dumps([self._request.scope["path"].rstrip("/"), whose, filters])

    def _position(self, wanted: Page, context: str) -> Position | None:
        if wanted.cursor is None:
            return None
        position = unseal(wanted.cursor, context, keys=self._settings.keys)
        if position is None or wanted.skip:
            msg = "Cursor should be unchanged, without skip, and for the same list"
            raise Invalid({"loc": ["query", "cursor"], "msg": msg, "type": "cursor"})
        return position

    def _link(self, relation: str, **more: str) -> str:
        """A link (RFC 8288). Its target has no host, because the host would come from the client."""
        kept = {name: value for name, value in self._request.query_params.items() if name not in ("cursor", "skip")}
        query = urlencode(kept | more)
        return f'<{quote(self._request.scope["path"])}{"?" if query else ""}{query}>; rel="{relation}"'


def created(request: Request, row: Record, shown_as: BaseModel) -> dict[str, str]:
    """The headers with the location and the entity tag of a new resource."""
    return {"Location": f"{quote(request.scope['path'].rstrip('/'))}/{row.id}", "ETag": etag(shown_as)}


def check_lists(app: FastAPI) -> None:
    """Refuse an app with a list that cannot be paged (TypeError): see `paging.check`."""
    for route in iter_route_contexts(app.routes):
        rows = get_args(getattr(route.original_route, "response_model", None))
        hints = get_type_hints(route.endpoint) if rows and route.endpoint else {}
        for wanted in hints.values():
            if isinstance(wanted, type) and issubclass(wanted, Page):
                paging.check(wanted, rows[0])
