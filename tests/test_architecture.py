"""The rules of the architecture: layers, imports and naming."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from sqlmodel import SQLModel

from app.api import v1
from app.core.db import Record
from app.main import create_app
from tests import product
from tests.service import ROOT, settings

DOMAINS = {domain.__name__.rpartition(".")[2] for domain in v1.DOMAINS}
WEB = frozenset({"fastapi", "starlette", "uvicorn"})
SQL = frozenset({"sqlalchemy", "sqlmodel", "asyncpg", "sqlite3"})


class Room(NamedTuple):
    """A layer: its purpose, the layers that it may import from, and the packages that it must not import."""

    purpose: str
    below: tuple[str, ...]
    without: frozenset[str]


ROOMS = {
    "core": Room("the platform, without domains and settings", (), WEB),
    "config": Room("the settings", ("core",), WEB),
    "domains": Room("the product: tables, schemas and rules", ("config", "core"), WEB),
    "processes": Room("programs that run beside the service", ("domains", "config", "core"), WEB),
    "api": Room("everything that depends on FastAPI, without SQL", ("domains", "config", "core"), SQL),
    "main": Room("the application that combines all layers", ("api", "processes", "domains", "config", "core"), SQL),
}


def room_of(module: str) -> str:
    """The layer of a module, by its path. A module directly in app/ is a process if it has a `main`, or a domain."""
    place = module.split(".")[1:2] or ["main"]
    if place[0] in ROOMS:
        return place[0]
    return "processes" if is_process(module) else "domains"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "app").rglob("*.py"))}
API = [name for name in MODULES if name.split(".")[:2] == ["app", "api"]]

each_module = pytest.mark.parametrize("module", MODULES)
each_api_module = pytest.mark.parametrize("module", API)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> set[str]:
    """All imports of a module, at any level: `from app import users` counts as app and as app.users."""
    names: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} has a relative import"
            assert not node.level, f"{module} has a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def domains_below(domain: str) -> set[str]:
    return {each for each in DOMAINS if f"app.{each}" in imports(f"app.{domain}")}


def is_process(module: str) -> bool:
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree_of(module).body)


@each_module
def test_a_module_imports_only_from_the_rooms_below_its_own(module: str) -> None:
    room = room_of(module)
    own = imports(module) & set(MODULES) - {module, "app"}
    assert not [each for each in own if room_of(each) not in (room, *ROOMS[room].below)]
    assert not {name.partition(".")[0] for name in imports(module)} & ROOMS[room].without


def test_no_module_imports_one_that_imports_it() -> None:
    TopologicalSorter({module: imports(module) & set(MODULES) - {module} for module in MODULES}).prepare()


def test_the_first_domains_form_a_line_that_begins_with_jobs() -> None:
    assert domains_below("jobs") == set()
    assert domains_below("emails") == {"jobs"}
    assert domains_below("users") == {"emails"}
    assert domains_below("auth") == {"jobs", "users"}


@each_module
def test_a_child_knows_its_parent_and_never_the_reverse(module: str) -> None:
    keywords = {node.arg for node in ast.walk(tree_of(module)) if isinstance(node, ast.keyword)}
    assert not keywords & {"back_populates", "backref"}


@each_api_module
def test_sql_is_not_written_in_the_api(module: str) -> None:
    called = [node.func for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    names = {node.id for node in called if isinstance(node, ast.Name)}
    names |= {node.attr for node in called if isinstance(node, ast.Attribute)}
    assert not names & {"select", "exec", "execute", "scalar", "scalars", "text"}


def test_there_is_one_list_of_domains() -> None:
    files = {name for name in MODULES if name.startswith("app.api.v1.")}
    assert {domain.__name__ for domain in v1.DOMAINS} == files
    assert {f"app.{domain}" for domain in DOMAINS} <= set(MODULES)


def test_the_url_is_the_path_of_the_file() -> None:
    app = create_app(settings())
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        module = getattr(route.endpoint, "__module__", "")
        if module.startswith("app.api.v1."):
            found.add(module)
            assert (route.path or "").startswith(f"/{module.removeprefix('app.').replace('.', '/')}/")
        else:
            assert not (route.path or "").startswith("/api/")
    assert found == {domain.__name__ for domain in v1.DOMAINS}


def subclasses(kind: type[SQLModel]) -> Iterator[type[SQLModel]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_a_table_is_its_public_model_plus_hidden_columns() -> None:
    mapped = [each for each in subclasses(SQLModel) if hasattr(each, "__table__")]
    tables = {each.__name__: each for each in mapped if each.__table__.metadata is SQLModel.metadata}
    assert {str(table.__tablename__) for table in tables.values()} == set(SQLModel.metadata.tables) | {
        table.name for table in product.TABLES
    }
    for name, table in tables.items():
        if not issubclass(table, Record):
            continue  # not an entity: clients never see it
        (public,) = table.__bases__
        assert public.__name__ == f"{name}Public"
        assert issubclass(public, Record)
        assert not set(public.model_fields) & {"version", "hashed_password"}


@each_module
def test_every_module_has_a_docstring_of_one_line(module: str) -> None:
    first, _, rest = (ast.get_docstring(tree_of(module)) or "").partition("\n")
    assert first.endswith(".")
    assert not rest or rest.startswith("\n")


def test_no_route_and_no_dependency_is_run_in_a_thread() -> None:
    def calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
        if dependant.call and not isinstance(dependant.call, SecurityBase):
            yield dependant.call
        for each in dependant.dependencies:
            yield from calls(each)

    routes = [route for route in iter_route_contexts(create_app(settings()).routes) if hasattr(route, "dependant")]
    assert routes
    for route in routes:
        for call in calls(route.dependant):
            assert inspect.iscoroutinefunction(call), call


def test_a_test_that_starts_a_process_is_marked_as_slow() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"mark it with @pytest\.mark\.slow"):
        subprocess.run([sys.executable, "--version"], check=True)
