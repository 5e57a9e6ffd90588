"""The README tells the truth: its tour runs, its tables are complete."""

import os
import re
import sys
from pathlib import Path

import httpx2
import pytest

from app.config import Settings
from tests.service import ROOT, run, serving

README = (ROOT / "README.md").read_text()
BIN = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_tour_runs_as_written(empty_url: str, tmp_path: Path) -> None:
    (tour,) = blocks(section("A first tour"), "bash")
    mail = {"MAIL_URL": f"file://{tmp_path}/data/mail", "MAIL_SENDER_ENABLED": "true"}
    with serving(empty_url, tmp_path / "log", **mail) as (url, _):
        script = tour.replace("http://127.0.0.1:8000", url)
        out = run("bash", "-euo", "pipefail", "-c", script, cwd=tmp_path, env=os.environ | {"PATH": BIN})
        assert '"email":"ada@example.com"' in out
        assert '"title":"Notes","description":"On the engine"' in out
        assert '"code": "precondition_failed"' in out
        assert '"code": "validation_error"' in out
        once = re.findall(r'{"id":"([^"]+)"[^{]*"title":"Once"', out)
        assert len(once) == 2
        assert once[0] == once[1]
        assert httpx2.get(f"{url}/docs").status_code == 200


def test_the_settings_are_all_explained() -> None:
    explained = re.findall(r"^\| `([A-Z0-9_]+)` \|", section("Settings"), re.MULTILINE)
    assert sorted(explained) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("path", re.findall(r"^  ?(\w+\.py|\w+/)", section("Layout"), re.MULTILINE))
def test_what_the_layout_names_is_there(path: str) -> None:
    assert (ROOT / "app" / path).exists()


def test_every_script_is_explained() -> None:
    explained = re.findall(r"^\| `(\S+)` \|", (ROOT / "scripts/README.md").read_text(), re.MULTILINE)
    scripts = [path.name for path in (ROOT / "scripts").glob("*.sh")]
    assert sorted(explained) == sorted(scripts)
