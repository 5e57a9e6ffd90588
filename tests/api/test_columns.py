"""Columns of every type: values are read as they were written, and values that a column cannot store are refused."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import BigInteger
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from sqlmodel.main import SQLModelMetaclass

from app.users import User
from tests import product
from tests.product.lighthouses import Lighthouse
from tests.service import Service, elsewhere
from tests.test_migrations import Tree, alembic, create_all, schema, tree  # noqa: F401  # a fixture

pytestmark = pytest.mark.product

Clients = Callable[[User], httpx2.Client]

LIGHTHOUSES = "/api/v1/lighthouses/"
MEMBERS = {"z": [1, 2.5, None, True], "a": {"\u00e9": ""}}  # the order of keys is kept


@pytest.mark.parametrize(
    ("field", "sent", "answered"),
    [
        ("height", 1, 1),
        ("height", 2**31 - 1, 2**31 - 1),
        ("flashes", 2**53 - 1, 2**53 - 1),
        ("reach", 0.1, 0.1),
        ("reach", 1e300, 1e300),
        ("price", 1, "1.00"),
        ("price", 1.5, "1.50"),
        ("price", "1.5", "1.50"),
        ("price", "-0", "0.00"),
        ("price", "99999999.99", "99999999.99"),
        ("built_on", "0001-01-01", "0001-01-01"),
        ("built_on", "9999-12-31", "9999-12-31"),
        ("lit_at", "23:59:59.999999", "23:59:59.999999"),
        ("lit_at", "06:30", "06:30:00"),
        ("surveyed_at", None, None),
        ("surveyed_at", "2026-01-01T05:00:00.000001+05:00", "2026-01-01T00:00:00.000001Z"),
        ("story", None, None),
        ("story", "\u00e9\n\U0001f4a1", "\u00e9\n\U0001f4a1"),
        ("kind", "lightship", "lightship"),
        ("is_automatic", True, True),
        ("chart", "019b76da-a800-7000-8000-0000facade00", "019b76da-a800-7000-8000-0000facade00"),
        ("equipment", {}, {}),
        (
            "equipment",
            {"z": [1, 2.5, None, True], "a": {"\u00e9": ""}},
            {"z": [1, 2.5, None, True], "a": {"\u00e9": ""}},
        ),
    ],
)
def test_what_is_written_is_answered_and_read_alike(
    client_of: Clients, client: httpx2.Client, ada: User, field: str, sent: Any, answered: Any
) -> None:
    created = client_of(ada).post(LIGHTHOUSES, json={"name": "Eddystone", field: sent})
    assert created.status_code == 201, created.text
    assert created.json()[field] == answered
    url = created.headers["Location"]
    assert client.get(url).content == created.content
    assert json.dumps(client.get(LIGHTHOUSES).json()[0][field]) == json.dumps(answered)

    other = client_of(ada).post(LIGHTHOUSES, json={"name": "Fastnet"}).headers["Location"]
    changed = client_of(ada).patch(other, json={field: sent})
    assert changed.status_code == 200, changed.text
    assert changed.json()[field] == answered
    assert client.get(other).content == changed.content
    again = client_of(ada).patch(other, json={field: sent})
    assert (again.content, again.headers["ETag"]) == (changed.content, changed.headers["ETag"])


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("height", 2**31),
        ("height", -(2**31) - 1),
        ("height", 2**63),
        ("height", 10**400),
        ("height", 1.5),
        ("flashes", 2**53),
        ("flashes", -1),
        ("reach", "1e999"),
        ("reach", "NaN"),
        ("price", "1.005"),
        ("price", "100000000.00"),
        ("price", "1e400"),
        ("price", "NaN"),
        ("price", "Infinity"),
        ("price", -0.01),
        ("built_on", "10000-01-01"),
        ("built_on", "2026-02-30"),
        ("lit_at", "24:00:01"),
        ("lit_at", "18:00:00+02:00"),
        ("lit_at", "18:00:00Z"),
        ("surveyed_at", "2026-01-01T00:00:00"),
        ("surveyed_at", "0001-01-01T00:00:00+14:00"),
        ("kind", "TOWER"),
        ("kind", "castle"),
        ("is_automatic", None),
        ("chart", "x"),
        ("equipment", []),
        ("equipment", {"a": "\0"}),
        ("equipment", {"\0": 1}),
        ("equipment", {"a": ["\ud800"]}),
        ("equipment", {"a": "x" * 10_000}),
        ("equipment", {"a": float("inf")}),
        ("equipment", {"a": float("nan")}),
        ("equipment", json.loads('{"a":' * 300 + "1" + "}" * 300)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_column_cannot_hold_is_refused(client_of: Clients, ada: User, field: str, sent: Any) -> None:
    url = client_of(ada).post(LIGHTHOUSES, json={"name": "Eddystone"}).headers["Location"]
    for method, path in (("POST", LIGHTHOUSES), ("PATCH", url)):
        body = json.dumps({"name": "Eddystone", field: sent})
        headers = {"Content-Type": "application/json"}
        refused = client_of(ada).request(method, path, content=body, headers=headers)
        assert refused.status_code == 422, refused.text
        assert {error["loc"][1] for error in refused.json()["errors"]} == {field}


def test_a_plain_column_has_the_bounds_of_its_type_and_the_document_tells_them(service: Service) -> None:
    schemas = service.app.openapi()["components"]["schemas"]
    height = schemas["LighthouseCreate"]["properties"]["height"]
    assert (height["minimum"], height["maximum"], height["format"]) == (1, 2**31 - 1, "int32")
    depth = schemas["HazardCreate"]["properties"]["depth"]
    assert (depth["minimum"], depth["maximum"]) == (-(2**31), 2**31 - 1)
    assert schemas["LighthouseUpdate"]["properties"]["flashes"]["maximum"] == 2**53 - 1
    for name in ("LighthousePublic", "LighthouseView"):
        told = schemas[name]["properties"]
        assert (told["height"]["minimum"], told["height"]["maximum"]) == (1, 2**31 - 1)
        assert (told["price"]["pattern"], told["price"]["maxLength"]) == (r"^-?\d{1,8}(\.\d{1,2})?$", 13)
    assert schemas["LighthouseCreate"]["properties"]["price"]["anyOf"][1]["maxLength"] == 13


def test_everything_in_the_document_is_bounded(service: Service) -> None:
    def unbounded(node: Any, place: str) -> Iterator[str]:
        match node:
            case {"type": "string"} if not node.keys() & {"maxLength", "enum", "const"}:
                yield place
            case {"type": "integer"} if len(node.keys() & {"minimum", "exclusiveMinimum", "maximum"}) < 2:
                yield place
            case {"type": "array"} if "maxItems" not in node:
                yield place
        for name, child in (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        ):
            yield from unbounded(child, f"{place}/{name}")

    document = service.app.openapi()
    assert list(unbounded(document["components"]["schemas"], "")) == []
    assert list(unbounded(document["paths"], "")) == []


def test_an_enum_is_text_with_a_check_and_no_type_of_the_database(service: Service, ada: User) -> None:
    service.write(lambda session: session.add(Lighthouse(name="Eddystone", owner_id=ada.id)))
    assert service.read(lambda session: session.scalar(sql("SELECT kind FROM lighthouses"))) == "tower"
    with pytest.raises(IntegrityError, match="ck_lighthouses_kind"):
        service.write(lambda session: session.execute(sql("UPDATE lighthouses SET kind = 'castle'")))


def define(kind: type, **constraints: Any) -> None:
    """A table with a field of this type and these constraints, separate from the app's tables."""
    base = SQLModelMetaclass("Base", (SQLModel,), {"__module__": __name__}, registry=registry())
    fields = {"id": int, "tally": kind}
    values = {"id": Field(primary_key=True), "tally": Field(**constraints)}
    SQLModelMetaclass("Coin", (base,), {"__module__": __name__, "__annotations__": fields, **values}, table=True)


@pytest.mark.parametrize(
    "constraints", [{}, {"max_digits": 16, "decimal_places": 2}, {"max_digits": 10}, {"decimal_places": 2}]
)
def test_a_decimal_that_sqlite_would_round_is_refused_as_it_is_defined(constraints: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"Coin\.tally needs Field\(max_digits=10, decimal_places=2\)"):
        define(Decimal, **constraints)
    define(Decimal, max_digits=15, decimal_places=2)


@pytest.mark.parametrize("constraints", [{"le": 2**31}, {"lt": 2**31 + 1}])
def test_bounds_that_the_column_does_not_have_are_refused_as_it_is_defined(constraints: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"Coin\.tally has 32 bits.* add Field\(sa_type=BigInteger\)"):
        define(int, **constraints)
    define(int, **constraints, sa_type=BigInteger)


@pytest.mark.slow
def test_a_migration_that_is_generated_makes_every_column_and_goes_down_and_up_again(
    backend: str,
    make_database: Callable[[str], str],
    tree: Tree,  # noqa: F811  # the fixture
) -> None:
    """As a team adds its domains: with the product in app/, and a line in app/api/v1/__init__.py."""
    source = Path(product.__file__).parent
    for module in (*source.glob("*.py"), *source.glob("api/*.py")):
        if module.name != "__init__.py":
            place = "app/api/v1" if module.parent.name == "api" else "app"
            written = module.read_text().replace("tests.product.api", "app.api.v1").replace("tests.product", "app")
            (tree.folder / place / module.name).write_text(written)
    listed = tree.folder / "app/api/v1/__init__.py"
    names = "hazards, lighthouses, sightings"
    listed.write_text(
        listed.read_text().replace("import auth, ", f"import auth, {names}, ").replace("(auth, ", f"(auth, {names}, ")
    )
    url, other = make_database(backend), make_database(backend)
    alembic(url, "upgrade head", "revision --autogenerate -m product", "upgrade head", "check", cwd=tree.folder)
    made = elsewhere(url, schema)
    alembic(url, "downgrade -1", "upgrade head", "check", cwd=tree.folder)
    assert elsewhere(url, schema) == made
    elsewhere(other, create_all, SQLModel.metadata)
    elsewhere(other, product.create_tables)
    assert made == elsewhere(other, schema)
