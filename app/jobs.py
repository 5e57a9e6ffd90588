"""Jobs: the context for the jobs of the product, and their management by superusers."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from sqlmodel import Field, Session, select

from app.config import Settings
from app.core import jobs, mail, paging
from app.core.errors import Conflict, NotFound
from app.core.fields import Line
from app.core.jobs import JOBS, Job, JobPublic, Status
from app.core.jobs import Failed as Failed
from app.core.jobs import GiveUp as GiveUp
from app.core.jobs import cron as cron
from app.core.jobs import every as every
from app.core.jobs import job as job
from app.core.jobs import queue as queue
from app.core.paging import Page, Position, Slice


class JobRunning(Conflict):
    code = "job_running"
    detail = "A worker is running this job. Wait until it has ended."


class JobNotDead(Conflict):
    code = "job_not_dead"
    detail = "Only a job that is dead or waits for a retry can be run again"


@dataclass(frozen=True)
class Context(jobs.Context):
    """The services that a coroutine can use. `mail` is None if mail is not sent."""

    settings: Settings
    mail: mail.Transport | None


class JobPage(Page):
    sort: Literal["created_at", "-created_at"] = "-created_at"
    status: Annotated[Status, Field(description="Only jobs with this status")] | None = None
    name: Annotated[Line, Field(max_length=64, description="Only jobs with this name")] | None = None


Check = Callable[[Session, Job], None]
"""Raises an error to refuse a change of the job in this state."""


def page(session: Session, _by: object, wanted: JobPage, after: Position | None = None) -> Slice[JobPublic]:
    statement = select(Job)
    if wanted.status:
        statement = statement.where(Job.status == wanted.status)
    if wanted.name:
        statement = statement.where(Job.name == wanted.name)
    found = paging.take(session, JobPublic, statement, wanted, after)
    for row in found.rows:
        _hide(row)
    return found


def get(session: Session, _by: object, job_id: uuid.UUID) -> JobPublic:
    return view(session, _get(session, job_id))


def view(_session: Session, job: Job) -> JobPublic:
    """A job, as shown to superusers."""
    return _hide(JobPublic.model_validate(job.model_dump()))


def _hide(shown: JobPublic) -> JobPublic:
    definition = JOBS.get(shown.name)
    if not (definition and definition.show_arguments):
        shown.arguments = None
    return shown


def retry(session: Session, _by: object, job_id: uuid.UUID, check: Check) -> JobPublic:
    """Run a dead job again, with its attempts reset; run a job that waits for a retry at once."""
    job = _get(session, job_id, check)
    if job.status != "dead" and not (job.status == "waiting" and job.attempts):
        raise JobNotDead
    job.sqlmodel_update({"status": "queued", "attempts": 0})
    session.flush()
    jobs.follow_up(session, job)
    jobs.wake(session)
    return view(session, job)


def delete(session: Session, _by: object, job_id: uuid.UUID, check: Check) -> None:
    """Delete a job. Of a schedule, only this occurrence."""
    job = _get(session, job_id, check)
    if job.status == "running":
        raise JobRunning
    if job.status != "done":
        job.sqlmodel_update({"status": "dead", "last_error": "Deleted"})
        jobs.follow_up(session, job)
    session.delete(job)
    session.flush()
    if job.occurrence and job.name in JOBS:
        jobs.plan(session, [job.name], after=job.occurrence)


def _get(session: Session, job_id: uuid.UUID, check: Check | None = None) -> Job:
    statement = select(Job).where(Job.id == job_id)
    job = session.exec(statement.with_for_update() if check else statement).first()
    if job is None:
        raise NotFound
    if check:
        check(session, job)
    return job
