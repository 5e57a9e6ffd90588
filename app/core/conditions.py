"""Conditional requests (RFC 9110 section 13): optimistic locking by the entity tag of a resource."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import Table
from sqlmodel import Session

from app.core.db import Record
from app.core.errors import AppError

R = TypeVar("R", bound=Record)

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class PreconditionFailed(AppError):
    status = 412
    title = "Precondition Failed"
    code = "precondition_failed"
    detail = "The resource has changed. Read it again."


class NotModified(Exception):
    """The client has this state already. This is an answer, not an error."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


def etag(resource: BaseModel) -> str:
    """The strong entity tag of a resource.

    For a row, it is its version, or a digest of it, its null references and the rows in its relationships, which
    must be loaded. For a model without a version, it is a digest of its content.
    """
    version = getattr(resource, "version", None)
    if version is None:
        state = json.dumps(resource.model_dump(mode="json"), sort_keys=True)
    else:
        names = resource.__sqlmodel_relationships__  # type: ignore[attr-defined]  # only an SQLModel has a version
        state = _with_children(resource, [(name, getattr(resource, name)) for name in names])
    return f'"{state if state == str(version) else hashlib.sha256(state.encode()).hexdigest()[:32]}"'


def _with_children(row: Any, relationships: list[tuple[str, Any]]) -> str:
    tags = []
    for name, shown in relationships:
        for child in shown if isinstance(shown, list) else [shown] if shown else ():
            loaded = [each for each in vars(child).items() if each[0] in child.__sqlmodel_relationships__]
            tags.append(f"{name} {child.id} {_with_children(child, loaded)}")
    version = getattr(row, "version", None) or row.updated_at.isoformat()
    model: type = type(row)
    for name in _set_null(model):
        if getattr(row, name) is None:
            version = f"{version}-{name}"
    return f"{version}-{sorted(tags)}" if tags else str(version)


@cache
def _set_null(model: type) -> list[str]:
    """The references that become null when their row is deleted: the database does this without a new version."""
    table: Table | None = getattr(model, "__table__", None)
    keys = () if table is None else table.foreign_keys
    return [key.parent.name for key in keys if key.ondelete == "SET NULL"]


@dataclass(frozen=True)
class Conditions:
    """The headers `If-Match` and `If-None-Match` of a request; None if absent."""

    if_match: str | None = None
    if_none_match: str | None = None

    def check(self, current: str, *, reading: bool = False) -> None:
        """Refuse a request whose conditions do not match the current tag (PreconditionFailed).

        When reading, a state that the client already has raises NotModified.
        """
        if self.if_match is not None and not _names(self.if_match, current, weak=False):
            raise PreconditionFailed
        if self.if_none_match is not None and _names(self.if_none_match, current, weak=True):
            raise NotModified(current) if reading else PreconditionFailed

    def check_row(self, _session: Session, row: Record) -> None:
        """The same for a row that the unit has locked to change it."""
        self.check(etag(row))

    def check_as(self, view: Callable[[Session, R], BaseModel]) -> Callable[[Session, R], None]:
        """The same for a resource that is a view of its row."""

        def check(session: Session, row: R) -> None:
            if self != ANY:
                self.check(etag(view(session, row)))

        return check


ANY = Conditions()


def _names(header: str, current: str, *, weak: bool) -> bool:
    """Whether the header is `*` or lists the current tag. Weak tags count only in a weak comparison."""
    if header.strip() == "*":
        return True
    return any(tag == current and (weak or not prefix) for prefix, tag in _TAG.findall(header))
