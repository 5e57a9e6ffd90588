"""Third-party clients, generated from the OpenAPI document or made for OAuth 2, work against a live server."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import skip
from tests.service import ROOT, Service, run, serving

pytestmark = pytest.mark.slow

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
    shutil.copy(DOCUMENT, folder)
    run(str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    return lambda *command: run("npx", "--no-install", *command, cwd=folder)


@pytest.fixture(scope="module")
def compiled(node: Callable[..., str]) -> Callable[..., str]:
    """Runs the TypeScript client. Its types are generated from the document and checked strictly."""
    node("openapi-typescript", "openapi.json", "-o", "schema.d.ts")
    node("tsc", "--project", ".")
    return lambda url: node("node", "out/job.js", url)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A separate environment with the generator and its generated Python client."""
    folder = tmp_path_factory.mktemp("python")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = ("install", "--quiet", "--no-compile", "--require-hashes", "--requirement", CLIENTS / "requirements.lock")
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    generate = ("generate", "--meta", "none", "--fail-on-warning", "--output-path", folder / "onefold_client")
    shutil.copy(CLIENTS / "job.py", folder)
    environment = os.environ | {
        "PATH": f"{python.parent}:{os.environ['PATH']}"
    }  # the generator formats its output with ruff
    run(python, "-m", "openapi_python_client", *generate, "--path", DOCUMENT, cwd=folder, env=environment)
    return python


@pytest.mark.timeout(300)
def test_the_document_is_clean(node: Callable[..., str]) -> None:
    node("redocly", "lint", "--config", "redocly.yaml", "openapi.json")


REMEDIES = """
A schema is the model of that name in app/. A path is a route in app/api/v1. Add what is missing:
 array-limit: `max_length` on the list, or a `Page` with `limit` as the route's query
 integer-limit: `ge` and `le` (or `gt`, `lt`)
 string-limit: `max_length`, or a `Literal` for the type
 string-restricted: `Line` or `Text` of app/core/fields.py for the type, or a `pattern`
 parameter-description: `description` on the field of the `Page`, or on the parameter
Then generate app/openapi.json again. If a rule does not suit this service, disable it in tests/clients/spectral.yaml.
"""


@pytest.mark.timeout(300)
def test_the_document_is_strict(node: Callable[..., str]) -> None:
    try:
        node("spectral", "lint", "--ruleset", "spectral.yaml", "--fail-severity", "warn", "openapi.json")
    except AssertionError as error:
        pytest.fail(f"{error}{REMEDIES}", pytrace=False)


@pytest.mark.timeout(300)
def test_a_typescript_client_does_the_job(compiled: Callable[..., str], migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _):
        assert compiled(url) == "done\n"


@pytest.mark.timeout(300)
def test_oauth_clients_stay_logged_in(node: Callable[..., str], serve: Callable[..., Service]) -> None:
    service = serve()
    service.settings.access_token_expire_minutes = 1 / 60  # type: ignore[assignment]  # shorter than the setting allows, to save time
    assert node("node", "oauth.js", service.url) == "done\n"


@pytest.mark.timeout(300)
def test_a_python_client_does_the_job(generated: Path, migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _):
        assert run(generated, "job.py", url, cwd=generated.parents[2]) == "done\n"
