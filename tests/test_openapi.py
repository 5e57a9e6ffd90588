"""The OpenAPI document: committed, complete, and correct for the answers of the service."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI, Query
from fastapi.responses import FileResponse
from fastapi.routing import iter_route_contexts
from pydantic import Field as ModelField

from app.api.errors import problems
from app.core.db import Record
from app.core.errors import Invalid
from app.core.fields import Input, Integer, Line, Text
from app.main import create_app
from app.users import User
from scripts.new import DOCUMENT
from tests.api.test_access import ROWS, api_routes, models_in
from tests.conftest import PASSWORD
from tests.service import ROOT, settings

Json = dict[str, Any]

PROBLEM = "application/problem+json"
ID = "019b76da-a800-7000-8000-0000facade00"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(settings())


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Json:
    """The document, with references to shared responses resolved."""
    document = copy.deepcopy(app.openapi())
    shared = document["components"].pop("responses")
    used = set()
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if "$ref" in response:
                name = response["$ref"].removeprefix("#/components/responses/")
                operation["responses"][status] = shared[name]
                used.add(name)
    assert used == set(shared)
    return document


@pytest.fixture
def backend() -> str:
    """The document is the same for both databases."""
    return "sqlite"


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_the_committed_document_is_up_to_date(app: FastAPI) -> None:
    if (ROOT / "app/openapi.json").read_text() != json.dumps(app.openapi(), indent=2) + "\n":
        command = f'python -c "{DOCUMENT}" > app/openapi.json'
        pytest.fail(f"app/openapi.json differs from the routes. If this is intended: {command}")


def test_operations_are_named_after_their_functions(app: FastAPI, document: Json) -> None:
    functions = {
        (route.path, method.lower()): getattr(route.endpoint, "__name__", "")
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
    }
    names = {(path, method): operation["operationId"] for path, method, operation in operations(document)}
    assert names == {key: functions[key] for key in names}
    assert len(set(names.values())) == len(names)


def test_every_operation_explains_itself(document: Json) -> None:
    declared = {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])
    for path, _, operation in operations(document):
        assert operation["summary"]
        assert operation.get("description", "").endswith("."), f"{path}: the docstring of the route must be a sentence"
        assert operation["tags"]
        for tag in set(operation["tags"]) - declared:
            new = {"name": tag, "description": "..."}
            pytest.fail(f"{path} has a tag that is not described: add {new} to TAGS in app/api/v1/__init__.py")
        named = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", [])}
        assert {("path", name) for name in re.findall("{(.*?)}", path)} <= named
        assert ("requestBody" in operation) <= ("422" in operation["responses"])


def test_every_error_is_a_problem_with_examples(document: Json) -> None:
    for _, _, operation in operations(document):
        errors = {status: response for status, response in operation["responses"].items() if int(status) >= 400}
        assert {"500", "503"} <= set(errors)
        for status, response in errors.items():
            assert response["description"]
            assert list(response["content"]) == [PROBLEM]
            content = response["content"][PROBLEM]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert content["examples"]
            for code, example in content["examples"].items():
                assert (example["value"]["status"], example["value"]["code"]) == (int(status), code)


def test_parameters_say_what_they_are_where_tools_look(document: Json) -> None:
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter["description"]
            assert "description" not in parameter["schema"]


def test_operations_are_summed_up_by_how_their_docstrings_begin(document: Json) -> None:
    said = {operation["operationId"]: operation for _, _, operation in operations(document)}
    assert said["create_user"]["summary"] == "Sign up"
    assert said["login"]["summary"] == "Log in"


def test_the_errors_of_an_operation_are_told_in_a_line_each(document: Json) -> None:
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            for code, example in response.get("content", {}).get(PROBLEM, {}).get("examples", {}).items():
                assert f"`{code}`: {example['value']['detail']}" in response["description"].splitlines()


def strings(document: Json, node: Json) -> Iterator[Json]:
    """The string fields of this schema, nested ones included."""
    if "$ref" in node:
        yield from strings(document, document["components"]["schemas"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        given = {"examples": node["examples"]} if "examples" in node else {}
        for each in node["anyOf"]:
            yield from strings(document, {**each, **given})
    elif node.get("type") == "string":
        yield node
    for child in (*node.get("properties", {}).values(), *filter(None, [node.get("items")])):
        yield from strings(document, child)


def assert_strings_have_examples(document: Json) -> None:
    for path, method, operation in operations(document):
        successes = [response for status, response in operation["responses"].items() if status < "300"]
        bodies = [operation.get("requestBody", {}), *successes]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            for field in strings(document, content.get("schema", {})):
                if "pattern" in field and "default" not in field and "const" not in field:
                    assert field["examples"], f"{method} {path}: give it schema_extra={{'examples': [...]}}: {field}"
                    least, most = field.get("minLength", 0), field.get("maxLength", 2**16)
                    for example in field["examples"]:
                        assert re.search(field["pattern"], example), (method, path, field)
                        assert least <= len(example) <= most, (method, path, field)


def test_no_tool_has_to_make_up_a_string(document: Json) -> None:
    assert_strings_have_examples(document)


class Booking(Input):
    guest: Line = ModelField(max_length=100)
    wishes: Text | None = ModelField(default=None, max_length=1000)
    colour: str = ModelField(pattern="^[a-z-]+$", max_length=20)
    table: Line = ModelField(default="by the window", max_length=100)


def test_the_fields_of_a_product_have_examples_by_themselves() -> None:
    app = create_app(settings())

    @app.post("/bookings/", tags=["bookings"])
    async def create_booking(new: Booking) -> Booking:
        """Book a table: for tonight, say."""
        return new

    @app.patch("/bookings/due", tags=["bookings"])
    async def confirm_bookings() -> None:
        """Confirm what is due; nothing is sent."""

    @app.patch("/bookings/", tags=["bookings"], summary="Change your mind")
    async def update_booking(changes: Booking) -> None:
        """Change a booking."""

    paths = app.openapi()["paths"]["/bookings/"]
    assert (paths["post"]["summary"], paths["patch"]["summary"]) == ("Book a table", "Change your mind")
    content = paths["patch"]["requestBody"]["content"]
    assert {body["example"]["guest"] for body in content.values()} == {"Some words"}
    assert [list(body["example"]) for body in content.values()] == [["guest"]] * 2
    assert_strings_have_examples({**app.openapi(), "paths": {"/bookings/": paths}})


def test_an_update_is_tried_out_on_one_field(document: Json) -> None:
    for _, method, operation in operations(document):
        if method == "patch":
            for body in operation["requestBody"]["content"].values():
                assert len(body.get("example", {})) <= 1
    (user,) = (operation for _, _, operation in operations(document) if operation["operationId"] == "update_user")
    assert user["requestBody"]["content"]["application/json"]["example"] == {"full_name": "Ada Lovelace"}


def test_the_example_of_a_422_is_what_a_mistake_gets(
    document: Json, client_of: Callable[[User], httpx2.Client], root: User
) -> None:
    client = client_of(root)
    examples = 0
    for path, method, operation in operations(document):
        example = operation["responses"].get("422", {}).get("content", {}).get(PROBLEM, {}).get("examples", {})
        if "validation_error" not in example:
            continue
        told = example["validation_error"]["value"]
        (error,) = told["errors"]
        where, name = error["loc"]
        value = "x" * 4000
        target = path.replace(f"{{{name}}}", "x") if where == "path" else path
        request: Json = {}
        if where == "body":
            is_form = "application/x-www-form-urlencoded" in operation["requestBody"]["content"]
            sent = {} if error["type"] == "missing" else {name: value}
            request = {"data": sent or {"unknown": ""}} if is_form else {"json": sent}
        elif where != "path":
            request = {{"query": "params", "header": "headers"}[where]: {name: value}}
        answer = client.request(method, re.sub("{.*?}", ID, target), **request)
        assert answer.status_code == 422, (method, path, answer.text)
        assert {key: value for key, value in answer.json().items() if key not in ("instance", "errors")} == {
            key: value for key, value in told.items() if key not in ("instance", "errors")
        }
        assert error in answer.json()["errors"], (method, path, answer.text)
        examples += 1
    assert examples


def test_routes_of_any_shape_are_documented() -> None:
    app = create_app(settings())

    @app.post("/numbers/{kind}", responses=problems(Invalid), tags=["numbers"])
    async def add_numbers(kind: int, numbers: list[int]) -> list[int]:
        """Add numbers."""
        return numbers[:kind]

    @app.get("/numbers", tags=["numbers"])
    async def list_numbers(limit: int, most: Annotated[Integer, Query(ge=1, le=2**40)] = 1) -> dict[str, list[int]]:
        """List numbers."""
        return {"numbers": [limit, most]}

    @app.delete("/numbers", responses=problems(Invalid), tags=["numbers"])
    async def delete_numbers() -> None:
        """Delete all numbers."""

    @app.put("/numbers/{kind}", status_code=204)
    async def keep_numbers(kind: int) -> None:
        """Keep the numbers of a kind. The request has no body."""

    @app.get("/numbers/{kind}/plot", response_class=FileResponse, responses={200: {"content": {"image/png": {}}}})
    async def read_plot(kind: int) -> FileResponse:
        """Download a plot of the numbers."""
        return FileResponse(f"{kind}.png")

    paths = app.openapi()["paths"]
    told = {
        operation["operationId"]: operation["responses"]["422"]["content"][PROBLEM]["examples"]["validation_error"]
        for path, method in (("/numbers/{kind}", "post"), ("/numbers", "get"), ("/numbers", "delete"))
        for operation in [paths[path][method]]
    }
    assert {name: example["value"]["errors"][0]["loc"] for name, example in told.items()} == {
        "add_numbers": ["path", "kind"],
        "list_numbers": ["query", "limit"],
        "delete_numbers": ["body"],
    }
    assert [each["schema"]["format"] for each in paths["/numbers"]["get"]["parameters"]] == ["int64", "int64"]
    assert paths["/numbers"]["get"]["parameters"][1]["schema"]["maximum"] == 2**40
    assert "requestBody" not in paths["/numbers/{kind}"]["put"]
    assert list(paths["/numbers/{kind}/plot"]["get"]["responses"]["200"]["content"]) == ["image/png"]


UNTOLD = """{name} does not document its answer.
For JSON, the function needs a return type, or the route a `response_model`.
For a file, the route needs `response_class=FileResponse, responses={{200: {{"content": {{"image/png": {{}}}}}}}}`."""


def test_a_success_says_what_it_is(document: Json) -> None:
    for path, method, operation in operations(document):
        successes = {status: response for status, response in operation["responses"].items() if int(status) < 300}
        assert successes
        for status, response in successes.items():
            content = response.get("content", {})
            told = bool(content) and content.get("application/json") != {"schema": {}}
            assert told == (status not in ("204", "205")), UNTOLD.format(name=f"{method.upper()} {path}")
        assert (method == "delete") <= (list(successes) == ["204"])


def test_every_reference_leads_somewhere_and_nothing_is_left_over(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)
    used: set[str] = set()
    found = list(references(document["paths"]))
    while found:
        name = found.pop().removeprefix("#/components/schemas/")
        if name not in used:
            used.add(name)
            found += references(schemas[name])
    assert used == set(schemas)


def test_it_is_openapi_3_1(document: Json) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert set(document["info"]) >= {"title", "version", "description"}
    schemes = document["components"]["securitySchemes"]
    assert {name for _, _, each in operations(document) for need in each.get("security", []) for name in need} == set(
        schemes
    )
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert method in ("get", "post", "put", "patch", "delete")
        assert method in ("post", "put", "patch") or "requestBody" not in operation
        for parameter in operation.get("parameters", []):
            assert parameter["required"] or parameter["in"] != "path"
            assert parameter["schema"]
        assert all(response["description"] for response in operation["responses"].values())


def test_what_every_answer_has_is_declared_to_be_there(app: FastAPI, document: Json) -> None:
    models = {model for _, route in api_routes(app) for model in models_in(route.response_model)}
    records = [model for model in models if issubclass(model, Record)]
    assert records
    for model in records:
        schema = document["components"]["schemas"][model.__name__]
        assert list(schema["properties"])[:3] == ["id", "created_at", "updated_at"]
        assert set(schema["required"]) == set(schema["properties"])


def test_hidden_columns_are_not_in_the_document(document: Json) -> None:
    assert not re.search('"(hashed_password|version)": {', json.dumps(document["components"]))


def check(document: Json, answer: httpx2.Response) -> None:
    """The answer conforms to the document of its operation."""
    method, path = answer.request.method.lower(), answer.request.url.path
    patterns = {each: re.sub("{.*?}", "[^/]+", each) for each in sorted(document["paths"], key=lambda p: p.count("{"))}
    template = next(each for each, pattern in patterns.items() if re.fullmatch(pattern, path))
    responses = document["paths"][template][method]["responses"]
    assert str(answer.status_code) in responses, (method, template, answer.status_code)
    content = responses[str(answer.status_code)].get("content", {})
    media_type = answer.headers["Content-Type"].partition(";")[0] if answer.content else None
    assert media_type in content if media_type else not content
    if media_type == PROBLEM:
        assert answer.json()["code"] in content[PROBLEM]["examples"], (method, template, answer.json())


def test_whatever_is_answered_is_documented(
    document: Json,
    client: httpx2.Client,
    client_of: Callable[[User], httpx2.Client],
    ada: User,
    root: User,
    ivan: User,
) -> None:
    clients = [client, *map(client_of, (ivan, ada, root))]
    bad: list[Json] = [{"json": []}, {"json": {"unknown": 1}}, {"content": "{}"}, {"content": b" " * 2_000_000}]
    bad.append({"content": "{", "headers": {"Content-Type": "application/json"}})
    new = {"email": "new@example.com", "password": PASSWORD}
    rows = [(name.partition(" "), row.request) for name, row in ROWS.items() if row.request and "{" not in name]
    good: list[tuple[str, str, Json]] = [
        *((method, path, request) for (method, _, path), request in rows),
        ("POST", "/api/v1/users/", {"json": new}),
        ("PATCH", "/api/v1/users/me", {"json": {"email": "new@example.com", "current_password": "wrong"}}),
        ("PATCH", "/api/v1/users/me", {"json": {"email": "new@example.com", "current_password": PASSWORD}}),
        ("PATCH", f"/api/v1/users/{root.id}", {"json": {"is_active": False}}),
        ("PATCH", f"/api/v1/users/{ada.id}", {"json": {"email": "new@example.com"}}),
        ("DELETE", f"/api/v1/users/{root.id}", {}),
        ("POST", "/api/v1/emails/", {"json": {"email": "new@example.com"}}),
        ("DELETE", "/api/v1/users/me", {}),
        *(
            ("POST", "/api/v1/auth/login", {"data": {"username": f"{name}@example.com", "password": password}})
            for name, password in (("root", PASSWORD), ("root", "wrong"), ("ivan", PASSWORD))
        ),
        ("GET", "/api/v1/users/", {"params": {"limit": 0}}),
        ("POST", "/api/v1/auth/logout", {}),
    ]
    seen: set[int] = set()
    for each in clients:
        for path, method, operation in operations(document):
            for item_id in (ID, "x") if "{" in path else ("",):
                if (method, path) not in (("delete", "/api/v1/users/me"), ("post", "/api/v1/auth/logout")):
                    answer = each.request(method, re.sub("{.*?}", item_id, path))
                    check(document, answer)
            if "requestBody" in operation:
                for body in bad:
                    check(document, each.request(method, re.sub("{.*?}", ID, path), **body))
        for method, path, request in good:
            answer = each.request(method, path, **request)
            check(document, answer)
            seen.add(answer.status_code)
    assert seen >= {200, 201, 204, 400, 401, 403, 409, 422}
