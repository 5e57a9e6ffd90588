"""The database: units of work on SQLite or PostgreSQL, and the base of every table."""

import asyncio
import itertools
import math
import random
import re
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import quote

import asyncpg
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from pydantic import ConfigDict
from sqlalchemy import Column, ColumnElement, Engine, Table, UniqueConstraint, delete, event, inspect, literal, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Mapper, declared_attr
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import OrderedSet
from sqlmodel import Field, SQLModel, create_engine, select
from sqlmodel import Session as Session  # re-exported for modules without SQL of their own
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.main import default_registry
from uuid_utils.compat import uuid7

from app.core import columns, fairness, migrations, relations
from app.core.errors import AppError, Conflict, QuotaExceeded, Unavailable
from app.core.fairness import FairQueue
from app.core.fields import Described

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=SQLModel)

TIMEOUT = 3.0
"""Seconds that a unit waits for a connection, for a lock, or for the result of one statement."""
TRIES = 3
"""The maximum number of attempts of a unit that the database rolls back."""
LOOP_LIMIT = 0.02
"""Seconds after which a unit on SQLite is interrupted and run again in a thread, because it blocks the event loop."""
SLOW_FOR = 5.0
"""Seconds after such an interruption in which all units of the same caller start in a thread."""
THREADS = 4
LISTEN_AGAIN = (0.5, 30.0)
"""Seconds until a lost connection for LISTEN is opened again: the first delay, and the maximum (backoff)."""
SWEPT = 500
"""The maximum number of outdated rows that one unit deletes."""

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def now() -> datetime:
    return datetime.now(UTC)


class Record(Described, SQLModel):
    """The public fields of every entity. Its table adds `version: int`, which each UPDATE increments."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)  # type: ignore[assignment]  # narrowed

    id: uuid.UUID = Field(default_factory=uuid7, primary_key=True)
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now, sa_column_kwargs={"onupdate": now})

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805  # a declared_attr receives the class
        table: Table = cls.__table__  # type: ignore[attr-defined]  # set before the mapper asks
        return {"version_id_col": table.c.get("version")}


@event.listens_for(Record, "before_insert", propagate=True)
def _not_updated_yet(_mapper: Mapper[Any], _connection: Connection, row: Record) -> None:
    if "updated_at" not in row.model_fields_set:
        row.updated_at = row.created_at


def build(model: type[M], values: Iterable[tuple[Any, Any]]) -> M:
    """A model of values from the database, without validation: `model_construct` of all fields, five times as fast."""
    built = object.__new__(model)
    object.__setattr__(built, "__dict__", dict(values))
    object.__setattr__(built, "__pydantic_fields_set__", set())
    object.__setattr__(built, "__pydantic_extra__", None)
    object.__setattr__(built, "__pydantic_private__", None)
    return built


event.listen(Column, "before_parent_attach", columns.define)
event.listen(Mapper, "before_mapper_configured", relations.load_eagerly)
event.listen(Mapper, "after_mapper_constructed", columns.keep)


@event.listens_for(Mapper, "mapper_configured")
def _load_in_declared_order(mapper: Mapper[Any], _class: type) -> None:
    # Rows are serialised in the order in which attributes were loaded. A set would give each process another order.
    mapper.__dict__["_prop_set"] = OrderedSet(mapper._props.values())


CONSTRAINTS: dict[str, type[AppError]] = {}
"""The error for each constraint name. Each domain adds its own."""


def insert(session: Session, model: type[SQLModel]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT with ON CONFLICT for the dialect of the session."""
    kind = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return kind(model)


def _sweep(session: Session, model: type[SQLModel], outdated: ColumnElement[bool]) -> int:
    key = inspect(model).primary_key
    some = select(*key).where(outdated).limit(SWEPT).with_for_update(skip_locked=True)
    return session.execute(delete(model).where(tuple_(*key).in_(some))).rowcount  # type: ignore[attr-defined,no-any-return]  # a CursorResult


def quota(session: Session, whose: Any, most: int | None) -> None:
    """Refuse the row that was just added if there are now more than `most` rows of `whose` (QuotaExceeded).

    Concurrent units do not see each other's rows. Each of them can exceed the quota by its own row.
    """
    if most is not None and session.execute(select(literal(1)).where(whose).offset(most).limit(1)).first():
        raise QuotaExceeded


class _ReadSession(Session):
    def flush(self, objects: Any = None) -> None:  # noqa: ARG002  # the signature of Session
        if self.new or self.dirty or self.deleted:
            raise RuntimeError("a read unit must not write: its changes would be neither atomic nor rolled back")


class _Running(threading.local):
    until = math.inf
    """When to interrupt the SQLite unit of this thread (monotonic clock)."""


_running = _Running()


class Database:
    """Runs units of work: plain functions that take a Session first and touch nothing else.

    `read` is autocommit. A unit that needs one snapshot for several statements must use `write`. `write` commits before
    it returns, so that a client can rely on the answer. Rows are returned complete and detached. A unit may run several
    times (after a serialisation failure, a deadlock or a lost connection), at most TRIES times. Raises `Unavailable` if
    the database cannot be used or is too slow, the error in CONSTRAINTS for a violated constraint, and the unit's own.

    Callers take turns (see `fairness`). On SQLite a unit runs on the event loop, because most units take less time than
    a switch to a thread. A turn ends in the next iteration of the loop, so that other tasks can run in between.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self._engine = engine = make_engine(url, pool_size=pool_size)
        self._url = url
        self._reader: Engine | AsyncEngine
        self._slow: dict[str | None, float] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqlite")  # started on demand
        self.dialect: Literal["sqlite", "postgresql"]
        if isinstance(engine, AsyncEngine):
            self.dialect = "postgresql"
            self._reader = engine.execution_options(isolation_level="AUTOCOMMIT")
            self._reads = self._writes = FairQueue(pool_size, each=max(1, pool_size - 1), patience=TIMEOUT)
        else:
            self.dialect = "sqlite"
            self._reader = engine.execution_options(onefold_read=True)
            self._reads = FairQueue(math.inf, each=THREADS // 2, patience=TIMEOUT)
            self._writes = FairQueue(1, each=1, patience=TIMEOUT)

    async def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(lambda session: work(session, *args, **kwargs), writes=False)

    async def write(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(lambda session: work(session, *args, **kwargs), writes=True)

    async def _run(self, work: Callable[[Session], T], *, writes: bool) -> T:
        caller, turns = fairness.caller.get(), self._writes if writes else self._reads
        await turns.acquire(caller)
        try:
            return await self._retry(work, writes, caller)
        finally:
            asyncio.get_running_loop().call_soon(turns.release, caller)

    async def _retry(self, work: Callable[[Session], T], writes: bool, caller: str | None) -> T:
        deadline = time.monotonic() + TIMEOUT
        for tries in itertools.count(1):
            try:
                return await self._attempt(work, writes, caller)
            except IntegrityError as error:
                if answer := _broken(error):
                    raise answer from error
                raise
            except (DBAPIError, OSError, PoolTimeout) as error:  # a TimeoutError is an OSError
                match _trouble(error):
                    case "again" if tries < TRIES:
                        pass
                    case "locked" if time.monotonic() < deadline:
                        pass
                    case "outdated" if await self._attempt(migrations.revision, False, caller) != migrations.head():
                        raise Unavailable(migrations.OUTDATED) from error
                    case "outdated" | None:
                        raise
                    case _:
                        raise Unavailable from error
            await asyncio.sleep(random.uniform(0.005, 0.03) * min(tries, 4))  # noqa: S311  # jitter
        raise AssertionError  # for the type checker: the loop never ends

    async def _attempt(self, work: Callable[[Session], T], writes: bool, caller: str | None) -> T:
        engine = self._engine if writes else self._reader
        kind = Session if writes else _ReadSession
        if isinstance(engine, AsyncEngine):
            async with AsyncSession(engine, sync_session_class=kind, expire_on_commit=False) as session:
                return await session.run_sync(_unit, work, writes)  # type: ignore[arg-type]  # the session is one of ours

        def attempt(until: float) -> T:
            with kind(engine, expire_on_commit=False) as session:
                return _unit(session, work, writes, until)

        started = time.monotonic()
        if self._slow.get(caller, started) <= started:
            try:
                return attempt(started + LOOP_LIMIT)
            except DBAPIError as error:
                if _trouble(error) != "slow":
                    raise
            slow_until = time.monotonic() + SLOW_FOR
            self._slow = {caller: slow_until} | {key: until for key, until in self._slow.items() if until > started}
        return await asyncio.get_running_loop().run_in_executor(self._threads, attempt, time.monotonic() + TIMEOUT)

    async def sweep(self, model: type[SQLModel], outdated: ColumnElement[bool]) -> None:
        """Delete all outdated rows, in several units, so that others can run in between."""
        while await self.write(_sweep, model, outdated) == SWEPT:
            pass

    async def listen(self, channel: str, heard: Callable[[], object]) -> None:
        """Call `heard` for notifications of PostgreSQL on this channel, and when one may have been missed.

        Uses a separate connection and runs until it is cancelled. SQLite has no notifications: returns at once.
        """
        if self.dialect == "sqlite":
            return
        pause = LISTEN_AGAIN[0]
        while True:
            connection, lost = None, asyncio.Event()
            try:
                connection = await connector(self._url)()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(channel, lambda *_: heard())
                heard()
                pause = LISTEN_AGAIN[0]
                await lost.wait()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # the listener also polls
            finally:
                if connection:
                    connection.terminate()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
            pause = min(2 * pause, LISTEN_AGAIN[1])

    async def close(self) -> None:
        self._threads.shutdown()  # within TIMEOUT
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()


def _unit(session: Session, work: Callable[[Session], T], writes: bool, until: float = math.inf) -> T:
    _running.until = until
    try:
        result = work(session)
        session.flush()
    finally:
        _running.until = math.inf  # the result of an interrupted COMMIT would be unknown
    if writes:
        try:
            session.commit()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise Unavailable("The connection was lost. It is unknown whether the change was made.") from error
            raise
    return result


def make_engine(url: str, *, pool_size: int = 5, limit: float | None = TIMEOUT) -> Engine | AsyncEngine:
    """An engine for a `sqlite:///`, `postgresql://` or `postgres://` URL. Its errors and logs hide all values."""
    if path := sqlite_file(url):
        engine = create_engine(
            # Not "rwc": a missing file is an error, not an empty database.
            URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}),
            hide_parameters=True,
            connect_args={"isolation_level": None, "check_same_thread": False},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "checkin", _end_sqlite)
        event.listen(engine, "handle_error", _drop_useless)
        _notice_another_file(engine, path)
        return engine
    async_engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connector(url, limit=limit),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=TIMEOUT,
    )
    event.listen(async_engine.sync_engine, "handle_error", _drop_useless)
    return async_engine


def sqlite_file(url: str) -> Path | None:
    """The path of the SQLite database of this URL; None for PostgreSQL."""
    return Path(make_url(url).database or "") if url.startswith("sqlite:") else None


def create_file(url: str) -> None:
    """Create the file of a new SQLite database. The running service never does this: it would hide a lost file."""
    if (path := sqlite_file(url)) and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def connector(url: str, *, limit: float | None = TIMEOUT) -> Callable[[], Awaitable[asyncpg.Connection]]:
    """A function that connects with asyncpg, which parses URLs as libpq does: sslmode, several hosts, sockets.

    The server limits each statement and each wait for a lock to `limit` (seconds). Several hosts share TIMEOUT;
    read-only hosts are skipped, unless `target_session_attrs` is given. Raises ValueError for an invalid URL; its text
    does not quote the URL.
    """
    found = re.fullmatch(r"postgres(?:ql)?://(?:([^:/@]*)(?::([^@]*))?@)?([^@?#]*(?:\?[^#]*)?)", url)
    if not found:
        raise ValueError("must be sqlite:///file, or postgresql://user:password@host/name with %40 for @ in the login")
    user, password, rest = found.groups()
    login = "" if user is None else f"{user}:{quote(password or '', safe='%')}@"
    rest = re.sub(r"(?<=[?&])channel_binding=[^&]*&?", "", rest).rstrip("?&")  # asyncpg does not support it
    dsn = f"postgresql://{login}{rest}"
    nothing: dict[str, Any] = dict.fromkeys(signature(_parse_connect_dsn_and_args).parameters)
    try:
        addresses, _ = _parse_connect_dsn_and_args(**nothing | {"dsn": dsn})
    except (ValueError, LookupError, OSError):  # its text quotes the URL
        raise ValueError("has invalid hosts, ports or options") from None
    hosts = deque((each, 5432) if isinstance(each, str) else each for each in addresses)  # a str is a socket
    if not all(0 < port < 65536 for _, port in hosts):
        raise ValueError("has a port that is out of range")
    must_write = len(hosts) > 1 and "target_session_attrs=" not in rest
    milliseconds = str(int((limit or 0) * 1000))  # 0 is none

    async def connect() -> asyncpg.Connection:
        for _ in range(len(hosts)):  # asyncpg tries all hosts too, but waits for the first one that hangs
            first = hosts[0]
            names, ports = zip(*hosts, strict=True)
            try:
                return await asyncpg.connect(
                    dsn,
                    host=names,
                    port=ports,
                    timeout=TIMEOUT / len(hosts),
                    command_timeout=limit and limit + 1,  # for a server that does not even report the timeout
                    target_session_attrs="read-write" if must_write else None,
                    server_settings={
                        "application_name": "onefold",
                        "statement_timeout": milliseconds,
                        "lock_timeout": milliseconds,
                        "idle_in_transaction_session_timeout": milliseconds,
                    },
                )
            except TimeoutError:
                if hosts[0] is first:  # unless another task has rotated already
                    hosts.rotate(-1)
            except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                raise ConnectionError(type(error).__name__) from error
        raise TimeoutError

    return connect


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in (
        "busy_timeout = 5000",  # first: the change to WAL waits for other starting processes
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "busy_timeout = 20",  # milliseconds: units retry later, without blocking the event loop
    ):
        connection.execute(f"PRAGMA {pragma}")
    # Called every 10,000 steps of a statement, about once per millisecond.
    connection.set_progress_handler(lambda: time.monotonic() > _running.until, 10_000)


def _notice_another_file(engine: Engine, path: Path) -> None:
    """Drop connections to a file that was deleted or replaced: their writes to the old file would be lost."""

    @event.listens_for(engine, "checkout")
    def compare(_connection: sqlite3.Connection, record: ConnectionPoolEntry, _proxy: object) -> None:
        found = path.stat()  # raises OSError if the file was deleted
        if record.info.setdefault("file", (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
            raise InvalidatePoolError


def _drop_useless(context: ExceptionContext) -> None:
    """Drop all connections to a server that has become read-only, or to a damaged file: a new one may work."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) == "25006" or getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_DOWN:
        context.is_disconnect = True


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("onefold_read"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # after a plain BEGIN a concurrent write fails at once


def _end_sqlite(connection: sqlite3.Connection | None, _record: object) -> None:
    # A failed COMMIT leaves the transaction open, with its lock, but SQLAlchemy regards it as ended.
    if connection:
        connection.rollback()


_SQLITE_DOWN = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("PERM", "READONLY", "IOERR", "CORRUPT", "FULL", "CANTOPEN", "PROTOCOL", "NOTADB")
}


def _trouble(error: Exception) -> Literal["again", "locked", "slow", "down", "outdated"] | None:
    """How to treat the error of a unit: retry, wait for a lock, use a thread, answer 503, or (None) report a defect.

    "outdated": a table or column does not exist. This is a defect, unless the schema is not up to date.
    """
    if not isinstance(error, DBAPIError):
        return "down"  # asyncpg reports a refused connection as a bare OSError
    if isinstance(error.orig, sqlite3.Error):
        match getattr(error.orig, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return "locked"
            case sqlite3.SQLITE_INTERRUPT:
                return "slow"
            case code if code in _SQLITE_DOWN:
                return "down"
            case sqlite3.SQLITE_ERROR if re.search("^no such (table|column)|has no column named", str(error.orig)):
                return "outdated"
        return None
    sqlstate: str = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate in ("40001", "40P01"):  # serialization_failure, deadlock_detected
        return "again"
    if isinstance(getattr(error.orig, "__cause__", None), asyncpg.InvalidCachedStatementError):
        return "again"  # a migration has changed the table since the statement was prepared
    if error.connection_invalidated or sqlstate[:2] == "08" or sqlstate in ("57P01", "57P02"):  # lost, or shut down
        return "again"
    if sqlstate in ("42P01", "42703"):  # undefined_table, undefined_column
        return "outdated"
    # cannot_connect_now, query_canceled, lock_not_available, data_corrupted, index_corrupted, and the classes of
    # insufficient resources, failed authorization, unknown database and system errors
    if sqlstate in ("57P03", "57014", "55P03", "XX001", "XX002") or sqlstate[:2] in ("53", "28", "3D", "58"):
        return "down"
    return None


def _broken(error: IntegrityError) -> AppError | None:
    """The error for the constraint that a write violated; None if no domain defines one."""
    cause = getattr(error.orig, "__cause__", None)
    name, foreign = getattr(cause, "constraint_name", None), getattr(cause, "sqlstate", None) == "23503"
    if isinstance(error.orig, sqlite3.Error):
        what = str(error.orig).partition(" failed: ")[2]
        match error.orig.sqlite_errorcode:
            case sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                name = _unique_constraint(what)
            case sqlite3.SQLITE_CONSTRAINT_CHECK:
                name = what
            case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                foreign = True
    if name in CONSTRAINTS:
        return CONSTRAINTS[name]()
    return Conflict("The referenced resource does not exist") if foreign else None


def _unique_constraint(what: str) -> str | None:
    """The name of a constraint that SQLite reports by its columns ("users.email")."""
    for table in (mapper.local_table for mapper in default_registry.mappers if isinstance(mapper.local_table, Table)):
        uniques = [(each.name, each.columns) for each in table.constraints if isinstance(each, UniqueConstraint)]
        uniques += [(index.name, index.columns) for index in table.indexes if index.unique]
        for name, unique in uniques:
            if what == ", ".join(f"{table.name}.{column.name}" for column in unique):
                return str(name)
    return None
