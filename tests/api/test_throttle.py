"""Throttling: limits for logins and other actions that can be guessed or abused."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import time_machine
from pydantic import SecretStr
from sqlmodel import select

from app.core import throttle
from app.core.throttle import ACCOUNT, ADDRESS, PAIR, Attempt, Bucket, TooManyRequests
from app.users import User
from tests.api.test_auth import log_in
from tests.conftest import PASSWORD, add_user, client_at, on_sqlite, outcome, run_job
from tests.service import NO_TLS, Service, serving

Clients = Callable[[User], httpx2.Client]
ClientsFrom = Callable[[str], httpx2.Client]

FORGOT = "/api/v1/auth/password/forgot"
USERS = "/api/v1/users/"
ME = "/api/v1/users/me"
WRONG = "a wrong passphrase"
TOO_MANY = (429, "too_many_requests")
LIMITS = (PAIR, ADDRESS, ACCOUNT)
MINUTES_5, DAY = 5 * 60, 24 * 60 * 60


def spend(
    service: Service, times: int, action: str, account: str = "ada@example.com", address: str = "127.0.0.1"
) -> None:
    """Count a number of attempts without making them. `{}` in an account or address makes each one different."""
    for number in range(times):
        attempt = Attempt(service.settings.key, action, account.format(number), address.format(number), LIMITS)
        service.run(attempt.count(service.database))


def forget(client: httpx2.Client, email: str = "ada@example.com", **headers: str) -> int:
    return client.post(FORGOT, json={"email": email}, headers=headers).status_code


def buckets(service: Service) -> Sequence[Bucket]:
    return service.read(lambda session: session.exec(select(Bucket)).all())


def told(answer: httpx2.Response) -> dict[str, str]:
    """The limit that an answer reports."""
    return {name: value for name, value in answer.headers.items() if "ratelimit" in name or name == "retry-after"}


def limit(by: str, most: int, seconds: int, left: int) -> dict[str, str]:
    return {
        "retry-after": str(left),
        "ratelimit-policy": f'"{by}";q={most};w={seconds}',
        "ratelimit": f'"{by}";r=0;t={left}',
    }


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A clock that stands still until a test shifts it."""
    with time_machine.travel(datetime.now(UTC), tick=False) as clock:
        yield clock


@pytest.fixture
def client_from(service: Service) -> Iterator[ClientsFrom]:
    """`client_from(address)` has this address, as a trusted proxy reports it."""
    with ExitStack() as clients:

        def make(address: str) -> httpx2.Client:
            headers = {"X-Forwarded-For": address}
            return clients.enter_context(httpx2.Client(base_url=service.url, headers=headers, verify=NO_TLS))

        yield make


def test_after_ten_wrong_passwords_not_even_the_right_one_is_looked_at(
    client: httpx2.Client, ada: User, clock: time_machine.Traveller, verifications: list[bool]
) -> None:
    for _ in range(10):
        assert outcome(log_in(client, ada.email, WRONG)) == (401, "incorrect_login")
    for password in (WRONG, PASSWORD):
        refused = log_in(client, ada.email, password)
        assert refused.json() == {
            "type": "about:blank",
            "title": "Too Many Requests",
            "status": 429,
            "detail": "Too many attempts. Try again later.",
            "code": "too_many_requests",
            "instance": refused.headers["X-Request-ID"],
            "error": "temporarily_unavailable",
            "error_description": "Too many attempts. Try again later.",
        }
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        assert told(refused) == limit("account-and-address", 10, MINUTES_5, MINUTES_5)
    assert verifications == [False] * 10


def test_retry_after_is_exact(
    client: httpx2.Client, service: Service, ada: User, clock: time_machine.Traveller
) -> None:
    spend(service, 1, "login")
    clock.shift(100)
    spend(service, 9, "login")
    wait = int(log_in(client, ada.email).headers["retry-after"])
    assert wait == MINUTES_5 - 100
    clock.shift(wait - 1)
    assert told(log_in(client, ada.email)) == limit("account-and-address", 10, MINUTES_5, 1)
    clock.shift(1)
    assert outcome(log_in(client, ada.email, WRONG)) == (401, "incorrect_login")
    assert log_in(client, ada.email).status_code == 200


def test_an_unknown_address_is_throttled_as_a_known_one(
    client: httpx2.Client, ada: User, clock: time_machine.Traveller
) -> None:
    def answers(username: str) -> list[Any]:
        client.headers["X-Request-ID"] = "same"
        tries = [log_in(client, username, WRONG) for _ in range(12)]
        for each in tries:
            del each.headers["date"]
        return [(each.status_code, each.headers.multi_items(), each.content) for each in tries]

    known = answers(ada.email)
    assert [status for status, *_ in known] == [401] * 10 + [429] * 2
    assert answers("nobody@example.com") == known


def test_all_spellings_of_an_address_are_counted_together(client: httpx2.Client, service: Service, ada: User) -> None:
    spend(service, 9, "login")
    assert log_in(client, "ADA@Example.COM", WRONG).status_code == 401
    assert outcome(log_in(client, ada.email)) == TOO_MANY


def test_the_right_password_begins_the_count_anew(client: httpx2.Client, service: Service, ada: User) -> None:
    spend(service, 85, "login", address="10.0.0.{}")
    for _ in range(2):
        spend(service, 9, "login")
        assert log_in(client, ada.email).status_code == 200
    spend(service, 10, "login")
    assert outcome(log_in(client, ada.email)) == TOO_MANY


def test_one_address_has_a_hundred_tries_over_all_accounts(
    client: httpx2.Client, client_from: ClientsFrom, service: Service, ada: User, clock: time_machine.Traveller
) -> None:
    spend(service, 99, "login", account="user{}@example.com")
    assert log_in(client, ada.email).status_code == 200  # and does not reset attempts from other addresses
    refused = log_in(client, ada.email)
    assert outcome(refused) == TOO_MANY
    assert told(refused) == limit("address", 100, MINUTES_5, MINUTES_5)
    assert log_in(client_from("192.0.2.1"), ada.email).status_code == 200
    clock.shift(MINUTES_5)
    assert log_in(client, ada.email).status_code == 200


def test_one_account_has_a_hundred_tries_a_day_from_all_addresses(
    client_from: ClientsFrom, service: Service, ada: User, bob: User, clock: time_machine.Traveller
) -> None:
    spend(service, 99, "login", address="10.0.0.{}")
    clock.shift(1000)
    assert log_in(client_from("192.0.2.1"), ada.email, WRONG).status_code == 401
    refused = log_in(client_from("192.0.2.2"), ada.email)
    assert outcome(refused) == TOO_MANY
    assert told(refused) == limit("account", 100, DAY, DAY - 1000)
    assert log_in(client_from("192.0.2.2"), bob.email).status_code == 200
    clock.shift(DAY - 1000)
    assert log_in(client_from("192.0.2.2"), ada.email).status_code == 200


def test_strangers_do_not_lock_a_user_out_of_a_known_address(
    client: httpx2.Client, client_from: ClientsFrom, service: Service, ada: User
) -> None:
    assert log_in(client, ada.email).status_code == 200
    spend(service, 100, "login", address="10.0.0.{}")
    assert outcome(log_in(client_from("192.0.2.1"), ada.email)) == TOO_MANY
    assert [log_in(client, ada.email, WRONG).status_code for _ in range(11)] == [401] * 10 + [429]


def test_of_two_exceeded_limits_the_longer_one_is_reported(
    client: httpx2.Client, service: Service, clock: time_machine.Traveller
) -> None:
    spend(service, 90, "login", address="10.0.0.{}")
    spend(service, 10, "login")
    assert told(log_in(client, "ada@example.com")) == limit("account", 100, DAY, DAY)


def test_a_refused_attempt_does_not_count_against_other_limits(
    client: httpx2.Client, client_from: ClientsFrom, service: Service, ada: User, bob: User
) -> None:
    spend(service, 60, "login", address="10.0.0.{}")
    spend(service, 60, "login", account="user{}@example.com")
    spend(service, 10, "login")
    assert {log_in(client, ada.email).status_code for _ in range(40)} == {429}
    assert log_in(client, bob.email).status_code == 200
    assert log_in(client_from("192.0.2.1"), ada.email).status_code == 200


@pytest.mark.slow
@on_sqlite
def test_the_address_that_a_client_claims_is_not_trusted(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _), client_at(url) as client:
        answers = [forget(client, **{"X-Forwarded-For": f"192.0.2.{number}"}) for number in range(11)]
        assert answers == [202] * 10 + [429]


def test_only_the_last_address_of_a_forwarded_chain_counts(client: httpx2.Client) -> None:
    chains = [f"192.0.2.{number}, 198.51.100.1" for number in range(11)]
    assert [forget(client, **{"X-Forwarded-For": chain}) for chain in chains] == [202] * 10 + [429]
    assert forget(client, **{"X-Forwarded-For": "198.51.100.2"}) == 202


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "::FFFF:c000:201", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:0DB8:0:0:1234::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::1", "127.0.0.1", False),
        ("", "", True),
    ],
)
def test_addresses_that_one_attacker_has_are_onenetwork(one: str, other: str, alike: bool) -> None:
    assert (throttle.network(one) == throttle.network(other)) is alike


@pytest.mark.parametrize(
    ("address", "neighbour", "stranger"),
    [("2001:db8::{}", "2001:db8::ffff", "2001:db8:0:1::1"), ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2")],
)
def test_a_network_is_throttled_as_one_address(
    client_from: ClientsFrom, address: str, neighbour: str, stranger: str
) -> None:
    assert [forget(client_from(address.format(number))) for number in range(10)] == [202] * 10
    assert forget(client_from(neighbour)) == 429
    assert forget(client_from(stranger)) == 202


def test_one_address_may_sign_up_a_hundred_times(
    client: httpx2.Client, client_of: Clients, client_from: ClientsFrom, service: Service, ada: User, root: User
) -> None:
    def sign_up(client: httpx2.Client, name: str, password: str = PASSWORD) -> httpx2.Response:
        return client.post(USERS, json={"email": f"{name}@example.com", "password": password})

    spend(service, 99, "sign_up", account="user{}@example.com")
    assert outcome(sign_up(client, "carol", "password1")) == (422, "validation_error")  # this counts
    refused = sign_up(client, "carol")
    assert outcome(refused) == TOO_MANY
    assert refused.headers["ratelimit-policy"] == '"address";q=100;w=300'
    assert outcome(sign_up(client_of(ada), "carol")) == TOO_MANY
    assert sign_up(client_of(root), "carol").status_code == 201
    assert sign_up(client_from("192.0.2.1"), "dave").status_code == 201


@pytest.mark.parametrize("path", [FORGOT, "/api/v1/auth/email/verify/request"])
@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
def test_ten_messages_may_be_asked_for(
    client: httpx2.Client,
    client_from: ClientsFrom,
    ada: User,
    bob: User,
    clock: time_machine.Traveller,
    path: str,
    email: str,
) -> None:
    def ask(client: httpx2.Client, email: str) -> httpx2.Response:
        return client.post(path, json={"email": email})

    assert [ask(client, email).status_code for _ in range(10)] == [202] * 10
    refused = ask(client, email)
    assert outcome(refused) == TOO_MANY
    assert told(refused) == limit("account-and-address", 10, MINUTES_5, MINUTES_5)
    assert ask(client, bob.email).status_code == 202
    assert ask(client_from("192.0.2.1"), email).status_code == 202
    clock.shift(MINUTES_5)
    assert ask(client, email).status_code == 202


def test_a_change_of_address_counts_as_a_message_that_is_asked_for(
    client_of: Clients, service: Service, ada: User
) -> None:
    def change(email: str) -> httpx2.Response:
        return client_of(ada).patch(ME, json={"email": email, "current_password": PASSWORD})

    spend(service, 9, "verify_email", account="new@example.com")
    assert change("new@example.com").status_code == 200
    assert outcome(change("new@example.com")) == TOO_MANY
    assert change("newer@example.com").status_code == 200


def test_guesses_at_the_current_password_are_throttled(
    client_of: Clients, service: Service, ada: User, bob: User, verifications: list[bool]
) -> None:
    def change(user: User, current: str) -> httpx2.Response:
        return client_of(user).patch(ME, json={"password": PASSWORD, "current_password": current})

    spend(service, 8, "current_password")
    assert outcome(change(ada, WRONG)) == (400, "incorrect_password")
    assert change(ada, PASSWORD).status_code == 200  # this counts too, because of the message that it causes
    verifications.clear()
    for password in (WRONG, PASSWORD):
        refused = change(ada, password)
        assert outcome(refused) == TOO_MANY
        assert refused.headers["ratelimit-policy"] == '"account-and-address";q=10;w=300'
    assert verifications == []
    assert change(bob, PASSWORD).status_code == 200


def test_throttling_can_be_turned_off(serve: Callable[..., Service]) -> None:
    service = serve(throttling_enabled=False)
    ada = add_user(service, "ada")
    with client_at(service.url) as client:
        assert [log_in(client, ada.email, WRONG).status_code for _ in range(11)] == [401] * 11
        assert [forget(client) for _ in range(11)] == [202] * 11
    assert buckets(service) == []


def test_counters_contain_only_pseudonyms(client: httpx2.Client, service: Service, ada: User) -> None:
    log_in(client, ada.email, WRONG)
    (*rows,) = buckets(service)
    assert len(rows) == 3
    written = repr([row.model_dump() for row in rows])
    assert not [word for word in ("ada@", "example", "127.0", "login", "account", "address") if word in written]
    others = service.settings.model_copy(update={"secret_key": SecretStr("fedcba9876543210" * 4)})
    service.run(Attempt(others.key, "login", ada.email, "127.0.0.1", LIMITS).count(service.database))
    assert [row.count for row in buckets(service)] == [1] * 6  # nor without the key of the pseudonyms


def test_counts_that_are_over_are_removed(
    client: httpx2.Client, service: Service, clock: time_machine.Traveller
) -> None:
    spend(service, 5, "login", account="user{}@example.com")
    assert len(buckets(service)) == 11
    clock.shift(DAY)
    for _ in range(2):
        forget(client)
    run_job(service, throttle.sweep_buckets)
    assert [bucket.count for bucket in buckets(service)] == [2, 2, 2]


def test_retry_after_is_rounded_up_to_seconds(service: Service) -> None:
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as clock:
        spend(service, 10, "login")
        clock.shift(timedelta(seconds=0.25))
        with pytest.raises(TooManyRequests) as refused:
            spend(service, 1, "login")
    assert refused.value.headers["Retry-After"] == "300"
