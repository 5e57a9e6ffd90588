"""What surrounds every request: its id, its log line, its headers, its limits. Pure ASGI: no task per request."""

import logging
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from app.api.errors import ProblemResponse
from app.errors import AppError, BadRequest, ContentTooLarge
from app.logs import request_id

access_log = logging.getLogger("app.access")
logger = logging.getLogger(__name__)

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestMiddleware:
    """Gives each request an id, answers HEAD as GET without its body, adds security headers, logs one line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        this_id = given if _ACCEPTABLE_ID.fullmatch(given) else str(uuid7())
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = this_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        context = request_id.set(this_id)
        started = time.perf_counter()
        try:
            await self.app(inner, receive, send_with_headers)
        finally:
            # The template, not the path: that would be the client's own words.
            route = inner.get("route_path", "-")
            duration = round((time.perf_counter() - started) * 1000, 1)
            data = {"method": scope["method"], "route": route, "status": status, "duration_ms": duration}
            access_log.info("request", extra={"data": data})
            request_id.reset(context)


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's, except that a refused preflight is a problem like any other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return ProblemResponse(BadRequest("This origin, method or header is not allowed"), kept)


class ErrorMiddleware:
    """Answers what nothing else has caught with a 500: inside CORS, so that browsers can read it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            logger.error("unhandled %s", type(error).__name__, exc_info=error)
            await ProblemResponse(AppError())(scope, receive, send)


class BodyLimitMiddleware:
    """Refuses bodies of more than `limit` bytes: by their declared length at once, else as they arrive."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.limit):
            await ProblemResponse(ContentTooLarge())(scope, receive, send)
            return
        received = 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413)  # the one kind of error that FastAPI lets through while it reads a body
            return message

        await self.app(scope, count, send)
