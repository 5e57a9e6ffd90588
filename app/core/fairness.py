"""Fair queueing: a caller with many requests in flight waits behind their own, and holds up nobody else."""

import asyncio
from collections import deque
from contextvars import ContextVar

from app.core.errors import AppError, Unavailable

caller: ContextVar[str | None] = ContextVar("caller", default=None)
"""For whom this task works: a user, a network, or None for the service itself."""

WAITING = 200
"""How many units of one caller may wait for their turn in one process."""


class TooManyInFlight(AppError):
    status = 429
    title = "Too Many Requests"
    code = "too_many_in_flight"
    detail = "Too many of your requests are in flight: wait until some are answered"
    headers = {"Retry-After": "2"}  # noqa: RUF012  # never changed


class FairQueue:
    """Hands out up to `slots` turns at a time, and up to `each` of them to one caller (but None has no such limit).

    Turns that are free are taken at once. Else each caller waits in order, and the callers take turns (round robin),
    for `patience` seconds at most: then the caller's own limit raises TooManyInFlight, and that of all Unavailable.
    """

    def __init__(self, slots: float, *, each: int, patience: float) -> None:
        self._free, self._each, self._patience = slots, each, patience
        self._held: dict[str | None, int] = {}
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}  # the next caller first

    async def acquire(self, caller: str | None) -> None:
        if self._may_start(caller):  # and so none of theirs waits: `release` would have started it
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
            if not turn.cancelled():  # it was granted in the same moment
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
