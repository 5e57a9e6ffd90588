"""The sample entity can be deleted: two modules and their test, a name in the list of domains, and a migration."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import on_sqlite
from tests.service import ROOT, environment, run
from tests.test_openapi import DOCUMENT

FILES = ("app/items.py", "app/api/v1/items.py", "tests/api/test_items.py")
QUICK = (sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-k", "not postgresql", "-p", "no:cacheprovider")


@pytest.mark.slow
@pytest.mark.timeout(600)
@on_sqlite
def test_a_team_deletes_items_and_all_else_works(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "data", "__pycache__", ".env"))
    env = environment(empty_url)
    for file in FILES:
        (copy / file).unlink()
    domains = copy / "app/api/v1/__init__.py"
    domains.write_text(re.sub(r"\bitems, |, items\b", "", domains.read_text()))
    for command in ("upgrade head", "revision --autogenerate -m drop_items", "upgrade head", "check"):
        run(sys.executable, "-m", "alembic", *command.split(), cwd=copy, env=env)
    (migration,) = (copy / "alembic/versions").glob("*_drop_items.py")
    assert "drop_table('items')" in migration.read_text().replace('"', "'")
    (copy / "app/openapi.json").write_text(run(sys.executable, "-c", DOCUMENT, cwd=copy, env=env))

    out = run(*QUICK, cwd=copy, env=env, seconds=500)
    assert " passed" in out
