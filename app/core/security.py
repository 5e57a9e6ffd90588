"""Passwords and tokens: hashing, signing and sealing, without a database or a web server."""

import asyncio
import base64
import ctypes
import hmac
import json
import os
import re
import secrets
import string
import sys
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import distribution
from itertools import pairwise
from types import ModuleType
from typing import Annotated, Literal, TypeVar

import jwt
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import BaseModel, Field, ValidationError

from app.core.errors import InvalidToken, Unavailable
from app.core.fields import normal_password
from app.core.imported_hashes import Imported

T = TypeVar("T")

# OWASP ASVS 5.0 appendix C: argon2id with t = 2, p = 1 and at least 19 MiB (given in KiB).
_argon2id = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))
_ARGON2 = re.compile(
    r"\$argon2(id|i|d)\$v=19\$m=(?P<memory>\d{1,9}),t=(?P<time>\d{1,9}),p=[1-4]\$[+/0-9A-Za-z]{11,}\$[+/0-9A-Za-z]{22,}",
    re.ASCII,
)


def _is_argon2(hashed: str) -> bool:
    """Whether a hash is argon2 and costs at most what RFC 9106 section 4 recommends (64 MiB, 3 passes, 4 lanes)."""
    found = _ARGON2.fullmatch(hashed)
    return found is not None and int(found["memory"]) * int(found["time"]) <= 3 * 65_536


def _common() -> str:
    """The common passwords, names and words of zxcvbn, each between two line breaks.

    A set of them would use 12 MB of memory. So would the package, therefore only its lists are loaded.
    """
    lists = ModuleType("frequency_lists")
    path = distribution("zxcvbn").locate_file("zxcvbn/frequency_lists.py")
    SourceFileLoader(lists.__name__, str(path)).exec_module(lists)
    return "\n".join(["", *(word for words in lists.FREQUENCY_LISTS.values() for word in words), "changethis", ""])


_COMMON = _common()
_UNDISGUISED = str.maketrans("@013457$", "aoieasts")
_ROWS = "qwertyuiop asdfghjkl zxcvbnm 1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik"
_PLACEHOLDERS = ("change", "secret", "insecure", "your-", "example", "placeholder", "password")
_PUBLISHED = (
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",  # Flask's documentation
)


def weakness(password: str, *about: str) -> str | None:
    """The reason to refuse a password of valid length (NIST SP 800-63B section 3.1.1.2), or None.

    `about` is what an attacker tries first: the owner's address and name, and the name of the app. There are no rules
    for characters, except that at least one must be visible. Invisible characters are ignored.
    """
    folded = _folded(password)
    if not folded:
        return "Password should contain visible characters"
    if f"\n{folded}\n" in _COMMON:
        return "Password should not be among the most common ones"
    if folded in {_folded(name) for text in about for name in (text, text.partition("@")[0])}:
        return "Password should not be your address or name, or the name of this service"
    return None


def stem(password: str) -> str:
    """The word in a password such as `Passw0rd1!`. Returns a password unchanged if it is not a word with few digits."""
    word = _folded(password).lstrip(string.digits).rstrip(string.digits + string.punctuation)
    return word.translate(_UNDISGUISED) if 2 * len(word) >= len(password) else password


def key_weakness(key: str) -> str | None:
    """The reason to refuse a secret key, or None. A random key of 32 bytes is never refused."""
    if len(key.encode()) < 32:
        return "is shorter than 32 bytes"
    folded = _folded(key)
    if folded in _PUBLISHED or any(word in folded for word in _PLACEHOLDERS):
        return "is a placeholder or a published example"
    # A pattern: at most two thirds of the runs of three differ, or at least two thirds of the steps go to a neighbour
    # on the keyboard, in the alphabet or among the digits.
    runs = [folded[at : at + 3] for at in range(len(folded) - 2)]
    steps = [abs(ord(a) - ord(b)) <= 1 or a + b in _ROWS or b + a in _ROWS for a, b in pairwise(folded)]
    if len(set(folded)) < 8 or 3 * len(set(runs)) <= 2 * len(runs) or 3 * sum(steps) >= 2 * len(steps):
        return "follows a pattern"
    return None


# Unicode's Default_Ignorable characters outside category Cf (after NFKC), and the Braille blank.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\ufe00-\ufe0f\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def _folded(text: str) -> str:
    """The visible characters of a text, normalised and case-folded."""
    folded = _IGNORABLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return "".join(each for each in folded if unicodedata.category(each) not in ("Cf", "Zs", "Zl", "Zp"))


@dataclass(frozen=True)
class Verdict:
    """Whether a password was correct and, if its hash is outdated, the new hash to store."""

    right: bool
    rehashed: str | None = None


def _give_way() -> None:
    """Lower the priority of this thread: hashing uses a whole core and would delay the event loop."""
    if sys.platform == "linux":  # only there each thread has its own priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _return_memory() -> None:
    """Make glibc free the memory of a hash after use. Otherwise each thread would keep its 19 MiB."""
    with suppress(AttributeError, OSError):  # other C libraries do not have this option
        ctypes.CDLL(None).mallopt(-3, 1024 * 1024)  # M_MMAP_THRESHOLD


class Passwords:
    """Argon2id in threads: at most `slots` hashes at a time (19 MiB and a core each), at most `queue` more waiting.

    Beyond that, `Unavailable` is raised at once, so that a flood of logins uses no memory and delays no other request.
    Passwords are normalised (NFKC). For `imported` hashes they are not, because the other system may not have done it.
    """

    def __init__(self, slots: int = os.cpu_count() or 1, queue: int = 32, *, imported: Sequence[Imported] = ()) -> None:
        _return_memory()
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="argon2", initializer=_give_way)
        self._room = slots + queue
        self._imported = imported
        self._decoy = _argon2id.hash(secrets.token_urlsafe())

    def knows(self, hashed: str) -> bool:
        """Whether the hash has a known format and an acceptable cost."""
        return _is_argon2(hashed) or any(kind.cost(hashed) for kind in self._imported)

    async def hash(self, password: str) -> str:
        return await self._run(lambda: _argon2id.hash(normal_password(password)))

    async def verify(self, password: str, hashed: str | None) -> Verdict:
        """Takes the same time for a missing hash (None) or an unknown format as for any other: all kinds are tried."""
        return await self._run(lambda: self._verify(password, hashed))

    def _verify(self, password: str, hashed: str | None) -> Verdict:
        tried = [kind.verify(password, hashed or "") for kind in self._imported]
        password = normal_password(password)
        if any(tried):
            return Verdict(right=True, rehashed=_argon2id.hash(password))
        if hashed is not None and _is_argon2(hashed):
            return Verdict(*_argon2id.verify_and_update(password, hashed))
        _argon2id.verify(password, self._decoy)
        return Verdict(right=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room:
            raise Unavailable("Too many logins at the same time")
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._room += 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


SEALED = r"^[\w-]*$"
"""The regular expression of sealed texts."""


def seal(text: str, context: str, *, key: str) -> str:
    """Text that a client can return but not change, valid in one context only (HMAC-SHA-256, 128 bits)."""
    return base64.urlsafe_b64encode(_mac(text, context, key) + text.encode()).decode().rstrip("=")


def unseal(sealed: str, context: str, *, keys: Sequence[str]) -> str | None:
    """The text that was sealed with one of these keys for this context; None if invalid."""
    try:
        raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), b"-_", validate=True)
        text = raw[16:].decode()
    except ValueError:
        return None
    return text if any(hmac.compare_digest(raw[:16], _mac(text, context, key)) for key in keys) else None


def pseudonym(text: str, *, key: str) -> str:
    """A pseudonym that cannot be linked to the text without the key (32 hexadecimal digits)."""
    return _mac(text, "pseudonym", key).hex()


def _mac(text: str, context: str, key: str) -> bytes:
    return hmac.digest(key.encode(), json.dumps(["seal", context, text]).encode(), "sha256")[:16]


ISSUER = "onefold"
LEEWAY = timedelta(seconds=10)
"""The maximum clock difference between two replicas."""

Purpose = Literal["access"]
_Instant = Annotated[int, Field(strict=True, ge=0, le=253_402_300_799)]  # seconds, to the end of the year 9999


class Claims(BaseModel, frozen=True):
    """The claims of a token (RFC 7519 section 4.1). `typ` and `aud` both name its purpose, `sid` the login session."""

    iss: str
    aud: str
    typ: str
    sub: uuid.UUID
    sid: uuid.UUID
    iat: _Instant
    exp: _Instant


def encode_token(
    purpose: Purpose, subject: uuid.UUID, session_id: uuid.UUID, lifetime: timedelta, *, key: str, algorithm: str
) -> str:
    """A signed token for one purpose, valid from now for `lifetime`."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": purpose,
        "typ": purpose,
        "sub": str(subject),
        "sid": str(session_id),
        "iat": now,
        "exp": now + int(lifetime.total_seconds()),
    }
    return jwt.encode(claims, key, algorithm)


def decode_token(token: str, purpose: Purpose, *, keys: tuple[str, ...], algorithm: str) -> Claims:
    """The claims of a token that was signed for this purpose with one of the keys and has not expired (RFC 8725).

    Raises InvalidToken.
    """
    claims = _signed_claims(token, purpose, ISSUER, keys, algorithm)
    now, leeway = time.time(), LEEWAY.total_seconds()
    if claims.exp <= now - leeway:
        raise InvalidToken("The access token has expired. Log in again.")
    if claims.iat > now + leeway:
        raise InvalidToken
    return claims


@lru_cache(maxsize=1024)  # clients send a token many times; checks that depend on the time are not cached
def _signed_claims(token: str, purpose: Purpose, issuer: str, keys: tuple[str, ...], algorithm: str) -> Claims:
    if not re.fullmatch(r"[\w.-]{1,4096}", token, re.ASCII):  # a JWS has no padding (RFC 7515 section 2)
        raise InvalidToken
    required = list(Claims.model_fields)
    options: jwt.types.Options = {"require": required, "strict_aud": True, "verify_exp": False, "verify_iat": False}
    for key in keys:
        try:
            payload = jwt.decode(token, key, [algorithm], options, audience=purpose, issuer=issuer, leeway=LEEWAY)
            claims = Claims.model_validate(payload)
        except (jwt.PyJWTError, ValidationError):
            continue
        if claims.typ == purpose:
            return claims
    raise InvalidToken
