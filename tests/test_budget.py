"""The cost of a request stays what it is, unless somebody decides otherwise."""

import sys

import pytest

from tests.service import ROOT, environment, run

pytestmark = pytest.mark.slow


def test_requests_take_as_many_calls_as_their_budget_says() -> None:
    # In a process of its own: coverage would be counted, too.
    run(sys.executable, "-m", "tests.budget", cwd=ROOT, env=environment("sqlite:///unused.db"))
