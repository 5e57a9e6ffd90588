"""Concurrent attempts: the limits are the same as for sequential ones."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2

from app.users import User
from tests.api.test_auth import log_in
from tests.api.test_throttle import WRONG, forget
from tests.conftest import client_at
from tests.service import Service


def test_of_forty_guesses_at_once_ten_are_looked_at(
    client: httpx2.Client, ada: User, verifications: list[bool]
) -> None:
    with ThreadPoolExecutor(40) as crowd:
        answers = crowd.map(lambda _: log_in(client, ada.email, WRONG).status_code, range(40))
        assert Counter(answers) == {401: 10, 429: 30}
    assert verifications == [False] * 10


def test_replicas_count_together_and_exactly(serve: Callable[..., Service]) -> None:
    replicas = [client_at(serve().url) for _ in range(2)]

    def attempts(number: int) -> list[int]:
        return [
            forget(
                replicas[each % 2], f"{each // 2 % 2}@example.com", **{"X-Forwarded-For": f"192.0.2.{each // 4 % 2}"}
            )
            for each in range(number, number + 16)
        ]

    with replicas[0], replicas[1], ThreadPoolExecutor(8) as crowd:
        answers = Counter(status for statuses in crowd.map(attempts, range(8)) for status in statuses)
    assert answers == {202: 4 * 10, 429: 8 * 16 - 4 * 10}


def test_right_passwords_at_once_do_not_get_in_each_others_way(client: httpx2.Client, ada: User) -> None:
    def log_in_thrice(_: int) -> list[int]:
        return [log_in(client, ada.email).status_code for _ in range(3)]

    with ThreadPoolExecutor(8) as crowd:
        assert list(crowd.map(log_in_thrice, range(8))) == [[200] * 3] * 8
