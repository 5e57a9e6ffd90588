"""Monitor background jobs and retry failed ones, as a superuser."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import jobs
from app.api.deps import Superuser
from app.api.errors import problems
from app.core.conditions import PreconditionFailed
from app.core.errors import Forbidden, NotFound
from app.core.fields import Id
from app.core.jobs import JobPublic
from app.core.logs import event
from app.jobs import JobNotDead, JobPage, JobRunning

router = APIRouter()


@router.get("/", response_model=list[JobPublic], responses=problems(Forbidden))
async def list_jobs(me: Superuser, wanted: Annotated[JobPage, Query()]) -> Sequence[JobPublic]:
    """List jobs. The newest come first: unfinished ones, those done in the last day, and dead ones."""
    return await me.page(jobs.page, wanted)


@router.get("/{job_id}", responses=problems(Forbidden, NotFound, PreconditionFailed))
async def read_job(me: Superuser, job_id: Id) -> JobPublic:
    """Read a job."""
    return me.show(await me.read(jobs.get, job_id))


@router.post("/{job_id}/retry", responses=problems(Forbidden, NotFound, JobNotDead, PreconditionFailed))
async def retry_job(me: Superuser, job_id: Id) -> JobPublic:
    """Retry a failed job."""
    job = await me.write(jobs.retry, job_id, me.conditions.check_as(jobs.view))
    event("job_retried", me.user_id, target=job_id)
    return me.show(job)


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(Forbidden, NotFound, JobRunning, PreconditionFailed),
)
async def delete_job(me: Superuser, job_id: Id) -> None:
    """Delete a job. It must not be running. Of a schedule, only this occurrence is deleted."""
    await me.write(jobs.delete, job_id, me.conditions.check_as(jobs.view))
    event("job_deleted", me.user_id, target=job_id)
