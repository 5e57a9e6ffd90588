"""Fair queueing: many requests of one caller do not delay other callers."""

import asyncio
from collections import deque
from contextvars import ContextVar

from app.core.errors import AppError, Unavailable

caller: ContextVar[str | None] = ContextVar("caller", default=None)
"""The caller that this task works for: a user, a network, or None for the service itself."""

WAITING = 200
"""The maximum number of units of one caller that wait for their turn in one process."""


class TooManyInFlight(AppError):
    status = 429
    title = "Too Many Requests"
    code = "too_many_in_flight"
    detail = "Too many of your requests are in flight. Wait for their answers."
    headers = {"Retry-After": "2"}  # noqa: RUF012  # never changed


class FairQueue:
    """Grants at most `slots` turns at a time, at most `each` of them to one caller (no such limit for None).

    A free turn is granted at once. Otherwise each caller has a queue, and the queues are served round robin. After
    `patience` seconds, acquire raises TooManyInFlight at the caller's own limit, and Unavailable at the limit of all.
    """

    def __init__(self, slots: float, *, each: int, patience: float) -> None:
        self._free, self._each, self._patience = slots, each, patience
        self._held: dict[str | None, int] = {}
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}  # the next caller first

    async def acquire(self, caller: str | None) -> None:
        if self._may_start(caller):  # so the caller's queue is empty: `release` would have started its first
            self._start(caller)
            return
        queue = self._waiting.setdefault(caller, deque())
        if caller is not None and len(queue) >= WAITING:
            raise TooManyInFlight
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if not turn.cancelled():  # the turn was granted at the same time
                self.release(caller)
            if isinstance(error, TimeoutError):
                raise (TooManyInFlight if self._is_at_limit(caller) else Unavailable) from None
            raise

    def release(self, caller: str | None) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        for following in filter(self._may_start, list(self._waiting)):
            queue = self._waiting.pop(following)
            while queue:
                turn = queue.popleft()
                if not turn.cancelled():
                    turn.set_result(None)
                    self._start(following)
                    if queue:
                        self._waiting[following] = queue  # behind all others
                    return

    def _is_at_limit(self, caller: str | None) -> bool:
        return caller is not None and self._held.get(caller, 0) >= self._each

    def _may_start(self, caller: str | None) -> bool:
        return self._free > 0 and not self._is_at_limit(caller)

    def _start(self, caller: str | None) -> None:
        self._free -= 1
        self._held[caller] = self._held.get(caller, 0) + 1
