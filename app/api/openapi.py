"""The OpenAPI document: FastAPI's own, with the errors that every route really has."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import errors
from app.api.errors import Problem, problems
from app.auth import InactiveUser

_ALWAYS = (errors.AppError, errors.Unavailable)
_WITH_BODY = (errors.BadRequest, errors.ContentTooLarge, errors.UnsupportedMediaType)
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
    for path in document["paths"].values():
        for operation in path.values():
            _add_problems(operation)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs") | {"Problem": schema}
    # Relative to the server's URL, and so right behind any path prefix.
    components["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"]["tokenUrl"] = f"{prefix[1:]}/auth/login"
    return document


def _add_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    kinds: list[type[errors.AppError]] = list(_ALWAYS)
    if "requestBody" in operation:
        kinds += _WITH_BODY
    if "security" in operation:
        kinds += _WITH_TOKEN
    if responses.pop("422", None):
        kinds.append(errors.Invalid)
    for status, response in problems(*kinds).items():
        known = responses.setdefault(str(status), response)
        for media_type, content in response["content"].items():
            known["content"][media_type]["examples"] |= content["examples"]
    operation["responses"] = dict(sorted(responses.items()))
