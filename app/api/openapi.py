"""The OpenAPI document: FastAPI's own, with the errors that every route really has."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import errors
from app.api.errors import MEDIA_TYPE, TOKEN_ENDPOINTS, Problem, problems, with_oauth
from app.api.oauth import FORM
from app.auth import InactiveUser
from app.fairness import TooManyInFlight
from app.paging import COUNTED

_ALWAYS = (errors.UriTooLong, errors.HeadersTooLarge, errors.AppError, TooManyInFlight, errors.Unavailable)
_WITH_BODY = (errors.BadRequest, errors.ContentTooLarge, errors.UnsupportedMediaType, errors.Invalid)
_WITH_TOKEN = (errors.Unauthorized, errors.InvalidToken, InactiveUser)


def install(app: FastAPI, *, prefix: str) -> None:
    """Have `app.openapi()` answer the document, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, prefix)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


def _document(app: FastAPI, prefix: str) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = document["components"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _add_parameters(operation)
            _add_problems(operation)
            if path.endswith(TOKEN_ENDPOINTS):
                _add_oauth(operation)
            _add_headers(method, operation)
            if form := operation.get("requestBody", {}).get("content", {}).get(FORM):
                name = form["schema"]["title"]
                components["schemas"][name] = form["schema"]
                form["schema"] = {"$ref": f"#/components/schemas/{name}"}
            for parameter in operation.get("parameters", ()):
                _drop_null(parameter["schema"])
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs") | {"Problem": schema}
    # Relative to the server's URL, and so right behind any path prefix.
    flow = components["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"]
    flow |= {"tokenUrl": f"{prefix[1:]}/auth/login", "refreshUrl": f"{prefix[1:]}/auth/refresh"}
    return document


PARAMETERS = {
    "precondition_failed": {
        "if-match": "Entity tags, or `*`: refused with 412 unless the resource has one of them (RFC 9110 section 13.1)",
        "if-none-match": "Entity tags, or `*`: answered with 304, or 412, if the resource has one of them",
    },
    "idempotency_key_reused": {
        "idempotency-key": "New for each request that is meant: one that is sent again is done once"
    },
}
"""The request headers behind an error: a route that documents the error takes them."""


def _add_parameters(operation: dict[str, Any]) -> None:
    bounds = {"idempotency-key": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"}}
    for code, headers in PARAMETERS.items():
        if any(code in _examples(response) for response in operation["responses"].values()):
            operation["responses"].setdefault("422", {})
            operation.setdefault("parameters", []).extend(
                {
                    "name": name,
                    "in": "header",
                    "required": False,
                    "description": description,
                    "schema": bounds.get(name, {"type": "string", "maxLength": 1024}),
                }
                for name, description in headers.items()
            )


def _examples(response: dict[str, Any]) -> dict[str, Any]:
    examples: dict[str, Any] = response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    return examples


def _add_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    kinds: list[type[errors.AppError]] = list(_ALWAYS)
    if "requestBody" in operation:
        kinds += _WITH_BODY
    if operation.setdefault("security", []):
        kinds += _WITH_TOKEN
    if responses.pop("422", None) is not None:
        kinds.append(errors.Invalid)
    for status, response in problems(*kinds).items():
        known = responses.setdefault(str(status), response)
        for media_type, content in response["content"].items():
            known["content"][media_type]["examples"] |= content["examples"]
    operation["responses"] = dict(sorted(responses.items()))


def _add_oauth(operation: dict[str, Any]) -> None:
    for response in operation["responses"].values():
        for example in _examples(response).values():
            example["value"] = with_oauth(example["value"])


HEADERS = {
    "ETag": "The entity tag of the resource, for `If-Match` and `If-None-Match`",
    "Link": "The `next` page, if there is one, and the `first` (RFC 8288)",
    "Location": "Where the new resource is",
    "RateLimit": "The limit that was met, and the seconds until it ends",
    "RateLimit-Policy": "What may be tried how often: `q` times in `w` seconds",
    "Retry-After": "Seconds after which to try again",
    "WWW-Authenticate": "How to authenticate",
    "X-Total-Count": f"The number of all rows if `count` asks for it, {COUNTED} at most",
}


def _add_headers(method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    named = {"201": ["Location", "ETag"], "401": ["WWW-Authenticate"], "503": ["Retry-After"]}
    named["429"] = ["Retry-After", "RateLimit", "RateLimit-Policy"]
    if _takes(operation, "if-match"):
        named["200"] = ["ETag"]
    if _takes(operation, "cursor"):
        named["200"] = ["Link", "X-Total-Count"]
    for status, names in named.items():
        if status in responses:
            responses[status]["headers"] = {
                name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names
            }
    if method == "get" and _takes(operation, "if-none-match"):
        responses["304"] = {"description": "Not Modified", "headers": responses["200"]["headers"]}
    if method == "patch":
        content = operation["requestBody"]["content"]
        content["application/merge-patch+json"] = content["application/json"]  # RFC 7396


def _drop_null(schema: dict[str, Any]) -> None:
    """A parameter is left out, never null: that is how JSON writes what a URL cannot."""
    match schema.get("anyOf"):
        case [kind, {"type": "null"}]:
            del schema["anyOf"]
            schema |= kind


def _takes(operation: dict[str, Any], parameter: str) -> bool:
    return any(each["name"] == parameter for each in operation.get("parameters", ()))
