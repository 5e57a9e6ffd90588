"""The application: combines settings, database, middleware, handlers and routers."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app import prestart
from app.api import docs, errors, health, oauth, openapi, routing, v1
from app.api.calls import check_lists
from app.api.middleware import (
    BodyLimitMiddleware,
    ErrorMiddleware,
    ProblemCORSMiddleware,
    ProxyMiddleware,
    RequestMiddleware,
)
from app.config import Settings, get_settings
from app.core import logs
from app.core.db import Database
from app.core.security import Passwords
from app.worker import working


def create_app(settings: Settings | None = None) -> FastAPI:
    """A new, independent application. It opens no resources before its lifespan starts."""
    settings = settings or get_settings()
    logs.configure(**settings.logging)
    app = FastAPI(
        title=settings.app_name,
        description="Authorize with your email and password. Then try it out.",
        version="0.1.0",
        openapi_tags=[*v1.TAGS, v1.tag(health)],
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_function_name,
        telemetry={"logs": False},  # they would contain submitted values
    )
    app.state.settings = settings
    app.state.draining = False
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_bytes)  # the last added middleware is the outermost
    app.add_middleware(ErrorMiddleware)
    app.add_middleware(
        ProblemCORSMiddleware,
        allow_origins=settings.backend_cors_origins,
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=[*openapi.HEADERS, "X-Request-ID"],
    )
    app.add_middleware(RequestMiddleware)
    app.add_middleware(ProxyMiddleware, trusted_hosts=settings.forwarded_allow_ips)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(oauth.router)
    app.include_router(v1.router, prefix=settings.api_v1_prefix)
    check_lists(app)
    docs.install(app)
    openapi.install(app, prefix=settings.api_v1_prefix)
    routing.install(app)
    return app


def _function_name(route: APIRoute) -> str:
    return route.name


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.environment == "development":
        await prestart.first_run(settings)
    app.state.database = Database(settings.database_url, pool_size=settings.database_pool_size)
    app.state.passwords = Passwords(imported=settings.imported_hashes)
    gc.collect()
    gc.freeze()  # existing objects stay: exclude them from garbage collection
    if settings.drain_seconds:
        _drain_before_stopping(app, settings.drain_seconds)
    try:
        async with working(app.state.database, settings):
            yield
    finally:
        app.state.passwords.close()
        await app.state.database.close()


def _drain_before_stopping(app: FastAPI, seconds: float) -> None:
    """On SIGTERM, fail the readiness check for `seconds` before the server stops accepting connections."""
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)

    def drain(signum: int, frame: FrameType | None) -> None:
        app.state.draining = True
        if callable(stop):
            loop.call_soon_threadsafe(loop.call_later, seconds, stop, signum, frame)

    signal.signal(signal.SIGTERM, drain)


app = create_app()
