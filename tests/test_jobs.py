"""The engine of jobs, in one process: order, retries, schedules and outcomes."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
import time_machine
from sqlalchemy import update
from sqlmodel import Session, col, select

from app import auth
from app import jobs as product
from app.auth import LoginSession
from app.core import jobs, throttle
from app.core.db import SWEPT, now
from app.core.jobs import JOBS, Claim, Job, Status
from app.core.throttle import Bucket
from app.core.worker import Worker, _unit
from app.jobs import Context
from app.users import User
from tests import jobs as work
from tests.conftest import on_postgresql, on_sqlite, run_job, statements
from tests.jobs import SECRET, SEEN, marks, unfinished
from tests.service import Service, elsewhere, until

FAR = now() + timedelta(days=3650)


@pytest.fixture(autouse=True)
def forget() -> None:
    SEEN.clear()


def stored(session: Session) -> list[Job]:
    return list(session.exec(select(Job).where(col(Job.occurrence).is_(None)).order_by(col(Job.id))))


def only(service: Service) -> Job:
    (job,) = service.read(stored)
    return job


def context_of(service: Service) -> Context:
    return Context(service.database, service.settings, None)


@contextmanager
def working(service: Service, *, slots: int = 4) -> Iterator[Worker]:
    """A worker in the process of the service meanwhile."""

    async def start() -> tuple[Worker, asyncio.Task[None]]:
        worker = Worker(context_of(service), slots=slots)
        return worker, asyncio.create_task(worker.run())

    async def stop(worker: Worker, running: asyncio.Task[None]) -> None:
        worker.stop()
        await running

    started = service.run(start())
    try:
        yield started[0]
    finally:
        service.run(stop(*started))


def is_due(session: Session) -> bool:
    ready, due_at = jobs.next_due(session, JOBS)
    running = select(Job.id).where(Job.status == "running").limit(1)
    return ready or (due_at is not None and due_at <= now()) or session.exec(running).first() is not None


def drain(service: Service, *, workers: int = 1, slots: int = 4) -> None:
    """Run all that is due."""
    if workers:
        with working(service, slots=slots):
            drain(service, workers=workers - 1, slots=slots)
    else:
        until(lambda: not service.read(is_due))


def end_leases(session: Session) -> None:
    session.execute(update(Job).where(col(Job.status) == "running").values(due_at=now()))


def claim(session: Session, most: int = 1) -> list[Claim]:
    return list(jobs.claim(session, list(JOBS), most))


def test_what_is_rolled_back_is_not_run(service: Service) -> None:
    def queue_and_raise(session: Session) -> None:
        jobs.queue(session, work.unit, number=1)
        raise LookupError

    with pytest.raises(LookupError):
        service.write(queue_and_raise)
    service.write(jobs.queue, "unit", number=2)
    drain(service)
    assert service.read(marks) == [2]
    assert (only(service).status, only(service).attempts) == ("done", 1)


def test_arguments_come_as_the_types_that_the_job_names(service: Service) -> None:
    given: tuple[Any, ...] = (
        uuid.uuid4(),
        date(2026, 2, 28),
        datetime(2026, 2, 28, 12, tzinfo=UTC),
        Decimal("10.10"),
        [1, 2],
    )
    names = ("identity", "day", "moment", "price", "many")
    as_text: dict[str, Any] = dict(zip(names, map(str, given[:4]), strict=False))
    as_values: dict[str, Any] = dict(zip(names, given, strict=True))
    service.write(jobs.queue, work.typed, **as_values)
    service.write(jobs.queue, "all_types", **as_text, many=["1"], extra=8)
    drain(service)
    assert [(*given, 7), (*given[:4], [1], 8)] == SEEN
    assert list(map(type, SEEN[0])) == [uuid.UUID, date, datetime, Decimal, list, int]


def test_a_unit_that_fails_has_no_effect_and_is_tried_again_until_it_is_dead(service: Service) -> None:
    service.write(jobs.queue, work.failing, number=1)
    with time_machine.travel(now()) as clock:
        for attempt, status in ((1, "waiting"), (2, "waiting"), (3, "dead")):
            started = now()
            drain(service)
            job = only(service)
            assert (job.status, job.attempts, job.last_error) == (status, attempt, "ValueError")
            wait = (job.due_at - started).total_seconds()
            assert 30 * 3 ** (attempt - 1) <= wait <= 36 * 3 ** (attempt - 1) + 20
            clock.move_to(job.due_at)
    assert service.read(marks) == []


def test_a_job_that_gives_up_is_dead_at_once_and_says_why(service: Service) -> None:
    service.write(jobs.queue, work.failing, number=1, for_good=True)
    drain(service)
    job = only(service)
    assert (job.status, job.attempts, job.last_error) == ("dead", 1, "never ")
    assert service.read(marks) == []


def test_what_an_exception_says_is_not_shown_to_anybody(service: Service, log: Any) -> None:
    service.write(jobs.queue, work.failing, number=1)
    drain(service)
    assert "job failed" in log.getvalue()
    assert "ValueError" in log.getvalue()
    assert SECRET not in log.getvalue() + repr(service.read(stored))


def test_a_unit_takes_effect_once_though_two_workers_believe_it_theirs(service: Service) -> None:
    service.write(jobs.queue, work.unit, number=1)
    (slow,) = service.write(claim)
    service.write(end_leases)
    (quick,) = service.write(claim)
    unit = JOBS["unit"]
    assert service.write(_unit, slow, unit, {"number": 1}) is False
    assert service.write(_unit, quick, unit, {"number": 1}) is True
    assert service.write(_unit, quick, unit, {"number": 1}) is False
    assert service.read(marks) == [1]


def test_a_job_whose_workers_all_died_is_dead_after_its_tries(service: Service) -> None:
    service.write(jobs.queue, work.failing, number=1)
    for _ in range(3):
        assert len(service.write(claim)) == 1
        assert service.write(claim) == []
        service.write(end_leases)
    drain(service)
    job = only(service)
    assert (job.status, job.attempts) == ("dead", 3)
    assert job.last_error == "Its worker ended before the job did"
    assert service.read(marks) == []


def test_a_key_is_queued_once_until_that_job_begins(service: Service) -> None:
    def queue(session: Session, name: Any = work.unit) -> Any:
        return jobs.queue(session, name, key="photo 1", number=1)

    first = service.write(queue)
    assert first
    assert service.write(queue) is None
    assert service.write(queue, work.coroutine)
    assert len(service.write(claim, 2)) == 2
    assert service.write(queue) not in (None, first)


def test_a_job_waits_for_its_time(service: Service) -> None:
    with time_machine.travel(now(), tick=False) as clock:
        service.write(jobs.queue, work.unit, number=1, run_at=now() + timedelta(hours=1))
        drain(service)
        assert service.read(marks) == []
        clock.shift(timedelta(hours=1))
        drain(service)
    assert service.read(marks) == [1]


def test_a_job_whose_time_has_passed_is_run_now(service: Service) -> None:
    service.write(jobs.queue, work.unit, number=1, run_at=now() - timedelta(hours=1))
    drain(service)
    assert service.read(marks) == [1]


@pytest.mark.parametrize("by", [timedelta(days=-1), timedelta(days=1)])
def test_a_job_is_run_once_though_the_clock_is_changed(service: Service, by: timedelta) -> None:
    service.write(jobs.queue, work.unit, number=1)
    with time_machine.travel(now() + by):
        service.write(jobs.queue, work.unit, number=2)
        drain(service)
    drain(service)
    assert [number for number in service.read(marks) if number] == [1, 2]


def test_what_is_urgent_comes_first_and_else_what_was_queued_first(service: Service) -> None:
    for number, priority in enumerate((5, None, -5, None, 5)):
        service.write(jobs.queue, work.told, number=number, priority=priority)
    drain(service, slots=1)
    assert [number for _, number in SEEN] == [2, 1, 3, 0, 4]


def test_no_more_jobs_of_a_kind_run_at_a_time_than_may(service: Service) -> None:
    for number in range(6):
        service.write(jobs.queue, work.lonely, number=number)
    service.write(jobs.queue, work.unit, number=7)
    drain(service, workers=2)
    assert SEEN == ["begin", "end"] * 6
    assert service.read(marks) == [7]


def test_a_limit_does_not_hold_up_other_jobs(service: Service) -> None:
    for number in range(6):
        service.write(jobs.queue, work.lonely, number=number)
    service.write(jobs.queue, work.unit, number=7)
    assert [job.name for job in service.write(claim, 4)] == ["lonely"]
    assert [job.name for job in service.write(claim, 4)] == ["unit"]
    assert service.write(claim, 4) == []


def test_a_job_may_take_so_long_and_no_longer(service: Service) -> None:
    service.write(jobs.queue, work.endless)
    drain(service)
    assert (only(service).status, only(service).last_error) == ("waiting", "TimeoutError")


def test_a_job_of_another_release_is_left_for_those_who_know_it(service: Service) -> None:
    def add(session: Session) -> None:
        session.add(Job(name="of_a_later_release", arguments={}, priority=-1))
        session.add(Job(name="unit", arguments={"number": 1, "unheard_of": True}))

    service.write(add)
    service.write(jobs.queue, work.unit, number=2)
    drain(service)
    found = {(job.name, job.status, job.attempts, job.last_error) for job in service.read(stored)}
    assert found == {
        ("of_a_later_release", "queued", 0, None),
        ("unit", "waiting", 1, "ValidationError"),
        ("unit", "done", 1, None),
    }
    assert service.read(marks) == [2]


def test_a_lease_is_extended_while_its_job_runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LEASE", timedelta(seconds=0.6))
    service.write(jobs.queue, work.coroutine, number=1, seconds=1.8)
    drain(service, workers=2)
    assert service.read(marks) == [1]
    assert (only(service).status, only(service).attempts) == ("done", 1)


def test_a_worker_that_is_stopped_gives_back_what_it_cannot_finish(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.worker.GRACE", 0.05)
    service.write(jobs.queue, work.coroutine, number=1, seconds=30)
    with working(service):
        until(lambda: only(service).status == "running")
    assert (only(service).status, only(service).attempts) == ("queued", 0)


def test_a_worker_that_is_stopped_finishes_what_it_can(service: Service) -> None:
    service.write(jobs.queue, work.coroutine, number=1, seconds=0.3)
    with working(service):
        until(lambda: only(service).status == "running")
    assert service.read(marks) == [1]
    assert (only(service).status, only(service).attempts) == ("done", 1)


def test_what_becomes_of_a_job_is_told_to_who_asked(service: Service) -> None:
    with time_machine.travel(now()) as clock:
        for number in (1, -1):
            service.write(jobs.queue, work.told, number=number)
            drain(service)
        clock.shift(timedelta(minutes=1))
        drain(service)
    assert SEEN == [("done", 1), ("waiting", -1), ("dead", -1)]
    assert [job.last_error for job in service.read(stored)] == [None, "a number below zero"]


def test_a_job_begins_at_once_wherever_it_was_queued(service: Service) -> None:
    with working(service):
        until(lambda: not service.read(is_due))
        for number in range(3):
            time.sleep(0.05)  # it is idle by then
            started = time.monotonic()
            if service.database.dialect == "postgresql":
                elsewhere(service.settings.database_url, jobs.queue, work.unit, number=number)
            else:  # where other processes are heard of by polling
                service.write(jobs.queue, work.unit, number=number)
            until(lambda: number in service.read(marks))  # noqa: B023  # at once
            assert time.monotonic() - started < 2  # POLL is 6


def test_an_idle_worker_asks_nothing_for_five_seconds(service: Service) -> None:
    with working(service):
        time.sleep(0.5)
        with statements(service) as sent:
            time.sleep(1.5)
    assert len(sent) <= 1


@on_postgresql
def test_a_worker_hears_again_after_its_connection_was_lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.db.LISTEN_AGAIN", (0.05, 1.0))
    heard: list[int] = []

    async def listen() -> asyncio.Task[None]:
        return asyncio.create_task(service.database.listen("test_channel", lambda: heard.append(1)))

    def send(session: Session, statement: str) -> None:
        session.connection().exec_driver_sql(statement)

    listening = service.run(listen())
    until(lambda: len(heard) == 1)  # it begins to listen
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%test_channel%'"
    for number, statement in enumerate(("NOTIFY test_channel", cut, "NOTIFY test_channel"), 2):
        service.write(send, statement)
        until(lambda: len(heard) == number)  # noqa: B023  # at once
    service.run(cancelled(listening))


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@on_sqlite
def test_a_slow_unit_does_not_hold_up_requests(service: Service, client: httpx2.Client) -> None:
    client.get("/health/live")
    service.write(jobs.queue, work.slow_query)
    slowest = 0.0
    with working(service):
        while service.read(unfinished):
            started = time.monotonic()
            client.get("/health/live")
            slowest = max(slowest, time.monotonic() - started)
    assert only(service).status == "done"
    assert slowest < 0.5


def occurrences(session: Session) -> list[datetime | None]:
    daily = select(Job.occurrence).where(Job.name == "daily", col(Job.status).in_(("waiting", "queued")))
    return list(session.exec(daily.order_by(col(Job.occurrence))))


def test_each_occurrence_runs_once_for_all_workers_and_a_missed_one_once_after_a_restart(service: Service) -> None:
    day = datetime(2030, 6, 1, 12, tzinfo=UTC)
    with time_machine.travel(day) as clock:
        drain(service, workers=2)
        assert service.read(occurrences) == [datetime(2030, 6, 2, tzinfo=UTC)]
        assert service.read(marks) == []
        clock.move_to(datetime(2030, 6, 2, 0, 0, 1, tzinfo=UTC))
        drain(service, workers=2)
        assert service.read(marks) == [0]
        clock.move_to(datetime(2030, 6, 1, 23, 59, 59, tzinfo=UTC))  # another's clock, which is slow
        drain(service)
        assert service.read(occurrences) == [datetime(2030, 6, 3, tzinfo=UTC)]
        clock.move_to(datetime(2030, 6, 7, 12, tzinfo=UTC))
        drain(service, workers=2)
        assert service.read(marks) == [0, 0]
        assert service.read(occurrences) == [datetime(2030, 6, 8, tzinfo=UTC)]


def test_a_schedule_that_was_changed_or_planned_by_a_wrong_clock_is_put_right(service: Service) -> None:
    with time_machine.travel(datetime(2040, 1, 1, 12, tzinfo=UTC)) as clock:
        drain(service)
        clock.move_to(datetime(2030, 1, 1, 12, tzinfo=UTC))
        drain(service)
    assert service.read(occurrences) == [datetime(2030, 1, 2, tzinfo=UTC)]


def following(decorate: Any, *after: str) -> list[str]:
    """The first times of a schedule after these."""

    def scheduled(session: Session) -> None: ...

    scheduled.__name__ = f"scheduled_{uuid.uuid4().hex}"
    decorate(scheduled)
    schedule = JOBS.pop(scheduled.__name__).following
    assert schedule
    return [schedule(datetime.fromisoformat(each)).isoformat() for each in after]


def test_an_interval_is_counted_from_1970_so_that_all_replicas_agree() -> None:
    days = following(jobs.every(days=1), "2026-11-25T00:00:00+00:00", "2026-11-25T13:14:15.678+00:00")
    assert days == ["2026-11-26T00:00:00+00:00"] * 2
    assert following(jobs.every(minutes=10), "2026-11-25T13:59:59+00:00") == ["2026-11-25T14:00:00+00:00"]


def test_a_time_that_daylight_saving_skips_is_made_up_for_and_one_that_comes_twice_counts_once() -> None:
    berlin = jobs.cron("30 2 * * *", "Europe/Berlin")
    after = ["2026-03-28T12:00:00+00:00", "2026-03-29T01:00:00+00:00"]
    assert following(berlin, *after) == ["2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00"]
    after = ["2026-10-24T12:00:00+00:00", "2026-10-25T00:30:00+00:00"]
    assert following(berlin, *after) == ["2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"]
    half_hours = jobs.cron("*/30 * * * *", "Europe/Berlin")
    after = ["2026-10-25T00:30:00+00:00", "2026-10-25T01:00:00+00:00"]
    assert following(half_hours, *after) == ["2026-10-25T01:00:00+00:00", "2026-10-25T01:30:00+00:00"]


def needy(session: Session, *, number: int) -> None: ...


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: jobs.cron("61 * * * *"), "Bad"),
        (lambda: jobs.cron("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: jobs.cron("0 0 * * *", "Europe/Atlantis"), "Europe/Atlantis"),
        (lambda: jobs.every(), "interval"),
        (lambda: jobs.job(lambda session, photo: None), "photo must be keyword-only"),
        (lambda: jobs.job(lambda session, *, run_at: None), "run_at"),
        (lambda: jobs.job(name="unit")(lambda session: None), "two of this name"),
        (lambda: jobs.every(days=1)(needy), "number needs a default"),
    ],
)
def test_a_job_that_cannot_work_is_refused_when_it_is_defined(make: Callable[[], Any], error: str) -> None:
    before = set(JOBS)
    with pytest.raises(Exception, match=error):
        make()
    assert set(JOBS) == before


def test_what_is_out_of_date_is_removed_however_much_it_is(service: Service, ada: User) -> None:
    def add(session: Session) -> None:
        for number in range(SWEPT + 10):
            session.add(Bucket(key=str(number), count=1, ends_at=now() - timedelta(seconds=1)))
        session.add(Bucket(key="kept", count=1, ends_at=FAR))
        for days in (6, 8):
            session.add(LoginSession(user_id=ada.id, device=str(days), last_used_at=now() - timedelta(days=days)))
        ages: list[tuple[Status, int]] = [("done", 2), ("done", 0), ("dead", 29), ("dead", 31), ("queued", 99)]
        for status, days in ages:
            at = now() - timedelta(days=days)
            session.add(Job(name=f"{status} {days}", status=status, created_at=at, updated_at=at))

    service.write(add)
    for sweep in (throttle.sweep_buckets, auth.sweep_sessions, jobs.sweep_jobs):
        run_job(service, sweep)
    assert service.read(lambda session: session.exec(select(Bucket.key)).all()) == ["kept"]
    devices = service.read(lambda session: session.exec(select(LoginSession.device)).all())
    assert sorted(devices) == ["6", "the tests"]
    assert {job.name for job in service.read(stored)} == {"done 0", "dead 29", "queued 99"}


def test_depth_and_age_can_be_told(service: Service) -> None:
    for number in range(3):
        service.write(jobs.queue, work.unit, number=number)
    service.write(jobs.queue, work.typed, run_at=FAR, identity=uuid.uuid4(), day=date.max, moment=FAR, price=1, many=[])
    oldest = service.read(stored)[0].due_at
    found = sorted(service.read(jobs.depth))
    assert found == [("all_types", "waiting", 1, FAR), ("unit", "queued", 3, oldest)]


def test_the_product_has_all_that_a_domain_needs_in_one_module() -> None:
    assert {product.job, product.every, product.cron, product.queue} == {jobs.job, jobs.every, jobs.cron, jobs.queue}
