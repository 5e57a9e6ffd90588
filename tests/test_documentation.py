"""The README and docs/: every code block runs as written, every table is complete, every link has a target."""

import ast
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from pydantic import SecretStr

from app.config import Settings
from tests.conftest import on_postgresql
from tests.postgres import free_port
from tests.service import ROOT, Process, environment, run, wait_until_answered

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "scripts/README.md", *sorted((ROOT / "docs").glob("*.md")))
}
BIN = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
BASH = ("bash", "-euo", "pipefail", "-c")


class Block(NamedTuple):
    """A code block, and the paragraph above it, which names its file."""

    place: str
    language: str
    source: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"((?:.+\n)*)\n?^```(\w*)\n((?:.*\n)*?)```$", PAGES[page], re.MULTILINE)
    return [Block(" ".join(place.split()), *more) for place, *more in found]


def scripts(page: str) -> str:
    """All blocks of shell commands on a page."""
    assert {each.language for each in blocks(page)} == {"bash"}
    return "\n".join(each.source for each in blocks(page))


def source_of(block: Block) -> Path | None:
    """The file that a block is quoted from: "From [...](path):"."""
    found = re.search(r"From \[.*\]\(\.\./(.*)\):$", block.place)
    return ROOT / found[1] if found else None


COMMANDS, TOUR, LAYOUT, ENTITY = blocks("README.md")
PREPARE, SERVE, MIGRATE, HISTORY = blocks("docs/deployment.md")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project that uses this environment as its `.venv`."""
    path = tmp_path / "copy"
    unwanted = shutil.ignore_patterns(".git", ".venv", ".env", "data", "node_modules", ".pytest_cache")
    shutil.copytree(ROOT, path, ignore=unwanted)
    (path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for lock in path.glob("*.lock"):
        shutil.copy(lock, path / f".venv/{lock.name}.installed")
    return path


def newcomer(**values: str) -> dict[str, str]:
    """An environment without any settings. pip can use installed packages but download nothing."""
    unset = {name: value for name, value in environment("").items() if name.lower() not in Settings.model_fields}
    return unset | {"PATH": BIN, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | values


@pytest.mark.slow
def test_the_tour_and_the_examples_run_on_what_the_first_command_starts(copy: Path, tmp_path: Path) -> None:
    start, test = (shlex.split(line, comments=True) for line in COMMANDS.source.splitlines())
    assert os.access(copy / test[0], os.X_OK)
    port = free_port()
    process = Process(start, newcomer(PORT=str(port)), tmp_path / "log", copy)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_answered(f"{url}/health/live", process, 60)
        assert re.search(r"admin@example\.com\nPassword \(shown only once\): \S{15}", process.text)
        assert httpx2.get(f"{url}/docs").status_code == 200
        script = TOUR.source + scripts("docs/accounts.md") + scripts("docs/contract.md")
        out = run(*BASH, script.replace("http://127.0.0.1:8000", url), cwd=copy, env=os.environ | {"PATH": BIN})
    finally:
        process.end()
    assert '"full_name":"Ada"' in out
    assert out.count('"code": "precondition_failed"') == 2
    assert '"code": "validation_error"' in out
    assert re.search(r'^link: <.*>; rel="next"', out, re.MULTILINE | re.IGNORECASE)
    assert out.count('"refresh_token":') == 1
    assert re.search(r"^x-total-count: 2", out, re.MULTILINE | re.IGNORECASE)
    assert '"full_name":"Byron"' not in out


@pytest.mark.slow
@on_postgresql
def test_a_deployment_starts_as_documented(copy: Path, empty_url: str, tmp_path: Path) -> None:
    port = free_port()
    script = f"{PREPARE.source}\n{SERVE.source.rstrip()} --port {port}".replace("\nuvicorn", "\nexec uvicorn")
    script = re.sub(r"postgresql://\S+", empty_url, script).replace("0.0.0.0", "127.0.0.1")
    process = Process([*BASH, script], newcomer(), tmp_path / "log", copy)
    try:
        wait_until_answered(f"http://127.0.0.1:{port}/health/live", process, 120)
        assert httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        assert "Created the first superuser: admin@example.com" in process.text
    finally:
        process.end()


def type_into(root: Path, block: Block) -> str:
    """Insert a block at the place that the sentence above it names. Returns the path of that file.

    "`path`:" is a new file, "Add to `path`:" is its end, "Add to `name` in `path`:" is the end of that class, or of
    that function before it returns, "Before `name` in `path`:" is above it. Imports go to the top.
    """
    found = re.search(r"(?:(Add to|Before) )?(?:`(\w+)` in )?`([\w/.]+\.\w+)`:$", block.place)
    assert found, f"the text above this block names no place for it: {block.place!r}"
    verb, name, path = found.groups()
    target = root / path
    if verb is None:
        assert not target.exists(), path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.source)
        return path
    lines, imports, code = target.read_text().splitlines(keepends=True), "", block.source
    while found := re.match(r"(import|from) .*\n\n*", code):
        imports, code = imports + found[0].rstrip() + "\n", code.removeprefix(found[0])
    body = ast.parse("".join(lines)).body
    if name is None:
        lines += ["\n\n", code]
    else:
        (node,) = (each for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name)
        last = node.body[-1]
        if verb == "Before":
            lines.insert(node.lineno - 1, f"{code}\n\n")
        elif isinstance(last, ast.Return):
            lines.insert(last.lineno - 1, code)
        else:
            lines.insert(last.end_lineno or 0, code)
    if imports:
        lines.insert(body[0].end_lineno or 0, f"\n{imports}")  # below the docstring
    target.write_text("".join(lines))
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_entity_grows_by_the_recipes(copy: Path, postgresql_url: str | None) -> None:
    ada = {f"GIT_{role}_{name}": "ada@example.com" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    server = {"TEST_DATABASE_URL": postgresql_url} if postgresql_url else {}
    here: dict[str, Any] = {"cwd": copy, "env": newcomer(**ada, **server)}

    def execute(script: str) -> str:
        run(*BASH, "git add --all && git commit --quiet --message 'So far'", **here)
        return run(*BASH, script, **here)

    run("git", "init", "--quiet", **here)
    execute(ENTITY.source)
    typed = set()
    for block in blocks("docs/recipes.md"):
        if block.language == "bash":
            execute(block.source)
        elif not source_of(block):
            typed.add(type_into(copy, block))
    code = sorted(path for path in typed if path.endswith(".py"))
    run("ruff", "check", "--quiet", "--fix", "--select", "I", *code, **here)
    execute(MIGRATE.source)
    assert "(head)" in execute(HISTORY.source)
    run("ruff", "check", *code, **here)
    run("ruff", "format", "--check", *code, **here)
    run("mypy", *code, **here)
    tests = ["tests/test_architecture.py", "tests/api/test_access.py", "tests/api/test_bookings.py"]
    which = "architecture or bookings or every_route"
    out = run(sys.executable, "-m", "pytest", "-q", *tests, "-k", which, **here)
    assert " passed" in out


def test_quotes_are_identical_to_their_files() -> None:
    for block in blocks("docs/recipes.md"):
        if path := source_of(block):
            source, parts = path.read_text(), re.split(r"\n\n+|\n    \.\.\.\n", block.source.rstrip())
            assert not [part for part in parts if part not in source]


@pytest.mark.parametrize("page", ["docs/settings.md", "docs/why.md", "docs/performance.md", "scripts/README.md"])
def test_a_page_that_no_test_runs_has_no_code(page: str) -> None:
    assert not blocks(page)


def test_every_setting_is_explained_with_its_default() -> None:
    explained = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.+?) \|", PAGES["docs/settings.md"], re.MULTILINE))
    assert sorted(explained) == sorted(name.upper() for name in Settings.model_fields)
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={"environment": "development"})
        text = explained[name.upper()]
        if default in (None, [], SecretStr("")):
            assert not text.startswith("`"), name
        else:
            shown = default if isinstance(default, str) else json.dumps(default)
            assert text.startswith(f"`{shown}`"), name


def test_the_layout_names_what_is_there_and_every_folder_of_the_app() -> None:
    entries = re.findall(r"^( *)(\S+)(?:  |$)", LAYOUT.source, re.MULTILINE)
    named = [f"app/{name}" if indent else name for indent, name in entries]
    assert not [path for path in named if not (ROOT / path).exists()]
    folders = {f"app/{path.name}/" for path in (ROOT / "app").iterdir() if path.is_dir()} - {"app/__pycache__/"}
    assert folders <= set(named)


def test_every_script_is_explained() -> None:
    explained = re.findall(r"^\| `(\S+)` \|", PAGES["scripts/README.md"], re.MULTILINE)
    assert sorted(explained) == sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))


def anchors(page: str) -> set[str]:
    """The anchors of a page: its headings, spelled like GitHub does."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_a_target(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        if ":" in path:  # another site
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link
