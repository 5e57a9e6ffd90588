"""Whatever fits the OpenAPI document, and much that does not, is answered as the document says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import add_user, token_of
from tests.service import ROOT, Service

CONFIG = ROOT / "tests" / "schemathesis.toml"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_superuser", [False, True], ids=["ordinary user", "superuser"])
def test_the_service_answers_as_documented(service: Service, is_superuser: bool, tmp_path: Path) -> None:
    add_user(service, "other")
    caller = add_user(service, "caller", is_superuser=is_superuser)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color", "run"]
    options = ["--checks=all", "--max-examples=5", "--seed=1", "--continue-on-failure", "--no-shrink", "--warnings=off"]
    done = subprocess.run(
        [*command, f"{service.url}/openapi.json", *options, "-H", f"Authorization: Bearer {token_of(caller)}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 29" in done.stdout
