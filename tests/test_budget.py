"""The cost of a request does not change unnoticed."""

import sys

import pytest

from tests.service import ROOT, environment, run

pytestmark = pytest.mark.slow


def test_requests_take_as_many_calls_as_their_budget_says() -> None:
    # In a separate process: the calls of coverage would be counted too.
    run(sys.executable, "-m", "tests.budget", cwd=ROOT, env=environment("sqlite:///unused.db"))
