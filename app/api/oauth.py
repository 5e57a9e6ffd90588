"""OAuth 2 over HTTP: reads its forms, and tells clients its endpoints."""

from collections import Counter
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect

from app.auth import UnsupportedGrantType
from app.core.errors import BadRequest, ContentTooLarge, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 100
MOST_BYTES = 64 * 1024
"""The maximum size of a form. Decoding 1 MiB would delay other requests."""

router = APIRouter(tags=["auth"])


def form(model: type[M]) -> Any:
    """The dependency of a route with a form. It must be UTF-8, without repeated parameters of the model (RFC 6749).

    FastAPI's `Form` also reads multipart, where the client chooses the codec: punycode takes a minute for 1 MiB.
    """

    async def read(request: Request) -> M:
        kind, _, parameters = ",".join(request.headers.getlist("content-type")).lower().partition(";")
        if kind.strip() != FORM or parameters.strip().replace('"', "") not in ("", "charset=utf-8"):
            raise UnsupportedMediaType
        try:
            body = await request.body()
            if len(body) > MOST_BYTES:
                raise ContentTooLarge
            pairs = parse_qsl(body.decode(), errors="strict", max_num_fields=MOST_FIELDS)
        except (ClientDisconnect, ValueError):
            raise BadRequest("The body is not a form in UTF-8") from None
        times = Counter(name for name, _ in pairs)
        if any(times[name] > 1 for name in model.model_fields):
            raise BadRequest("A parameter is given more than once")
        try:
            return model.model_validate(dict(pairs))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            if any(each["type"] == "literal_error" for each in found):  # of `grant_type`, the only one
                raise UnsupportedGrantType from None
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None

    return Depends(read)


def form_body(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route with a form."""
    return {"requestBody": {"required": True, "content": {FORM: {"schema": model.model_json_schema()}}}}


_Url = Annotated[str, Field(json_schema_extra={"format": "uri", "maxLength": 2**15})]
_Nothing = Annotated[list[Literal["none"]], Field(max_length=1)]


class ServerMetadata(BaseModel):
    """OAuth 2 server metadata (RFC 8414 section 2)."""

    issuer: _Url
    token_endpoint: _Url
    revocation_endpoint: _Url
    grant_types_supported: Annotated[list[Literal["password", "refresh_token"]], Field(max_length=2)]
    response_types_supported: _Nothing  # must not be empty, although there is no authorization endpoint
    token_endpoint_auth_methods_supported: _Nothing  # clients have no secrets
    revocation_endpoint_auth_methods_supported: _Nothing


@router.get("/.well-known/oauth-authorization-server")
async def read_server_metadata(request: Request) -> ServerMetadata:
    """Read the OAuth2 server metadata (RFC 8414): where clients get and revoke tokens."""
    return ServerMetadata(
        # The host comes from the client. This is safe, because no cache may store the answer for other clients.
        issuer=str(request.base_url).rstrip("/"),
        token_endpoint=str(request.url_for("login")),
        revocation_endpoint=str(request.url_for("revoke_token")),
        grant_types_supported=["password", "refresh_token"],
        response_types_supported=["none"],
        token_endpoint_auth_methods_supported=["none"],
        revocation_endpoint_auth_methods_supported=["none"],
    )
