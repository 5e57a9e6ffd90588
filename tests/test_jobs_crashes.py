"""Workers as real processes: killed, stopped, concurrent. No job is lost, and no unit takes effect twice."""

import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from app.core import jobs
from app.core.jobs import Job
from tests.jobs import coroutine, marks, poison, unfinished, unit
from tests.service import Process, elsewhere, environment, until

pytestmark = pytest.mark.slow


@contextmanager
def workers(url: str, output: Path, *arguments: object) -> Iterator[Process]:
    """`python -m tests.jobs` with these arguments."""
    process = Process([sys.executable, "-m", "tests.jobs", *map(str, arguments)], environment(url), output)
    try:
        yield process
    finally:
        process.end()


def queue(session: Session, /, job: Any, *numbers: int, **arguments: Any) -> None:
    for number in numbers:
        jobs.queue(session, job, number=number, **arguments)


def outcomes(session: Session) -> Counter[tuple[str, str]]:
    rows = session.exec(select(Job.name, Job.status).where(col(Job.occurrence).is_(None)))
    return Counter((name, status) for name, status in rows)


def test_no_job_is_lost_and_no_unit_done_twice_wherever_a_worker_is_killed(migrated_url: str, tmp_path: Path) -> None:
    deaths = 40
    elsewhere(migrated_url, queue, unit, *range(1, 21))
    elsewhere(migrated_url, queue, coroutine, *range(101, 121))
    with workers(migrated_url, tmp_path / "log", "die", deaths, 0.2) as process:
        assert process.wait(100) == 0
        ends = [int(status) for status in re.findall(r"^\d+$", process.text, re.MULTILINE)]
    assert ends == [signal.SIGKILL] * deaths + [0]
    assert elsewhere(migrated_url, outcomes) == {("unit", "done"): 20, ("coroutine", "done"): 20}
    done = Counter(elsewhere(migrated_url, marks))
    assert [done[number] for number in range(1, 21)] == [1] * 20
    assert all(done[number] >= 1 for number in range(101, 121))


def test_four_workers_share_two_thousand_jobs(migrated_url: str, tmp_path: Path) -> None:
    elsewhere(migrated_url, queue, unit, *range(1, 1801))
    elsewhere(migrated_url, queue, coroutine, *range(1801, 2001))
    with workers(migrated_url, tmp_path / "log", "share", 4, 60) as process:
        assert process.wait(100) == 0
        assert process.text == "0\n" * 4
    assert elsewhere(migrated_url, marks) == list(range(1, 2001))


@pytest.mark.parametrize("job", [unit, coroutine])
def test_a_worker_that_is_frozen_beyond_its_lease_does_no_harm(migrated_url: str, tmp_path: Path, job: Any) -> None:
    begun = tmp_path / "begun"
    elsewhere(migrated_url, queue, job, 1, seconds=0.5, begun=begun)
    with workers(migrated_url, tmp_path / "log1", "for_ever", 1, 0.6) as frozen:
        until(begun.exists)
        frozen.signal(signal.SIGSTOP)
        time.sleep(0.6)
        if job is coroutine or not migrated_url.startswith("sqlite"):  # which a frozen unit locks
            with workers(migrated_url, tmp_path / "log2", "share", 1, 60) as other:
                assert other.wait() == 0
            assert elsewhere(migrated_url, marks) == [1]
        frozen.signal(signal.SIGCONT)
        until(lambda: not elsewhere(migrated_url, unfinished))
    assert elsewhere(migrated_url, marks) in ([[1]] if job is unit else [[1], [1, 1]])
    assert elsewhere(migrated_url, outcomes) == {(job.__name__, "done"): 1}


def test_a_job_that_kills_its_workers_is_dead_after_its_tries_and_the_others_are_done(
    migrated_url: str, tmp_path: Path
) -> None:
    elsewhere(migrated_url, queue, unit, *range(1, 11))
    elsewhere(migrated_url, jobs.queue, poison)
    with workers(migrated_url, tmp_path / "log", "share", 4, 0.3) as process:
        assert process.wait(60) == 0
        assert process.text.splitlines().count(str(int(signal.SIGKILL))) == 3
    assert elsewhere(migrated_url, outcomes) == {("unit", "done"): 10, ("poison", "dead"): 1}
    assert elsewhere(migrated_url, marks) == list(range(1, 11))
