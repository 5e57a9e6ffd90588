"""Names of fields and parameters: names that Python, pydantic, SQLModel or our tables use are handled like others."""

import builtins
import inspect
import io
import json
import keyword
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Header, Path, Query
from pydantic import AfterValidator, BaseModel
from sqlmodel import Field, SQLModel

from app.api.errors import MOST_ERRORS
from app.core.fields import Flag, Input, Integer
from app.core.paging import Page
from app.main import create_app
from app.users import User
from tests.conftest import client_at
from tests.service import Service, settings
from tests.test_middleware import call

ID = "019b76da-a800-7000-8000-0000facade00"


def parameters(kind: type) -> Iterator[str]:
    for _, method in inspect.getmembers(kind, callable):
        with suppress(ValueError):  # functions in C may have no signature
            yield from inspect.signature(method).parameters


NAMES = sorted(
    {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)}
    | {name for kind in (BaseModel, SQLModel, User, Input, dict) for name in (*dir(kind), *parameters(kind))}
    | {column.name for table in SQLModel.metadata.sorted_tables for column in table.columns}
    | {"", "__pydantic_self__", "__proto__", "constructor", "$ref", "body", "query", "request", "scope", "_sa_registry"}
)
BATCHES = [NAMES[start : start + 12] for start in range(0, len(NAMES), 12)]


class Operation:
    """The input of a route, as documented."""

    def __init__(self, document: dict[str, Any], method: str, path: str) -> None:
        self.method, self.path = method, re.sub("{.*?}", ID, path)
        self._operation, self._document = document["paths"][path][method], document

    def fields(self, media_type: str) -> set[str] | None:
        """The fields of the body, or None if the route does not accept this media type."""
        content = self._operation.get("requestBody", {}).get("content", {}).get(media_type)
        if content is None:
            return None
        names = [each["$ref"].rpartition("/")[2] for each in content["schema"].get("anyOf", [content["schema"]])]
        return {field for name in names for field in self._document["components"]["schemas"][name]["properties"]}

    def parameters(self, *types: str) -> list[dict[str, Any]]:
        """The query parameters, or those of some types."""
        found = [each for each in self._operation.get("parameters", ()) if each["in"] == "query"]
        return [each for each in found if not types or each["schema"].get("type") in types]


@pytest.fixture
def backend() -> str:
    """Nothing here depends on the database."""
    return "sqlite"


@pytest.fixture
def client(service: Service, root: User) -> Iterator[httpx2.Client]:
    """A superuser, who may call every route."""
    with client_at(service.url, root) as client:
        yield client


@pytest.fixture
def operations(service: Service) -> list[Operation]:
    document = service.app.openapi()
    return [Operation(document, method, path) for path, each in document["paths"].items() for method in each]


def where(answer: httpx2.Response) -> set[tuple[Any, ...]]:
    assert answer.status_code == 422, answer.text
    return {(*error["loc"], error["type"]) for error in answer.json()["errors"]}


def test_an_unknown_field_is_refused_whatever_its_name(client: httpx2.Client, operations: list[Operation]) -> None:
    tried = 0
    for operation in operations:
        if (known := operation.fields("application/json")) is None:
            continue
        tried += 1
        for batch in BATCHES:
            unknown = set(batch) - known
            answer = client.request(operation.method, operation.path, json=dict.fromkeys(unknown, 1))
            told = where(answer)  # of an entity with many required fields, most are told to be missing
            assert len(told) == MOST_ERRORS or {("body", name, "extra_forbidden") for name in unknown} <= told, (
                operation.path
            )
    assert tried


def test_a_form_ignores_an_unknown_parameter_whatever_its_name(
    client: httpx2.Client, operations: list[Operation]
) -> None:
    tried = 0
    for operation in operations:
        if (known := operation.fields("application/x-www-form-urlencoded")) is None:
            continue
        tried += 1
        expected = where(client.request(operation.method, operation.path, data={"x": "1"}))
        for batch in BATCHES:
            form = dict.fromkeys(set(batch) - known, "1")
            assert where(client.request(operation.method, operation.path, data=form)) == expected
    assert tried


def test_a_query_may_have_any_names(client: httpx2.Client, operations: list[Operation]) -> None:
    for operation in operations:
        known = {each["name"] for each in operation.parameters()}
        for batch in BATCHES if known else ():
            unknown = set(batch) - known
            answer = client.request(operation.method, operation.path, params=dict.fromkeys(unknown, "1"))
            assert {("query", name, "extra_forbidden") for name in unknown} <= where(answer), operation.path


WRITTEN_OTHERWISE = {
    "integer": ["1.0", "+1", "1_0", "%201", "1%20", "1%0a", "01", "-0", "1e1", "0x1", "%EF%BC%91", "%D9%A1", "true"],
    "boolean": ["yes", "on", "1", "0", "t", "True", "TRUE", "%20true", "true%0a"],
}


def test_a_number_and_a_flag_have_one_spelling_in_every_query(
    client: httpx2.Client, operations: list[Operation]
) -> None:
    tried = 0
    for operation in operations:
        for each in operation.parameters(*WRITTEN_OTHERWISE):
            for value in WRITTEN_OTHERWISE[each["schema"]["type"]]:
                answer = client.request(operation.method, f"{operation.path}?{each['name']}={value}")
                assert [loc[:2] for loc in where(answer)] == [("query", each["name"])], value
                tried += 1
    assert tried
    for query in ("limit=10&skip=0&count=true", "limit=1&count=false"):
        assert client.get(f"/api/v1/users/?{query}").status_code == 200


# Models of a team, nested deeper than ours.


class Skill(Input):
    level: Integer = 1


class Member(Input):
    name: str = ""
    skills: tuple[Skill, ...] = ()


class Team(Input):
    lead: Member | None = None
    members: list[Member] = Field(default_factory=list)
    by_role: dict[str, Member] = Field(default_factory=dict)
    pair: tuple[Member, Skill] | None = None


class TeamPage(Page):
    sort: str = "created_at"
    size: Integer = 0
    full: Flag = False


def break_as(text: str) -> str:
    """A validator with a defect."""
    match text:
        case "TypeError":
            raise TypeError(text[::-1])
        case "KeyError":
            return dict[str, str]()[text]
        case "OverflowError":
            return str(2.0 ** len(text) ** 10)
        case "ZeroDivisionError":
            return str(1 // 0)
        case "RecursionError":
            return break_as(text)
    return text


FAILURES = ["TypeError", "KeyError", "OverflowError", "ZeroDivisionError", "RecursionError"]
Fragile = Annotated[str, AfterValidator(break_as)]


class Vase(Input):
    glaze: Fragile


class Shelf(Input):
    vases: list[Vase] = Field(default_factory=list)


async def _break_by_itself(cause: str = "") -> None:
    break_as(cause)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """An application with routes that a team might add, without a server and a database."""
    app = create_app(settings())

    @app.post("/teams")
    async def create_team(new: Team) -> Team:
        return new

    @app.get("/teams")
    async def list_teams(wanted: Annotated[TeamPage, Query()]) -> int:
        return wanted.size

    @app.post("/shelves/{name}")
    async def create_shelf(
        new: Shelf,
        name: Annotated[Fragile, Path()],
        size: Annotated[Fragile, Query()] = "",
        x_glaze: Annotated[Fragile, Header()] = "",
    ) -> None:
        Vase(glaze=x_glaze)

    @app.get("/own", dependencies=[Depends(_break_by_itself)])
    async def break_by_itself(late: str = "") -> None:
        Vase.model_validate({"glaze": late})

    return app


def post(app: FastAPI, path: str, value: Any, **scope: Any) -> httpx2.Response:
    headers = {"Content-Type": "application/json"} | scope.pop("headers", {})
    return call(app, method="POST", path=path, headers=headers, body=(json.dumps(value).encode(),), **scope)


def test_at_every_depth_an_unknown_field_is_refused_whatever_its_name(app: FastAPI) -> None:
    known = {"name", "skills", "level"}
    for batch in BATCHES:
        unknown = dict.fromkeys(set(batch) - known, 1)
        for body, loc in (
            ({"lead": unknown}, ("lead",)),
            ({"lead": {"skills": [unknown]}}, ("lead", "skills", 0)),
            ({"members": [{}, unknown]}, ("members", 1)),
            ({"members": [{"skills": [{}, unknown]}]}, ("members", 0, "skills", 1)),
            ({"by_role": {"cls": {"skills": [unknown]}}}, ("by_role", "cls", "skills", 0)),
            ({"pair": [{}, unknown]}, ("pair", 1)),
        ):
            answer = post(app, "/teams", body)
            assert where(answer) == {("body", *loc, name, "extra_forbidden") for name in unknown}
    names = {name: {"name": "Ada", "skills": []} for name in NAMES}  # as keys of an object they are data
    assert post(app, "/teams", {"by_role": names}).json()["by_role"] == names


def test_a_teams_own_numbers_and_flags_have_one_spelling_too(app: FastAPI) -> None:
    for name, kind in (("size", "integer"), ("full", "boolean")):
        for value in WRITTEN_OTHERWISE[kind]:
            answer = call(app, path="/teams", query_string=f"{name}={value}".encode())
            assert [loc[:2] for loc in where(answer)] == [("query", name)], value
    for size in (0, 7, -7, 2**31 - 1):
        assert call(app, path="/teams", query_string=f"size={size}&full=true".encode()).json() == size


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.usefixtures("service")
def test_an_exception_in_validation_is_a_422_and_logged(app: FastAPI, log: io.StringIO, failure: str) -> None:
    vases = {"vases": [{"glaze": failure}]}
    for answer, loc in (
        (post(app, "/shelves/x", vases), ("body",)),
        (post(app, f"/shelves/{failure}", {}), ("path", "name")),
        (post(app, "/shelves/x", {}, query_string=f"size={failure}".encode()), ("query", "size")),
        (post(app, "/shelves/x", {}, headers={"X-Glaze": failure}), ("header", "x-glaze")),
    ):
        assert where(answer) == {(*loc, "not_validated")}
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    errors = [entry for entry in entries if entry["level"] == "error"]
    assert [entry["message"] for entry in errors] == [f"unhandled {failure}"] * 4
    assert all("in break_as" in entry["trace"] for entry in errors)
    assert failure[::-1] not in log.getvalue()


@pytest.mark.parametrize("failure", FAILURES)
def test_an_exception_in_a_dependency_or_a_route_is_a_500(app: FastAPI, failure: str) -> None:
    for name in ("cause", "late"):
        answer = call(app, path="/own", query_string=f"{name}={failure}".encode())
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert post(app, "/shelves/x", {}).status_code == 200
