"""Idempotency keys: a repeated POST is carried out once and gets the same answer."""

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import JSON, and_, delete
from sqlmodel import Field, Session, SQLModel, col, select

from app.core import jobs
from app.core.db import insert, now, quota
from app.core.errors import AppError

LIFETIME = timedelta(hours=24)
MOST = 10_000
"""The maximum number of keys of a user in that time. To delete them earlier would break the contract."""


class IdempotencyKeyReused(AppError):
    status = 422
    title = "Unprocessable Content"
    code = "idempotency_key_reused"
    detail = "This Idempotency-Key was used for another request"


class Answer(SQLModel):
    """A stored answer."""

    status: int
    headers: dict[str, str] = Field(sa_type=JSON)
    body: bytes


class IdempotencyKey(Answer, table=True):
    __tablename__ = "idempotency_keys"

    user_id: uuid.UUID = Field(primary_key=True, foreign_key="users.id", ondelete="CASCADE")
    key: str = Field(primary_key=True, max_length=255)
    fingerprint: str = Field(max_length=64)
    created_at: datetime = Field(index=True)


def once(
    session: Session, user_id: uuid.UUID, key: str, fingerprint: str, answer: Callable[[Session], Answer]
) -> Answer:
    """The answer to a user's request with this key: a new one, or the one that was stored at most LIFETIME ago.

    The key is written in the transaction of the work: both are committed, or neither. Concurrent requests wait for the
    first one. Raises IdempotencyKeyReused if the key belongs to a request with another fingerprint, and QuotaExceeded
    for a new key of a user who has used MOST.
    """
    this = (IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
    too_old = col(IdempotencyKey.created_at) < now() - LIFETIME
    session.execute(delete(IdempotencyKey).where(*this, too_old))  # type: ignore[arg-type]  # SQLModel types columns as values
    values = {"user_id": user_id, "key": key, "fingerprint": fingerprint, "created_at": now()}
    claim = insert(session, IdempotencyKey).values(**values, status=0, headers={}, body=b"").on_conflict_do_nothing()
    claimed = session.execute(claim).rowcount == 1  # type: ignore[attr-defined]  # a CursorResult
    row = session.exec(select(IdempotencyKey).where(*this)).one()
    if not claimed:
        if row.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return row
    quota(session, and_(this[0], ~too_old), MOST)  # type: ignore[arg-type]
    row.sqlmodel_update(answer(session).model_dump())
    return row


@jobs.every(hours=1)
async def sweep_keys(context: jobs.Context) -> None:
    await context.db.sweep(IdempotencyKey, col(IdempotencyKey.created_at) < now() - LIFETIME)
