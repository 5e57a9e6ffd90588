"""Logins, and requests with a valid, an invalid or no token."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlmodel import Session

from app import users
from app.core import security
from app.core.security import Passwords
from app.users import User
from tests.conftest import HASHED, PASSWORD, on_sqlite, outcome, token_of
from tests.service import KEY, Service

Clients = Callable[[User], httpx2.Client]

LOGIN = "/api/v1/auth/login"
ME = "/api/v1/users/me"
INVALID_TOKEN = ("Could not validate credentials", 'Bearer error="invalid_token"')
_EXPIRED = "The access token has expired. Log in again."
EXPIRED_TOKEN = (_EXPIRED, f'Bearer error="invalid_token", error_description="{_EXPIRED}"')


ACCESS = {
    "POST /api/v1/auth/login": (200, 200, 200, 200, 200),
    "POST /api/v1/auth/refresh": (400, 400, 400, 400, 400),
    "POST /api/v1/auth/revoke": (200, 200, 200, 200, 200),
    "POST /api/v1/auth/logout": (401, 400, 204, 204, 204),
    "GET /api/v1/auth/sessions": (401, 400, 200, 200, 200),
    "DELETE /api/v1/auth/sessions/others": (401, 400, 204, 204, 204),
    "DELETE /api/v1/auth/sessions/{session_id}": (401, 400, 404, 204, 404),
    "POST /api/v1/auth/email/verify": (400, 400, 400, 400, 400),
    "POST /api/v1/auth/email/verify/request": (202, 202, 202, 202, 202),
    "POST /api/v1/auth/password/forgot": (202, 202, 202, 202, 202),
    "POST /api/v1/auth/password/reset": (400, 400, 400, 400, 400),
}
# The public routes need another kind of token in their body, or request one by mail.
REQUESTS: dict[str, dict[str, Any]] = {
    "POST /api/v1/auth/login": {"data": {"username": "owner@example.com", "password": PASSWORD}},
    "POST /api/v1/auth/refresh": {"data": {"grant_type": "refresh_token", "refresh_token": "none"}},
    "POST /api/v1/auth/revoke": {"data": {"token": "none"}},
    "POST /api/v1/auth/email/verify": {"json": {"token": "none"}},
    "POST /api/v1/auth/email/verify/request": {"json": {"email": "owner@example.com"}},
    "POST /api/v1/auth/password/forgot": {"json": {"email": "owner@example.com"}},
    "POST /api/v1/auth/password/reset": {"json": {"token": "none", "new_password": PASSWORD}},
}


def stage(session: Session, owner: User) -> dict[str, object]:
    return {"session_id": owner.id}  # the cast is logged in: see tests.conftest.log_in


def log_in(client: httpx2.Client, username: str, password: str = PASSWORD, **more: str) -> httpx2.Response:
    return client.post(LOGIN, data={"username": username, "password": password, **more})


def test_a_login_answers_a_token_that_works(client: httpx2.Client, ada: User) -> None:
    answer = log_in(client, ada.email)
    assert answer.status_code == 200
    token, refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
    assert answer.json() == {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": 900,
        "refresh_token": refresh_token,
    }
    assert answer.headers["cache-control"] == "no-store"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {
        "iss": "onefold",
        "aud": "access",
        "typ": "access",
        "sub": str(ada.id),
        "sid": claims["sid"],
        "iat": claims["iat"],
        "exp": claims["iat"] + 900,
    }
    me = client.get(ME, headers={"Authorization": f"Bearer {token}"})
    assert (me.status_code, me.json()["email"]) == (200, ada.email)


def test_unknown_addresses_and_wrong_passwords_are_answered_alike(client: httpx2.Client, ada: User, ivan: User) -> None:
    def failure(username: str) -> tuple[int, list[tuple[str, str]], bytes]:
        form = {"username": username, "password": "not the one"}
        answer = client.post(LOGIN, data=form, headers={"X-Request-ID": "same"})
        return answer.status_code, [each for each in answer.headers.items() if each[0] != "date"], answer.content

    wrong = failure(ada.email)
    for username in ("nobody@example.com", "no address", "x" * 320, ivan.email):
        assert failure(username) == wrong
    status, headers, body = wrong
    assert status == 401
    assert dict(headers)["www-authenticate"] == "Bearer"
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Incorrect email or password",
        "code": "incorrect_login",
        "instance": "same",
        "error": "invalid_grant",
        "error_description": "Incorrect email or password",
    }


FOREIGN = ["", "!", "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW", "plain text", "$argon2id$v=19$"]


def test_every_login_costs_exactly_one_verification(
    client: httpx2.Client, service: Service, ada: User, ivan: User, verifications: list[bool]
) -> None:
    def cost(username: str, password: str, expected: int) -> int:
        verifications.clear()
        assert log_in(client, username, password).status_code == expected
        return len(verifications)

    assert cost(ada.email, PASSWORD, 200) == 1
    assert cost(ada.email, "not the one", 401) == 1
    assert cost(ada.email, "", 422) == 0
    assert cost("nobody@example.com", PASSWORD, 401) == 1
    assert cost("no address", PASSWORD, 401) == 1
    assert cost(ivan.email, PASSWORD, 400) == 1
    assert cost(ivan.email, "not the one", 401) == 1
    for hashed in FOREIGN:
        service.write(users.change, ada.id, {"hashed_password": hashed})
        assert cost(ada.email, PASSWORD, 401) == 1


def test_a_login_that_cannot_be_right_costs_no_verification(
    client: httpx2.Client, ada: User, verifications: list[bool]
) -> None:
    for username, password, field in (
        (f"{ada.email}\0", PASSWORD, "username"),
        (f"{ada.email}\r\n", PASSWORD, "username"),
        ("x" * 321, PASSWORD, "username"),
        (ada.email, f"{PASSWORD}\0", "password"),
        (ada.email, "x" * 129, "password"),
        (ada.email, "x" * 60_000, "password"),
    ):
        answer = log_in(client, username, password)
        assert answer.status_code == 422
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", field]]
        assert password not in answer.text
        assert username not in answer.text
    assert verifications == []


def test_only_who_knows_the_password_is_told_that_a_user_is_inactive(client: httpx2.Client, ivan: User) -> None:
    right = log_in(client, ivan.email)
    assert (*outcome(right), right.json()["detail"]) == (400, "inactive_user", "Inactive user")
    assert outcome(log_in(client, ivan.email, "not the one")) == (401, "incorrect_login")


def test_a_stored_hash_that_is_none_is_a_failed_login(client: httpx2.Client, service: Service, ada: User) -> None:
    for hashed in FOREIGN:
        service.write(users.change, ada.id, {"hashed_password": hashed})
        assert outcome(log_in(client, ada.email, hashed or PASSWORD)) == (401, "incorrect_login")
        assert service.read(users.get, ada.id).hashed_password == hashed


def test_a_hash_of_other_parameters_is_replaced_at_login(client: httpx2.Client, service: Service, ada: User) -> None:
    old = Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    service.write(users.change, ada.id, {"hashed_password": old})
    assert log_in(client, ada.email, "not the one").status_code == 401
    assert service.read(users.get, ada.id).hashed_password == old
    assert log_in(client, ada.email).status_code == 200
    new = service.read(users.get, ada.id).hashed_password
    assert new.rpartition("$")[0].rpartition("$")[0] == HASHED.rpartition("$")[0].rpartition("$")[0]
    assert log_in(client, ada.email).status_code == 200
    assert service.read(users.get, ada.id).hashed_password == new


def test_the_form_of_any_oauth2_client_is_taken(client: httpx2.Client, ada: User) -> None:
    forms: list[dict[str, str | list[str]]] = [
        {"grant_type": "password"},
        {"grant_type": "password", "scope": "", "client_id": "", "client_secret": ""},
        {"scope": "read write", "client_id": "shop", "client_secret": "s3cret", "audience": "x", "nonce": "y"},
        {"resource": ["x", "y"]},  # RFC 8707
    ]
    for more in forms:
        assert client.post(LOGIN, data={"username": ada.email, "password": PASSWORD, **more}).status_code == 200


def test_another_grant_type_is_refused(client: httpx2.Client, ada: User) -> None:
    for grant_type in ("client_credentials", "REFRESH_TOKEN", "PASSWORD", "\0"):
        answer = log_in(client, ada.email, grant_type=grant_type)
        assert outcome(answer) == (400, "unsupported_grant_type")
        assert grant_type not in answer.text


def test_a_login_that_is_no_form_is_refused(client: httpx2.Client, ada: User) -> None:
    good = {"username": ada.email, "password": PASSWORD}
    as_json = client.post(LOGIN, json=good)
    as_text = client.post(LOGIN, content=str(httpx2.QueryParams(good)), headers={"Content-Type": "text/plain"})
    as_file = client.post(LOGIN, data=good, files={"file": b""})
    as_query = client.post(LOGIN, params=good)
    for answer in (as_json, as_text, as_file, as_query, client.post(LOGIN)):
        assert outcome(answer) == (415, "unsupported_media_type")
        assert PASSWORD not in answer.text


def test_without_a_token_nobody_is_let_in(client: httpx2.Client) -> None:
    answer = client.get(ME, headers={"X-Request-ID": "mine"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()) == (
        401,
        {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "Not authenticated",
            "code": "not_authenticated",
            "instance": "mine",
        },
    )


def test_the_scheme_is_read_in_any_case(client: httpx2.Client, ada: User) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert client.get(ME, headers={"Authorization": f"{scheme} {token_of(ada)}"}).status_code == 200


def test_a_header_that_holds_no_single_bearer_token_is_refused(client: httpx2.Client, ada: User) -> None:
    good = f"Bearer {token_of(ada)}"
    for values in ([good, good], [good, "Basic x"], ["Bearer"], ["Basic YTpi"], [token_of(ada)], [""]):
        answer = client.get(ME, headers=[("Authorization", value) for value in values])
        assert outcome(answer) == (401, "invalid_token"), values
        assert answer.headers["www-authenticate"].startswith("Bearer")


ABSENT: Any = object()


def encoded(part: object) -> bytes:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def signed(claims: object, key: str = KEY, digest: str = "sha256", **header: object) -> bytes:
    """A token with any claims."""
    whole = {name: value for name, value in {"alg": "HS256", "typ": "JWT", **header}.items() if value is not ABSENT}
    content = encoded(whole) + b"." + encoded(claims)
    return content + b"." + encoded(hmac.digest(key.encode(), content, digest))


def claims_of(user: User, **changes: object) -> dict[str, Any]:
    now = int(time.time())
    known: dict[str, Any] = {"iss": "onefold", "aud": "access", "typ": "access"}
    known |= {"sub": str(user.id), "sid": str(user.id), "iat": now, "exp": now + 300}
    return {name: value for name, value in (known | changes).items() if value is not ABSENT}


def read_me(client: httpx2.Client, token: bytes) -> httpx2.Response:
    return client.get(ME, headers={b"Authorization": b"Bearer " + token})


@on_sqlite
@pytest.mark.parametrize(
    "shift", [{}, {"iat": 3}, {"nbf": 3}, {"iat": 3, "nbf": 3}, {"exp": -5}, {"nbf": -60}], ids=str
)
def test_a_token_within_the_leeway_between_replicas_is_accepted(
    client: httpx2.Client, ada: User, shift: dict[str, int]
) -> None:
    now = int(time.time())
    token = signed(claims_of(ada, **{name: now + seconds for name, seconds in shift.items()}))
    assert read_me(client, token).json()["email"] == ada.email


BAD_CLAIMS: dict[str, Callable[[int], dict[str, object]]] = {
    "expired": lambda now: {"iat": now - 600, "exp": now - 60},
    "expired just now": lambda now: {"iat": now - 600, "exp": now - 10},
    "not yet valid": lambda now: {"nbf": now + 60},
    "issued in the future": lambda now: {"iat": now + 60},
    "no exp": lambda _: {"exp": ABSENT},
    "exp null": lambda _: {"exp": None},
    "exp string": lambda now: {"exp": str(now + 300)},
    "exp true": lambda _: {"exp": True},
    "exp float": lambda now: {"exp": now + 300.5},
    "exp list": lambda now: {"exp": [now + 300]},
    "exp huge": lambda _: {"exp": 10**30},
    "exp infinite": lambda _: {"exp": float("inf")},
    "exp nan": lambda _: {"exp": float("nan")},
    "exp negative": lambda _: {"exp": -1},
    "no iat": lambda _: {"iat": ABSENT},
    "iat string": lambda now: {"iat": str(now)},
    "nbf list": lambda now: {"nbf": [now]},
    "no sub": lambda _: {"sub": ABSENT},
    "sub null": lambda _: {"sub": None},
    "sub int": lambda _: {"sub": 1},
    "sub not a uuid": lambda _: {"sub": "ada@example.com"},
    "sub NUL": lambda _: {"sub": "\0"},
    "sub of nobody": lambda _: {"sub": "01a20344-b057-74a5-9808-85bd31c954e1"},
    "no sid": lambda _: {"sid": ABSENT},
    "sid null": lambda _: {"sid": None},
    "sid not a uuid": lambda _: {"sid": "1"},
    "sid of no session": lambda _: {"sid": "01a20344-b057-74a5-9808-85bd31c954e1"},
    "no aud": lambda _: {"aud": ABSENT},
    "aud wrong": lambda _: {"aud": "reset"},
    "aud list": lambda _: {"aud": ["access"]},
    "aud list of several": lambda _: {"aud": ["access", "reset"]},
    "no iss": lambda _: {"iss": ABSENT},
    "iss wrong": lambda _: {"iss": "another service"},
    "iss list": lambda _: {"iss": ["onefold"]},
    "iss surrogate": lambda _: {"iss": "\ud800"},
    "no typ": lambda _: {"typ": ABSENT},
    "typ wrong": lambda _: {"typ": "reset"},
}


def _flipped(token: bytes) -> bytes:
    content, _, signature = token.rpartition(b".")
    return content + b"." + (b"B" if signature[:1] == b"A" else b"A") + signature[1:]


def _unsigned(claims: object, alg: str, signature: bytes = b"") -> bytes:
    return encoded({"alg": alg, "typ": "JWT"}) + b"." + encoded(claims) + b"." + signature


BAD_TOKENS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "alg none": lambda claims: _unsigned(claims, "none"),
    "alg nOnE": lambda claims: _unsigned(claims, "nOnE"),
    "alg none, signed": lambda claims: signed(claims, alg="none"),
    "alg HS384": lambda claims: signed(claims, alg="HS384", digest="sha384"),
    "alg HS512": lambda claims: signed(claims, alg="HS512", digest="sha512"),
    "alg RS256": lambda claims: signed(claims, alg="RS256"),
    "no alg": lambda claims: signed(claims, alg=ABSENT),
    "alg null": lambda claims: signed(claims, alg=None),
    "alg list": lambda claims: signed(claims, alg=["HS256"]),
    "alg object": lambda claims: signed(claims, alg={"HS256": 1}),
    "crit": lambda claims: signed(claims, crit=["exp"], exp=1),
    "crit unknown": lambda claims: signed(claims, crit=["x"], x=1),
    "crit empty": lambda claims: signed(claims, crit=[]),
    "b64 false": lambda claims: signed(claims, b64=False),
    "b64 false, crit": lambda claims: signed(claims, b64=False, crit=["b64"]),
    "kid int": lambda claims: signed(claims, kid=1),
    "kid path": lambda claims: signed(claims, key="", kid="../../../dev/null"),
    "kid SQL": lambda claims: signed(claims, key="x", kid="' UNION SELECT 'x"),
    "jwk": lambda claims: signed(claims, key="x" * 32, jwk={"kty": "oct", "k": encoded(b"x" * 32).decode()}),
    "jku": lambda claims: signed(claims, key="x" * 32, jku="http://127.0.0.1:9/keys"),
    "wrong key": lambda claims: signed(claims, key="f" * 64),
    "empty key": lambda claims: signed(claims, key=""),
    "key in other case": lambda claims: signed(claims, key=KEY.upper()),
    "payload array": lambda claims: signed([claims]),
    "payload string": lambda _: signed("access"),
    "payload null": lambda _: signed(None),
    "payload not JSON": lambda _: signed(b"{"),
    "payload not UTF-8": lambda _: signed(b'{"sub":"\xff"}'),
    "payload deep": lambda _: signed(b"[" * 1400 + b"]" * 1400),
    "payload far too deep": lambda _: signed(b"[" * 10_000),
    "header deep": lambda claims: _header(b'{"alg":"HS384","x":' + b"[" * 1200 + b"]" * 1200 + b"}", claims),
    "header array": lambda claims: _header(b'["HS256"]', claims),
    "header not JSON": lambda claims: _header(b"HS256", claims),
    "header empty": lambda claims: _header(b"", claims),
    "four segments": lambda claims: signed(claims) + b"." + encoded(b"x"),
    "two segments": lambda claims: signed(claims).rpartition(b".")[0],
    "five segments": lambda claims: b".".join([signed(claims), b"", b""]),
    "dots": lambda _: b"..",
    "one word": lambda _: b"token",
    "no signature": lambda claims: signed(claims).rpartition(b".")[0] + b".",
    "signature altered": lambda claims: _flipped(signed(claims)),
    "signature cut": lambda claims: signed(claims)[:-2],
    "claims altered": lambda claims: _swapped(claims, claims | {"exp": claims["exp"] + 1}),
    "padded": lambda claims: signed(claims) + b"=",
    "padded twice": lambda claims: signed(claims) + b"==",
    "padded inside": lambda claims: signed(claims).replace(b".", b"=."),
    "plain base64": lambda claims: signed(claims) + b"+/",
    "not ASCII": lambda claims: signed(claims) + "é".encode("latin-1"),
    "not ASCII inside": lambda claims: signed(claims).replace(b".", b"\xff."),
    "with a space": lambda claims: signed(claims) + b" x",
    "quoted": lambda claims: b'"' + signed(claims) + b'"',
    "10 kB": lambda claims: signed(claims | {"x": "x" * 7_500}),
    "10 kB of nothing": lambda _: b"x" * 10_000,
}


def _header(header: bytes, claims: object) -> bytes:
    content = encoded(header) + b"." + encoded(claims)
    return content + b"." + encoded(hmac.digest(KEY.encode(), content, hashlib.sha256))


def _swapped(claims: object, others: object) -> bytes:
    header, _, signature = signed(claims).split(b".")
    return b".".join([header, encoded(others), signature])


def assert_refused(answer: httpx2.Response, reason: tuple[str, str] = INVALID_TOKEN) -> None:
    assert outcome(answer) == (401, "invalid_token")
    assert (answer.json()["detail"], answer.headers["www-authenticate"]) == reason


@on_sqlite
@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_a_signed_token_with_wrong_claims_is_refused(client: httpx2.Client, ada: User, name: str) -> None:
    token = signed(claims_of(ada, **BAD_CLAIMS[name](int(time.time()))))
    assert_refused(read_me(client, token), EXPIRED_TOKEN if name.startswith("expired") else INVALID_TOKEN)


@on_sqlite
@pytest.mark.parametrize("forge", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_forged_token_is_refused(client: httpx2.Client, ada: User, forge: Callable[[dict[str, Any]], bytes]) -> None:
    assert_refused(read_me(client, forge(claims_of(ada))))


def test_a_token_counts_for_no_more_than_its_user_does_now(client_of: Clients, service: Service, root: User) -> None:
    client = client_of(root)
    second = users.User(email="second@example.com", hashed_password=HASHED, is_superuser=True)
    service.write(lambda session: session.add(second))
    absent = "/api/v1/users/01a20344-b057-74a5-9808-85bd31c954e1"
    assert client.delete(absent).status_code == 404
    service.write(users.change, root.id, {"is_superuser": False})
    assert outcome(client.delete(absent)) == (403, "forbidden")
    service.write(users.change, root.id, {"is_active": False})
    assert outcome(client.delete(absent)) == (400, "inactive_user")
    service.write(users.delete, root.id)
    assert_refused(client.delete(absent))


def test_a_token_of_the_login_ends_with_its_lifetime(client: httpx2.Client, ada: User) -> None:
    token = security.encode_token("access", ada.id, ada.id, timedelta(seconds=-11), key=KEY, algorithm="HS256")
    assert_refused(read_me(client, token.encode()), EXPIRED_TOKEN)


class Gate:
    """Holds every argon2 verification until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self.open = self._opened.set
        verify_and_update = security._argon2id.verify_and_update

        def held(*args: Any) -> tuple[bool, str | None]:
            assert self._opened.wait(60)
            return verify_and_update(*args)

        monkeypatch.setattr(security._argon2id, "verify_and_update", held)


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:  # the service hashes when it starts
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


def test_logins_do_not_hold_up_other_requests(client: httpx2.Client, ada: User, gate: Gate) -> None:
    with ThreadPoolExecutor(8) as crowd:
        logins = [crowd.submit(log_in, client, ada.email) for _ in range(8)]
        try:
            for _ in range(10):
                assert client.get("/health/live", timeout=20).status_code == 200
                assert client.get(ME, timeout=20).status_code == 401
            assert not any(login.done() for login in logins)
        finally:
            gate.open()
        assert [login.result().status_code for login in logins] == [200] * 8


@pytest.fixture
def room_for_three(service: Service) -> Iterator[None]:
    """The service hashes one password at a time, and two more may wait."""
    usual, service.app.state.passwords = service.app.state.passwords, Passwords(slots=1, queue=2)
    yield
    service.app.state.passwords.close()
    service.app.state.passwords = usual


def test_a_request_that_was_turned_away_is_not_an_attempt(
    client: httpx2.Client, client_of: Clients, service: Service, ada: User
) -> None:
    def change() -> httpx2.Response:
        return client_of(ada).patch(ME, json={"password": "another one", "current_password": "not the one"})

    usual, service.app.state.passwords = service.app.state.passwords, Passwords(slots=1, queue=-1)
    try:
        assert [outcome(log_in(client, ada.email)) for _ in range(11)] == [(503, "unavailable")] * 11
        assert [outcome(change()) for _ in range(11)] == [(503, "unavailable")] * 11
    finally:
        service.app.state.passwords.close()
        service.app.state.passwords = usual
    assert [log_in(client, ada.email, "not the one").status_code for _ in range(11)] == [401] * 10 + [429]
    assert [change().status_code for _ in range(11)] == [400] * 10 + [429]


@pytest.mark.usefixtures("room_for_three")
def test_logins_beyond_a_bounded_queue_are_turned_away_at_once(
    client: httpx2.Client, ada: User, root: User, gate: Gate
) -> None:
    with ThreadPoolExecutor(20) as crowd:
        names = [ada.email] * 10 + [root.email] * 10  # each has ten attempts
        logins = as_completed([crowd.submit(log_in, client, name) for name in names], timeout=60)
        try:
            turned_away = [next(logins).result() for _ in range(17)]
        finally:
            gate.open()
        for answer in turned_away:
            assert outcome(answer) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert [login.result().status_code for login in logins] == [200] * 3
    assert log_in(client, ada.email).status_code == 200
