"""Throttling (brute-force protection). Attempts are counted in the database, for all replicas and across restarts."""

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
    """Reports the exceeded limit and when it ends (RFC 6585 section 4, draft-ietf-httpapi-ratelimit-headers)."""

    status = 429
    title = "Too Many Requests"
    code = "too_many_requests"
    detail = "Too many attempts. Try again later."

    def __init__(self, limit: "Limit", seconds: int) -> None:
        super().__init__()
        self.headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"{limit.by}";q={limit.most};w={limit.seconds}',
            "RateLimit": f'"{limit.by}";r=0;t={seconds}',
        }


class Bucket(SQLModel, table=True):
    """Attempts that are counted together until `ends_at`. With count 0: the address is known for an account."""

    __tablename__ = "throttle_buckets"

    key: str = Field(primary_key=True, max_length=32)
    count: int
    ends_at: datetime = Field(index=True)


@dataclass(frozen=True)
class Limit:
    """A rate limit: at most `most` attempts in `seconds`, counted per value of `by`."""

    by: str
    most: int
    seconds: int


PAIR = Limit("account-and-address", 10, 5 * 60)
ADDRESS = Limit("address", 100, 5 * 60)
ACCOUNT = Limit("account", 100, 24 * 60 * 60)
MESSAGE = Limit("account-messages", 20, 60 * 60)
"""Limit for messages to an account. An earlier link stays valid longer than this limit lasts."""
KNOWN = timedelta(days=30)
"""How long ACCOUNT does not apply to an address after a correct attempt, so that strangers cannot lock users out."""


class Attempt:
    """One attempt at an action on an account, from a network address.

    `account` is the submitted value, so that unknown accounts behave alike (account enumeration). The keys of the
    buckets are pseudonyms: without the secret key, accounts and addresses cannot be read from the table, nor guessed.
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
        """Count the attempt and commit, before any other work. Raises TooManyRequests if a limit is exceeded."""
        if self._enabled and (exceeded := await db.write(self._count)):
            key, ends_at = exceeded
            limit = self._limits[key]
            event("throttled", None, level=logging.WARNING, action=self._action, by=limit.by, address=self._address)
            raise TooManyRequests(limit, max(1, math.ceil((ends_at - now()).total_seconds())))

    def forgive(self, session: Session) -> None:
        """After a correct attempt: delete the counters of the account, and mark the address as known for it."""
        own = _locked(session, [key for key, limit in self._limits.items() if limit != ADDRESS])
        session.execute(delete(Bucket).where(own))
        known = insert(session, Bucket).values(key=self._known, count=0, ends_at=now() + KNOWN)
        session.execute(known.on_conflict_do_update(index_elements=["key"], set_={"ends_at": known.excluded.ends_at}))

    def _count(self, session: Session) -> tuple[str, datetime] | None:
        """The exceeded limit that ends last, with its end; None if no limit is exceeded."""
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
        # A refused attempt does not count against other limits. Otherwise one address could use up those of an account.
        self.take_back(session, but=exceeded)
        return max(exceeded.items(), key=lambda each: each[1])

    def take_back(self, session: Session, *, but: Collection[str] = ()) -> None:
        """Uncount this attempt, whose password was not checked, in all buckets except `but`."""
        these = _locked(session, self._limits.keys() - but)
        # New buckets are deleted. Otherwise a flood of invented accounts would fill the table.
        session.execute(delete(Bucket).where(these, col(Bucket.count) == 1))
        session.execute(update(Bucket).where(these).values(count=col(Bucket.count) - 1))


def _locked(session: Session, keys: Collection[str]) -> ColumnElement[bool]:
    """These buckets, locked in the order in which attempts are counted, so that there is no deadlock."""
    these = col(Bucket.key).in_(keys)
    session.exec(select(Bucket.key).where(these).order_by(col(Bucket.key)).with_for_update()).all()
    return these


@jobs.every(minutes=10)
async def sweep_buckets(context: jobs.Context) -> None:
    await context.db.sweep(Bucket, col(Bucket.ends_at) <= now())


def network(address: str) -> str:
    """The network that one attacker controls: an IPv4 address, or an IPv6 /64 network."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), 64), strict=False))
