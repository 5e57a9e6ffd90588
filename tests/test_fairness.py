"""The fair queue: the order of turns, and refused callers."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from app.core.errors import AppError, Unavailable
from app.core.fairness import WAITING, FairQueue, TooManyInFlight


async def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that has run until its first wait."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_a_caller_at_its_limit_waits_in_order_and_others_do_not_wait() -> None:
    async def scene() -> None:
        queue, served = FairQueue(10, each=2, patience=30), []

        async def ask(name: str) -> None:
            await queue.acquire(name[0])
            served.append(name)

        tasks = [await begun(ask(name)) for name in ("a1", "a2", "a3", "a4", "b1")]
        await settle()
        assert served == ["a1", "a2", "b1"]
        queue.release("a")
        await settle()
        assert served == ["a1", "a2", "b1", "a3"]
        queue.release("a")
        await asyncio.gather(*tasks)
        assert served[-1] == "a4"

    run(scene())


def test_callers_take_turns_however_many_requests_one_of_them_has() -> None:
    async def scene() -> None:
        queue, served = FairQueue(1, each=1, patience=30), []

        async def ask(name: str) -> None:
            await queue.acquire(name[0])
            served.append(name)
            await settle()
            queue.release(name[0])

        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        await asyncio.gather(*(ask(name) for name in names))
        assert served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]

    run(scene())


def test_the_service_itself_is_bound_by_the_slots_alone() -> None:
    async def scene() -> None:
        queue = FairQueue(3, each=1, patience=0.01)
        for _ in range(3):
            await queue.acquire(None)
        with pytest.raises(Unavailable):
            await queue.acquire(None)

    run(scene())


@pytest.mark.parametrize(("slots", "error"), [(2, TooManyInFlight), (1, Unavailable)])
def test_the_error_tells_whether_the_caller_alone_has_too_much_in_flight(slots: int, error: type[AppError]) -> None:
    async def scene() -> None:
        queue = FairQueue(slots, each=1, patience=0.01)
        await queue.acquire("a")
        with pytest.raises(error):
            await queue.acquire("a" if error is TooManyInFlight else "b")

    run(scene())


def test_more_than_may_wait_are_refused_at_once_and_others_are_not() -> None:
    async def scene() -> None:
        queue = FairQueue(2, each=1, patience=30)
        await queue.acquire("a")
        waiting = [await begun(queue.acquire("a")) for _ in range(WAITING)]
        with pytest.raises(TooManyInFlight) as refused:
            await queue.acquire("a")
        assert refused.value.headers == {"Retry-After": "2"}
        await queue.acquire("b")
        for _ in waiting:
            queue.release("a")
            await settle()
        await asyncio.gather(*waiting)

    run(scene())


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_is_lost_or_granted_twice_if_waiters_give_up(seed: int) -> None:
    async def scene() -> None:
        chance, running = random.Random(seed), dict.fromkeys("abc", 0)
        queue = FairQueue(4, each=2, patience=0.005)

        async def ask(caller: str) -> None:
            await queue.acquire(caller)
            running[caller] += 1
            assert running[caller] <= 2
            assert sum(running.values()) <= 4
            try:
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01)))
            finally:
                running[caller] -= 1
                queue.release(caller)

        tasks = []
        for _ in range(500):
            tasks.append(await begun(ask(chance.choice("aabc"))))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            if chance.random() < 0.1:
                await asyncio.sleep(0.002)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        known = (type(None), asyncio.CancelledError, TooManyInFlight, Unavailable)
        assert {type(outcome) for outcome in outcomes} <= set(known)
        for caller in "ab":
            for _ in range(2):
                await queue.acquire(caller)
        with pytest.raises(Unavailable):
            await queue.acquire("c")

    run(scene())
