"""Shutdown of a replica."""

import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.conftest import on_sqlite
from tests.service import NO_TLS, serving

pytestmark = pytest.mark.slow


@on_sqlite
def test_it_says_that_it_is_not_ready_before_it_closes_its_door(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log", DRAIN_SECONDS="2") as (url, process):
        with httpx2.Client(base_url=url, verify=NO_TLS) as client:
            assert client.get("/health/ready").status_code == 200
            told = time.monotonic()
            process.signal(signal.SIGTERM)
            while client.get("/health/ready").status_code == 200:
                assert time.monotonic() - told < 1
            refused = client.get("/health/ready")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            assert refused.json()["detail"] == "The service is shutting down"
            assert client.get("/api/v1/users/me").status_code == 401  # other requests are answered as before
            assert httpx2.get(f"{url}/health/live", verify=NO_TLS).status_code == 200  # on a new connection too
        process.wait(10)
        assert time.monotonic() - told >= 2
        assert "Application shutdown complete" in process.text


@on_sqlite
def test_without_a_delay_it_stops_at_once(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (_, process):
        process.signal(signal.SIGTERM)
        process.wait(5)
        assert "Application shutdown complete" in process.text
