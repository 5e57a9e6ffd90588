"""Passwords and tokens, without a service."""

import asyncio
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import pytest
import time_machine
from argon2 import extract_parameters
from argon2.low_level import Type
from hypothesis import given
from hypothesis import strategies as st
from pwdlib.hashers.argon2 import Argon2Hasher

from app.core import security
from app.core.errors import InvalidToken
from app.core.security import LEEWAY, Passwords, Purpose, Verdict, decode_token, encode_token, seal, unseal, weakness
from tests.conftest import COSTLY
from tests.service import ROOT, run

KEY = "k" * 32
ADA = UUID("01a20344-b057-74a5-9808-85bd31c954e1")
SESSION = UUID("01a203d1-43b1-714b-bf69-824fc38f973a")
START = datetime(2030, 1, 1, tzinfo=UTC)
LIFETIME = timedelta(minutes=5)
SECOND = timedelta(seconds=1)


def encode(purpose: str = "access", key: str = KEY, algorithm: str = "HS256") -> str:
    return encode_token(cast(Purpose, purpose), ADA, SESSION, LIFETIME, key=key, algorithm=algorithm)


def decode(token: str, purpose: str = "access", key: str = KEY, algorithm: str = "HS256") -> UUID:
    return decode_token(token, cast(Purpose, purpose), keys=(key,), algorithm=algorithm).sub


@given(st.uuids(), st.sampled_from(["HS256", "HS384", "HS512"]), st.integers(1, 60 * 24 * 365))
def test_a_token_says_what_was_put_into_it(subject: UUID, algorithm: str, minutes: int) -> None:
    key = KEY * 2
    token = encode_token("access", subject, SESSION, timedelta(minutes=minutes), key=key, algorithm=algorithm)
    claims = decode_token(token, "access", keys=(key,), algorithm=algorithm)
    assert claims.exp - claims.iat == minutes * 60
    assert (claims.sub, claims.sid) == (subject, SESSION)
    assert (claims.iss, claims.aud, claims.typ) == ("onefold", "access", "access")


def test_a_token_is_valid_from_start_to_end_within_the_leeway() -> None:
    with time_machine.travel(START, tick=False) as clock:
        token = encode()
        for moment in (START - LEEWAY, START, START + LIFETIME, START + LIFETIME + LEEWAY - SECOND):
            clock.move_to(moment)
            assert decode(token) == ADA
        for moment in (START - LEEWAY - SECOND, START + LIFETIME + LEEWAY, START + timedelta(days=365)):
            clock.move_to(moment)
            with pytest.raises(InvalidToken):
                decode(token)


def test_a_token_for_another_purpose_key_or_algorithm_is_refused() -> None:
    assert decode(encode("reset"), "reset") == ADA
    for purpose, expected in (("reset", "access"), ("access", "reset")):
        with pytest.raises(InvalidToken):
            decode(encode(purpose), expected)
    with pytest.raises(InvalidToken):
        decode(encode(key="x" * 32))
    with pytest.raises(InvalidToken):
        decode(encode(algorithm="HS512", key=KEY * 2), key=KEY * 2)


def test_the_previous_key_is_valid_only_during_a_rotation() -> None:
    old, new = "o" * 32, "n" * 32
    token, sealed = encode(key=old), seal("text", "refresh", key=old)
    for keys, is_good in (((new, old), True), ((old,), True), ((new,), False), ((new, KEY), False)):
        assert (unseal(sealed, "refresh", keys=keys) == "text") is is_good
        assert unseal(sealed, "reset_password", keys=keys) is None
        if is_good:
            assert decode_token(token, "access", keys=keys, algorithm="HS256").sub == ADA
        else:
            with pytest.raises(InvalidToken):
                decode_token(token, "access", keys=keys, algorithm="HS256")
    with pytest.raises(InvalidToken):
        decode_token(encode("reset", key=old), "access", keys=(new, old), algorithm="HS256")


def test_a_token_of_another_issuer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("app.core.security.ISSUER", "another service")
        token = encode()
        assert decode(token) == ADA
    with pytest.raises(InvalidToken):
        decode(token)


@pytest.mark.parametrize(
    ("password", "is_weak"),
    [
        ("testpassword123", False),
        ("correct horse battery", False),
        ("password", True),
        ("PASSWORD1", True),
        ("iloveyou", True),
        ("ada.lovelace@example.com", True),
        ("Ada.Lovelace@EXAMPLE.com", True),
        ("ADA.LOVELACE", True),
        ("ada lovelace", True),
        ("ada lovelace!", False),
        ("example.com", False),
        ("Grand Hotel", True),
        ("  grand\u00a0hotel ", True),
        ("grand\u200bhotel", True),
        ("pass\u00adword1", True),
        (" " * 8, True),
        ("\u3000\u2003 \u00a0 \u2028\u1680 ", True),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad\u061c\u180e", True),
        ("\u3164\uffa0\u115f\u1160\u2800\u034f\ufe0f\U000e0100\U000e0041", True),
        ("\u200b" * 7 + "x", False),
        ("\u0915\u094d\u0937\u092e\u093e\u0936\u0940\u0932", False),
        ("\U0001fae8" * 8, False),
        ("\ue000" * 8, False),
    ],
    ids=ascii,
)
def test_only_common_or_invisible_passwords_and_names_at_hand_are_weak(password: str, is_weak: bool) -> None:
    reason = weakness(password, "ada.lovelace@example.com", "Ada Lovelace", "Grand Hotel")
    assert bool(reason) is is_weak
    assert password not in (reason or "")


def test_a_password_is_weak_for_nobody_without_a_name() -> None:
    assert weakness("ada lovelace", "", "") is None


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passwords]:
    """Whose hashes cost as much as in production."""
    monkeypatch.setattr(security, "_argon2id", COSTLY)
    passwords = Passwords(slots=1)
    yield passwords
    passwords.close()


def test_a_hash_verifies_its_password_and_no_other(passwords: Passwords) -> None:
    async def run() -> list[Verdict]:
        hashed = await passwords.hash("correct horse battery")
        assert hashed != await passwords.hash("correct horse battery")
        tried = ("correct horse battery", "Correct horse battery", "correct horse battery ", "")
        return [await passwords.verify(each, hashed) for each in tried]

    assert asyncio.run(run()) == [Verdict(right=True), *[Verdict(right=False)] * 3]


@pytest.mark.parametrize(
    "stored", [None, "", "!", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$", "\0"]
)
def test_nothing_matches_a_hash_that_is_none(passwords: Passwords, stored: str | None) -> None:
    assert asyncio.run(passwords.verify(stored or "", stored)) == Verdict(right=False)


def test_a_hash_of_other_parameters_is_replaced_only_for_the_right_password(passwords: Passwords) -> None:
    old = Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1).hash("correct horse battery")

    async def run() -> None:
        assert await passwords.verify("wrong horse battery", old) == Verdict(right=False)
        verdict = await passwords.verify("correct horse battery", old)
        assert verdict.right
        assert verdict.rehashed is not None
        parameters = [extract_parameters(each) for each in (verdict.rehashed, await passwords.hash("another"))]
        assert parameters[0] == parameters[1] != extract_parameters(old)
        assert await passwords.verify("correct horse battery", verdict.rehashed) == Verdict(right=True)

    asyncio.run(run())


def test_hashes_cost_at_least_what_owasp_asks_for(passwords: Passwords) -> None:
    parameters = extract_parameters(asyncio.run(passwords.hash("correct horse battery")))
    assert parameters.type is Type.ID
    assert any(
        parameters.time_cost >= time and parameters.memory_cost >= memory
        for time, memory in ((1, 47_104), (2, 19_456), (3, 12_288))
    )
    assert parameters.salt_len >= 16
    assert parameters.hash_len >= 32


GROWTH = """
import asyncio, os
from pathlib import Path
from app.core.security import Passwords

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main() -> None:
    passwords = Passwords(slots=2)
    before = resident()
    for _ in range(3):
        await asyncio.gather(*(passwords.hash("correct horse battery") for _ in range(4)))
    print(resident() - before)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps the memory, and is told not to")
def test_the_memory_of_hashes_is_given_back() -> None:
    grown = run(sys.executable, "-c", GROWTH, cwd=ROOT)
    assert int(grown) < 10 * 2**20  # two threads would keep 38 MiB
