"""The OpenAPI document: FastAPI's own, completed with the errors, headers and limits of every route."""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.errors import MEDIA_TYPE, TOKEN_ENDPOINTS, Problem, problems, with_oauth
from app.api.oauth import FORM
from app.auth import InactiveUser
from app.core import errors
from app.core.fairness import TooManyInFlight
from app.core.paging import COUNTED

_ALWAYS = (errors.UriTooLong, errors.HeadersTooLarge, errors.AppError, TooManyInFlight, errors.Unavailable)
_WITH_BODY = (errors.BadRequest, errors.ContentTooLarge, errors.UnsupportedMediaType, errors.Invalid)
_WITH_TOKEN = (errors.InvalidToken, InactiveUser)

BEARER = "OAuth2PasswordBearer"
OPTIONAL = f"{BEARER} or nothing"
"""The scheme of a route with an optional token. OpenAPI describes it as two alternatives."""


def install(app: FastAPI, *, prefix: str) -> None:
    """Make `app.openapi()` return the document, which is built once."""

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
            if operation.get("security") == [{OPTIONAL: []}]:
                operation["security"] = [{BEARER: []}, {}]
            _summarize(operation)
            _add_parameters(operation)
            _describe(operation)
            _add_problems(operation, components["schemas"])
            if path.endswith(TOKEN_ENDPOINTS):
                _add_oauth(operation)
            _add_headers(method, operation)
            if method == "patch":
                _add_change(operation, components["schemas"])
            if form := operation.get("requestBody", {}).get("content", {}).get(FORM):
                name = form["schema"]["title"]
                components["schemas"][name] = form["schema"]
                form["schema"] = {"$ref": f"#/components/schemas/{name}"}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs") | {"Problem": schema}
    # Relative to the server's URL, so that it is correct behind any path prefix.
    components["securitySchemes"].pop(OPTIONAL, None)
    flow = components["securitySchemes"][BEARER]["flows"]["password"]
    flow |= {"tokenUrl": f"{prefix[1:]}/auth/login", "refreshUrl": f"{prefix[1:]}/auth/refresh"}
    _complete(document)
    components["responses"] = _share(document["paths"])
    return document


def _summarize(operation: dict[str, Any]) -> None:
    """The first phrase of the docstring becomes the summary, unless the route has its own."""
    if operation["summary"] == operation["operationId"].replace("_", " ").title():  # FastAPI's default
        operation["summary"] = re.split(r"[.:;]|\s\(", operation.get("description", operation["summary"]))[0]


_LATIN_1 = r"^[\t\x20-\x7e\x80-\xff]*$"  # all characters that a header may contain

PARAMETERS = {
    "precondition_failed": {
        "if-match": "Entity tags, or `*`. 412 unless the resource has one of them (RFC 9110 section 13.1)",
        "if-none-match": "Entity tags, or `*`. 304 (GET) or 412 if the resource has one of them",
    },
    "idempotency_key_reused": {
        "idempotency-key": "A unique key for each request. A repeated request is carried out once."
    },
}
"""The request headers that belong to an error. A route that documents the error accepts them."""


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
                    "schema": bounds.get(name, {"type": "string", "maxLength": 1024, "pattern": _LATIN_1}),
                }
                for name, description in headers.items()
            )


def _examples(response: dict[str, Any]) -> dict[str, Any]:
    examples: dict[str, Any] = response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    return examples


def _add_problems(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    responses = operation["responses"]
    kinds: list[type[errors.AppError]] = list(_ALWAYS)
    if "requestBody" in operation:
        kinds += _WITH_BODY
    if security := operation.setdefault("security", []):
        kinds += _WITH_TOKEN if {} in security else (errors.Unauthorized, *_WITH_TOKEN)
    if responses.pop("422", None) is not None:
        kinds.append(errors.Invalid)
    for status, response in problems(*kinds).items():
        known = responses.setdefault(str(status), response)
        for media_type, content in response["content"].items():
            known["content"][media_type]["examples"] |= content["examples"]
    for code, example in _examples(responses.get("422", {})).items():
        if code == errors.Invalid.code:
            example["value"]["errors"] = [_mistake(operation, schemas)]
    operation["responses"] = dict(sorted(responses.items()))


def _mistake(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """An example of an invalid field of this operation: in the body, otherwise the first suitable parameter."""
    fields = [(each["in"], each["name"], each["schema"]) for each in operation.get("parameters", ())]
    if content := operation.get("requestBody", {}).get("content"):
        body = next(iter(content.values()))["schema"]
        while "$ref" in body or "anyOf" in body:
            body = schemas[body["$ref"].rpartition("/")[2]] if "$ref" in body else body["anyOf"][0]
        if "required" in body:
            return {"loc": ["body", body["required"][0]], "msg": "Field required", "type": "missing"}
        own = [("body", name, field) for name, field in body.get("properties", {}).items()]
        fields = sorted(own, key=lambda field: "examples" not in field[2]) + fields
    for where, name, field in fields:
        match field.get("anyOf", [field])[0]:
            case {"format": "uuid"}:
                return {"loc": [where, name], "msg": "Input should be a valid UUID", "type": "uuid_parsing"}
            case {"maxLength": most} if "writeOnly" not in field:  # the length of a password counts after NFKC
                msg = f"String should have at most {most} characters"
                return {"loc": [where, name], "msg": msg, "type": "string_too_long"}
    return {"loc": [*fields[0][:2]] if fields else ["body"], "msg": "Input is not valid", "type": "value_error"}


def _add_oauth(operation: dict[str, Any]) -> None:
    for response in operation["responses"].values():
        for example in _examples(response).values():
            example["value"] = with_oauth(example["value"])


def _text(description: str, pattern: str, most: int = 255) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", "pattern": pattern, "maxLength": most}}


def _number(description: str, most: int = 2**31 - 1) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "integer", "minimum": 0, "maximum": most}}


HEADERS = {
    "ETag": _text("The entity tag of the resource, for `If-Match` and `If-None-Match`", '^"[0-9a-f]+"$'),
    "Link": _text("The `next` page, if there is one, and the `first` (RFC 8288)", "^</.*>; rel=", 2**16),
    "Location": _text("The URL of the new resource", "^/", 2**15),
    "RateLimit": _text("The exceeded limit, and the seconds until it ends", '^".+";r=[0-9]+;t=[0-9]+$'),
    "RateLimit-Policy": _text("The limit: `q` attempts in `w` seconds", '^".+";q=[0-9]+;w=[0-9]+$'),
    "Retry-After": _number("Seconds after which to try again"),
    "WWW-Authenticate": _text("How to authenticate", "^Bearer"),
    "X-Total-Count": _number(f"The number of all rows if `count` is true, at most {COUNTED}", COUNTED),
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
            responses[status]["headers"] = {name: HEADERS[name] for name in names}
    if method == "get" and _takes(operation, "if-none-match"):
        responses["304"] = {"description": "Not Modified", "headers": responses["200"]["headers"]}


def _add_change(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A merge patch (RFC 7396). The example has only the first field, so that trying it out changes little."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return
    body = content["application/merge-patch+json"] = content["application/json"]
    model = schemas.get(body["schema"].get("$ref", "").rpartition("/")[2], {})
    for name, field in model.get("properties", {}).items():
        if examples := field.get("examples") or field.get("anyOf", [{}])[0].get("examples"):
            body["example"] = {name: examples[0]}
            break


def _share(paths: dict[str, Any]) -> dict[str, Any]:
    """Describe each error in one line. Move responses that operations share to the components, named by their codes."""
    shared: dict[str, Any] = {}
    for operation in (operation for operations in paths.values() for operation in operations.values()):
        for status, response in operation["responses"].items():
            if examples := _examples(response):
                said = (f"`{code}`: {example['value']['detail']}" for code, example in examples.items())
                response["description"] = "\n\n".join(said)
                name = "".join(code.title().replace("_", "") for code in examples)
                name += "AtTokenEndpoint" if any("error" in each["value"] for each in examples.values()) else ""
                if status != "422" and shared.setdefault(name, response) == response:
                    operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _describe(operation: dict[str, Any]) -> None:
    """Describe each parameter where tools look for it, and give lists the maximum length of a page."""
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        match schema.get("anyOf"):
            case [kind, {"type": "null"}]:  # a URL has no null: the parameter is omitted instead
                del schema["anyOf"]
                schema |= kind
        _complete(schema)
        said = parameter.pop("description", None) or schema.get("description") or _SAID.get(name)
        if parameter["in"] == "path" and name.endswith("_id"):
            said = said or f"The id of the {name.removesuffix('_id').replace('_', ' ')}"
        schema.pop("description", None)
        if said:
            parameter["description"] = said
        if name == "limit" and "maximum" in schema and answer.get("type") == "array":
            answer.setdefault("maxItems", schema["maximum"])


_SAID = {"sort": "The column that sorts the rows: ascending, or descending with `-` before it"}
_LENGTHS = {"uuid": 36, "date-time": 64, "date": 10, "time": 15}
_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _complete(node: Any) -> None:
    """Add values that follow from the rest of a schema: the format of integers, the length of ids and times."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        _complete(child)
    match node:
        case {"type": "integer"}:
            for name, keyword in _KEYWORDS.items():
                if name in node:  # pydantic's name for a limit behind a validator
                    node[keyword] = node.pop(name)
            fits = all(abs(node.get(end, 2**31)) < 2**31 for end in ("minimum", "maximum"))
            node["format"] = "int32" if fits else "int64"
        case {"type": "string", "format": str(kind)} if kind in _LENGTHS:
            node.setdefault("maxLength", _LENGTHS[kind])
        case {"type": "string", "default": str(), "examples": _}:
            del node["examples"]  # the example of the type: the default is more useful
        case {"type": "string", "pattern": pattern} if not node.keys() & {"examples", "enum", "const", "default"}:
            node["examples"] = [text for text in ("some-text", "text", "9") if re.search(pattern, text)][:1]


def _takes(operation: dict[str, Any], parameter: str) -> bool:
    return any(each["name"] == parameter for each in operation.get("parameters", ()))
