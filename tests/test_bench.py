"""The benchmark works, and reports when it cannot measure."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.__main__ import Plan, measure, write
from tests.bench.report import BARE, CREATE, DISTURBED, FIRST, LAST, LIST, LOGIN, READ, SQLITE, Results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results() -> Results:
    """The results of the smallest possible run."""
    jobs = (READ, LIST, CREATE, LOGIN, DISTURBED, FIRST, LAST)
    return measure(Plan(rounds=1, seconds=0.1, jobs=jobs, only=(SQLITE, BARE), rows=100, deep=201))


def test_it_measures_and_writes_a_report(results: Results, tmp_path: Path) -> None:
    write(results, tmp_path / "docs")
    text = (tmp_path / "docs/performance.md").read_text()
    assert "Load by Python" in text  # wrk does not accept fractions of seconds
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {SQLITE} |")]
    assert [len(row) for row in rows] == [5, 3, 2, 4]
    assert all(cell.count("<br>") == 2 for cell in rows[0][1:])
    assert f"| {BARE} | **" in text
    plot = ElementTree.parse(tmp_path / "docs/performance.svg")
    bars = [job for _, job in results.samples if job in (READ, LIST, CREATE, LOGIN)]
    assert len(plot.findall(".//{*}rect")) == 1 + len(bars) == 1 + 4 + 3 + 1  # the background, and each side's jobs


def test_nothing_is_concluded_from_a_noisy_run(results: Results, tmp_path: Path) -> None:
    once = results.samples
    quiet = replace(results, samples={key: samples * 2 for key, samples in once.items()}, others=0.01)
    assert write(quiet, tmp_path) == []
    assert "SQLite to bare FastAPI, requests a second: read one **0." in (tmp_path / "performance.md").read_text()
    uneven = {key: [*samples, replace(samples[0], rate=2 * samples[0].rate)] for key, samples in once.items()}
    for noisy in (replace(quiet, samples=once), replace(quiet, others=0.2), replace(quiet, samples=uneven)):
        assert len(write(noisy, tmp_path)) == 1
        text = (tmp_path / "performance.md").read_text()
        assert "**Too noisy to conclude**" in text
        assert "to bare FastAPI" not in text
