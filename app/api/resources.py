"""What every resource and list does alike: entity tags, conditions, locations, idempotency keys, links."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from app import idempotency, paging
from app.api.deps import AppSettings, CurrentUser, Db
from app.conditions import Conditions, etag
from app.db import Database, Record
from app.errors import Invalid
from app.idempotency import Answer
from app.paging import Page, Position, Slice
from app.security import seal, unseal
from app.users import User

R = TypeVar("R", bound=Record)


class Message(BaseModel):
    """An answer for people: that something was begun, whose outcome is not known yet."""

    message: str


_Tags = Annotated[str | None, Header(max_length=1024, description="Entity tags, or `*` (RFC 9110 section 13.1)")]


class Resource:
    """One resource: what a request asks of its state, and what an answer tells of it."""

    def __init__(self, request: Request, response: Response) -> None:
        self._response = response
        self._is_read = request.method == "GET"
        if_match, if_none_match = (request.headers.getlist(name) for name in ("if-match", "if-none-match"))
        self.conditions = Conditions(
            ", ".join(if_match) if if_match else None, ", ".join(if_none_match) if if_none_match else None
        )

    def show(self, resource: R) -> R:
        """The resource with its entity tag; on GET nothing but that where the client has it already (304)."""
        tag = etag(resource)
        if self._is_read:
            self.conditions.check(tag, reading=True)
        self._response.headers["ETag"] = tag
        return resource


# Dependencies are coroutines even where they have nothing to wait for: FastAPI gives all others a thread.
async def _resource(
    request: Request,
    response: Response,
    if_match: _Tags = None,  # noqa: ARG001  # for the document and its bounds: a list may come in several lines
    if_none_match: _Tags = None,  # noqa: ARG001
) -> Resource:
    return Resource(request, response)


OneResource = Annotated[Resource, Depends(_resource)]


class Locator:
    """Tells where a new resource is, and which entity tag it has there."""

    def __init__(self, request: Request, response: Response) -> None:
        self._path, self._response = request.scope["path"].rstrip("/"), response

    def __call__(self, resource: R, *, shown_as: BaseModel | None = None) -> R:
        self._response.headers.update(self.headers(resource, shown_as or resource))
        return resource

    def headers(self, resource: Record, shown_as: BaseModel) -> dict[str, str]:
        return {"Location": f"{self._path}/{resource.id}", "ETag": etag(shown_as)}


async def _locator(request: Request, response: Response) -> Locator:
    return Locator(request, response)


Created = Annotated[Locator, Depends(_locator)]

_Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$", description="New for every item that is meant"),
]


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class Creator:
    """Runs a unit that makes a row: `await create(items.create, user, new)` is all that a POST needs.

    With an `Idempotency-Key` the answer is kept for 24 hours, and given again when the same request comes again.
    """

    def __init__(self, request: Request, db: Database, user: User, created: Locator, key: str | None) -> None:
        self._request, self._db, self._user, self._created, self._key = request, db, user, created, key

    async def __call__(self, work: Callable[..., R], *args: Any) -> R | Response:
        if self._key is None:
            return self._created(await self._db.write(work, *args))
        scope = self._request.scope
        same = f"{scope['method']} {scope['path'].rstrip('/')} ".encode() + await self._request.body()
        route: APIRoute = scope["route"]
        model = _adapter(route.response_model)

        def answer(row: R) -> Answer:
            body = model.dump_json(model.validate_python(row))
            return Answer(status=route.status_code or 200, headers=self._created.headers(row, row), body=body)

        fingerprint = hashlib.sha256(same).hexdigest()
        kept = await self._db.write(
            idempotency.once, self._user.id, self._key, fingerprint, lambda session: answer(work(session, *args))
        )
        return Response(kept.body, kept.status, kept.headers, "application/json")


async def _creator(
    request: Request, db: Db, user: CurrentUser, created: Created, idempotency_key: _Key = None
) -> Creator:
    return Creator(request, db, user, created, idempotency_key)


Create = Annotated[Creator, Depends(_creator)]


class Lister:
    """Reads a page, and links the next: `await pages.of(wanted, items.page, user)` is all that a list needs."""

    def __init__(self, request: Request, response: Response, db: Database, user: User, *, key: str) -> None:
        self._request, self._response, self._db, self._user, self._key = request, response, db, user, key
        given = Counter(name for name, _ in request.query_params.multi_items())
        if repeated := [name[:64] for name, times in given.items() if times > 1]:
            msg = "Parameter should be given once"
            raise Invalid(*({"loc": ["query", name], "msg": msg, "type": "repeated"} for name in repeated[:20]))

    async def of(self, wanted: Page, work: Callable[..., Slice[R]], *args: Any) -> Sequence[R]:
        """The rows that `work(session, *args, wanted, after)` finds."""
        context = self._context(wanted)
        page = await self._db.read(work, *args, wanted, self._position(wanted, context))
        if page.total is not None:
            self._response.headers["X-Total-Count"] = str(page.total)
        links = []
        if page.end:
            links.append(self._link("next", cursor=seal(paging.encode(page.end), context, key=self._key)))
        if page.end or wanted.cursor or wanted.skip:
            links.append(self._link("first"))
        if links:
            self._response.headers["Link"] = ", ".join(links)
        return page.rows

    def _context(self, wanted: Page) -> str:
        """What a cursor is good for: this list of this user, in this order, with these filters."""
        filters = wanted.model_dump(mode="json", exclude={"cursor", "skip", "limit", "count"})
        return json.dumps([self._request.scope["path"].rstrip("/"), str(self._user.id), filters])

    def _position(self, wanted: Page, context: str) -> Position | None:
        if wanted.cursor is None:
            return None
        position = unseal(wanted.cursor, context, key=self._key)
        if position is None or wanted.skip:
            msg = "Cursor should be used as it was given, without skip, and for the same list"
            raise Invalid({"loc": ["query", "cursor"], "msg": msg, "type": "cursor"})
        return paging.decode(position, wanted.sort)

    def _link(self, relation: str, **more: str) -> str:
        """RFC 8288; the target has no host in it, which could only have come from the client."""
        kept = {name: value for name, value in self._request.query_params.items() if name not in ("cursor", "skip")}
        query = urlencode(kept | more)
        return f'<{self._request.scope["path"]}{"?" if query else ""}{query}>; rel="{relation}"'


async def _lister(request: Request, response: Response, db: Db, user: CurrentUser, settings: AppSettings) -> Lister:
    return Lister(request, response, db, user, key=settings.key)


Pages = Annotated[Lister, Depends(_lister)]
