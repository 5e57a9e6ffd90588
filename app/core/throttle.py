"""Throttling: how often something may be tried, counted in the database for all replicas and restarts together."""

import ipaddress
import json
import logging
import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, delete, update
from sqlmodel import Field, Session, SQLModel, col, select

from app.core import jobs
from app.core.db import Database, insert, now
from app.core.errors import AppError
from app.core.logs import event
from app.core.security import pseudonym


class TooManyRequests(AppError):
    """Tells the limit that was met, and when it ends (RFC 6585 section 4, draft-ietf-httpapi-ratelimit-headers)."""

    status = 429
    title = "Too Many Requests"
    code = "too_many_requests"
    detail = "Too many attempts: try again later"

    def __init__(self, limit: "Limit", seconds: int) -> None:
        super().__init__()
        self.headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{limit.by}";q={limit.most};w={limit.seconds}',
            "RateLimit": f'"{limit.by}";r=0;t={seconds}',
        }


class Bucket(SQLModel, table=True):
    """Attempts that are counted together until `ends_at`, or none: until then an account is known at an address."""

    __tablename__ = "throttle_buckets"

    key: str = Field(primary_key=True, max_length=32)
    count: int
    ends_at: datetime = Field(index=True)


@dataclass(frozen=True)
class Limit:
    """At most so many attempts in so many seconds, of all those that have alike what it goes `by`."""

    by: str
    most: int
    seconds: int


PAIR = Limit("account-and-address", 10, 5 * 60)
ADDRESS = Limit("address", 100, 5 * 60)
ACCOUNT = Limit("account", 100, 24 * 60 * 60)
MESSAGE = Limit("account-messages", 20, 60 * 60)
"""For what sends mail to the account: a link that was sent before the limit was met outlives it."""
KNOWN = timedelta(days=30)
"""For how long an address from which an attempt was right is free of ACCOUNT, so that strangers lock nobody out."""


class Attempt:
    """One attempt at an action that could be guessed right or abused, on an account, from a network address.

    `account` is what was submitted, so that one which does not exist behaves alike. The keys of the buckets are
    pseudonyms: neither accounts nor addresses can be read from the table, nor guessed without the secret key.
    """

    def __init__(
        self, secret: str, action: str, account: str, address: str, limits: tuple[Limit, ...], *, enabled: bool = True
    ) -> None:
        self._action, self._address, self._enabled = action, address, enabled

        def key(*parts: str) -> str:
            return pseudonym(json.dumps(parts), key=secret)

        origin = network(address)
        whose = {PAIR: (account, origin), ADDRESS: ("", origin), ACCOUNT: (account, ""), MESSAGE: (account, "")}
        self._limits = {key(action, limit.by, *whose[limit]): limit for limit in limits}
        self._known = key("known", account, origin)

    async def count(self, db: Database) -> None:
        """Count it, for good, before anything else is done. Raises TooManyRequests where a limit is exceeded."""
        if self._enabled and (exceeded := await db.write(self._count)):
            key, ends_at = exceeded
            limit = self._limits[key]
            event("throttled", None, level=logging.WARNING, action=self._action, by=limit.by, address=self._address)
            raise TooManyRequests(limit, max(1, math.ceil((ends_at - now()).total_seconds())))

    def forgive(self, session: Session) -> None:
        """Forget the attempts on this account, of which the last one was right, and know it at this address."""
        own = _locked(session, [key for key, limit in self._limits.items() if limit != ADDRESS])
        session.execute(delete(Bucket).where(own))
        known = insert(session, Bucket).values(key=self._known, count=0, ends_at=now() + KNOWN)
        session.execute(known.on_conflict_do_update(index_elements=["key"], set_={"ends_at": known.excluded.ends_at}))

    def _count(self, session: Session) -> tuple[str, datetime] | None:
        """Of the limits that are exceeded, the one that lasts longest, with its end."""
        moment = now()
        rows = [
            {"key": key, "count": 1, "ends_at": moment + timedelta(seconds=limit.seconds)}
            for key, limit in sorted(self._limits.items())
        ]
        new = insert(session, Bucket).values(rows)
        over = col(Bucket.ends_at) <= moment
        upsert = new.on_conflict_do_update(
            index_elements=["key"],
            set_={
                "count": case((over, 1), else_=col(Bucket.count) + 1),
                "ends_at": case((over, new.excluded.ends_at), else_=col(Bucket.ends_at)),
            },
        ).returning(col(Bucket.key), col(Bucket.count), col(Bucket.ends_at))
        counted = session.execute(upsert).all()
        exceeded = {key: ends_at for key, count, ends_at in counted if count > self._limits[key].most}
        known = session.get(Bucket, self._known) if exceeded else None
        if known and known.ends_at > moment:
            exceeded = {key: ends_at for key, ends_at in exceeded.items() if self._limits[key] != ACCOUNT}
        if not exceeded:
            return None
        # What is refused counts no further: else a single address could use up the limit of an account everywhere.
        self.take_back(session, but=exceeded)
        return max(exceeded.items(), key=lambda each: each[1])

    def take_back(self, session: Session, *, but: Collection[str] = ()) -> None:
        """Forget this attempt, which was not looked at, except in some buckets."""
        these = _locked(session, self._limits.keys() - but)
        # What is new is removed: else a flood of invented accounts would fill the table.
        session.execute(delete(Bucket).where(these, col(Bucket.count) == 1))
        session.execute(update(Bucket).where(these).values(count=col(Bucket.count) - 1))


def _locked(session: Session, keys: Collection[str]) -> ColumnElement[bool]:
    """These buckets, locked in the order in which they are counted, so that nobody waits in a circle."""
    these = col(Bucket.key).in_(keys)
    session.exec(select(Bucket.key).where(these).order_by(col(Bucket.key)).with_for_update()).all()
    return these


@jobs.every(minutes=10)
async def sweep_buckets(context: jobs.Context) -> None:
    await context.db.sweep(Bucket, col(Bucket.ends_at) <= now())


def network(address: str) -> str:
    """What one attacker has of addresses: one of IPv4, 2**64 of IPv6 (a /64 network)."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), 64), strict=False))
