"""Middleware for every request: its id, log line, headers and limits. Pure ASGI: no extra task per request."""

import logging
import re
import time
from traceback import walk_tb
from typing import Any

from fastapi.dependencies.utils import _validate_value_with_model_field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.api.errors import ProblemResponse
from app.core.errors import AppError, BadRequest, ContentTooLarge, HeadersTooLarge, Invalid, UriTooLong
from app.core.logs import request_id

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


MOST_TARGET_BYTES = 8000
"""The path and the query together (RFC 9112 section 3)."""

MOST_HEADERS = 100
MOST_HEADER_BYTES = 16 * 1024


class ProxyMiddleware(ProxyHeadersMiddleware):
    """uvicorn's own: trusts `X-Forwarded-For` and `X-Forwarded-Proto` only from the peers that are named here.

    With uvicorn's defaults the server has already trusted 127.0.0.1. Therefore the address and the scheme are read from
    the connection again. A peer at a Unix socket has no address and is called `unix`.
    """

    _warned = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport:
            connection = transport.get_protocol()
            if connection is None:  # the peer has disconnected
                return
            peer = connection.client or ("unix", 0)
            if scope["client"] != connection.client and peer[0] not in self.trusted_hosts and not self._warned:
                self._warned = True
                logger.warning("X-Forwarded-For is not trusted: FORWARDED_ALLOW_IPS does not name %s", peer[0])
            scope["client"], scope["scheme"] = peer, connection.scheme
        await super().__call__(scope, receive, send)


def _refusal(scope: Scope) -> AppError | None:
    """The error for an unacceptable request head, checked before anything else."""
    headers = scope["headers"]
    if len(scope["path"]) + len(scope["query_string"]) > MOST_TARGET_BYTES:
        return UriTooLong()
    if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
        return HeadersTooLarge()
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and scope["http_version"] == "1.1"):  # RFC 9112 section 3.2
        return BadRequest("The request should have one Host header")
    return None


class RequestMiddleware:
    """Gives each request an id, limits its head, answers HEAD as GET without a body, adds security headers, logs."""

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
            refusal = _refusal(scope)
            app = ProblemResponse(refusal) if refusal else self.app
            await app(inner, receive, send_with_headers)
        finally:
            # The template, not the path, because the path is client input.
            route = inner.get("route_path", "-")
            duration = round((time.perf_counter() - started) * 1000, 1)
            data = {"method": scope["method"], "route": route, "status": status, "duration_ms": duration}
            access_log.info("request", extra={"data": data})
            request_id.reset(context)


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's own, but a refused preflight is answered with a problem."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return ProblemResponse(BadRequest("This origin, method or header is not allowed"), kept)


class ErrorMiddleware:
    """Answers uncaught exceptions with 500, inside CORS, so that browsers can read the response."""

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
            await ProblemResponse(_answer_to(error))(scope, receive, send)


def _answer_to(error: Exception) -> AppError:
    """422 for an exception (no ValidationError) while FastAPI validates a request; otherwise 500."""
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code is _validate_value_with_model_field.__code__:
            loc = list(frame.f_locals["loc"])
            return Invalid({"loc": loc, "msg": "Input could not be validated", "type": "not_validated"})
    return AppError()


class BodyLimitMiddleware:
    """Refuses bodies of more than `limit` bytes: at once by Content-Length, otherwise while they arrive."""

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
                raise HTTPException(413)  # the only error that FastAPI lets through while it reads a body
            return message

        await self.app(scope, count, send)
