"""Finds the route of a request by the literal prefix of its path, with or without a trailing slash."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.telemetry._api import _route_selected
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send


def install(app: FastAPI) -> None:
    """Replace FastAPI's search for the route of a request.

    FastAPI tries the regular expressions of all routes, again for each router that includes another. This tries only
    the few routes with the same path before the first parameter. The longest prefix comes first, so `/users/me` never
    matches `/users/{id}`, with any method. Sets `scope["route_path"]` to the declared path of the route.
    """
    router = app.router
    index: dict[str, list[RouteContext]] = {}
    indexed = 0

    def build() -> None:
        nonlocal indexed
        index.clear()
        for route in iter_route_contexts(app.routes):
            index.setdefault((route.path or "").partition("{")[0].rstrip("/"), []).append(route)
        indexed = len(app.routes)

    def candidates(path: str) -> Iterator[list[RouteContext]]:
        if indexed != len(app.routes):  # a route was added meanwhile
            build()
        while path:
            if path in index:
                yield index[path]
            path = path.rpartition("/")[0]
        yield index.get("", [])

    async def find(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await router.app(scope, receive, send)
            return
        given, bare = scope["path"], get_route_path(scope).removesuffix("/")
        methods: set[str] = set()
        for routes in candidates(bare):
            for route in routes:
                if bare:  # a trailing slash makes no difference and never causes a redirect
                    scope["path"] = given.removesuffix("/") + ("/" if (route.path or "").endswith("/") else "")
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found, route=route.original_route, route_path=route.path, router=router)
                    _route_selected(scope=scope, path=route.path_format)  # for telemetry, like FastAPI's router
                    await route.app(scope, receive, send)
                    return
                if match is Match.PARTIAL:
                    methods |= route.methods or set()
                    scope.setdefault("route_path", route.path)
            if methods:
                break
        scope["path"] = given
        if not methods:
            raise HTTPException(404)
        allowed = methods | {"HEAD"} if "GET" in methods else methods
        raise HTTPException(405, headers={"Allow": ", ".join(sorted(allowed))})

    build()  # at start-up, because FastAPI analyses every route, which takes time
    router.middleware_stack = find
