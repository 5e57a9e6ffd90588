"""Replicas: two processes on one database share all their state."""

import email
import email.policy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from email.message import EmailMessage
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlmodel import Session, select

from app.auth import LoginSession
from app.users import User
from tests.conftest import HASHED, PASSWORD, client_at, empty, log_in, on_sqlite, outcome, token_of
from tests.service import elsewhere, serving, until

pytestmark = pytest.mark.slow

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
ME = "/api/v1/users/me"

Tokens = dict[str, Any]


class Replicas:
    """Two servers. The first one also sends mail."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url, self.folder = database_url, folder
        self.start()

    def start(self) -> None:
        self._running = ExitStack()
        mail = {"MAIL_URL": f"file://{self.folder}/mail", "WORKER_ENABLED": "true"}
        self.clients = []
        for name, values in (("a", mail), ("b", {})):
            url, _ = self._running.enter_context(serving(self.database_url, self.folder / name, **values))
            self.clients.append(self._running.enter_context(client_at(url)))

    def stop(self) -> None:
        self._running.close()

    def add(self, name: str, *, is_superuser: bool = False) -> User:
        def unit(session: Session) -> User:
            user = User(email=f"{name}@example.com", hashed_password=HASHED, is_superuser=is_superuser)
            session.add(user)
            session.flush()
            log_in(session, user)
            return user

        return elsewhere(self.database_url, unit)

    def at_once(self, send: Callable[[httpx2.Client, int], httpx2.Response], count: int) -> list[httpx2.Response]:
        """The answers to this many concurrent requests, which go to both servers in turn."""
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(send, cycle(self.clients), range(count)))

    def mailed_token(self, address: str) -> str:
        """The token in the only message with a token to an address."""

        def find() -> list[str]:
            links = []
            for file in (self.folder / "mail").glob("*.eml"):
                message = email.message_from_bytes(file.read_bytes(), _class=EmailMessage, policy=email.policy.default)
                text = message.get_body(("plain",))
                if message["To"] == address and text:
                    links += re.findall(r"\?token=([\w-]+)\s", text.get_content())
            return links

        until(lambda: bool(find()))
        (token,) = find()
        return token


@pytest.fixture(scope="module")
def _replicas(
    make_migrated: Callable[[str, bool], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Replicas]]:
    running: dict[str, Replicas] = {}

    def get(backend: str) -> Replicas:
        if backend not in running:
            url = make_migrated(backend, False)
            running[backend] = Replicas(url, tmp_path_factory.mktemp(backend))
        return running[backend]

    yield get
    for replicas in running.values():
        replicas.stop()


@pytest.fixture
def replicas(backend: str, _replicas: Callable[[str], Replicas]) -> Replicas:
    """Two running servers, with one empty database."""
    replicas = _replicas(backend)
    elsewhere(replicas.database_url, empty)
    return replicas


def authorized(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def try_password(client: httpx2.Client, user: User, password: str) -> httpx2.Response:
    return client.post(LOGIN, data={"username": user.email, "password": password})


def tokens_from(client: httpx2.Client, user: User) -> Tokens:
    answer = try_password(client, user, PASSWORD)
    assert answer.status_code == 200, answer.text
    tokens: Tokens = answer.json()
    return tokens


def refresh(client: httpx2.Client, tokens: Tokens) -> httpx2.Response:
    return client.post(REFRESH, data={"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})


def login_sessions(replicas: Replicas, user: User) -> list[LoginSession]:
    """The login sessions, except the one that the user was added with."""
    rows = select(LoginSession).where(LoginSession.user_id == user.id, LoginSession.id != user.id)
    return elsewhere(replicas.database_url, lambda session: list(session.exec(rows)))


def test_twenty_refreshes_at_once_make_one_successor(replicas: Replicas) -> None:
    ada = replicas.add("ada")
    first = tokens_from(replicas.clients[0], ada)
    answers = replicas.at_once(lambda client, _: refresh(client, first), 20)
    assert Counter(answer.status_code for answer in answers) == {200: 20}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    assert [each.generation for each in login_sessions(replicas, ada)] == [1]
    for client, answer in zip(replicas.clients, answers, strict=False):
        assert client.get(ME, headers=authorized(answer.json()["access_token"])).status_code == 200
    assert refresh(replicas.clients[1], answers[0].json()).status_code == 200


def test_a_late_second_use_at_one_ends_the_session_at_the_other(replicas: Replicas) -> None:
    ada = replicas.add("ada")
    a, b = replicas.clients
    first = tokens_from(a, ada)
    second = refresh(a, first).json()
    access = authorized(second["access_token"])
    assert [client.get(ME, headers=access).status_code for client in (a, b)] == [200, 200]

    def age(session: Session) -> None:
        for row in session.exec(select(LoginSession)):
            row.last_used_at -= timedelta(seconds=31)

    elsewhere(replicas.database_url, age)
    assert outcome(refresh(b, first)) == (400, "invalid_grant")
    assert login_sessions(replicas, ada) == []
    for client in (a, b):
        assert outcome(client.get(ME, headers=access)) == (401, "invalid_token")
        assert outcome(refresh(client, second)) == (400, "invalid_grant")


def log_out(client: httpx2.Client, root: User, ada: User, access: dict[str, str]) -> httpx2.Response:
    return client.post("/api/v1/auth/logout", headers=access)


def change_password(client: httpx2.Client, root: User, ada: User, access: dict[str, str]) -> httpx2.Response:
    change = {"password": "wrong donkey capacitor", "current_password": PASSWORD}
    return client.patch(ME, json=change, headers=authorized(token_of(ada)))


def deactivate(client: httpx2.Client, root: User, ada: User, access: dict[str, str]) -> httpx2.Response:
    return client.patch(f"/api/v1/users/{ada.id}", json={"is_active": False}, headers=authorized(token_of(root)))


def delete(client: httpx2.Client, root: User, ada: User, access: dict[str, str]) -> httpx2.Response:
    return client.delete(f"/api/v1/users/{ada.id}", headers=authorized(token_of(root)))


@pytest.mark.parametrize(
    ("end", "refusal"),
    [
        (log_out, (401, "invalid_token")),
        (change_password, (401, "invalid_token")),
        (deactivate, (400, "inactive_user")),
        (delete, (401, "invalid_token")),
    ],
    ids=["logout", "new password", "deactivation", "deletion"],
)
def test_a_session_ends_on_all_replicas(
    replicas: Replicas, end: Callable[..., httpx2.Response], refusal: tuple[int, str]
) -> None:
    a, b = replicas.clients
    root, ada = replicas.add("root", is_superuser=True), replicas.add("ada")
    tokens = tokens_from(a, ada)
    access = authorized(tokens["access_token"])
    assert b.get(ME, headers=access).status_code == 200
    assert end(a, root, ada, access).is_success
    assert outcome(b.get(ME, headers=access)) == refusal
    assert outcome(refresh(b, tokens)) == (400, "invalid_grant")


def test_attempts_are_counted_together(replicas: Replicas) -> None:
    ada, bob = replicas.add("ada"), replicas.add("bob")
    answers = [
        try_password(client, ada, "not the one") for client, _ in zip(cycle(replicas.clients), range(12), strict=False)
    ]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert [try_password(client, ada, PASSWORD).status_code for client in replicas.clients] == [429, 429]
    tokens_from(replicas.clients[0], bob)


@on_sqlite
def test_attempts_survive_a_restart(replicas: Replicas) -> None:
    ada = replicas.add("ada")
    for _ in range(10):
        assert try_password(replicas.clients[0], ada, "not the one").status_code == 401
    replicas.stop()
    replicas.start()
    for client in replicas.clients:
        assert outcome(try_password(client, ada, PASSWORD)) == (429, "too_many_requests")


def test_of_ten_resets_with_one_token_one_is_done(replicas: Replicas) -> None:
    ada = replicas.add("ada")
    a, b = replicas.clients
    assert b.post("/api/v1/auth/password/forgot", json={"email": ada.email}).status_code == 202
    token = replicas.mailed_token(ada.email)

    def reset(client: httpx2.Client, number: int) -> httpx2.Response:
        return client.post("/api/v1/auth/password/reset", json={"token": token, "new_password": f"capacitor {number}"})

    answers = replicas.at_once(reset, 10)
    assert Counter(answer.status_code for answer in answers) == {204: 1, 400: 9}
    assert {outcome(answer) for answer in answers if answer.status_code == 400} == {(400, "invalid_link")}
    done = [answer.status_code for answer in answers].index(204)
    assert try_password(a, ada, f"capacitor {done}").status_code == 200
    assert try_password(b, ada, f"capacitor {(done + 1) % 10}").status_code == 401


def test_of_ten_verifications_with_one_token_one_is_done(replicas: Replicas) -> None:
    bob = replicas.add("bob")
    a, b = replicas.clients
    assert b.post("/api/v1/auth/email/verify/request", json={"email": bob.email}).status_code == 202
    token = replicas.mailed_token(bob.email)
    answers = replicas.at_once(lambda client, _: client.post("/api/v1/auth/email/verify", json={"token": token}), 10)
    assert Counter(answer.status_code for answer in answers) == {204: 1, 400: 9}
    assert {outcome(answer) for answer in answers if answer.status_code == 400} == {(400, "invalid_link")}
    assert a.get(ME, headers=authorized(token_of(bob))).json()["email_verified_at"]
