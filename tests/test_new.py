"""The generator: its output passes all checks at once, and is identical to the documentation."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from scripts import new
from scripts.new import DOCUMENT
from tests.conftest import skip
from tests.service import ROOT, environment, run

GUIDE = (ROOT / "docs/entity.md").read_text()
EVERYTHING = (
    *(f"{kind.lower()}_field:{kind}" for kind in new.TYPES),
    *(f"{kind.lower()}_or_none:{kind}?" for kind in new.TYPES),
    "starts_at:Instant",
    "status:open|half-open|closed",
    "kind:small|large?",
    "colour:" + "|".join(f"a_long_name_of_a_colour_{number}" for number in range(12)),
    "machine:machines",
    "spare_machine:machines?",
    "host:users",
    "guest:users?",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, committed to its own repository."""
    if not shutil.which("git"):
        skip("no git: install it")
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", "data", ".env", ".pytest_cache", "__pycache__", "node_modules"),
    )
    run("git", "init", "--quiet", cwd=copy)
    commit(copy)
    return copy


def commit(copy: Path) -> None:
    run("git", "add", "--all", cwd=copy)
    run("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "--quiet", "-m", "All", cwd=copy)


def generate(copy: Path, *arguments: str) -> str:
    return run(sys.executable, "-m", "scripts.new", *arguments, cwd=copy)


def delete_items(copy: Path) -> None:
    """Delete the sample entity, as docs/recipes.md says: two modules, their test, one line, one migration."""
    for path in ("app/items.py", "app/api/v1/items.py", "tests/api/test_items.py"):
        (copy / path).unlink()
    domains = copy / "app/api/v1/__init__.py"
    domains.write_text(re.sub(r"\bitems, |, items\b", "", domains.read_text()))
    env = environment(f"sqlite:///{copy}/data/items.db")
    for arguments in ("upgrade head", "revision --autogenerate -m drop_items", "upgrade head", "check"):
        run(sys.executable, "-m", "alembic", *arguments.split(), cwd=copy, env=env)
    (migration,) = (copy / "alembic/versions").glob("*_drop_items.py")
    assert 'drop_table("items")' in migration.read_text()
    (copy / "app/openapi.json").write_text(run(sys.executable, "-c", DOCUMENT, cwd=copy, env=env))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_team_adds_its_entities_and_deletes_ours_and_every_check_passes(
    copy: Path, tmp_path: Path, postgresql_url: str | None
) -> None:
    generate(copy, "machine", "name:Line", "keeper:users")
    commit(copy)
    generate(copy, "work_order", *EVERYTHING)
    commit(copy)
    if (copy / "app/items.py").exists():
        delete_items(copy)
        commit(copy)
    (command,) = re.findall(r"^\./scripts/new\.sh (note .*)$", GUIDE, re.MULTILINE)
    written = generate(copy, *command.split())

    shown = dict(re.findall(r"^[^\n]*`(\S+?\.py)`:\n\n```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
    assert list(shown) == ["app/notes.py", "app/api/v1/notes.py", "tests/api/test_notes.py"]
    assert shown == {path: (copy / path).read_text() for path in shown}
    changed = run("git", "status", "--porcelain", "--untracked-files=all", cwd=copy)
    assert sorted(re.findall(r"^.. (.*)$", changed, re.MULTILINE)) == sorted(
        re.findall(r"^  (.*)$", written, re.MULTILINE)
    )

    python = (sys.executable, "-m")
    run(*python, "ruff", "check", cwd=copy)
    run(*python, "ruff", "format", "--check", cwd=copy)
    run(*python, "mypy", cwd=copy)
    env = environment(f"sqlite:///{tmp_path}/unused.db")
    run(*python, "pytest", "-q", "-m", "not slow", cwd=copy, env=env, seconds=600)
    if postgresql_url:
        tests = [f"tests/api/test_{name}.py" for name in ("machines", "work_orders", "notes")]
        run(*python, "pytest", "-q", *tests, cwd=copy, env=env | {"TEST_DATABASE_URL": postgresql_url})


@pytest.mark.slow
def test_what_fails_half_way_leaves_nothing(copy: Path) -> None:
    broken = copy / "alembic/versions/broken.py"
    broken.write_text("revision, down_revision = 'broken', 'nowhere'\n")
    commit(copy)
    with pytest.raises(AssertionError, match="nothing was written"):
        generate(copy, "note", "text:Text")
    assert run("git", "status", "--porcelain", cwd=copy) == ""


@pytest.mark.slow
def test_a_tree_with_changes_is_refused(copy: Path) -> None:
    (copy / "README.md").write_text("Changed")
    with pytest.raises(AssertionError, match=r"new\.sh: the working tree has changes: commit or stash them first"):
        generate(copy, "note", "text:Text")
    assert run("git", "status", "--porcelain", cwd=copy) == " M README.md\n"


def test_files_are_moved_all_or_none(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    (source / "new").write_text("new")
    (source / "known").write_text("changed")
    (target / "known").write_text("as it was")
    with pytest.raises(FileNotFoundError):
        new.move(["new", "known", "absent"], source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"known": "as it was"}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("specimen text:Foo", "text:Foo: no such type; there are Line "),
        ("specimen text", "text: no such type"),
        ("specimen status:open", "'open|closed'"),
        ("specimen kind:x|x", "repeats a value"),
        ("specimen a:int a:Line", "'a' is given twice"),
        ("specimen author:users", "at least one field must not be a reference"),
        ("specimen text:Text email:emails", "app/emails.py has no table emails with a function get()"),
        ("specimen class:Line", "'class' is a reserved name"),
        ("specimen order:int", "'order' is a reserved name"),
        ("specimen metadata:json", "'metadata' is a reserved name"),
        ("specimen time:time", "'time' is a reserved name"),
        ("specimen date:date", "'date' is a reserved name"),
        ("specimen owner:users text:Text", "'owner_id' is a reserved name"),
        ("specimen version:int", "'version' is a reserved name"),
        ("specimen Text:Text", "'Text' is not a name"),
        (f"specimen {'x' * 60}:Line", "the names of its constraints are too long"),
        ("Note text:Text", "'Note' is not a name"),
        ("import text:Text", "'import' is a reserved word"),
        ("value text:Text", "'values' is a reserved word"),
        ("user text:Text", "'user' is taken: there is app/users.py"),
        ("core text:Text", "'core' is taken: there is app/core"),
        ("main text:Text", "'main' is taken: there is app/main.py"),
        ("login_session text:Text", "'login_session' is taken: there is a table login_sessions"),
        ("client text:Text", "'client' conflicts with the name 'client'"),
        ("url text:Text", "'url' conflicts with the name 'url'"),
        ("notes text:Text", "give the singular and the plural, such as person/people"),
        ("person text:Text", "give the singular and the plural, such as person/people"),
        ("sheep/sheep text:Text", "the plural of 'sheep' must differ from it"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(command: str, why: str) -> None:
    with pytest.raises(new.Refused) as refused:
        new.plan(command.split())
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "plural"),
    [
        ("note", "notes"),
        ("category", "categories"),
        ("day", "days"),
        ("box", "boxes"),
        ("address", "addresses"),
        ("branch", "branches"),
        ("work_order", "work_orders"),
        ("human", "humans"),
        ("person/people", "people"),
    ],
)
def test_plurals_follow_the_rules_of_english(given: str, plural: str) -> None:
    assert new.forms(given) == (given.partition("/")[0], plural)
