"""OAuth 2 over HTTP: how its forms are read, and where clients find its endpoints."""

from collections import Counter
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from app.errors import BadRequest, ContentTooLarge, Invalid, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 100
MOST_BYTES = 64 * 1024
"""Of a form: to decode 1 MiB of it takes so long that others would notice."""

router = APIRouter(tags=["auth"])


def form(model: type[M]) -> Any:
    """The dependency of a route that takes a form. It is in UTF-8, and what the model knows is in it once (RFC 6749).

    FastAPI's `Form` also reads multipart, where a client names the codec: punycode takes a minute for 1 MiB.
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
        if repeated := [name for name in model.model_fields if times[name] > 1]:
            msg = "Parameter should be given once"
            raise Invalid(*({"loc": ["body", name], "msg": msg, "type": "repeated"} for name in repeated))
        try:
            return model.model_validate(dict(pairs))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None

    return Depends(read)


def form_body(model: type[BaseModel]) -> dict[str, Any]:
    """The same for the OpenAPI document: the `openapi_extra` of the route."""
    return {"requestBody": {"required": True, "content": {FORM: {"schema": model.model_json_schema()}}}}


class ServerMetadata(BaseModel):
    """What clients look for (RFC 8414 section 2). There are no secrets of clients, and so no way to prove one."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    grant_types_supported: list[str] = ["password", "refresh_token"]
    # Required, and not to be empty, also where there is no authorization endpoint.
    response_types_supported: list[str] = ["none"]
    token_endpoint_auth_methods_supported: list[str] = ["none"]
    revocation_endpoint_auth_methods_supported: list[str] = ["none"]


@router.get("/.well-known/oauth-authorization-server")
async def read_server_metadata(request: Request) -> ServerMetadata:
    """Tell OAuth 2 clients where to ask for tokens and revoke them (RFC 8414)."""
    # The host is the one that the client names, who alone is told it: no cache may keep the answer for others.
    return ServerMetadata(
        issuer=str(request.base_url).rstrip("/"),
        token_endpoint=str(request.url_for("login")),
        revocation_endpoint=str(request.url_for("revoke_token")),
    )
