"""OAuth 2: the token endpoint, its errors, revocation, metadata, and standard clients."""

import io
import json
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import requests
import time_machine
from authlib.integrations.requests_client import OAuth2Session, OAuthError  # type: ignore[import-untyped]
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata  # type: ignore[import-untyped]
from oauthlib.oauth2 import InvalidGrantError, LegacyApplicationClient  # type: ignore[import-untyped]
from requests_oauthlib import OAuth2Session as RequestsOAuth2Session  # type: ignore[import-untyped]

from app import users
from app.core.security import Passwords
from app.users import User
from tests.conftest import PASSWORD, client_at, on_sqlite, outcome, token_of
from tests.service import Service

Clients = Callable[[User], httpx2.Client]
Tokens = dict[str, str]

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
REVOKE = "/api/v1/auth/revoke"
LOGOUT = "/api/v1/auth/logout"
ME = "/api/v1/users/me"
METADATA = "/.well-known/oauth-authorization-server"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def log_in(client: httpx2.Client, user: User) -> Tokens:
    answer = client.post(LOGIN, data={"username": user.email, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    tokens: Tokens = answer.json()
    return tokens


def refresh(client: httpx2.Client, token: str, at: str = LOGIN) -> httpx2.Response:
    return client.post(at, data={"grant_type": "refresh_token", "refresh_token": token})


def read_me(client: httpx2.Client, tokens: Tokens) -> httpx2.Response:
    return client.get(ME, headers={"Authorization": f"Bearer {tokens['access_token']}"})


def test_one_endpoint_answers_both_grants(client: httpx2.Client, ada: User) -> None:
    first = log_in(client, ada)
    second = refresh(client, first["refresh_token"])
    assert (second.status_code, second.headers["Cache-Control"]) == (200, "no-store")
    assert set(second.json()) == set(first)
    third = refresh(client, second.json()["refresh_token"], at=REFRESH)
    assert third.status_code == 200
    for tokens in (first, second.json(), third.json()):
        assert read_me(client, tokens).status_code == 200
    assert outcome(refresh(client, first["refresh_token"])) == (400, "invalid_grant")
    assert outcome(read_me(client, third.json())) == (401, "invalid_token")


def test_what_a_grant_needs_is_named(client: httpx2.Client) -> None:
    for form, missing in (
        ({}, ["username", "password"]),
        ({"username": "ada@example.com"}, ["password"]),
        ({"grant_type": "password", "refresh_token": "x"}, ["username", "password"]),
        ({"grant_type": "refresh_token"}, ["refresh_token"]),
        ({"grant_type": "refresh_token", "username": "ada@example.com", "password": "x"}, ["refresh_token"]),
    ):
        answer = client.post(LOGIN, data=form, headers=FORM)
        assert outcome(answer) == (422, "validation_error")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", name] for name in missing]


def test_a_password_outside_ascii_is_right_however_it_is_encoded(client: httpx2.Client, service: Service) -> None:
    password = "räksmörgås 🦞"
    hashed = service.run(service.app.state.passwords.hash(password))
    service.write(lambda session: session.add(User(email="åsa@example.com", hashed_password=hashed)))
    as_curl_sends_it = f"username=åsa@example.com&password={password}".encode()
    assert client.post(LOGIN, content=as_curl_sends_it, headers=FORM).status_code == 200
    encoded = {"username": "åsa@example.com", "password": password}
    assert client.post(LOGIN, data=encoded).status_code == 200
    mixed = f"username=%C3%A5sa@example.com&password={password.replace(' ', '+')}".encode()
    assert client.post(LOGIN, content=mixed, headers=FORM | {"Accept-Charset": "latin-1"}).status_code == 200


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    """The status of a problem, and its OAuth error (RFC 6749 section 5.2)."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["error_description"] == problem["detail"]
    assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", problem["error_description"])
    return answer.status_code, problem["error"]


@pytest.mark.parametrize("path", [LOGIN, REFRESH, REVOKE, f"{LOGIN}/"])
def test_whatever_a_token_endpoint_refuses_is_told_as_oauth_does(client: httpx2.Client, path: str) -> None:
    for content, headers, status in (
        (b"token=\xff", FORM, 400),
        (b"x" * 65_537, FORM, 413),
        (b"x" * 2_000_000, FORM, 413),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"", {}, 415),
        (b"", FORM, 422),
        (b"token=%00", FORM, 422),
        (b"token=x&token=x&refresh_token=x&refresh_token=x", FORM, 400),
    ):
        assert error_of(client.post(path, content=content, headers=headers)) == (status, "invalid_request")
    chunks = (b"x" * 65_536 for _ in range(32))
    assert error_of(client.post(path, content=chunks, headers=FORM)) == (413, "invalid_request")
    for method in ("GET", "PUT", "OPTIONS"):
        assert error_of(client.request(method, path)) == (405, "invalid_request")


def test_what_a_grant_comes_to_is_told_as_oauth_does(client: httpx2.Client, ada: User, ivan: User) -> None:
    wrong, right = ({"username": ada.email, "password": password} for password in ("not the one", PASSWORD))
    answer = client.post(LOGIN, data=wrong)
    assert (error_of(answer), answer.headers["WWW-Authenticate"]) == ((401, "invalid_grant"), "Bearer")
    assert error_of(client.post(LOGIN, data=right | {"username": ivan.email})) == (400, "invalid_grant")
    unsupported = client.post(LOGIN, data=right | {"grant_type": "client_credentials"})
    assert error_of(unsupported) == (400, "unsupported_grant_type")
    for path in (LOGIN, REFRESH):
        assert error_of(refresh(client, "none", at=path)) == (400, "invalid_grant")
    while (answer := client.post(LOGIN, data=wrong)).status_code == 401:
        pass
    assert error_of(answer) == (429, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_what_a_token_endpoint_cannot_do_is_told_as_oauth_does(
    client: httpx2.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"username": "ada@example.com", "password": PASSWORD}
    full = Passwords(slots=1, queue=-1)
    state = service.app.state._state
    monkeypatch.setitem(state, "passwords", full)
    answer = client.post(LOGIN, data=form)
    assert error_of(answer) == (503, "temporarily_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    full.close()
    monkeypatch.setitem(state, "passwords", None)
    assert error_of(client.post(LOGIN, data=form)) == (500, "server_error")


def test_nothing_but_a_token_endpoint_speaks_of_oauth(client: httpx2.Client, client_of: Clients, ivan: User) -> None:
    for answer in (
        client_of(ivan).get(ME),
        client.get(ME),
        client.get("/api/v1/auth/logout"),
        client.post("/api/v1/auth/password/forgot", content=b"x" * 2_000_000),
        client.post("/api/v1/users/", json={}),
        client.get("/auth/login/x"),
    ):
        assert answer.status_code >= 400
        assert not {"error", "error_description"} & set(answer.json())


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
@pytest.mark.parametrize("hint", [{}, {"token_type_hint": "refresh_token"}, {"token_type_hint": "anything"}], ids=str)
def test_a_revoked_token_ends_its_session(
    client: httpx2.Client, client_of: Clients, ada: User, log: io.StringIO, kind: str, hint: dict[str, str]
) -> None:
    tokens, other = log_in(client, ada), log_in(client, ada)
    answers = [client.post(REVOKE, data={"token": tokens[kind], **hint}) for _ in range(2)]
    answers.append(client.post(REVOKE, data={"token": "none"}))
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert outcome(read_me(client, tokens)) == (401, "invalid_token")
    assert outcome(refresh(client, tokens["refresh_token"])) == (400, "invalid_grant")
    assert read_me(client, other).status_code == 200
    assert client_of(ada).get(ME).status_code == 200
    (event,) = [json.loads(line) for line in log.getvalue().splitlines() if "token_revoked" in line]
    assert (event["logger"], event["user_id"]) == ("app.security", str(ada.id))
    assert not any(token in log.getvalue() for token in tokens.values() if isinstance(token, str) and len(token) > 9)


def test_an_earlier_refresh_token_can_be_revoked_too(client: httpx2.Client, ada: User) -> None:
    first = log_in(client, ada)
    second = refresh(client, first["refresh_token"]).json()
    assert client.post(REVOKE, data={"token": first["refresh_token"]}).status_code == 200
    assert outcome(refresh(client, second["refresh_token"])) == (400, "invalid_grant")


def test_what_is_no_token_revokes_nothing(client: httpx2.Client, service: Service, ada: User) -> None:
    tokens = log_in(client, ada)
    with time_machine.travel(datetime.now(UTC) - timedelta(hours=1), tick=True):
        expired = token_of(ada)
    for token in (
        "none",
        tokens["refresh_token"][:-4],
        tokens["access_token"][:-4],
        expired,
        str(ada.id),
        str(uuid.uuid4()),
        "é🦞",
        "A" * 4096,
    ):
        assert client.post(REVOKE, data={"token": token}).status_code == 200
    assert read_me(client, tokens).status_code == 200
    assert refresh(client, tokens["refresh_token"]).status_code == 200


def test_the_token_of_a_user_who_is_gone_or_inactive_is_revoked_alike(
    client: httpx2.Client, service: Service, ada: User, bob: User
) -> None:
    gone, inactive = log_in(client, ada), log_in(client, bob)
    service.write(users.delete, ada.id)
    service.write(users.change, bob.id, {"is_active": False})
    assert [client.post(REVOKE, data={"token": each["access_token"]}).status_code for each in (gone, inactive)] == [
        200,
        200,
    ]
    service.write(users.change, bob.id, {"is_active": True})
    assert outcome(refresh(client, inactive["refresh_token"])) == (400, "invalid_grant")


@on_sqlite
def test_the_metadata_says_where_everything_is(client: httpx2.Client, service: Service) -> None:
    answer = client.get(METADATA)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json() == {
        "issuer": service.url,
        "token_endpoint": service.url + LOGIN,
        "revocation_endpoint": service.url + REVOKE,
        "grant_types_supported": ["password", "refresh_token"],
        "response_types_supported": ["none"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    }
    behind_tls = client.get(METADATA, headers={"Host": "api.example.com", "X-Forwarded-Proto": "https"}).json()
    assert behind_tls["token_endpoint"] == f"https://api.example.com{LOGIN}"
    AuthorizationServerMetadata(behind_tls).validate()


@on_sqlite
def test_the_metadata_follows_the_prefix(serve: Callable[..., Service]) -> None:
    service = serve(api_v1_prefix="/v7")
    service.app.root_path = "/shop"
    with client_at(service.url) as client:
        metadata = client.get(METADATA).json()
    assert metadata["issuer"] == f"{service.url}/shop"
    assert metadata["token_endpoint"] == f"{service.url}/shop/v7/auth/login"


@on_sqlite
def test_a_host_that_is_none_does_not_get_into_the_metadata(service: Service) -> None:
    address = service.url.removeprefix("http://")
    for host in (b'evil.example"<script>', b"evil.example/path", b"user@evil.example", b"evil.example:port", b"\xff"):
        host_name, _, port = address.partition(":")
        with socket.create_connection((host_name, int(port)), 10) as connection:
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (METADATA.encode(), host))
            answer = connection.makefile("rb").read()
        status = int(answer.split()[1])
        assert status < 500
        assert b"evil" not in answer
        assert status >= 400 or json.loads(answer.partition(b"\r\n\r\n")[2])["issuer"] == service.url


@pytest.fixture
def clock(service: Service) -> Iterator[time_machine.Traveller]:
    """The clock of the service and its clients. It continues from the time it is moved to."""
    with time_machine.travel(datetime.now(UTC), tick=True) as clock:
        yield clock


def authlib_client(url: str, updates: list[Any]) -> Any:
    """A client that knows a single token endpoint."""
    return OAuth2Session(token_endpoint=url, update_token=lambda token, **_: updates.append(token))


def requests_oauthlib_client(url: str, updates: list[Any]) -> Any:
    client = LegacyApplicationClient(client_id="shop")
    return RequestsOAuth2Session(client=client, auto_refresh_url=url, token_updater=updates.append)


@pytest.fixture(params=[authlib_client, requests_oauthlib_client])
def oauth(
    service: Service, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[Any]], Any]]:
    """Creates standard OAuth clients, without knowledge of this service."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    made: list[requests.Session] = []

    def make(updates: list[Any]) -> Any:
        made.append(request.param(service.url + LOGIN, updates))
        return made[-1]

    yield make
    for session in made:
        session.close()


def test_a_stock_client_logs_in_and_stays_so(
    service: Service, clock: time_machine.Traveller, ada: User, oauth: Callable[[list[Any]], Any]
) -> None:
    updates: list[Any] = []
    session = oauth(updates)
    first = dict(session.fetch_token(service.url + LOGIN, username=ada.email, password=PASSWORD))
    assert session.get(service.url + ME).json()["email"] == ada.email
    assert updates == []
    for number in (1, 2):
        clock.shift(timedelta(minutes=16))
        for _ in range(2):
            assert session.get(service.url + ME).json()["email"] == ada.email
        assert len(updates) == number
    assert len({each["refresh_token"] for each in (first, *updates)}) == 3
    assert session.token["access_token"] == updates[-1]["access_token"]


def test_a_stock_client_understands_why_it_is_refused(
    service: Service, ada: User, oauth: Callable[[list[Any]], Any]
) -> None:
    session = oauth([])
    refusals = (OAuthError, InvalidGrantError)
    with pytest.raises(refusals) as refused:
        session.fetch_token(service.url + LOGIN, username=ada.email, password="not the one")
    assert (refused.value.error, refused.value.description) == ("invalid_grant", "Incorrect email or password")
    session.fetch_token(service.url + LOGIN, username=ada.email, password=PASSWORD)
    assert session.post(service.url + LOGOUT).status_code == 204
    with pytest.raises(refusals) as refused:
        session.refresh_token(service.url + LOGIN)
    assert refused.value.error == "invalid_grant"


def test_a_problem_is_not_stored_as_a_token(service: Service, ada: User) -> None:
    with authlib_client(service.url + LOGIN, []) as session:

        def error(**form: str) -> str:
            with pytest.raises(OAuthError) as refused:
                session.fetch_token(service.url + LOGIN, **form)
            assert session.token is None
            return str(refused.value.error)

        assert error(username=ada.email, password="x" * 200) == "invalid_request"
        assert error(username=ada.email, password="x" * 70_000) == "invalid_request"
        assert error(username=ada.email, password="x" * 2_000_000) == "invalid_request"
        assert error(username=ada.email, password=PASSWORD, grant_type="urn:other") == "unsupported_grant_type"
        assert {error(username=ada.email, password="not the one") for _ in range(10)} == {"invalid_grant"}
        assert error(username=ada.email, password=PASSWORD) == "temporarily_unavailable"


def test_a_stock_client_revokes_what_it_has(service: Service, ada: User) -> None:
    with authlib_client(service.url + LOGIN, []) as session:
        tokens = session.fetch_token(service.url + LOGIN, username=ada.email, password=PASSWORD)
        revoked = session.revoke_token(service.url + REVOKE, tokens["refresh_token"], "refresh_token")
        assert revoked.status_code == 200
        assert session.get(service.url + ME).status_code == 401
