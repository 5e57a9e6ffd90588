"""Login sessions: refresh, token reuse, listing, revocation."""

import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import httpx2
import jwt
import pytest
import time_machine
from sqlmodel import Session, SQLModel, col, func, select

from app import auth, users
from app.auth import MOST_SESSIONS, InactiveUser, IncorrectLogin, LoginSession
from app.core import security
from app.core.throttle import Bucket
from app.users import User
from tests.conftest import PASSWORD, Mailbox, add_user, client_at, context_of, on_sqlite, outcome
from tests.service import KEY, Service

Clients = Callable[[User], httpx2.Client]
Tokens = dict[str, Any]
Clock = time_machine.Traveller

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
LOGOUT = "/api/v1/auth/logout"
SESSIONS = "/api/v1/auth/sessions"
ME = "/api/v1/users/me"
NEW_PASSWORD = "wrong donkey capacitor"

IDLE = timedelta(days=7)
LONGEST = timedelta(days=30)
GRACE = timedelta(seconds=30)
LEEWAY = timedelta(seconds=10)
MOMENT = timedelta(seconds=1)


@pytest.fixture
def clock(service: Service) -> Iterator[Clock]:
    """The clock of the service. It continues from the time it is moved to."""
    with time_machine.travel(datetime.now(UTC), tick=True) as clock:
        yield clock


def log_in(client: httpx2.Client, user: User, device: str | bytes = "the tests") -> Tokens:
    form = {"username": user.email, "password": PASSWORD}
    answer = client.post(
        LOGIN, data=form, headers=[(b"User-Agent", device if isinstance(device, bytes) else device.encode())]
    )
    assert answer.status_code == 200, answer.text
    tokens: Tokens = answer.json()
    return tokens


def refresh(client: httpx2.Client, token: str, **headers: str) -> httpx2.Response:
    return client.post(REFRESH, data={"grant_type": "refresh_token", "refresh_token": token}, headers=headers)


def renewed(client: httpx2.Client, tokens: Tokens) -> Tokens:
    answer = refresh(client, tokens["refresh_token"])
    assert answer.status_code == 200, answer.text
    following: Tokens = answer.json()
    return following


def bearer(tokens: Tokens) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


def session_of(tokens: Tokens) -> uuid.UUID:
    return uuid.UUID(jwt.decode(tokens["access_token"], options={"verify_signature": False})["sid"])


def generation(service: Service, session_id: uuid.UUID) -> int | None:
    """The number of refreshes of a session; None if it does not exist."""
    generation = select(LoginSession.generation).where(LoginSession.id == session_id)
    return service.read(lambda session: session.exec(generation).first())


def assert_good(client: httpx2.Client, tokens: Tokens) -> None:
    assert client.get(ME, headers=bearer(tokens)).status_code == 200
    assert refresh(client, tokens["refresh_token"]).status_code == 200


def assert_ended(client: httpx2.Client, tokens: Tokens, refusal: tuple[int, str] = (401, "invalid_token")) -> None:
    assert outcome(client.get(ME, headers=bearer(tokens))) == refusal
    assert outcome(refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")


def test_a_login_answers_the_tokens_of_a_session(client: httpx2.Client, service: Service, ada: User) -> None:
    tokens = log_in(client, ada)
    access, following = tokens["access_token"], tokens["refresh_token"]
    assert tokens == {
        "access_token": access,
        "token_type": "bearer",
        "expires_in": 15 * 60,
        "refresh_token": following,
    }
    (current,) = [each for each in client.get(SESSIONS, headers=bearer(tokens)).json() if each["current"]]
    assert str(session_of(tokens)) == current["id"] != str(ada.id)
    assert generation(service, session_of(tokens)) == 0


def test_a_session_is_renewed_again_and_again(client: httpx2.Client, service: Service, ada: User) -> None:
    first = log_in(client, ada)
    answer = refresh(client, first["refresh_token"])
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    second = answer.json()
    third = renewed(client, second)
    assert [set(tokens) for tokens in (second, third)] == [set(first)] * 2
    assert {tokens["expires_in"] for tokens in (first, second, third)} == {15 * 60}
    assert len({tokens["refresh_token"] for tokens in (first, second, third)}) == 3
    assert {session_of(tokens) for tokens in (first, second, third)} == {session_of(first)}
    assert [client.get(ME, headers=bearer(tokens)).status_code for tokens in (first, second, third)] == [200] * 3
    assert generation(service, session_of(first)) == 2


def test_an_answer_that_was_lost_is_given_again(
    client: httpx2.Client, service: Service, clock: Clock, ada: User
) -> None:
    first = log_in(client, ada)
    lost = renewed(client, first)
    clock.shift(GRACE - 2 * MOMENT)
    again = renewed(client, first)
    assert again["refresh_token"] == lost["refresh_token"]
    assert client.get(ME, headers=bearer(again)).status_code == 200
    assert generation(service, session_of(first)) == 1
    clock.shift(2 * GRACE)
    assert_good(client, again)


def test_a_refresh_token_that_is_used_late_ends_the_session(
    client: httpx2.Client, service: Service, clock: Clock, ada: User
) -> None:
    first, other = log_in(client, ada), log_in(client, ada)
    second = renewed(client, first)
    clock.shift(GRACE)
    assert outcome(refresh(client, first["refresh_token"])) == (400, "invalid_grant")
    assert generation(service, session_of(first)) is None
    assert_ended(client, second)
    assert_ended(client, first)
    assert_good(client, other)


def test_a_refresh_token_of_the_time_before_last_ends_the_session(client: httpx2.Client, ada: User) -> None:
    first = log_in(client, ada)
    third = renewed(client, renewed(client, first))
    assert outcome(refresh(client, first["refresh_token"])) == (400, "invalid_grant")
    assert_ended(client, third)


def test_without_a_grace_a_second_use_ends_the_session_at_once(serve: Callable[..., Service]) -> None:
    service = serve(refresh_grace_seconds=0)
    with client_at(service.url) as client:
        first = log_in(client, add_user(service, "eve"))
        second = renewed(client, first)
        assert outcome(refresh(client, first["refresh_token"])) == (400, "invalid_grant")
        assert_ended(client, second)


def test_a_refused_refresh_is_told_as_oauth_and_as_a_problem(client: httpx2.Client) -> None:
    answer = refresh(client, "none", **{"X-Request-ID": "mine"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "The refresh token is invalid or expired. Log in again.",
        "code": "invalid_grant",
        "instance": "mine",
        "error": "invalid_grant",
        "error_description": "The refresh token is invalid or expired. Log in again.",
    }


def test_a_session_that_is_not_used_ends_after_a_week(client: httpx2.Client, clock: Clock, ada: User) -> None:
    tokens = log_in(client, ada)
    for _ in range(2):
        clock.shift(IDLE - timedelta(minutes=1))
        tokens = renewed(client, tokens)
    clock.shift(IDLE)
    assert_ended(client, tokens)


def test_a_session_ends_after_thirty_days_however_much_it_is_used(
    client: httpx2.Client, clock: Clock, ada: User
) -> None:
    tokens = log_in(client, ada)
    for _ in range(5):
        clock.shift((LONGEST - timedelta(minutes=1)) / 5)
        tokens = renewed(client, tokens)
    clock.shift(timedelta(minutes=1) + LEEWAY)
    assert_ended(client, tokens)


def age(service: Service, session_id: uuid.UUID, **by: timedelta) -> None:
    def move(session: Session) -> None:
        row = session.get_one(LoginSession, session_id)
        for column, span in by.items():
            setattr(row, column, getattr(row, column) - span)

    service.write(move)


def test_an_access_token_does_not_outlive_its_session(
    client: httpx2.Client, service: Service, clock: Clock, ada: User
) -> None:
    tokens = log_in(client, ada)
    left = timedelta(minutes=5)
    age(service, session_of(tokens), created_at=LONGEST - left)
    ends_at = time.time() + left.total_seconds()
    tokens = renewed(client, tokens)
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == tokens["expires_in"]
    assert ends_at - 30 < claims["exp"] <= ends_at
    assert client.get(ME, headers=bearer(tokens)).status_code == 200
    clock.shift(left + LEEWAY)
    assert_ended(client, tokens)


def test_an_answer_is_not_given_again_after_the_session_has_ended(
    client: httpx2.Client, service: Service, clock: Clock, ada: User
) -> None:
    first = log_in(client, ada)
    age(service, session_of(first), created_at=LONGEST - 10 * MOMENT)
    second = renewed(client, first)
    clock.shift(GRACE / 2)
    assert outcome(refresh(client, second["refresh_token"])) == (400, "invalid_grant")
    assert outcome(refresh(client, first["refresh_token"])) == (400, "invalid_grant")


def sealed(text: str, purpose: str = "refresh", key: str = KEY) -> str:
    return security.seal(text, purpose, key=key)


BAD_TOKENS: dict[str, Callable[[Tokens, str], str]] = {
    "access token": lambda tokens, _: tokens["access_token"],
    "sealed for another purpose": lambda _, text: sealed(text, "cursor"),
    "sealed with another key": lambda _, text: sealed(text, key=KEY[::-1]),
    "not sealed": lambda _, text: text,
    "cut": lambda tokens, _: tokens["refresh_token"][:-4],
    "without its beginning": lambda tokens, _: tokens["refresh_token"][4:],
    "longer": lambda tokens, _: tokens["refresh_token"] + "AAAA",
    "twice": lambda tokens, _: 2 * tokens["refresh_token"],
    "in other case": lambda tokens, _: tokens["refresh_token"].swapcase(),
    "of nobody": lambda _, text: sealed(text.replace(text[:8], "00000000")),
    "not yet given": lambda _, text: sealed(text[:-1] + "7"),
    "empty": lambda *_: "",
    "short": lambda *_: "A",
    "spaces": lambda *_: "   ",
    "not ASCII": lambda tokens, _: tokens["refresh_token"] + "é\u2028\U0001f600",
    "not text once decoded": lambda *_: "_" * 64,
    "controls": lambda *_: "\0\r\n\x1b",
    "1 kB": lambda *_: "A" * 1024,
    "60 kB": lambda *_: "A" * 60_000,
}


def test_what_is_no_refresh_token_is_refused(client: httpx2.Client, ada: User) -> None:
    tokens = log_in(client, ada)
    text = f"{session_of(tokens)} 0"
    assert sealed(text) == tokens["refresh_token"]
    for name, forge in BAD_TOKENS.items():
        answer = refresh(client, forge(tokens, text))
        assert outcome(answer) in ((400, "invalid_grant"), (422, "validation_error")), name
    assert_good(client, tokens)


@on_sqlite
def test_a_refresh_token_of_which_one_character_is_altered_is_refused(client: httpx2.Client, ada: User) -> None:
    token = log_in(client, ada)["refresh_token"]
    for at, character in enumerate(token):
        altered = token[:at] + ("B" if character == "A" else "A") + token[at + 1 :]
        assert outcome(refresh(client, altered)) == (400, "invalid_grant"), at
    assert refresh(client, token).status_code == 200


def test_a_refresh_that_is_not_asked_for_as_such_is_refused(client: httpx2.Client, ada: User) -> None:
    tokens = log_in(client, ada)
    good = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    for form, field in (
        ({"refresh_token": tokens["refresh_token"]}, "grant_type"),
        (good | {"grant_type": ""}, "grant_type"),
        ({"grant_type": "refresh_token"}, "refresh_token"),
    ):
        answer = client.post(REFRESH, data=form)
        assert outcome(answer) == (422, "validation_error")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
        assert tokens["refresh_token"] not in answer.text
    for grant_type in ("password", "REFRESH_TOKEN"):
        answer = client.post(REFRESH, data=good | {"grant_type": grant_type})
        assert outcome(answer) == (400, "unsupported_grant_type")
    assert client.post(REFRESH, json=good).status_code == 415
    assert client.post(REFRESH, params=good).status_code == 415
    assert_good(client, tokens)


@on_sqlite
def test_nothing_that_is_stored_is_a_token(
    client: httpx2.Client, service: Service, mailbox: Mailbox, ada: User
) -> None:
    client.post("/api/v1/auth/password/forgot", json={"email": ada.email})
    assert len(mailbox.messages()) == 1
    tokens = renewed(client, log_in(client, ada))
    client.post(LOGIN, data={"username": ada.email, "password": "not the one"})

    def read(session: Session) -> dict[str, list[Any]]:
        tables = SQLModel.metadata.sorted_tables
        return {table.name: [each for row in session.execute(table.select()) for each in row] for table in tables}

    stored = service.read(read)
    assert all(stored[name] for name in ("users", "login_sessions", "emails", "throttle_buckets")), stored
    for value in {each if isinstance(each, bytes) else str(each).encode() for each in chain(*stored.values())}:
        as_access = client.get(ME, headers=[(b"Authorization", (b"Bearer " + value).strip())])
        assert as_access.status_code == 401, value
        assert refresh(client, value.decode("latin-1")).status_code in (400, 422), value
    assert_good(client, tokens)


def test_a_logout_ends_both_tokens(client: httpx2.Client, service: Service, ada: User) -> None:
    tokens, other = log_in(client, ada), log_in(client, ada)
    answer = client.post(LOGOUT, headers=bearer(tokens))
    assert (answer.status_code, answer.content) == (204, b"")
    assert generation(service, session_of(tokens)) is None
    assert_ended(client, tokens)
    assert outcome(client.post(LOGOUT, headers=bearer(tokens))) == (401, "invalid_token")
    assert_good(client, other)


def test_sessions_are_listed_the_last_one_used_first(client: httpx2.Client, bob: User, ada: User) -> None:
    begin, step = datetime(2100, 1, 1, tzinfo=UTC), timedelta(minutes=5)  # the fixtures' sessions have expired by then
    with time_machine.travel(begin, tick=False) as clock:
        log_in(client, bob, "Bob's")
        laptop = log_in(client, ada, "Laptop")
        clock.shift(step)
        phone = log_in(client, ada, "Phone")
        clock.shift(step)
        laptop = renewed(client, laptop)
        for asking in (laptop, phone):
            answer = client.get(SESSIONS, headers=bearer(asking))
            assert answer.status_code == 200
            assert answer.json() == [
                {
                    "id": str(session_of(laptop)),
                    "device": "Laptop",
                    "created_at": "2100-01-01T00:00:00Z",
                    "last_used_at": "2100-01-01T00:10:00Z",
                    "current": asking is laptop,
                },
                {
                    "id": str(session_of(phone)),
                    "device": "Phone",
                    "created_at": "2100-01-01T00:05:00Z",
                    "last_used_at": "2100-01-01T00:05:00Z",
                    "current": asking is phone,
                },
            ]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", ""),
        (b"x" * 300, "x" * 255),
        (b"Fire\tfox \x9b31m\x85\xad", "Firefox 31m"),
        (b"caf\xe9 <script>", "caf\xe9 <script>"),
    ],
    ids=["none", "long", "controls", "Latin"],
)
def test_a_device_is_the_user_agent_on_one_short_line(client: httpx2.Client, ada: User, sent: bytes, told: str) -> None:
    tokens = log_in(client, ada, sent)
    (device,) = [each["device"] for each in client.get(SESSIONS, headers=bearer(tokens)).json() if each["current"]]
    assert device == told


@pytest.mark.parametrize(("column", "span"), [("last_used_at", IDLE), ("created_at", LONGEST)])
def test_expired_sessions_are_not_listed(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, column: str, span: timedelta
) -> None:
    session_id = session_of(log_in(client, ada))

    def listed() -> set[str]:
        return {each["id"] for each in client_of(ada).get(SESSIONS).json()}

    age(service, session_id, **{column: span - timedelta(minutes=1)})
    assert listed() == {str(session_id), str(ada.id)}
    age(service, session_id, **{column: timedelta(minutes=1)})
    assert listed() == {str(ada.id)}
    assert generation(service, session_id) == 0


def test_a_session_is_ended_by_its_id(client: httpx2.Client, client_of: Clients, ada: User) -> None:
    lost, kept = log_in(client, ada), log_in(client, ada)
    path = f"{SESSIONS}/{session_of(lost)}"
    answer = client_of(ada).delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert_ended(client, lost)
    assert outcome(client_of(ada).delete(path)) == (404, "not_found")
    assert client_of(ada).delete(f"{SESSIONS}/{ada.id}").status_code == 204
    assert outcome(client_of(ada).get(ME)) == (401, "invalid_token")
    assert_good(client, kept)


def test_sessions_of_others_look_like_absent_ones(
    client: httpx2.Client, client_of: Clients, ada: User, bob: User, root: User
) -> None:
    his = log_in(client, bob)

    def refused(caller: User, session_id: uuid.UUID) -> tuple[int, list[tuple[str, str]], bytes]:
        answer = client_of(caller).delete(f"{SESSIONS}/{session_id}", headers={"X-Request-ID": "same"})
        return answer.status_code, [each for each in answer.headers.items() if each[0] != "date"], answer.content

    nobodys = refused(ada, uuid.uuid4())
    assert nobodys[0] == 404
    assert refused(ada, session_of(his)) == nobodys
    assert refused(root, session_of(his)) == nobodys
    assert_good(client, his)


def test_all_other_sessions_are_ended_together(client: httpx2.Client, client_of: Clients, ada: User, bob: User) -> None:
    this, *others = (log_in(client, ada) for _ in range(3))
    for _ in range(2):
        answer = client.delete(f"{SESSIONS}/others", headers=bearer(this))
        assert (answer.status_code, answer.content) == (204, b"")
    for other in others:
        assert_ended(client, other)
    assert outcome(client_of(ada).get(ME)) == (401, "invalid_token")
    assert [each["id"] for each in client.get(SESSIONS, headers=bearer(this)).json()] == [str(session_of(this))]
    assert_good(client, this)
    assert client_of(bob).get(ME).status_code == 200


def test_a_session_without_an_id_ends_none(client: httpx2.Client, ada: User) -> None:
    this, other = log_in(client, ada), log_in(client, ada)
    for path in (SESSIONS, f"{SESSIONS}/", f"{SESSIONS}//"):
        assert client.delete(path, headers=bearer(this)).status_code in (404, 405)
    assert_good(client, this)
    assert_good(client, other)


def test_one_session_too_many_ends_the_oldest(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User, bob: User
) -> None:
    oldest = log_in(client, ada)
    age(service, session_of(oldest), created_at=timedelta(days=2))
    age(service, ada.id, created_at=timedelta(days=1), last_used_at=timedelta(days=1))

    def fill(session: Session) -> None:
        session.add_all(LoginSession(user_id=ada.id, device=f"{number}") for number in range(MOST_SESSIONS - 2))

    service.write(fill)
    assert len(client_of(ada).get(SESSIONS).json()) == MOST_SESSIONS == 20
    assert client_of(ada).get(SESSIONS).json()[-1]["id"] == str(ada.id)  # the oldest is not the least recently used
    newest = log_in(client, ada)
    listed = [each["id"] for each in client_of(ada).get(SESSIONS).json()]
    assert (len(listed), listed[0]) == (MOST_SESSIONS, str(session_of(newest)))
    assert_ended(client, oldest)
    assert_good(client, newest)
    assert client_of(bob).get(ME).status_code == 200


def test_a_new_password_ends_all_sessions_but_the_one_that_set_it(client: httpx2.Client, ada: User, bob: User) -> None:
    this, other, his = log_in(client, ada), log_in(client, ada), log_in(client, bob)
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    assert client.patch(ME, json=change, headers=bearer(this)).status_code == 200
    assert_ended(client, other)
    assert_good(client, this)
    assert_good(client, his)


def test_other_changes_than_the_password_end_no_session(
    client: httpx2.Client, client_of: Clients, root: User, ada: User
) -> None:
    tokens = log_in(client, ada)
    assert client.patch(ME, json={"full_name": "A. L."}, headers=bearer(tokens)).status_code == 200
    wrong = {"password": NEW_PASSWORD, "current_password": "not the one"}
    assert client.patch(ME, json=wrong, headers=bearer(tokens)).status_code == 400
    changes = {"is_active": True, "is_superuser": True}
    assert client_of(root).patch(f"/api/v1/users/{ada.id}", json=changes).status_code == 200
    assert_good(client, tokens)


def test_to_set_the_same_password_again_changes_nothing(
    client: httpx2.Client,
    client_of: Clients,
    root: User,
    ada: User,
    mailbox: Mailbox,
    verifications: list[bool],
) -> None:
    tokens = log_in(client, ada)
    before = client.get(ME, headers=bearer(tokens))
    same = {"password": PASSWORD, "current_password": PASSWORD}
    verifications.clear()
    mine = client.patch(ME, json=same, headers=bearer(tokens))
    theirs = client_of(root).patch(f"/api/v1/users/{ada.id}", json={"password": PASSWORD})
    assert (mine.status_code, theirs.status_code, verifications) == (200, 200, [True, True])
    after = client.get(ME, headers=bearer(tokens))
    assert (after.json(), after.headers["ETag"]) == (before.json(), before.headers["ETag"])
    assert mailbox.messages() == []
    assert_good(client, tokens)
    wrong = {"password": PASSWORD, "current_password": "not the one"}
    assert outcome(client.patch(ME, json=wrong, headers=bearer(tokens))) == (400, "incorrect_password")


def _patch(**changes: Any) -> Callable[[httpx2.Client, User], httpx2.Response]:
    return lambda client, user: client.patch(f"/api/v1/users/{user.id}", json=changes)


def _delete(client: httpx2.Client, user: User) -> httpx2.Response:
    return client.delete(f"/api/v1/users/{user.id}")


@pytest.mark.parametrize(
    ("end", "refusal"),
    [
        (_patch(password=NEW_PASSWORD), (401, "invalid_token")),
        (_patch(is_active=False), (400, "inactive_user")),
        (_delete, (401, "invalid_token")),
    ],
    ids=["a new password", "deactivation", "deletion"],
)
def test_what_a_superuser_does_ends_all_sessions_at_once(
    client: httpx2.Client,
    client_of: Clients,
    root: User,
    ada: User,
    bob: User,
    end: Callable[[httpx2.Client, User], httpx2.Response],
    refusal: tuple[int, str],
) -> None:
    hers, again, his = log_in(client, ada), log_in(client, ada), log_in(client, bob)
    assert client.get(ME, headers=bearer(hers)).status_code == 200
    assert end(client_of(root), ada).is_success
    assert_ended(client, hers, refusal)
    assert_ended(client, again, refusal)
    assert_good(client, his)
    assert client_of(root).get(ME).status_code == 200


def test_a_user_who_is_activated_again_has_to_log_in(
    client: httpx2.Client, client_of: Clients, root: User, ada: User
) -> None:
    tokens = log_in(client, ada)
    for is_active in (False, True):
        assert _patch(is_active=is_active)(client_of(root), ada).status_code == 200
    assert_ended(client, tokens)
    assert_good(client, log_in(client, ada))


def test_deleting_an_account_ends_its_sessions(client: httpx2.Client, ada: User) -> None:
    this, other = log_in(client, ada), log_in(client, ada)
    assert client.delete(ME, headers=bearer(this)).status_code == 204
    for tokens in (this, other):
        assert_ended(client, tokens)


def test_a_demoted_superuser_loses_all_privileges_at_once(
    client: httpx2.Client, client_of: Clients, service: Service, root: User
) -> None:
    second = add_user(service, "second", is_superuser=True)
    tokens = log_in(client, second)
    assert client.get("/api/v1/emails/", headers=bearer(tokens)).status_code == 200
    assert _patch(is_superuser=False)(client_of(root), second).status_code == 200
    assert outcome(client.get("/api/v1/emails/", headers=bearer(tokens))) == (403, "forbidden")
    tokens = renewed(client, tokens)
    assert outcome(client.get("/api/v1/emails/", headers=bearer(tokens))) == (403, "forbidden")


@pytest.mark.parametrize("again", [False, True], ids=["new", "again"])
def test_the_session_of_an_inactive_user_is_not_renewed(
    client: httpx2.Client, service: Service, ada: User, again: bool
) -> None:
    tokens = log_in(client, ada)
    if again:
        renewed(client, tokens)
    service.write(users.change, ada.id, {"is_active": False})  # by hand, so the session remains
    assert outcome(refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "error"), [({"hashed_password": "another"}, IncorrectLogin), ({"is_active": False}, InactiveUser)]
)
def test_a_login_that_something_overtakes_begins_no_session(
    service: Service, ada: User, change: dict[str, Any], error: type[Exception]
) -> None:
    context = context_of(service)
    attempt = context.attempt("login", ada.email)
    proved = service.read(users.get, ada.id)

    def start() -> LoginSession:
        return service.write(auth._start, context, proved, None, attempt)

    def count() -> int:
        count = select(func.count()).select_from(LoginSession).where(col(LoginSession.user_id) == ada.id)
        return service.read(lambda session: session.exec(count).one())

    assert start().user_id == ada.id
    assert count() == 2
    service.run(attempt.count(service.database))
    service.write(users.change, ada.id, change)
    with pytest.raises(error):
        start()
    assert count() == 2
    assert service.read(lambda session: session.exec(select(func.sum(Bucket.count))).one()) == 3
    service.write(users.delete, ada.id)
    with pytest.raises(IncorrectLogin):
        start()


def test_an_access_token_is_good_no_longer_than_its_session_may_rest(serve: Callable[..., Service]) -> None:
    service = serve(access_token_expire_minutes=60 * 24 * 14)
    ada = add_user(service, "ada")
    with client_at(service.url) as client:
        assert log_in(client, ada)["expires_in"] == 60 * 60 * 24 * 7


def test_while_keys_are_rotated_nobody_is_logged_out(serve: Callable[..., Service]) -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    before = serve(secret_key=old)
    between = serve(secret_key=new, secret_key_previous=old)
    after = serve(secret_key=new)
    ada, bob, mailbox = add_user(before, "ada"), add_user(before, "bob"), Mailbox(before)
    with client_at(before.url) as client:
        tokens, theirs = log_in(client, ada), log_in(client, bob)
        client.post("/api/v1/auth/email/verify/request", json={"email": ada.email})
        link = {"token": mailbox.token(ada.email)}
        following = client.get("/api/v1/users/?limit=1", headers=bearer(tokens)).links["next"]["url"]
    with client_at(after.url) as client:
        assert_ended(client, tokens)
        assert client.post("/api/v1/auth/email/verify", json=link).status_code == 400
    with client_at(between.url) as client:
        assert client.get(ME, headers=bearer(tokens)).status_code == 200
        assert [each["id"] for each in client.get(following, headers=bearer(tokens)).json()] == [str(bob.id)]
        assert client.post("/api/v1/auth/email/verify", json=link).status_code == 204
        made_anew = [renewed(client, tokens), log_in(client, bob)]
    with client_at(after.url) as client:
        assert client.get(following, headers=bearer(made_anew[0])).status_code == 422
        for each in made_anew:
            assert_good(client, each)
        assert_ended(client, theirs)
