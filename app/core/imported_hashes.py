"""Password hashes that another system made: each is good for one login, which replaces it."""

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
    """A kind of hash. One that costs more than `highest` is not of it: no password is right for that."""

    highest: int
    pattern: ClassVar[str]

    def cost(self, hashed: str) -> int:
        """What a hash of this kind says that it costs; 0 for any other."""
        found = re.fullmatch(self.pattern, hashed, re.ASCII)
        cost = int(found["cost"]) if found else 0
        return cost if cost <= self.highest else 0

    @abstractmethod
    def verify(self, password: str, hashed: str) -> bool:
        """Takes as long for any text as for a hash of the highest cost, so that the time does not tell them apart."""


class Bcrypt(Imported):
    """Each more of cost doubles the work. Only the first 72 bytes of a password count, as in passlib."""

    pattern = r"\$2[aby]\$(?P<cost>0[4-9]|[1-3]\d)\$[./A-Za-z0-9]{53}"

    def verify(self, password: str, hashed: str) -> bool:
        secret, cost = password.encode()[:72], self.cost(hashed)
        # To 2**cost it adds each power of 2 from there on, which makes 2**highest.
        for missing in range(cost, self.highest) if cost else [self.highest]:
            bcrypt.hashpw(secret, bcrypt.gensalt(missing))
        return bool(cost) and bcrypt.checkpw(secret, hashed.encode())


class Pbkdf2(Imported):
    """Django's; the cost is the iterations."""

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
