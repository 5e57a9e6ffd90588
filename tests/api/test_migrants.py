"""Users from another system: their hashes are imported, and replaced at their first login."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import unicodedata
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pwdlib.hashers.argon2 import Argon2Hasher

from app import users
from app.core import security
from app.core.imported_hashes import Bcrypt, Pbkdf2
from app.core.security import Passwords, Verdict
from app.users import User
from tests.api.test_auth import log_in
from tests.conftest import HASHED, PASSWORD, add_user, any_due, client_at, on_sqlite, outcome
from tests.service import ROOT, Service, environment

INCORRECT_LOGIN = (401, "incorrect_login")
COSTS = {"imported_bcrypt_cost": 6, "imported_pbkdf2_iterations": 3_000}
NFD = unicodedata.normalize("NFD", "crème brûlée")


def blowfish(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()


def django(password: str, iterations: int = 2_000) -> str:
    made = pbkdf2_hmac("sha256", password.encode(), b"NaCl", iterations)
    return f"pbkdf2_sha256${iterations}$NaCl${b64encode(made).decode()}"


each_kind = pytest.mark.parametrize("make", [blowfish, django])


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords(slots=1, imported=(Bcrypt(6), Pbkdf2(3_000)))


@pytest.fixture
def migrating(serve: Callable[..., Service]) -> Service:
    """A service that accepts both kinds of imported hashes."""
    return serve(**COSTS)


def set_hash(service: Service, user: User, hashed: str) -> None:
    service.write(users.change, user.id, {"hashed_password": hashed})


def stored(service: Service, user: User) -> str:
    return service.read(users.get, user.id).hashed_password


@each_kind
def test_an_imported_hash_is_valid_for_one_login_which_replaces_it(
    migrating: Service, make: Callable[[str], str]
) -> None:
    ada, hashed = add_user(migrating, "ada"), make(PASSWORD)
    set_hash(migrating, ada, hashed)
    with client_at(migrating.url) as client:
        for wrong in ("not the one", hashed, f"{PASSWORD} "):
            assert outcome(log_in(client, ada.email, wrong)) == INCORRECT_LOGIN
        assert stored(migrating, ada) == hashed
        assert log_in(client, ada.email).status_code == 200
        new = stored(migrating, ada)
        assert new.split("$")[:4] == HASHED.split("$")[:4]
        assert log_in(client, ada.email).status_code == 200
        assert stored(migrating, ada) == new


def test_without_the_settings_no_imported_hash_is_valid(client: httpx2.Client, service: Service, ada: User) -> None:
    for hashed in (blowfish(PASSWORD), django(PASSWORD)):
        set_hash(service, ada, hashed)
        assert outcome(log_in(client, ada.email)) == INCORRECT_LOGIN


@on_sqlite
@each_kind
def test_an_imported_hash_of_a_password_that_was_not_normalised_matches(
    migrating: Service, make: Callable[[str], str]
) -> None:
    ada = add_user(migrating, "ada")
    set_hash(migrating, ada, make(NFD))
    with client_at(migrating.url) as client:
        assert log_in(client, ada.email, NFD).status_code == 200
        assert log_in(client, ada.email, unicodedata.normalize("NFC", NFD)).status_code == 200


@on_sqlite
def test_characters_that_bcrypt_ignored_count_after_the_first_login(migrating: Service) -> None:
    ada, password = add_user(migrating, "ada"), "zq" * 35 + "zü" + "the rest"  # ü takes bytes 72 and 73
    set_hash(migrating, ada, blowfish(password))
    with client_at(migrating.url) as client:
        assert log_in(client, ada.email, password).status_code == 200
        assert outcome(log_in(client, ada.email, f"{password}!")) == INCORRECT_LOGIN
        assert log_in(client, ada.email, password).status_code == 200


def test_hashes_that_others_published_are_verified() -> None:
    for hashed, password in {  # from Openwall's crypt_blowfish
        "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": "U*U",
        "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK": "U*U*",
        "$2b$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a": "U*U*U",
    }.items():
        assert Bcrypt(5).verify(password, hashed)
        assert not Bcrypt(5).verify(f"{password}x", hashed)
    for hashed, password in {  # from Django's tests, and from RFC 7914 section 11
        "pbkdf2_sha256$1000000$seasalt$r1uLUxoxpP2Ued/qxvmje7UH9PUJBkRrvf9gGPL7Cps=": "lètmein",
        "pbkdf2_sha256$80000$NaCl$TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1Y=": "Password",
    }.items():
        assert Pbkdf2(1_000_000).verify(password, hashed)
        assert not Pbkdf2(1_000_000).verify(f"{password}x", hashed)


ARGON2 = Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
TOO_COSTLY = [
    f"$2b$07${'a' * 53}",
    f"$2b$31${'a' * 53}",
    django(PASSWORD, 3_001),
    django(PASSWORD).replace("$2000$", "$1000000000$"),
    ARGON2.replace("m=64,t=1", "m=4194304,t=1"),
    ARGON2.replace("m=64,t=1", "m=64,t=99999999"),
    ARGON2.replace("p=1", "p=4294967295"),
]
NONE = [
    "",
    "!",
    "\0",
    "$2b$04$",
    f"$2b$03${'a' * 53}",
    f"$2x$04${'a' * 53}",
    f"$2b$04${'!' * 53}",
    f"$2b$٠٤${'a' * 53}",
    blowfish(PASSWORD) + "\n",
    "pbkdf2_sha256$0$NaCl$" + "A" * 43 + "=",
    "pbkdf2_sha256$1$NaCl$" + "é" * 43 + "=",
    "pbkdf2_sha256$2000$$" + "A" * 43 + "=",
    "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$",
    ARGON2[:-1] + "é",
]


@pytest.mark.parametrize("hashed", TOO_COSTLY + NONE, ids=range(len(TOO_COSTLY + NONE)))  # hashes differ by process
def test_no_password_is_right_for_a_hash_that_is_none_or_costs_too_much(passwords: Passwords, hashed: str) -> None:
    assert not passwords.knows(hashed)
    assert asyncio.run(passwords.verify(PASSWORD, hashed)) == Verdict(right=False)


@given(st.text(max_size=300), st.text(max_size=100))
@budget(max_examples=50, deadline=None)
def test_no_text_is_taken_for_a_hash(password: str, hashed: str) -> None:
    for kind in (Bcrypt(4), Pbkdf2(1)):
        assert not kind.verify(password.encode(errors="ignore").decode(), hashed)


class Work:
    """Records the cost of all hash computations, and their threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: Counter[str] = Counter()
        self.threads: set[str] = set()
        hash_bcrypt, check_bcrypt = bcrypt.hashpw, bcrypt.checkpw

        def count(kind: str, cost: int) -> None:
            self.done[kind] += cost
            self.threads.add(threading.current_thread().name.partition("_")[0])

        def hashpw(password: bytes, salt: bytes) -> bytes:
            count("bcrypt", 2 ** int(salt[4:6]))
            return hash_bcrypt(password, salt)

        def checkpw(password: bytes, hashed: bytes) -> bool:
            count("bcrypt", 2 ** int(hashed[4:6]))
            return check_bcrypt(password, hashed)

        def pbkdf2(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
            count("pbkdf2", iterations)
            return pbkdf2_hmac(name, password, salt, iterations)

        monkeypatch.setattr(bcrypt, "hashpw", hashpw)
        monkeypatch.setattr(bcrypt, "checkpw", checkpw)
        monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2)
        for name in ("hash", "verify", "verify_and_update"):
            monkeypatch.setattr(security._argon2id, name, self._counted(getattr(security._argon2id, name), count))

    def _counted(self, function: Callable[..., Any], count: Callable[[str, int], None]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            count("argon2", 1)
            return function(*args)

        return counted


def test_whatever_hash_an_account_has_or_none_a_login_computes_the_same(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = security._argon2id.hash(PASSWORD)
    work = Work(monkeypatch)
    accounts = [None, own, blowfish("x", 4), blowfish("x", 5), blowfish("x", 6), django("x", 1), django("x", 3_000)]
    for hashed in (*accounts, *TOO_COSTLY, *NONE, blowfish(PASSWORD), django(PASSWORD)):
        work.done.clear()
        asyncio.run(passwords.verify(PASSWORD, hashed))
        assert work.done == {"argon2": 1, "bcrypt": 2**6, "pbkdf2": 3_000}, hashed
    assert work.threads - {"MainThread"} == {"argon2"}  # the other thread is that of the test, which created hashes


def import_users(url: str, file: Path) -> tuple[int, list[str]]:
    costs = {name.upper(): str(cost) for name, cost in COSTS.items()}
    command = [sys.executable, "-m", "app.import_users", str(file)]
    env = environment(url, **costs)
    ended = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.slow
def test_users_are_imported_once_and_each_bad_row_is_told(migrating: Service, tmp_path: Path) -> None:
    add_user(migrating, "ada")
    url, file = migrating.settings.database_url, tmp_path / "users.jsonl"
    good: list[dict[str, Any]] = [
        {"email": "Bob@Example.COM", "hashed_password": blowfish(PASSWORD), "full_name": "Bob", "email_verified": True},
        {"email": "carol@example.com", "hashed_password": django(PASSWORD), "full_name": None},
        {"email": "dan@example.com", "hashed_password": ARGON2, "is_active": False},
        {"email": "eve@example.com"},
        {"email": "ADA@example.com", "hashed_password": blowfish(PASSWORD)},
    ]
    bad = [
        "{",
        "",
        "[]",
        json.dumps({"email": "no address"}),
        json.dumps({"email": "x@example.com", "is_superuser": True}),
        json.dumps({"email": "x@example.com", "full_name": "a\0b"}),
        json.dumps({"email": "x@example.com", "is_active": "yes"}),
        *(json.dumps({"email": "x@example.com", "hashed_password": each}) for each in (*TOO_COSTLY, "md5$hunter2")),
    ]
    file.write_text("\n".join([*map(json.dumps, good), *bad]))
    status, told = import_users(url, file)
    assert status == 1
    assert told[0] == "line 5: known"
    assert [line.partition(":")[0] for line in told[1:-1]] == [f"line {number}" for number in range(6, 6 + len(bad))]
    assert told[7:9] == ["line 12: is_active: Input should be a valid boolean", told[8]]
    assert told[8] == "line 13: hashed_password: Hash should be of a known kind and cost"
    assert told[-1] == f"4 imported, 1 known, of {len(good) + len(bad)}"
    assert not [word for word in ("hunter2", "$2b$", "pbkdf2", "argon2", "@") if word in "\n".join(told)]

    file.write_text("\n".join(map(json.dumps, good)))
    assert import_users(url, file) == (0, [*(f"line {n}: known" for n in range(1, 6)), "0 imported, 5 known, of 5"])
    with client_at(migrating.url) as client:
        for email, expected in {
            "bob@example.com": 200,
            "carol@example.com": 200,
            "dan@example.com": 400,
            "eve@example.com": 401,
        }.items():
            assert log_in(client, email).status_code == expected, email
    bob = migrating.read(users.find_by_email, "bob@example.com")
    carol = migrating.read(users.find_by_email, "carol@example.com")
    assert bob
    assert carol
    assert (bob.full_name, bool(bob.email_verified_at), bob.is_superuser) == ("Bob", True, False)
    assert (carol.full_name, carol.email_verified_at) == (None, None)
    assert not migrating.read(any_due)
