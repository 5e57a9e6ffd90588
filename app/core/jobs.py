"""Jobs: queued in a transaction (transactional outbox), run by a worker after its commit. No job is lost in a crash."""

import inspect
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, NotRequired, TypeVar, get_type_hints, overload
from zoneinfo import ZoneInfo

from cronsim import CronSim
from pydantic import TypeAdapter, ValidationError, with_config
from sqlalchemy import JSON, Index, String, UniqueConstraint, and_, bindparam, delete, event, func, update
from sqlalchemy import select as select_columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, col
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12
from uuid_utils.compat import uuid7

from app.core.db import Database, Record, now
from app.core.fields import Line

F = TypeVar("F", bound=Callable[..., Any])

CHANNEL = "onefold_jobs"
"""The channel on which PostgreSQL notifies workers of queued jobs."""
LEASE = timedelta(minutes=1)
"""How long a worker owns a job, unless it extends the lease."""
KEPT: dict[str, timedelta] = {"done": timedelta(days=1), "dead": timedelta(days=30)}
"""How long ended jobs are kept."""
_DUE_AT_ONCE = 100
_LOCK = 0x6A6F6273  # "jobs", the key of the advisory lock

Status = Literal["waiting", "queued", "running", "done", "dead"]


class Failed(Exception):
    """Raised by a job for a temporary failure, to be retried. Superusers see the text: it must contain no secrets."""


class GiveUp(Failed):
    """Raised by a job for a permanent failure: it becomes dead without a retry."""


class JobPublic(Record):
    name: Line = Field(max_length=64)
    status: Status = Field(default="queued", sa_type=String(7))
    priority: int = Field(default=0, description="Lower numbers run first")
    attempts: int = Field(default=0, description="The number of attempts so far")
    due_at: datetime = Field(default_factory=now, description="When its wait, or the worker's lease, ends")
    occurrence: datetime | None = Field(default=None, description="The time in its schedule")
    last_error: Line | None = Field(default=None, max_length=255)
    arguments: dict[str, Any] | None = Field(
        default_factory=dict, sa_type=JSON, description="Shown only if the job allows it"
    )


class Job(JobPublic, table=True):
    """A `queued` job may start at any time. Only for `waiting` and `running` jobs the time matters."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("name", "key"),
        UniqueConstraint("name", "occurrence"),
        Index(None, "status", "priority", "id"),
        Index(None, "status", "due_at"),
        Index(None, "created_at", "id"),
    )

    key: str | None = Field(default=None, max_length=255)


@dataclass(frozen=True)
class Context:
    """The services that a coroutine can use."""

    db: Database


@dataclass(frozen=True)
class Definition:
    """A job. Its name and the fields with a default are the options of its decorator."""

    name: str
    """The name in the table. Keep it when the function is renamed or moved."""
    function: Callable[..., Any]
    arguments: TypeAdapter[dict[str, Any]]
    is_unit: bool
    following: Callable[[datetime], datetime] | None
    """Returns the next time of its schedule after a given time."""
    tries: int = 8
    backoff: float = 30
    """Seconds until the first retry. Each further pause is three times as long (exponential backoff)."""
    timeout: float = 60
    """The maximum seconds of one attempt."""
    limit: int | None = None
    """The maximum number that run at the same time, in all workers together."""
    priority: int = 0
    show_arguments: bool = False
    """Whether superusers see the arguments."""
    when: Callable[[Any], bool] = lambda _context: True
    """Which workers run it, by their context."""
    after: Callable[..., None] | None = None
    """Called as `after(session, job, **arguments)`, in the transaction that stores the outcome."""


JOBS: dict[str, Definition] = {}
"""Every job of this process, by name."""
_names: dict[Callable[..., Any], str] = {}


@overload
def job(function: F, /) -> F: ...
@overload
def job(**options: Any) -> Callable[[F], F]: ...
def job(function: Any = None, /, **options: Any) -> Any:
    """Turn a function into a job with typed keyword arguments.

    `def resize(session: Session, *, photo_id: UUID)` is a unit of work. Its changes and its status are committed
    together, so it takes effect exactly once. `async def` receives a Context and runs at least once: it runs again
    after a crash, so it must be idempotent.
    """
    return _define(function, options) if function else lambda function: _define(function, options)


def every(*, days: float = 0, hours: float = 0, minutes: float = 0, **options: Any) -> Callable[[F], F]:
    """Turn a function into a job that runs at whole multiples of an interval since 1970 (UTC)."""
    interval = timedelta(days=days, hours=hours, minutes=minutes)
    if interval <= timedelta(0):
        raise ValueError("an interval must be positive")
    epoch = datetime.fromtimestamp(0, UTC)
    return _scheduled(lambda after: after + interval - (after - epoch) % interval, options)


def cron(expression: str, timezone: str = "UTC", **options: Any) -> Callable[[F], F]:
    """Turn a function into a job that runs at the times of a cron expression (five fields), like Debian's cron.

    A time that daylight saving skips is run right afterwards. A time that occurs twice runs once; with `*`, twice.
    """
    zone = ZoneInfo(timezone)

    def following(after: datetime) -> datetime:
        return next(CronSim(expression, after.astimezone(zone))).astimezone(UTC)

    following(now())  # an invalid expression is refused here
    return _scheduled(following, options)


def _scheduled(following: Callable[[datetime], datetime], options: Any) -> Callable[[F], F]:
    return lambda function: _define(function, {"limit": 1} | options, following)


def _define(function: F, options: Any, following: Callable[[datetime], datetime] | None = None) -> F:
    name = options.pop("name", function.__name__)
    _first, *parameters = inspect.signature(function).parameters.values()
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for each in parameters:
        is_option, is_required = each.name in ("key", "run_at", "priority"), each.default is each.empty
        if each.kind != each.KEYWORD_ONLY or each.name not in hints or is_option:
            raise TypeError(f"job {name}: {each.name} must be keyword-only, have a type, and not be named as an option")
        if is_required and following:
            raise TypeError(f"job {name}: {each.name} needs a default, because a schedule gives no arguments")
        fields[each.name] = hints[each.name] if is_required else NotRequired[hints[each.name]]
    if name in JOBS:
        raise ValueError(f"job {name}: there are two of this name")
    shape: Any = with_config(extra="forbid")(TypedDict(name, fields))  # type: ignore[operator]  # a name that varies
    is_unit = not inspect.iscoroutinefunction(function)
    JOBS[name] = Definition(name, function, TypeAdapter(shape), is_unit, following, **options)
    _names[function] = name
    return function


def queue(
    session: Session,
    job: Callable[..., Any] | str,
    /,
    *,
    key: str | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    **arguments: Any,
) -> uuid.UUID | None:
    """Run a job after the commit of this transaction, or at `run_at`. Returns its id.

    If a job with the same `key` has not started yet, nothing is queued and None is returned. Raises LookupError for an
    unknown job, and ValidationError for invalid arguments.
    """
    definition = JOBS[_names.get(job, "") if callable(job) else job]
    stored = definition.arguments.dump_python(definition.arguments.validate_python(arguments), mode="json")
    return _insert(session, definition, run_at, key=key, priority=priority, arguments=stored)


def _insert(
    session: Session, definition: Definition, run_at: datetime | None, *, priority: int | None = None, **values: Any
) -> uuid.UUID | None:
    moment = now()
    waits = run_at is not None and run_at > moment
    new = {
        "id": uuid7(),
        "created_at": moment,
        "updated_at": moment,
        "name": definition.name,
        "status": "waiting" if waits else "queued",
        "priority": definition.priority if priority is None else priority,
        "attempts": 0,
        "due_at": run_at if waits else moment,
    }
    row = session.connection().execute(_INSERT[_dialect(session)], new | values).first()
    _wake_after_commit(session)
    return row[0] if row else None


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


_NOTIFY = func.pg_notify(CHANNEL, "")
# A single statement also notifies, because a request waits for each statement. They are built once, to save time.
_INSERT = {
    "sqlite": sqlite.insert(Job).on_conflict_do_nothing().returning(col(Job.id)),
    "postgresql": postgresql.insert(Job).on_conflict_do_nothing().returning(col(Job.id), _NOTIFY),
}

WAKERS: set[Callable[[], object]] = set()
"""Called when a job may have been queued by this process, in any thread."""


def wake(session: Session) -> None:
    """Make the workers look for jobs after the commit of this transaction."""
    if _dialect(session) == "postgresql":
        session.execute(select_columns(_NOTIFY))
    _wake_after_commit(session)


def _wake_after_commit(session: Session) -> None:
    def committed(_session: Session) -> None:
        for each in list(WAKERS):
            each()

    if session.info.setdefault(CHANNEL, committed) is committed:  # the first of this transaction
        event.listen(session, "after_commit", committed, once=True)


def plan(session: Session, names: Collection[str], *, after: datetime | None = None) -> None:
    """Queue the next occurrence of those jobs that have a schedule. An existing one stays."""
    for definition in map(JOBS.__getitem__, names):
        if definition.following:
            occurrence = definition.following(max(after or now(), now()))
            if _insert(session, definition, occurrence, occurrence=occurrence, arguments={}):
                # Occurrences that were planned for later are obsolete: the schedule or the clock has changed.
                later = and_(col(Job.name) == definition.name, col(Job.occurrence) > occurrence)
                session.execute(delete(Job).where(later, col(Job.status) == "waiting", col(Job.attempts) == 0))


class Claim(NamedTuple):
    """A job that a worker holds."""

    id: uuid.UUID
    name: str
    attempts: int
    occurrence: datetime | None
    arguments: Any


_NAMED = col(Job.name).in_(bindparam("names", expanding=True))
_QUEUED = and_(col(Job.status) == "queued", _NAMED)
_LATER = col(Job.status).in_(("waiting", "running"))
_NEXT_DUE = select_columns(
    select_columns(col(Job.id)).where(_QUEUED).limit(1).exists(),
    *(
        select_columns(func.min(Job.due_at)).where(col(Job.status) == status).scalar_subquery()
        for status in ("waiting", "running")
    ),
)
_DUE = select_columns(col(Job.id)).where(_LATER, col(Job.due_at) <= bindparam("moment")).order_by(col(Job.due_at))
_PROMOTE = (
    update(Job)
    .where(col(Job.id).in_(_DUE.limit(_DUE_AT_ONCE).with_for_update(skip_locked=True)))
    .values(status="queued")
)
_FIRST = (
    select_columns(col(Job.id), col(Job.name))
    .where(_QUEUED)
    .order_by(col(Job.priority), col(Job.id))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(Job)
    .where(col(Job.id).in_(bindparam("ids", expanding=True)))
    .values(status="running", attempts=col(Job.attempts) + 1, due_at=bindparam("until"), key=None)
    .returning(*(getattr(Job, name) for name in Claim._fields))
)
# A worker still holds a job if the attempt is the same, because every claim is a new attempt.
_HELD = update(Job).where(
    col(Job.id) == bindparam("held_id"), col(Job.attempts) == bindparam("attempt"), col(Job.status) == "running"
)


def next_due(session: Session, names: Collection[str]) -> tuple[bool, datetime | None]:
    """Whether one of these jobs may start, and when to look again."""
    is_ready, *due_at = session.connection().execute(_NEXT_DUE, {"names": list(names)}).one()
    return is_ready, min(filter(None, due_at), default=None)


def claim(session: Session, names: Collection[str], most: int) -> Sequence[Claim]:
    """Claim at most `most` of these jobs. No other worker gets them before the lease ends."""
    moment, connection = now(), session.connection()
    connection.execute(_PROMOTE, {"moment": moment})
    found = _first(session, names, most)
    if any(JOBS[name].limit for _, name in found):
        found = _within_limits(session, names, most)
    if not found:
        return []
    ids = [job_id for job_id, _ in found]
    rows = connection.execute(_CLAIM, {"ids": ids, "until": moment + LEASE})
    claims = sorted((Claim(*row) for row in rows), key=lambda claimed: ids.index(claimed.id))
    for claimed in claims:
        if claimed.occurrence:
            plan(session, [claimed.name], after=claimed.occurrence)
    return claims


def _first(session: Session, names: Collection[str], most: int) -> Sequence[Any]:
    return session.connection().execute(_FIRST, {"names": list(names), "most": most}).all()


def _within_limits(session: Session, names: Collection[str], most: int) -> Sequence[Any]:
    """The first jobs whose names are below their `limit` of running jobs."""
    if _dialect(session) == "postgresql":  # SQLite has a single writer
        session.execute(select_columns(func.pg_advisory_xact_lock(_LOCK)))
    room = {name: JOBS[name].limit or most for name in names}
    running = select_columns(col(Job.name), func.count()).where(col(Job.status) == "running", col(Job.name).in_(room))
    for name, many in session.execute(running.group_by(col(Job.name))):
        room[name] -= many if JOBS[name].limit else 0
    found = []
    for each in _first(session, [name for name in names if room[name] > 0], most):
        room[each.name] -= 1
        if room[each.name] >= 0:
            found.append(each)
    return found


def settle(session: Session, claimed: Claim, /, status: Status, **values: Any) -> bool:
    """Store the outcome of a job, unless another worker has claimed it meanwhile."""
    change = _HELD.values(status=status, **values)
    if JOBS[claimed.name].after is None:
        return session.connection().execute(change, _held(claimed)).rowcount == 1
    job = session.scalars(change.returning(Job), _held(claimed)).first()
    if job:
        follow_up(session, job)
    return job is not None


def extend(session: Session, claimed: Collection[Claim]) -> None:
    """Extend the leases of these jobs."""
    for each in claimed:
        session.connection().execute(_HELD.values(due_at=now() + LEASE), _held(each))


def _held(claimed: Claim) -> dict[str, Any]:
    return {"held_id": claimed.id, "attempt": claimed.attempts}


def follow_up(session: Session, job: Job) -> None:
    """Call the `after` function of a job after a change of its status."""
    definition = JOBS.get(job.name)
    if definition and definition.after:
        try:
            arguments = definition.arguments.validate_python(job.arguments)
        except ValidationError:  # the job is from another release
            return
        definition.after(session, job, **arguments)


class Depth(NamedTuple):
    name: str
    status: str
    many: int
    oldest: datetime
    """When the first of them was due."""


def depth(session: Session) -> list[Depth]:
    """The number of unfinished jobs by name and status, and the age of the oldest one: for metrics."""
    groups = select_columns(col(Job.name), col(Job.status), func.count(), func.min(Job.due_at))
    rows = session.execute(groups.where(col(Job.status) != "done").group_by(col(Job.name), col(Job.status)))
    return [Depth(*row) for row in rows]


@every(hours=1)
async def sweep_jobs(context: Context) -> None:
    for status, kept in KEPT.items():
        await context.db.sweep(Job, and_(col(Job.status) == status, col(Job.updated_at) < now() - kept))
