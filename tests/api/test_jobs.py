"""Jobs: monitoring and retries by superusers."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from sqlmodel import Session, col, select

from app import emails, jobs
from app.core.db import now
from app.core.jobs import Job
from app.emails import Email
from app.users import User
from tests import jobs as work
from tests.conftest import outcome
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

JOBS = "/api/v1/jobs/"
FIELDS = [
    "id",
    "created_at",
    "updated_at",
    "name",
    "status",
    "priority",
    "attempts",
    "due_at",
    "occurrence",
    "last_error",
    "arguments",
]

ACCESS: dict[str, tuple[int, ...]] = {
    "GET /api/v1/jobs/": (401, 400, 403, 403, 200),
    "GET /api/v1/jobs/{job_id}": (401, 400, 403, 403, 200),
    "POST /api/v1/jobs/{job_id}/retry": (401, 400, 403, 403, 200),
    "DELETE /api/v1/jobs/{job_id}": (401, 400, 403, 403, 204),
}
REQUESTS: dict[str, dict[str, Any]] = {}


def stage(session: Session, owner: User) -> dict[str, object]:
    job = Job(name="unit", status="dead", arguments={"number": 1})
    session.add(job)
    return {"job_id": job.id}


def add(session: Session, /, **values: Any) -> Job:
    job = Job(**{"name": "unit", "arguments": {"number": 1}, **values})
    session.add(job)
    session.flush()
    return job


def stored(service: Service) -> Sequence[Job]:
    return service.read(lambda session: session.exec(select(Job).order_by(col(Job.created_at))).all())


@pytest.fixture
def superuser(client_of: Clients, root: User) -> httpx2.Client:
    return client_of(root)


def names(client: httpx2.Client, **query: str) -> list[str]:
    answer = client.get(JOBS, params=query)
    assert answer.status_code == 200, answer.text
    return [job["name"] for job in answer.json()]


def test_a_superuser_sees_jobs_newest_first_and_arguments_only_where_the_job_says_so(
    superuser: httpx2.Client, service: Service
) -> None:
    service.write(add, name="told", arguments={"number": 5})
    service.write(add, name="of_a_later_release", last_error="ValueError", attempts=2, status="waiting")
    service.write(add)
    listed = superuser.get(JOBS).json()
    assert [list(job) for job in listed] == [FIELDS] * 3
    assert [job["name"] for job in listed] == ["unit", "of_a_later_release", "told"]
    assert [job["arguments"] for job in listed] == [None, None, {"number": 5}]
    assert (listed[1]["status"], listed[1]["attempts"], listed[1]["last_error"]) == ("waiting", 2, "ValueError")
    for job in listed:
        assert superuser.get(f"{JOBS}{job['id']}").json() == job


def test_the_list_is_filtered_and_comes_in_pages(superuser: httpx2.Client, service: Service) -> None:
    for name in ("a", "b", "c"):
        for status in ("dead", "done"):
            service.write(add, name=name, status=status)
    assert names(superuser, status="dead") == ["c", "b", "a"]
    assert names(superuser, name="b") == ["b", "b"]
    assert names(superuser, name="b", status="done", sort="created_at") == ["b"]
    first = superuser.get(JOBS, params={"limit": 4, "status": "done"})
    assert "next" not in first.links
    first = superuser.get(JOBS, params={"limit": 4})
    second = superuser.get(first.links["next"]["url"])
    assert [job["name"] for page in (first, second) for job in page.json()] == list("ccbbaa")
    for query in ({"status": "lost"}, {"sort": "name"}, {"arguments": "1"}):
        assert outcome(superuser.get(JOBS, params=query)) == (422, "validation_error")


@pytest.mark.parametrize(("status", "attempts"), [("dead", 8), ("waiting", 1)])
def test_a_job_that_failed_is_run_again(superuser: httpx2.Client, service: Service, status: str, attempts: int) -> None:
    job = service.write(add, status=status, attempts=attempts, last_error="ValueError", due_at=now() + timedelta(1))
    answer = superuser.post(f"{JOBS}{job.id}/retry")
    assert (answer.status_code, answer.json()["status"], answer.json()["attempts"]) == (200, "queued", 0)
    assert superuser.get(f"{JOBS}{job.id}").headers["ETag"] == answer.headers["ETag"]
    assert [each.status for each in stored(service)] == ["queued"]


@pytest.mark.parametrize("status", ["queued", "running", "done", "waiting"])
def test_what_did_not_fail_is_not_run_again(superuser: httpx2.Client, service: Service, status: str) -> None:
    job = service.write(add, status=status)
    assert outcome(superuser.post(f"{JOBS}{job.id}/retry")) == (409, "job_not_dead")
    assert [each.status for each in stored(service)] == [status]


@pytest.mark.parametrize("status", ["queued", "waiting", "done", "dead"])
def test_a_job_that_is_not_running_can_be_deleted(superuser: httpx2.Client, service: Service, status: str) -> None:
    job = service.write(add, status=status)
    assert superuser.delete(f"{JOBS}{job.id}").status_code == 204
    assert stored(service) == []
    assert outcome(superuser.delete(f"{JOBS}{job.id}")) == (404, "not_found")


def test_a_job_that_is_running_is_not_deleted(superuser: httpx2.Client, service: Service) -> None:
    job = service.write(add, status="running")
    assert outcome(superuser.delete(f"{JOBS}{job.id}")) == (409, "job_running")
    assert len(stored(service)) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_job_that_is_not_there_is_not_found(superuser: httpx2.Client, method: str) -> None:
    path = f"{JOBS}{uuid.uuid4()}{'/retry' if method == 'POST' else ''}"
    assert outcome(superuser.request(method, path)) == (404, "not_found")


def test_a_stale_tag_is_refused_and_the_current_one_is_not(superuser: httpx2.Client, service: Service) -> None:
    job = service.write(add, status="dead")
    path = f"{JOBS}{job.id}"
    tag = superuser.get(path).headers["ETag"]
    assert superuser.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert superuser.post(f"{path}/retry", headers={"If-Match": tag}).status_code == 200
    for method, target in (("POST", f"{path}/retry"), ("DELETE", path)):
        refused = superuser.request(method, target, headers={"If-Match": tag})
        assert outcome(refused) == (412, "precondition_failed")
    tag = superuser.get(path).headers["ETag"]
    assert superuser.delete(path, headers={"If-Match": tag}).status_code == 204


def test_deleting_an_occurrence_skips_it_and_no_other(superuser: httpx2.Client, service: Service) -> None:
    day = datetime(2030, 1, 1, tzinfo=UTC)
    job = service.write(add, name="daily", arguments={}, status="waiting", due_at=day, occurrence=day)
    assert superuser.delete(f"{JOBS}{job.id}").status_code == 204
    (following,) = stored(service)
    assert (following.name, following.occurrence, following.status) == ("daily", day + timedelta(days=1), "waiting")


def test_what_is_done_to_the_job_of_a_message_shows_in_its_status(superuser: httpx2.Client, service: Service) -> None:
    def message() -> Email:
        return service.read(lambda session: session.exec(select(Email)).one())

    service.write(emails.queue, "message", "ada@example.com", subject="News", text="Hello.")
    (job,) = stored(service)

    def kill(session: Session) -> None:
        for table in (Job, Email):
            session.execute(update(table).values(status="dead", attempts=8))

    service.write(kill)
    assert superuser.post(f"{JOBS}{job.id}/retry").status_code == 200
    assert (message().status, message().attempts) == ("queued", 0)
    assert superuser.delete(f"{JOBS}{job.id}").status_code == 204
    assert (message().status, message().last_error) == ("dead", "Deleted")


def test_an_argument_is_validated_before_it_is_queued(service: Service) -> None:
    for arguments in ({}, {"number": "x"}, {"number": 1, "more": 2}):
        with pytest.raises(ValueError, match="validation error"):
            service.write(jobs.queue, work.unit, **arguments)
    with pytest.raises(LookupError):
        service.write(jobs.queue, "nobody_knows")
    assert stored(service) == []
