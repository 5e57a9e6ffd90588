"""Clients by others, made from the OpenAPI document or for OAuth 2, do the whole job against a live server."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import skip
from tests.service import ROOT, Service, run, serving

CLIENTS = ROOT / "tests" / "clients"
DOCUMENT = ROOT / "app" / "openapi.json"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs one of the locked npm packages in a folder that has the client's sources."""
    npm = shutil.which("npm")
    if npm is None:
        skip("no npm: install Node.js to check the TypeScript client")
    folder = tmp_path_factory.mktemp("node") / "clients"
    shutil.copytree(CLIENTS, folder, ignore=shutil.ignore_patterns("node_modules", "out", "schema.d.ts"))
    run(str(npm), "ci", "--no-audit", "--no-fund", cwd=folder)
    return lambda *command: run("npx", "--no-install", *command, cwd=folder)


@pytest.fixture(scope="module")
def compiled(node: Callable[..., str]) -> Callable[..., str]:
    """Runs the TypeScript client, whose types were made from the document and checked strictly."""
    node("openapi-typescript", str(DOCUMENT), "-o", "schema.d.ts")
    node("tsc", "--project", ".")
    return lambda url: node("node", "out/job.js", url)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with the generator and the Python client that it made."""
    folder = tmp_path_factory.mktemp("python")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", CLIENTS / "requirements.lock", cwd=folder)
    generate = ("generate", "--meta", "none", "--fail-on-warning", "--output-path", folder / "onefold_client")
    shutil.copy(CLIENTS / "job.py", folder)
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}  # it formats what it makes by ruff
    run(python, "-m", "openapi_python_client", *generate, "--path", DOCUMENT, cwd=folder, env=environment)
    return python


@pytest.mark.timeout(300)
def test_the_document_is_clean(node: Callable[..., str]) -> None:
    node("redocly", "lint", "--config", "redocly.yaml", str(DOCUMENT))


@pytest.mark.timeout(300)
def test_a_typescript_client_does_the_job(compiled: Callable[..., str], migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _):
        assert compiled(url) == "done\n"


@pytest.mark.timeout(300)
def test_oauth_clients_stay_logged_in(node: Callable[..., str], serve: Callable[..., Service]) -> None:
    service = serve()
    service.settings.access_token_expire_minutes = 1 / 60  # type: ignore[assignment]  # too short to be set, and to wait
    assert node("node", "oauth.js", service.url) == "done\n"


@pytest.mark.timeout(300)
def test_a_python_client_does_the_job(generated: Path, migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _):
        assert run(generated, "job.py", url, cwd=generated.parents[2]) == "done\n"
