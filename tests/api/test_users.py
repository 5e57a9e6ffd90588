"""Users: for themselves, other users and superusers."""

import json
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlmodel import Session, SQLModel, select

from app import accounts, emails, users
from app.accounts import IncorrectPassword
from app.core import fields
from app.core.security import _COMMON
from app.users import User, UserUpdateMe
from tests.conftest import HASHED, PASSWORD, add_user, all_users, caller_of, context_of, on_sqlite, token_of
from tests.service import Service

Clients = Callable[[User], httpx2.Client]

USERS = "/api/v1/users/"
ME = "/api/v1/users/me"


USER_FIELDS = ["id", "created_at", "updated_at", "email", "full_name", "is_active", "is_superuser", "email_verified_at"]
EMAIL_TAKEN = "User with this email already exists."


ACCESS = {
    "GET /api/v1/users/": (401, 400, 200, 200, 200),
    "POST /api/v1/users/": (201, 400, 201, 201, 201),
    "GET /api/v1/users/me": (401, 400, 200, 200, 200),
    "PATCH /api/v1/users/me": (401, 400, 200, 200, 200),
    "DELETE /api/v1/users/me": (401, 400, 204, 204, 204),
    "DELETE /api/v1/users/me/pending-email": (401, 400, 204, 204, 204),
    "GET /api/v1/users/{user_id}": (401, 400, 404, 200, 200),
    "PATCH /api/v1/users/{user_id}": (401, 400, 403, 403, 200),
    "DELETE /api/v1/users/{user_id}": (401, 400, 403, 403, 204),
}
REQUESTS: dict[str, dict[str, Any]] = {
    "POST /api/v1/users/": {"json": {"email": "new@example.com", "password": PASSWORD}},
    "PATCH /api/v1/users/me": {"json": {"full_name": "Changed"}},
    "PATCH /api/v1/users/{user_id}": {"json": {"full_name": "Changed"}},
}


def stage(session: Session, owner: User) -> dict[str, object]:
    return {"user_id": owner.id}


def sign_up(client: httpx2.Client, email: str = "carol@example.com", **values: object) -> httpx2.Response:
    return client.post(USERS, json={"email": email, "password": PASSWORD, **values})


def log_in(client: httpx2.Client, email: str, password: str) -> int:
    return client.post("/api/v1/auth/login", data={"username": email, "password": password}).status_code


def stored(service: Service) -> list[dict[str, Any]]:
    """All users, including hidden columns."""
    return service.read(lambda session: [user.model_dump() for user in all_users(session)])


def public(user: User) -> dict[str, Any]:
    return user.model_dump(mode="json", exclude={"hashed_password", "version", "pending_email"})


def mine(user: User) -> dict[str, Any]:
    return public(user) | {"pending_email": user.pending_email}


def refused_field(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    location: list[str] = error["loc"]
    return location


def test_create_user(client: httpx2.Client) -> None:
    response = client.post(
        "/api/v1/users/",
        json={"email": "test@example.com", "password": "testpassword123"},
    )
    assert response.status_code == 201
    data = response.json()
    assert data["email"] == "test@example.com"
    assert "id" in data


def test_create_user_existing_email(client: httpx2.Client) -> None:
    client.post(
        "/api/v1/users/",
        json={"email": "test@example.com", "password": "testpassword123"},
    )
    response = client.post(
        "/api/v1/users/",
        json={"email": "test@example.com", "password": "testpassword123"},
    )
    assert response.status_code == 400


def test_who_signs_up_gets_the_public_fields_in_their_declared_order(client: httpx2.Client, service: Service) -> None:
    answer = sign_up(client, full_name="Carol Shaw")
    assert answer.status_code == 201
    user = answer.json()
    assert list(user) == USER_FIELDS
    assert user == {
        "id": user["id"],
        "created_at": user["created_at"],
        "updated_at": user["created_at"],
        "email": "carol@example.com",
        "full_name": "Carol Shaw",
        "is_active": True,
        "is_superuser": False,
        "email_verified_at": None,
    }
    assert datetime.fromisoformat(user["created_at"]).tzinfo == UTC
    [row] = stored(service)
    assert row["hashed_password"].startswith("$argon2id$")
    assert log_in(client, "carol@example.com", PASSWORD) == 200


def test_no_answer_about_a_user_holds_their_hash(client_of: Clients, ada: User, root: User) -> None:
    client, theirs = client_of(ada), client_of(root)
    answers = [
        sign_up(client),
        client.get(ME),
        client.patch(ME, json={"full_name": "Ada Lovelace"}),
        client.get(f"{USERS}{ada.id}"),
        client.get(USERS),
        theirs.patch(f"{USERS}{ada.id}", json={"full_name": "Ada King"}),
    ]
    for answer in answers:
        assert answer.is_success
        assert "hashed_password" not in answer.text
        assert "argon2" not in answer.text
        assert "version" not in answer.text


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("RAW@EXAMPLE.COM", "raw@example.com"),
        ("A@x.org", "a@X.org"),
        ("eve@bücher.example", "eve@xn--bcher-kva.example"),
        ("eve@xn--bcher-kva.example", "EVE@BÜCHER.example"),
        ("jos\u00e9@example.com", "JOSE\u0301@example.com"),
        ("straße@example.com", "STRASSE@example.com"),
        ("\uff25\uff36\uff25@example.com", "eve@example.com"),
    ],
    ids=ascii,
)
def test_all_spellings_of_an_address_are_one_account(
    client: httpx2.Client, service: Service, chosen: str, other: str
) -> None:
    assert sign_up(client, chosen).status_code == 201
    assert log_in(client, chosen, PASSWORD) == 200
    assert log_in(client, other, PASSWORD) == 200
    again = sign_up(client, other)
    assert (again.status_code, again.json()["code"], again.json()["detail"]) == (400, "email_taken", EMAIL_TAKEN)
    assert len(stored(service)) == 1


_LOCALS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
_DOMAINS = st.sampled_from(
    ["example.com", "EXAMPLE.Com", "bücher.example", "xn--bcher-kva.example", "\uff22Ücher.example"]
)


@settings(max_examples=300, deadline=None)
@given(_LOCALS, _DOMAINS)
def test_a_canonical_address_is_its_own_canonical_form(local: str, domain: str) -> None:
    try:
        canonical = fields.canonical_email(f"{local}@{domain}")
    except ValueError:
        assume(False)
    assert fields.canonical_email(canonical) == canonical
    for form in ("NFC", "NFD", "NFKD"):
        assert fields.canonical_email(unicodedata.normalize(form, f"{local}@{domain}")) == canonical


def test_what_is_no_address_is_refused(client: httpx2.Client, service: Service) -> None:
    long = f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.org"
    wrong = ["", "ada", "ada@", "@x.org", "ada@x", "a b@x.org", "a@b@x.org", "a\0@x.org", "a@x.org\n", long, 7, None]
    for email in wrong:
        assert refused_field(sign_up(client, email=email)) == ["body", "email"]  # type: ignore[arg-type]
    assert stored(service) == []


def test_where_sign_up_is_closed_only_superusers_add_users(serve: Callable[..., Service]) -> None:
    service = serve(signup_open=False)
    ada, root = add_user(service, "ada"), add_user(service, "root", is_superuser=True)
    with httpx2.Client(base_url=service.url) as client:
        for headers in ({}, {"Authorization": f"Bearer {token_of(ada)}"}):
            client.headers.update(headers)
            answer = sign_up(client)
            assert (answer.status_code, answer.json()["code"]) == (403, "signup_closed")
        assert len(stored(service)) == 2
        client.headers["Authorization"] = f"Bearer {token_of(root)}"
        assert sign_up(client).json()["is_superuser"] is False
        assert log_in(client, "carol@example.com", PASSWORD) == 200


def test_any_active_user_may_list_all_where_the_directory_is_open(
    client_of: Clients, ada: User, ivan: User, root: User
) -> None:
    answer = client_of(ada).get(USERS)
    assert answer.status_code == 200
    assert answer.json() == [public(user) for user in (ada, ivan, root)]
    assert [list(user) for user in answer.json()] == [USER_FIELDS] * 3


def test_only_superusers_may_list_all_where_the_directory_is_closed(serve: Callable[..., Service]) -> None:
    service = serve(directory_open=False)
    ada, root = add_user(service, "ada"), add_user(service, "root", is_superuser=True)
    with httpx2.Client(base_url=service.url) as client:
        assert client.get(USERS).status_code == 401
        refused = client.get(USERS, headers={"Authorization": f"Bearer {token_of(ada)}"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        listed = client.get(USERS, headers={"Authorization": f"Bearer {token_of(root)}"})
        assert [user["email"] for user in listed.json()] == ["ada@example.com", "root@example.com"]


def test_pages_of_a_list_neither_overlap_nor_leave_gaps(client_of: Clients, service: Service, ada: User) -> None:
    same_moment = datetime(2020, 1, 1, tzinfo=UTC)

    def add(session: Session) -> None:
        for number in (3, 5, 2, 6, 1, 4):
            email = f"{number}@example.com"
            session.add(User(id=UUID(int=number), email=email, hashed_password=HASHED, created_at=same_moment))
            session.flush()

    service.write(add)
    client = client_of(ada)
    everybody = client.get(USERS).json()
    assert [user["id"] for user in everybody] == sorted(user["id"] for user in everybody)
    assert len(everybody) == 7
    pages = [client.get(USERS, params={"skip": skip, "limit": 3}).json() for skip in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [user for page in pages for user in page] == everybody
    assert client.get(USERS, params={"skip": 1_000_000, "limit": 100}).json() == []


def test_a_page_out_of_bounds_is_refused(client_of: Clients, ada: User) -> None:
    wrong: dict[str, tuple[object, ...]] = {
        "limit": (0, -1, 101, 10**9, 2**63, "", "x", "1.5"),
        "skip": (-1, 1_000_001, 2**31, 2**63, 2**200, "x"),
        "page": (1,),
    }
    client = client_of(ada)
    for name, values in wrong.items():
        for value in values:
            assert refused_field(client.get(USERS, params={name: str(value)})) == ["query", name]


def test_a_user_is_read_by_themselves_and_by_superusers(client_of: Clients, ada: User, root: User) -> None:
    answer = client_of(ada).get(f"{USERS}{ada.id}")
    assert public(ada).items() <= answer.json().items()
    assert list(answer.json())[: len(USER_FIELDS)] == USER_FIELDS  # a higher domain may add fields
    assert client_of(root).get(f"{USERS}{ada.id}").json() == answer.json()
    assert client_of(root).get(f"{USERS}{uuid4()}").status_code == 404


def test_a_user_has_one_entity_tag_at_their_own_url(client_of: Clients, root: User) -> None:
    client = client_of(root)
    created = sign_up(client)
    at = created.headers["Location"]
    tag = client.get(at).headers["ETag"]
    assert created.headers["ETag"] == tag
    changed = client.patch(at, json={"full_name": "Carol"}, headers={"If-Match": tag})
    assert client.get(at).headers["ETag"] == changed.headers["ETag"] != tag
    assert client.delete(at, headers={"If-Match": tag}).status_code == 412
    assert client.delete(at, headers={"If-Match": changed.headers["ETag"]}).status_code == 204


def test_another_user_is_like_an_absent_one(client_of: Clients, ada: User, bob: User) -> None:
    client = client_of(ada)
    theirs, absent = (client.get(f"{USERS}{each}", headers={"X-Request-ID": "same"}) for each in (bob.id, uuid4()))
    assert (theirs.status_code, theirs.content) == (404, absent.content)
    assert absent.status_code == 404
    without_date = [[(k, v) for k, v in each.headers.items() if k != "date"] for each in (theirs, absent)]
    assert without_date[0] == without_date[1]


def test_a_name_is_changed_and_cleared_without_a_password(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    for name in ("Ada King", None):
        changed = client.patch(ME, json={"full_name": name})
        assert changed.status_code == 200
        assert changed.json() == mine(ada) | {"full_name": name, "updated_at": changed.json()["updated_at"]}
        assert changed.json()["updated_at"] > public(ada)["updated_at"]
        assert client.get(ME).json() == changed.json()


@pytest.mark.parametrize(
    "changes", [{"email": "ada@x.org"}, {"password": "another password"}], ids=["email", "password"]
)
def test_a_new_email_or_password_needs_the_current_password(
    client_of: Clients, service: Service, ada: User, changes: dict[str, str]
) -> None:
    client = client_of(ada)
    before = stored(service)
    missing = client.patch(ME, json=changes | {"full_name": "Not kept"})
    assert refused_field(missing) == ["body", "current_password"]
    wrong = client.patch(ME, json=changes | {"full_name": "Not kept", "current_password": "not the one"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "incorrect_password")
    assert "not the one" not in wrong.text
    assert stored(service) == before


def test_a_password_that_was_right_no_longer_counts_once_it_was_changed(service: Service, ada: User) -> None:
    change = UserUpdateMe(password=SecretStr("another password"), current_password=SecretStr(PASSWORD))
    as_it_was = caller_of(service, ada)
    service.write(users.change, ada.id, {"hashed_password": "changed meanwhile"})
    before = stored(service)
    with pytest.raises(IncorrectPassword):
        service.run(accounts.update_me(context_of(service), as_it_was, change))
    assert stored(service) == before


def test_ones_own_email_in_another_spelling_is_no_change(client_of: Clients, service: Service, ada: User) -> None:
    before = stored(service)
    assert client_of(ada).patch(ME, json={"email": "ADA@Example.COM"}).json() == mine(ada)
    assert stored(service) == before


def test_after_a_change_the_new_password_works_and_the_old_one_does_not(client_of: Clients, ada: User) -> None:
    client = client_of(ada)
    changed = client.patch(ME, json={"password": "another password", "current_password": PASSWORD})
    assert (changed.status_code, changed.json()["email"]) == (200, ada.email)
    assert log_in(client, ada.email, "another password") == 200
    assert log_in(client, ada.email, PASSWORD) == 401


def test_an_email_of_somebody_else_is_refused(
    client_of: Clients, service: Service, ada: User, bob: User, root: User
) -> None:
    before = stored(service)
    taken = bob.email.upper()
    for answer in (
        client_of(ada).patch(ME, json={"email": taken, "current_password": PASSWORD}),
        client_of(root).patch(f"{USERS}{ada.id}", json={"email": taken}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "email_taken")
    assert stored(service) == before


HIDDEN = {
    "id": str(uuid4()),
    "created_at": "2020-01-01T00:00:00Z",
    "updated_at": "2020-01-01T00:00:00Z",
    "version": 7,
    "surprise": 1,
}
RIGHTS = {"is_superuser": True, "is_active": False}
HASH = {"hashed_password": HASHED}


@pytest.mark.parametrize(
    ("method", "path", "body", "extras"),
    [
        ("POST", USERS, {"email": "eve@example.com", "password": PASSWORD}, HIDDEN | RIGHTS | HASH),
        ("PATCH", ME, {"full_name": "Changed"}, HIDDEN | RIGHTS | HASH),
        ("PATCH", USERS + "{ada}", {"full_name": "Changed"}, HIDDEN | HASH | {"current_password": PASSWORD}),
    ],
    ids=["sign-up", "me", "user"],
)
def test_fields_that_are_not_the_clients_to_set_are_refused_and_change_nothing(
    client_of: Clients,
    service: Service,
    ada: User,
    root: User,
    method: str,
    path: str,
    body: dict[str, Any],
    extras: dict[str, Any],
) -> None:
    before = stored(service)
    client = client_of(root if "{ada}" in path else ada)
    for name, value in extras.items():
        answer = client.request(method, path.format(ada=ada.id), json=body | {name: value})
        assert refused_field(answer) == ["body", name]
    assert stored(service) == before


def test_a_superuser_changes_every_field_of_a_user(
    client_of: Clients, client: httpx2.Client, ada: User, root: User
) -> None:
    changes: dict[str, object] = {"full_name": None, "email": "ada@x.org", "is_superuser": True}
    body = {**changes, "email": "ADA@X.org"}
    changed = client_of(root).patch(f"{USERS}{ada.id}", json=body)
    assert changed.status_code == 200
    updated_at = changed.json()["updated_at"]
    expected = public(ada) | changes | {"updated_at": updated_at}
    assert expected.items() <= changed.json().items()
    assert client_of(ada).get(f"{USERS}{root.id}").status_code == 200
    assert client_of(root).patch(f"{USERS}{ada.id}", json={"password": "another password"}).status_code == 200
    assert log_in(client, "ada@x.org", "another password") == 200


def test_a_deactivated_users_token_is_refused_at_once(client_of: Clients, ada: User, root: User) -> None:
    path = f"{USERS}{ada.id}"
    assert client_of(root).patch(path, json={"is_active": False}).json()["is_active"] is False
    refused = client_of(ada).get(ME)
    assert (refused.status_code, refused.json()["code"], refused.json()["detail"]) == (
        400,
        "inactive_user",
        "Inactive user",
    )
    assert client_of(root).patch(path, json={"is_active": True}).status_code == 200
    ended = client_of(ada).get(ME)
    assert (ended.status_code, ended.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("name", ["email", "password", "is_active", "is_superuser", "email_verified_at"])
def test_null_is_refused_where_something_must_be(
    client_of: Clients, service: Service, ada: User, root: User, name: str
) -> None:
    before = stored(service)
    assert refused_field(client_of(root).patch(f"{USERS}{ada.id}", json={name: None})) == ["body", name]
    if name in ("email", "password"):
        answer = client_of(ada).patch(ME, json={name: None, "current_password": PASSWORD})
        assert refused_field(answer) == ["body", name]
    assert stored(service) == before


def test_a_patch_that_changes_nothing_changes_nothing(
    client_of: Clients, service: Service, ada: User, root: User
) -> None:
    before = stored(service)
    same = {"full_name": ada.full_name, "email": ada.email}
    rights = {"is_active": True, "is_superuser": False}
    for path, user, body in ((ME, ada, same), (f"{USERS}{ada.id}", root, same | rights)):
        for nothing in ({}, body):
            answer = client_of(user).patch(path, json=nothing).json()
            assert (public(ada) if user is root else mine(ada)).items() <= answer.items()
    assert stored(service) == before


def test_an_absent_user_is_neither_changed_nor_deleted(client_of: Clients, root: User) -> None:
    client = client_of(root)
    for body in ({}, {"full_name": "x"}, {"password": "another password"}, {"is_active": False}):
        assert client.patch(f"{USERS}{uuid4()}", json=body).status_code == 404
    assert client.delete(f"{USERS}{uuid4()}").status_code == 404


@pytest.mark.parametrize("by", ["themselves", "a superuser"])
def test_a_deleted_user_is_gone_with_token_and_all_that_is_theirs(
    client_of: Clients, service: Service, ada: User, root: User, by: str
) -> None:
    service.write(emails.queue, "verify_email", ada.email, ada.id)
    deleted = client_of(ada).delete(ME) if by == "themselves" else client_of(root).delete(f"{USERS}{ada.id}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    refused = client_of(ada).get(ME)
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert client_of(root).get(f"{USERS}{ada.id}").status_code == 404
    assert log_in(client_of(root), ada.email, PASSWORD) == 401
    assert [user["email"] for user in stored(service)] == [root.email]
    keys = [key for table in SQLModel.metadata.tables.values() for key in table.foreign_keys]
    owners = [key.parent for key in keys if key.column.table.name == "users"]
    assert owners
    for owner in owners:
        left = service.read(lambda session, key: session.scalars(select(key).where(key == ada.id)).all(), owner)
        assert left == [], owner


LEAVING = {
    "delete me": ("DELETE", ME, None),
    "delete": ("DELETE", USERS + "{root}", None),
    "demote": ("PATCH", USERS + "{root}", {"is_superuser": False}),
    "deactivate": ("PATCH", USERS + "{root}", {"is_active": False}),
    "demote and more": ("PATCH", USERS + "{root}", {"is_superuser": False, "full_name": "Nobody"}),
}


@pytest.mark.parametrize(("method", "path", "body"), LEAVING.values(), ids=LEAVING)
def test_the_last_active_superuser_stays_until_there_is_another(
    client_of: Clients, service: Service, root: User, method: str, path: str, body: dict[str, bool] | None
) -> None:
    add_user(service, "ada")
    add_user(service, "retired", is_active=False, is_superuser=True)
    before = stored(service)
    client = client_of(root)
    refused = client.request(method, path.format(root=root.id), json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_superuser")
    assert stored(service) == before

    second = add_user(service, "second", is_superuser=True)
    assert client.request(method, path.format(root=root.id), json=body).is_success
    active = [user["id"] for user in stored(service) if user["is_active"] and user["is_superuser"]]
    assert active == [second.id]


def test_an_inactive_superuser_may_be_deleted_and_demoted(client_of: Clients, service: Service, root: User) -> None:
    for name in ("one", "two"):
        retired = add_user(service, name, is_active=False, is_superuser=True)
        assert client_of(root).patch(f"{USERS}{retired.id}", json={"is_superuser": False}).status_code == 200
        assert client_of(root).delete(f"{USERS}{retired.id}").status_code == 204
    assert [user["email"] for user in stored(service)] == [root.email]


@on_sqlite
@pytest.mark.parametrize(
    ("password", "accepted"),
    [
        (("zq" * 500_000), False),
        (("zq" * 4)[:7], False),
        (("zq" * 4), True),
        (("zq" * 64), True),
        (("zq" * 65)[:129], False),
        ("🦉" * 7, False),
        ("🦉" * 8, True),
        ("🦉" * 128, True),
        ("🦉" * 129, False),
        ("\ufb01" * 65, False),
        ("zqzqzq\0zqzq", False),
        ("zqzqzq\nzqzq", False),
        ("zqzqzq\x7fzqzq", False),
        ("zqzqzq\x85zqzq", False),
        ("zqzqzq\ud800zqzq", False),
        ("        ", False),
    ],
    ids=lambda value: f"{len(value)} of {value[:9]!a}" if isinstance(value, str) else "",
)
def test_a_password_has_8_to_128_characters_and_no_controls(
    client: httpx2.Client, password: str, accepted: bool
) -> None:
    body = json.dumps({"email": "carol@example.com", "password": password})
    answer = client.post(USERS, content=body, headers={"Content-Type": "application/json"})
    if accepted:
        assert answer.status_code == 201
        assert log_in(client, "carol@example.com", password) == 200
    else:
        assert refused_field(answer) == ["body", "password"]
        assert ascii(password)[1:9] not in answer.text


@on_sqlite
@pytest.mark.parametrize(
    ("chosen", "typed"),
    [
        ("caf\u00e9 cr\u00e8me", "cafe\u0301 cre\u0300me"),
        ("cafe\u0301 cre\u0300me", "caf\u00e9 cr\u00e8me"),
        ("\uff50\uff41\uff53\uff53\uff50\uff48\uff52\uff41\uff53\uff45\uff19\uff19", "passphrase99"),
        ("ef\ufb01cient o\ufb03ce", "efficient office"),
    ],
    ids=ascii,
)
def test_a_password_is_right_however_its_characters_are_composed(
    client: httpx2.Client, chosen: str, typed: str
) -> None:
    assert sign_up(client, password=chosen).status_code == 201
    assert log_in(client, "carol@example.com", typed) == 200
    assert log_in(client, "carol@example.com", typed.upper()) == 401


@on_sqlite
def test_nothing_of_a_long_password_is_cut_off(client: httpx2.Client) -> None:
    start = "zq" * 63 + "z"
    assert sign_up(client, password=f"{start}1").status_code == 201
    assert log_in(client, "carol@example.com", f"{start}2") == 401
    assert log_in(client, "carol@example.com", f"{start}1") == 200


@on_sqlite
def test_common_passwords_are_refused(client: httpx2.Client, service: Service) -> None:
    common = sorted(word for word in _COMMON.split("\n") if len(word) >= 8)
    sample = [*common[:: len(common) // 30][:30], "Password", "PASSWORD1", "\uff49loveyou"]
    assert all(len(password) >= 8 for password in sample)
    for password in sample:
        answer = sign_up(client, password=password)
        assert refused_field(answer) == ["body", "password"]
        assert password not in answer.text.replace("Password should", "")
    assert stored(service) == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ones_own_address_or_name_is_no_password(client: httpx2.Client, service: Service, form: Any) -> None:
    about = {"email": "Carol.Shaw@example.com", "full_name": unicodedata.normalize(form, "Carol Jos\u00e9 Shaw")}
    own = [
        "carol.shaw@example.com",
        "Carol.Shaw",
        "carol jos\u00e9 shaw",
        "CAROL JOS\u00c9 SHAW",
        "Carol Jose\u0301 Shaw",
        "  Onefold  ",
    ]
    for password in [*own, own[0].upper(), own[1].upper()]:
        refused = sign_up(client, **about, password=password)
        assert refused_field(refused) == ["body", "password"]
        assert password not in refused.text
    assert stored(service) == []


def test_a_changed_password_is_held_to_the_same_rules(
    client_of: Clients, service: Service, ada: User, root: User
) -> None:
    service.write(users.change, ada.id, {"full_name": "Ada Lovelace"})
    before = stored(service)
    for password in ("short", "iloveyou", "ADA@example.com", "ada lovelace"):
        mine = client_of(ada).patch(ME, json={"password": password, "current_password": PASSWORD})
        theirs = client_of(root).patch(f"{USERS}{ada.id}", json={"password": password})
        assert refused_field(mine) == refused_field(theirs) == ["body", "password"]
    both = {"full_name": "Countess Lovelace", "password": "countess lovelace", "current_password": PASSWORD}
    assert refused_field(client_of(ada).patch(ME, json=both)) == ["body", "password"]
    assert stored(service) == before
