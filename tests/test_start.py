"""`scripts/start.sh`: prints the URL when the service is ready, and the reason if it cannot start."""

import shutil
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from tests.postgres import free_port
from tests.service import NO_TLS, ROOT, Process, Service, environment, until

pytestmark = pytest.mark.slow


@pytest.fixture
def backend() -> str:
    """The database of a first start."""
    return "sqlite"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, with all packages installed."""
    folder = tmp_path / "copy"
    for name in ("app", "alembic", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "requirements.lock", folder / ".venv/requirements.lock.installed")
    return folder


def start(copy: Path, port: int) -> Process:
    env = environment("sqlite:///data/onefold.db", PORT=str(port))
    return Process(["scripts/start.sh"], env, copy.parent / f"{port}.log", copy)


def test_the_link_is_there_when_it_is_told_and_ctrl_c_ends_it_cleanly(copy: Path) -> None:
    port = free_port()
    process = start(copy, port)
    try:
        until(lambda: "Try it out: " in process.text)
        link = process.text.partition("Try it out: ")[2].split()[0]
        assert link == f"http://127.0.0.1:{port}/docs"
        assert httpx2.get(link, verify=NO_TLS).status_code == 200
        process.signal(signal.SIGINT)
        assert process.wait() in (0, -signal.SIGINT)
    finally:
        process.end()
    assert "Created the first superuser: admin@example.com\n" in process.text
    assert "Mail is not sent but written to data/mail\n" in process.text
    assert "Application shutdown complete" in process.text
    assert "Traceback" not in process.text
    assert len(process.text.splitlines()) <= 15


def test_a_port_that_is_taken_is_told_before_anything_is_done(copy: Path, service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    shutil.rmtree(copy / ".venv")
    process = start(copy, port)
    assert process.wait() == 1
    assert process.text == f"Port {port} is in use. Choose another one: PORT={port + 1} scripts/start.sh\n"
    assert not (copy / "data").exists()
    assert not (copy / ".venv").exists()
