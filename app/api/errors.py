"""Renders all errors as application/problem+json (RFC 9457), without any value from the request."""

import dis
import json
import logging
import sysconfig
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core import errors
from app.core.conditions import NotModified
from app.core.errors import AppError
from app.core.fields import Text
from app.core.logs import request_id

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

TOKEN_ENDPOINTS = ("/auth/login", "/auth/refresh", "/auth/revoke")
"""Suffixes of the paths whose errors also have the fields of OAuth 2: clients may treat other answers as tokens."""

# By code, otherwise by status; all others are invalid_request. Names are from RFC 6749 sections 5.2 and 4.1.2.1.
_OAUTH = {
    "incorrect_login": "invalid_grant",
    "inactive_user": "invalid_grant",
    "invalid_grant": "invalid_grant",
    "unsupported_grant_type": "unsupported_grant_type",
    429: "temporarily_unavailable",
    500: "server_error",
    503: "temporarily_unavailable",
}


_LIBRARIES = ("<", *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
_RAISE = dis.opmap["RAISE_VARARGS"]

MOST_ERRORS = 20
_DEEPEST = 32
_Code = Annotated[str, Field(max_length=64, pattern="^[a-z0-9_]+$")]
_Words = Annotated[Text, Field(max_length=4096)]
_Name = Annotated[str, Field(max_length=64)]
_Index = Annotated[int, Field(ge=0, le=2**31 - 1)]


class FieldError(BaseModel):
    loc: list[_Name | _Index] = Field(
        max_length=_DEEPEST, description="Location: `body`, `query`, `path` or `header`, then the names below it"
    )
    msg: _Words = Field(description="What is wrong, for people")
    type: _Code = Field(description="What is wrong, for programs")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: Literal["about:blank"] = Field(description="`title` and `status` have their HTTP meaning")
    title: _Words = Field(description="The name of the status")
    status: int = Field(ge=400, le=599)
    detail: _Words = Field(description="What happened, for people")
    code: _Code = Field(description="What happened, for programs. It is stable.")
    instance: str = Field(
        max_length=64,
        pattern="^[A-Za-z0-9._-]*$",
        description="The id of the request, as in `X-Request-ID` and in the logs",
    )
    error: _Code | None = Field(default=None, description="The OAuth 2 error (RFC 6749), only at token endpoints")
    error_description: _Words | None = Field(default=None, description="The same as `detail`, only at token endpoints")
    errors: Annotated[list[FieldError], Field(max_length=MOST_ERRORS)] | None = Field(
        default=None, description="The invalid fields, only with status 422"
    )


def problem(
    error: AppError | type[AppError], instance: str, fields: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    body = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "instance": instance,
        "errors": fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def with_oauth(problem: dict[str, Any]) -> dict[str, Any]:
    """The same problem with the fields of a token endpoint (RFC 6749 section 5.2)."""
    error = _OAUTH.get(problem["code"]) or _OAUTH.get(problem["status"], "invalid_request")
    return {**problem, "error": error, "error_description": problem["detail"]}


class ProblemResponse(Response):
    media_type = MEDIA_TYPE

    def __init__(self, error: AppError, headers: Mapping[str, str] | None = None) -> None:
        self._problem = problem(error, request_id.get() or "", getattr(error, "errors", None))
        super().__init__(self._problem, error.status, {**error.headers, **(headers or {})})

    def render(self, content: Any) -> bytes:
        # ASCII, because names of fields come from the client and may be invalid Unicode.
        return json.dumps(content).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/").endswith(TOKEN_ENDPOINTS):
            self.body = self.render(with_oauth(self._problem))
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def problems(*kinds: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        response = responses.setdefault(
            kind.status,
            {
                "description": kind.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        instance = "019b76da-a800-7000-8000-000000000000"
        response["content"][MEDIA_TYPE]["examples"][kind.code] = {"value": problem(kind, instance)}
    return responses


def install(app: FastAPI) -> None:
    """Make the app render every exception with the functions below."""
    app.add_exception_handler(AppError, _app_error)  # type: ignore[arg-type]  # each is called with its own type only
    app.add_exception_handler(NotModified, _not_modified)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_exception)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _validation_error)  # type: ignore[arg-type]


async def _app_error(_request: Request, error: AppError) -> Response:
    if error.status >= 500:
        cause = error.__cause__
        said = getattr(cause, "orig", None)
        code = getattr(said, "sqlstate", None) or getattr(said, "sqlite_errorname", None)
        about = {"cause": type(cause).__name__, "sqlstate": code}
        logger.warning("%s: %s", error.code, error.detail, extra={"data": about if cause else {}})
    return ProblemResponse(error)


async def _not_modified(_request: Request, state: NotModified) -> Response:
    return Response(status_code=304, headers={"ETag": state.tag})


async def _http_exception(_request: Request, error: HTTPException) -> Response:
    """Errors that FastAPI and Starlette raise: unknown routes and methods, and unreadable bodies."""
    match error.status_code:
        case 404:
            return ProblemResponse(errors.NotFound())
        case 405:
            return ProblemResponse(errors.MethodNotAllowed(), error.headers or {"Allow": "GET, HEAD"})
        case 413:
            return ProblemResponse(errors.ContentTooLarge())
        case status if status < 500:
            return ProblemResponse(errors.BadRequest("The request cannot be parsed"))
    raise error


async def _validation_error(_request: Request, error: RequestValidationError) -> Response:
    found = error.errors()
    if isinstance(error.body, bytes):  # not parsed, because its Content-Type is not JSON
        return ProblemResponse(errors.UnsupportedMediaType())
    if found[0]["type"] == "json_invalid":
        return ProblemResponse(errors.BadRequest("The body is not valid JSON"))
    fields = [
        {"loc": [_name(part) for part in each["loc"][:_DEEPEST]], "msg": _message(each), "type": each["type"]}
        for each in found[:MOST_ERRORS]
    ]
    return ProblemResponse(errors.Invalid(*fields))


def _name(part: str | int) -> str | int:
    return part if isinstance(part, int) else part[:64]


def _message(error: dict[str, Any]) -> str:
    """The message of a validator of the product, or that of pydantic without its quote of the input."""
    text: str = error["msg"]
    context = error.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Exception):
        return (_is_meant(cause) and str(cause)) or text.partition(",")[0]
    for quoted in (context[name] for name in ("error", "value", "encoding_error") if name in context):
        text = text.removesuffix("'").removesuffix(str(quoted)).rstrip(" ,:'")
    return text.replace(f"'{context['tag']}' ", "", 1) if "tag" in context else text


def _is_meant(error: Exception) -> bool:
    """Whether a `raise` in the product created this text. A text from `int()` or a library may quote the input."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    return code.co_code[last.tb_lasti] == _RAISE and not code.co_filename.startswith(_LIBRARIES)
