"""Generates an entity: domain, routes, test, migration, its line in the list of domains, the OpenAPI document."""

import ast
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS
from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer
from sqlmodel import SQLModel

ROOT = Path(__file__).parent.parent
USAGE = """usage: ./scripts/new.sh NAME FIELD:TYPE ...

  ./scripts/new.sh booking starts_at:Instant 'ends_at:Instant?' price:Decimal 'status:open|closed' venue:venues

NAME is the singular, such as booking or work_order. If the plural is irregular, give both: person/people.
TYPE is {types},
or the values of an enum (in quotes, for the shell), or a table that the field refers to. `?` makes it nullable."""
DOCUMENT = "import json; from app.main import app; print(json.dumps(app.openapi(), indent=2))"
"""A program that prints the content of app/openapi.json."""
LISTING = "app/api/v1/__init__.py"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


class Refused(Exception):
    """The reason why the entity cannot be written, in one line."""


@dataclass(frozen=True)
class Field:
    """A field of the entity: its Python type and arguments, and JSON values: two valid ones and an invalid one."""

    type: str
    limits: str = ""
    column: str = ""
    valid: Any = None
    other: Any = None
    invalid: Any = None
    has_example: bool = True
    is_sort_key: bool = True
    is_searched: bool = False
    name: str = ""
    nullable: bool = False
    values: tuple[str, ...] = ()
    table: str = ""
    key: str = ""
    has_owner: bool = False

    @property
    def base(self) -> str:
        example = f'schema_extra={{"examples": [{json_source(self.valid)}]}}' if self.has_example else ""
        return self._source("Field", self.limits, self.column, example)

    @property
    def update(self) -> str:
        return self._source("Field" if self.nullable else "omittable", self.limits)

    def _source(self, call: str, *arguments: str) -> str:
        given = ", ".join(filter(None, ("default=None" if self.nullable else "", *arguments)))
        assigned = f" = {call}({given})" if given or call == "omittable" else ""
        return f"{self.name}: {self.type}{' | None' if self.nullable else ''}{assigned}"


def json_source(value: Any) -> str:
    """A JSON value as Python source, with double quotes."""
    return str(value) if value is None or isinstance(value, bool) else json.dumps(value)


def camel(name: str) -> str:
    return "".join(map(str.capitalize, name.split("_")))


def an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word.replace('_', ' ')}"


UUID = "019b76da-a800-7000-8000-0000facade0{}"
INTEGER = Field("int", "", "", 1, 2, 2**31)
TYPES = {
    "Line": Field("Line", "min_length=1, max_length=255", invalid="", is_searched=True),
    "Text": Field("Text", "min_length=1, max_length=2000", invalid="", is_sort_key=False, is_searched=True),
    "Email": Field("Email", "max_length=254", "", "ada@example.com", "bob@example.com", "ada", False),
    "int": INTEGER,
    "Integer": INTEGER,
    "Decimal": Field("Decimal", "max_digits=12, decimal_places=2", "", "9.50", "10.00", "0.001"),
    "bool": Field("StrictBool", "", "", True, False, "maybe", False, False),
    "date": Field("date", "", "", "2026-01-31", "2026-02-28", "2026-02-30"),
    "time": Field("time", "", "", "09:30:00", "17:00:00", "09:30:00Z"),
    "Instant": Field("Instant", "", "", "2026-01-31T09:30:00Z", "2026-02-28T17:00:00Z", "2026-01-31T09:30:00"),
    "uuid": Field("Id", "", "", UUID.format(1), UUID.format(2), "1", True, False),
    "json": Field(
        "Json", "", "sa_type=JSON(none_as_null=True)", {"colour": "red"}, {"colour": "blue"}, "red", True, False
    ),
}
RESERVED = {"cls", "self", "id", "created_at", "updated_at", "owner_id", "version", "search", *keyword.kwlist}
SQL = RESERVED_WORDS | SQLiteIdentifierPreparer.reserved_words


def forms(given: str) -> tuple[str, str]:
    """The singular and the plural of an entity."""
    one, _, many = given.partition("/")
    many = many or plural(one)
    for each in (one, many):
        if not NAME.fullmatch(each) or len(each) > 22:
            raise Refused(f"{each!r} is not a name: at most 22 of a-z, 0-9 and _, such as work_order")
        if keyword.iskeyword(each) or each in SQL - {one}:
            raise Refused(f"{each!r} is a reserved word of Python or SQL: choose another name")
    if one == many:
        raise Refused(f"the plural of {one!r} must differ from it: give both, such as person/people")
    return one, many


def plural(one: str) -> str:
    if re.search(r"([^s]s|z|fe?|child|person|foot|tooth|mouse|goose|\b(wo)?man)$", one.replace("_", " ")):
        raise Refused(
            f"the plural of {one!r} may be irregular: give the singular and the plural, such as person/people"
        )
    if re.search("[^aeiou]y$", one):
        return f"{one[:-1]}ies"
    return f"{one}es" if re.search("(s|x|ch|sh)$", one) else f"{one}s"


def field(given: str, one: str) -> Field:
    """Parse a field: `name:type`, with `?` if it is nullable."""
    name, _, kind = given.partition(":")
    kind, nullable = kind.removesuffix("?"), kind.endswith("?")
    if made := TYPES.get(kind):
        if made.valid is None:  # text
            words = name.replace("_", " ")
            made = replace(made, valid=f"{words.capitalize()} of {an(one)}", other=f"Another {words}")
    elif re.fullmatch(r"[\w-]+(\|[\w-]+)+", kind, re.ASCII):
        values = kind.split("|")
        if len(set(values)) < len(values):
            raise Refused(f"{given}: repeats a value")
        column = f"sa_type=String({max(map(len, values))})"
        made = Field(camel(name), "", column, values[0], values[1], "?", False, values=tuple(values))
    elif kind and (ROOT / f"app/{kind}.py").exists():
        name, made = f"{name.removesuffix('_id')}_id", reference(given, kind, nullable)
    else:
        tables = " ".join(sorted(path.stem for path in (ROOT / "app").glob("*.py") if getter(path.stem)))
        raise Refused(f"{given}: no such type; there are {' '.join(TYPES)}, 'open|closed', and the tables {tables}")
    if not NAME.fullmatch(name):
        raise Refused(f"{given}: {name!r} is not a name: a-z, 0-9 and _, such as starts_at")
    if name in RESERVED or name in SQL or hasattr(SQLModel, name) or name in {each.type for each in TYPES.values()}:
        raise Refused(f"{given}: {name!r} is a reserved name (of Python, SQL, SQLModel or each entity): choose another")
    return replace(made, name=name, nullable=nullable, is_sort_key=made.is_sort_key and not nullable)


def getter(table: str) -> ast.arguments | None:
    """The arguments of the function `get` in the domain of this table."""
    tree = ast.parse((ROOT / f"app/{table}.py").read_text())
    has_table = f"__tablename__ = '{table}'" in ast.unparse(tree)
    found = [node.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get"]
    return found[0] if found and has_table else None


def reference(given: str, table: str, nullable: bool) -> Field:
    arguments = getter(table)
    if not arguments:
        raise Refused(f"{given}: app/{table}.py has no table {table} with a function get()")
    test = ROOT / f"tests/api/test_{table}.py"
    if table != "users" and not (test.exists() and "def stage(" in test.read_text()):
        raise Refused(f"{given}: {test.relative_to(ROOT)} has no stage(), which the test of the reference needs")
    column = f'foreign_key="{table}.id", ondelete="{"SET NULL" if nullable else "CASCADE"}", index=True'
    key, has_owner = arguments.args[-1].arg, len(arguments.args) > 2
    return Field("Id", "", column, has_example=False, is_sort_key=False, table=table, key=key, has_owner=has_owner)


def render(one: str, many: str, fields: list[Field]) -> dict[str, str]:
    """The sources of an entity by path, not formatted yet."""
    loader = FileSystemLoader(ROOT / "scripts/templates")
    environment = Environment(  # noqa: S701  # it writes Python, not HTML
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["source"] = json_source
    values = {
        "one": one,
        "many": many,
        "One": camel(one),
        "ONE": one.upper(),
        "a_one": an(one),
        "many_words": many.replace("_", " "),
        "fields": fields,
        "references": [each for each in fields if each.table],
        "owned": [each for each in fields if each.has_owner],
        "searched": [each.name for each in fields if each.is_searched],
        "keys": ["created_at", "updated_at", *[each.name for each in fields if each.is_sort_key][:1]],
    }
    paths = {f"app/{many}.py": "domain", f"app/api/v1/{many}.py": "routes", f"tests/api/test_{many}.py": "test"}
    return {path: environment.get_template(f"{name}.py.jinja").render(values) for path, name in paths.items()}


def check(one: str, many: str, fields: list[Field]) -> None:
    """Refuse an entity that cannot be added to the project in its current state."""
    names = [each.name for each in fields]
    if all(each.table for each in fields):
        raise Refused(f"{one}: at least one field must not be a reference")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refused(f"{twice!r} is given twice")
    modules = [f"app/{name}{end}" for name in (one, many) for end in ("", ".py")]
    taken = [path for path in (*modules, *render(one, many, fields)) if (ROOT / path).exists()]
    if taken or any(f'__tablename__ = "{many}"' in path.read_text() for path in (ROOT / "app").rglob("*.py")):
        raise Refused(f"{one!r} is taken: there is {taken[0] if taken else f'a table {many}'}")
    trees = [ast.walk(ast.parse(source)) for source in render("sample", "samples", fields).values()]
    kinds = ("id", "arg", "name", "asname")
    words = {getattr(node, kind, None) for tree in trees for node in tree for kind in kinds}
    parts = [camel(one) + part for part in ("", "Base", "Create", "Update", "Public", "Page")]
    if used := [word for word in (one, many, one.upper(), *parts) if word in words]:
        raise Refused(f"{one!r} conflicts with the name {used[0]!r} in its module: choose another name")
    for each in fields:
        longest = f"fk_{many}_{each.name}_{each.table}" if each.table else f"ix_{many}_owner_id_{each.name}_id"
        if len(longest) > 63:  # characters: PostgreSQL would truncate the name
            raise Refused(f"{many}.{each.name}: the names of its constraints are too long, such as {longest}")
    git = shutil.which("git")
    if git and subprocess.run([git, "status", "--porcelain"], cwd=ROOT, capture_output=True, check=False).stdout:
        raise Refused("the working tree has changes: commit or stash them first, so that you see what is written")


def write(one: str, many: str, fields: list[Field]) -> list[str]:
    """Create everything in a copy of the project, then copy it into the project: all or nothing."""
    with tempfile.TemporaryDirectory(prefix="new-") as folder:
        copy, url = Path(folder) / "copy", f"sqlite:///{folder}/new.db"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "data", "node_modules", "__pycache__"))
        sources = render(one, many, fields)
        for path, source in sources.items():
            (copy / path).write_text(source)
        enlist(copy / LISTING, many)
        paths = [*sources, LISTING]

        def python(*arguments: str) -> str:
            # No other variables: the developer's settings must not influence the result.
            environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
            command = [sys.executable, *arguments]
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                failed = f"nothing was written, because this failed: {' '.join(arguments)}"
                raise Refused(f"{failed}\n{done.stdout}{done.stderr}")
            return done.stdout

        for arguments in (["format"], ["check", "--fix"], ["format"]):
            python("-m", "ruff", *arguments, *paths)
        print("Creating the migration on an empty SQLite database", flush=True)
        known = set(copy.glob("alembic/versions/*.py"))
        python("-m", "alembic", "upgrade", "head")
        python("-m", "alembic", "revision", "--autogenerate", "--message", many.replace("_", " "))
        paths += [str(path.relative_to(copy)) for path in set(copy.glob("alembic/versions/*.py")) - known]
        print("Creating the OpenAPI document", flush=True)
        (copy / "app/openapi.json").write_text(python("-c", DOCUMENT))
        paths.append("app/openapi.json")
        move(paths, copy, ROOT)
    return paths


def enlist(listing: Path, many: str) -> None:
    """Add a domain to the list. Ruff then sorts the import."""
    pattern, added = r"^DOMAINS = \((.*?),?\s*\)", rf"from app.api.v1 import {many}\n\nDOMAINS = (\1, {many})"
    source, found = re.subn(pattern, added, listing.read_text(), flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise Refused(f"{LISTING} has no line DOMAINS = (...)")
    listing.write_text(source)


def move(paths: list[str], source: Path, target: Path) -> None:
    """Copy these files: all or none."""
    with ExitStack() as undo:
        for path in map(Path, paths):
            at = target / path
            if at.exists():
                undo.callback(at.write_bytes, at.read_bytes())
            else:
                undo.callback(at.unlink, missing_ok=True)
            shutil.copyfile(source / path, at)
        undo.pop_all()


def plan(arguments: list[str]) -> tuple[str, str, list[Field]]:
    """The singular, the plural and the fields of the requested entity. Raises Refused if it cannot be added."""
    one, many = forms(arguments[0])
    fields = [field(each, one) for each in arguments[1:]]
    check(one, many, fields)
    return one, many, fields


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        sys.exit(USAGE.format(types=", ".join(TYPES)))
    try:
        paths = write(*plan(arguments))
    except Refused as error:
        sys.exit(f"new.sh: {error}")
    print("Written:", *paths, sep="\n  ")
    print("Read the migration. Then scripts/prestart.sh migrates your database, and scripts/test.sh tests everything.")


if __name__ == "__main__":
    main(sys.argv[1:])
