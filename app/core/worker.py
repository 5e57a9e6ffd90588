"""The worker: runs the jobs that are queued. Any number of them share the work."""

import asyncio
import logging
import math
import random
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from app.core import fairness, jobs, logs
from app.core.db import Session, now
from app.core.errors import Unavailable
from app.core.jobs import CHANNEL, JOBS, Claim, Context, Definition, Failed, GiveUp

logger = logging.getLogger(__name__)

SLOTS = 4
"""The maximum number of jobs that one worker runs at the same time: fewer than a process has connections."""
POLL = 6.0
"""Seconds between two polls of the queue, for jobs without a notification: from another process, on SQLite."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""The same while the database is unavailable (backoff)."""
PLANNED_FOR = 3600.0
"""Seconds after which the schedules are checked again, in case the clock was changed or a row was deleted."""
GATHER = 0.005
"""Seconds that a worker with a long queue waits to claim several jobs at once, which saves a quarter of the work."""
GRACE = 5.0
"""Seconds in which a stopped worker finishes its running jobs."""


class Worker:
    """Runs jobs until it is stopped."""

    def __init__(self, context: Context, *, slots: int = SLOTS) -> None:
        self._context, self._db, self._slots = context, context.db, slots
        self._names = [definition.name for definition in JOBS.values() if definition.when(context)]
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._wake, self._stopping, self._plan_at = asyncio.Event(), False, 0.0
        self._more = False

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Run until it is stopped, and its jobs are finished or released."""
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, self._wake.set)
        jobs.WAKERS.add(wake)
        helpers = [asyncio.create_task(self._db.listen(CHANNEL, wake)), asyncio.create_task(self._keep_leases())]
        logs.polled.set(True)
        trouble = FIRST_PAUSE
        while not self._stopping:
            self._wake.clear()
            try:
                pause, trouble = await self._begin(), FIRST_PAUSE
            except Exception as error:  # noqa: BLE001  # the worker must survive any failure
                logger.warning("the queue cannot be read: %s", type(error).__name__)
                pause, trouble = trouble, min(2 * trouble, LONGEST_PAUSE)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause * random.uniform(0.9, 1.1))  # noqa: S311  # jitter
        jobs.WAKERS.discard(wake)
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=GRACE)
            for task in late:
                task.cancel()
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*self._running, *helpers, return_exceptions=True)

    async def _begin(self) -> float:
        """Start due jobs in the free slots. Returns the seconds to wait before the next call."""
        if time.monotonic() >= self._plan_at:
            await self._db.write(jobs.plan, self._names)
            self._plan_at = time.monotonic() + PLANNED_FOR
        if self._more:
            await asyncio.sleep(GATHER)
        room = self._slots - len(self._running)
        if not room:
            return POLL  # or until a job ends
        if not self._more:
            ready, due_at = await self._db.read(jobs.next_due, self._names)
            pause = min((due_at - now()).total_seconds(), POLL) if due_at else POLL
            if not ready and pause > 0:
                return pause
        claimed = await self._db.write(jobs.claim, self._names, room)
        self._more = len(claimed) == room
        for job in claimed:
            task = asyncio.create_task(self._run(job))
            self._running[task] = job
            task.add_done_callback(self._ended)
        return 0 if claimed else POLL

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            logger.warning("the outcome of a job was not stored", exc_info=error)

    async def _run(self, claimed: Claim) -> None:
        definition = JOBS[claimed.name]
        fairness.caller.set(f"job {claimed.name}")
        logs.polled.set(False)
        about = {"name": claimed.name, "job_id": claimed.id, "attempt": claimed.attempts}
        try:
            if claimed.attempts > definition.tries:
                raise GiveUp("Its worker ended before the job did")
            arguments = definition.arguments.validate_python(claimed.arguments)
            async with asyncio.timeout(definition.timeout):
                if definition.is_unit:
                    if not await self._db.write(_unit, claimed, definition, arguments):
                        return  # another worker has it
                else:
                    await definition.function(self._context, **arguments)
        except (Exception, asyncio.CancelledError) as error:  # a failed job must not block others
            if self._stopping and isinstance(error, asyncio.CancelledError):
                await self._db.write(jobs.settle, claimed, status="queued", attempts=claimed.attempts - 1, due_at=now())
                raise
            about["error"] = type(error).__name__
            logger.warning("job failed", exc_info=None if isinstance(error, Failed) else error, extra={"data": about})
            await self._note(claimed, **_failure(claimed, definition, error))
        else:
            if not definition.is_unit:
                await self._note(claimed, status="done", last_error=None)
            logger.info("job done", extra={"data": about})

    async def _note(self, claimed: Claim, **values: Any) -> None:
        """Store the outcome of a job, even if the database is unavailable for a while. Otherwise it would run again."""
        for _ in range(math.ceil(jobs.LEASE.total_seconds())):
            with suppress(Unavailable):
                await self._db.write(jobs.settle, claimed, **values)
                return
            await asyncio.sleep(1)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(jobs.LEASE.total_seconds() / 3)
            try:
                if self._running:
                    await self._db.write(jobs.extend, list(self._running.values()))
            except Exception as error:  # noqa: BLE001  # the next attempt may work
                logger.warning("leases were not extended: %s", type(error).__name__)


def _unit(session: Session, claimed: Claim, definition: Definition, arguments: dict[str, Any]) -> bool:
    is_mine = jobs.settle(session, claimed, "done", last_error=None)  # first, because this locks the job
    if is_mine:
        definition.function(session, **arguments)
    return is_mine


def _failure(claimed: Claim, definition: Definition, error: BaseException) -> dict[str, Any]:
    """The new values of a failed job. Each pause is three times as long as the one before, at most a day (backoff)."""
    wait = definition.backoff * 3 ** min(claimed.attempts - 1, 10) * random.uniform(1, 1.2)  # noqa: S311  # jitter
    text = str(error) if isinstance(error, Failed) else type(error).__name__
    return {
        "status": "dead" if isinstance(error, GiveUp) or claimed.attempts >= definition.tries else "waiting",
        "attempts": min(claimed.attempts, definition.tries),
        "last_error": "".join(character if character.isprintable() else " " for character in text)[:255],
        "due_at": now() + timedelta(seconds=min(wait, 86_400)),
    }
