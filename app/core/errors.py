"""Errors as data: each has the status, the code and the text of its response."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar


class AppError(Exception):
    """An error response. Subclasses set the class attributes.

    `code` is part of the contract, because clients branch on it. It stays when a class is renamed or a text changes.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    code: ClassVar[str] = "internal_error"
    detail: str = "An unexpected error occurred"
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or self.detail
        super().__init__(self.detail)


class BadRequest(AppError):
    status = 400
    title = "Bad Request"
    code = "bad_request"
    detail = "Bad request"


class Unauthorized(AppError):
    """RFC 6750 section 3: the header names the scheme and, for a refused token, the error."""

    status = 401
    title = "Unauthorized"
    code = "not_authenticated"
    detail = "Not authenticated"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class InvalidToken(Unauthorized):
    code = "invalid_token"
    detail = "Could not validate credentials"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer error="invalid_token"'}

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        if detail:
            self.headers = {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{detail}"'}


class Forbidden(AppError):
    status = 403
    title = "Forbidden"
    code = "forbidden"
    detail = "The user doesn't have enough privileges"


class NotFound(AppError):
    """The resource does not exist or is not yours. Both look the same to the caller."""

    status = 404
    title = "Not Found"
    code = "not_found"
    detail = "Resource not found"


class Conflict(AppError):
    status = 409
    title = "Conflict"
    code = "conflict"
    detail = "The request conflicts with the current state"


class QuotaExceeded(Conflict):
    code = "quota_exceeded"
    detail = "You have reached the maximum number. Delete some first."


class MethodNotAllowed(AppError):
    status = 405
    title = "Method Not Allowed"
    code = "method_not_allowed"
    detail = "This resource does not support this method"


class ContentTooLarge(AppError):
    status = 413
    title = "Content Too Large"
    code = "content_too_large"
    detail = "The body is too large"


class UriTooLong(AppError):
    status = 414
    title = "URI Too Long"
    code = "uri_too_long"
    detail = "The URL is too long"


class UnsupportedMediaType(AppError):
    status = 415
    title = "Unsupported Media Type"
    code = "unsupported_media_type"
    detail = "The resource does not support this type of body"


class Invalid(AppError):
    """The request is well-formed, but fields are invalid. Each has `loc` (its path), `msg` and `type`."""

    status = 422
    title = "Unprocessable Content"
    code = "validation_error"
    detail = "The request is not valid"

    def __init__(self, *fields: dict[str, Any]) -> None:
        super().__init__()
        self.errors = list(fields)


@contextmanager
def referring(field: str) -> Iterator[None]:
    """Report NotFound from the block as an invalid reference in this field of the body (Invalid)."""
    try:
        yield
    except NotFound:
        msg = "Input should be the id of a resource that you may see"
        raise Invalid({"loc": ["body", field], "msg": msg, "type": "reference"}) from None


class HeadersTooLarge(AppError):
    status = 431
    title = "Request Header Fields Too Large"
    code = "headers_too_large"
    detail = "There are too many headers, or they are too large"


class Unavailable(AppError):
    """Try again later. Nothing was changed, unless `detail` says that the outcome is unknown."""

    status = 503
    title = "Service Unavailable"
    code = "unavailable"
    detail = "The service is temporarily unavailable"
    headers: Mapping[str, str] = {"Retry-After": "2"}
