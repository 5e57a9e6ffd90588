"""Password hashes from another system. Each is valid for one login, which replaces it."""

import base64
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import bcrypt


@dataclass(frozen=True)
class Imported(ABC):
    """A kind of hash. A hash with a cost above `highest` is invalid: no password matches it."""

    highest: int
    pattern: ClassVar[str]

    def cost(self, hashed: str) -> int:
        """The cost that a hash of this kind states; 0 for any other text."""
        found = re.fullmatch(self.pattern, hashed, re.ASCII)
        cost = int(found["cost"]) if found else 0
        return cost if cost <= self.highest else 0

    @abstractmethod
    def verify(self, password: str, hashed: str) -> bool:
        """Takes as long as a hash of the highest cost, for any text, so that the time reveals nothing."""


class Bcrypt(Imported):
    """Each step of the cost doubles the work. Only the first 72 bytes of a password count, as in passlib."""

    pattern = r"\$2[aby]\$(?P<cost>0[4-9]|[1-3]\d)\$[./A-Za-z0-9]{53}"

    def verify(self, password: str, hashed: str) -> bool:
        secret, cost = password.encode()[:72], self.cost(hashed)
        # 2**cost plus all powers of 2 from there to 2**(highest - 1) is 2**highest.
        for missing in range(cost, self.highest) if cost else [self.highest]:
            bcrypt.hashpw(secret, bcrypt.gensalt(missing))
        return bool(cost) and bcrypt.checkpw(secret, hashed.encode())


class Pbkdf2(Imported):
    """Django's hashes. The cost is the number of iterations."""

    pattern = r"pbkdf2_sha256\$(?P<cost>[1-9]\d{0,9})\$[!-#%-~]+\$[+/A-Za-z0-9]{43}="

    def verify(self, password: str, hashed: str) -> bool:
        secret, cost = password.encode(), self.cost(hashed)
        if missing := self.highest - cost:
            hashlib.pbkdf2_hmac("sha256", secret, b"", missing)
        if not cost:
            return False
        _, _, salt, expected = hashed.split("$")
        made = hashlib.pbkdf2_hmac("sha256", secret, salt.encode(), cost)
        return hmac.compare_digest(base64.b64encode(made).decode(), expected)
