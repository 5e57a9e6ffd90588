"""The strings that a client may send: one type each, so that every place that takes one refuses the same."""

import json
import re
import unicodedata
import uuid
from datetime import UTC, datetime, time
from typing import Annotated, Any

from email_validator import EmailSyntaxError, validate_email
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError
from sqlmodel import SQLModel

# NUL is stored by SQLite and refused by PostgreSQL; the other controls forge log lines and mail headers;
# the bidirectional ones make a name read as another; U+FFFD is what an undecodable %ff has become.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd"
_LINE_BREAKS_AND_BIDI = r"\t\n\r\u2028\u2029\u202a-\u202e\u2066-\u2069"

Text = Annotated[str, Field(pattern=f"^[^{_CONTROLS}]*$")]
"""Text of several lines."""

Line = Annotated[str, Field(pattern=f"^[^{_CONTROLS}{_LINE_BREAKS_AND_BIDI}]*$")]
"""Text that is shown on one line, or put into a header."""


def canonical_email(address: str) -> str:
    """The one spelling of an address that is stored and looked up; raises ValueError for what is no address.

    The local part is NFKC and case-folded (UAX 15, UAX 21); the domain is normalised by IDNA (RFC 5891).
    """
    local, _, domain = unicodedata.normalize("NFKC", address).rpartition("@")
    folded = unicodedata.normalize("NFKC", local.casefold())
    canonical = validate_email(f"{folded}@{domain}", check_deliverability=False).normalized
    if "=?" in canonical:  # an encoded word, which parsers decode and RFC 2047 section 5 keeps out of addresses
        raise EmailSyntaxError("An address holds no encoded word")
    return canonical


def _email(address: str) -> str:
    try:
        canonical = canonical_email(address)
    except ValueError:  # its text quotes the address
        canonical = ""
    if not 0 < len(canonical) <= 254:
        raise PydanticCustomError("email", "Input should be a valid email address")
    return canonical


Email = Annotated[
    str,
    Field(max_length=254, json_schema_extra={"format": "email"}, examples=["ada@example.com"]),
    AfterValidator(_email),
]


def normal_password(password: str) -> str:
    """NFKC, so that a password matches however a keyboard composed it (NIST SP 800-63B section 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _bounded(least: int, most: int) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        password = normal_password(value.get_secret_value())
        if not least <= len(password) <= most:
            raise PydanticCustomError(
                "password_length",
                "Password should have {least} to {most} characters",
                {"least": least, "most": most},
            )
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in password):
            raise PydanticCustomError("password_control", "Password should have no control characters or surrogates")
        return value

    return AfterValidator(check)


_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"


def _password_schema(schema: dict[str, Any]) -> None:
    schema.update(minLength=8, maxLength=128, pattern=_PRINTABLE)


def _given_password_schema(schema: dict[str, Any]) -> None:
    schema.update(maxLength=128, pattern=_PRINTABLE)


# 1,024 bounds the work of normalising; the limit that counts is on what comes out of it.
Password = Annotated[
    SecretStr,
    Field(max_length=1024, json_schema_extra=_password_schema, examples=["correct horse battery"]),
    _bounded(8, 128),
]
"""A password to be set: 8 to 128 characters after NFKC."""

GivenPassword = Annotated[SecretStr, Field(max_length=1024, json_schema_extra=_given_password_schema), _bounded(0, 128)]
"""A password to be checked: whatever was once accepted as one."""


def _canonical_uuid(value: Any) -> Any:
    if isinstance(value, str):
        try:
            if str(uuid.UUID(value)) == value.lower():
                return value
        except ValueError:
            pass
        raise PydanticCustomError("uuid_parsing", "Input should be a valid UUID")
    return value


Id = Annotated[uuid.UUID, BeforeValidator(_canonical_uuid)]
"""A UUID in its one canonical form (RFC 9562 section 4): no braces, no `urn:uuid:`, no missing dashes."""


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("datetime_range", "Input should be a time of the years 1 to 9999") from None


def _written_out(value: Any) -> Any:
    if isinstance(value, str) and not re.match(r"\d{4}-", value):  # a number would be taken for a Unix time
        raise PydanticCustomError("datetime_parsing", "Input should be a valid datetime")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_utc)]
"""A time with its offset (RFC 3339), as UTC."""


def _without_offset(value: time) -> time:
    if value.tzinfo:
        raise PydanticCustomError("time_offset", "Input should be a time without an offset")
    return value


Clock = Annotated[time, AfterValidator(_without_offset)]
"""A time of day, as a clock on the wall shows it."""


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        text = ""
    if not 0 < len(text) <= 10_000 or "\\u0000" in text:
        raise PydanticCustomError("json_object", "Input should be a JSON object of at most 10000 characters")
    return value


Json = Annotated[dict[str, Any], AfterValidator(_json)]
"""A JSON object of at most 10,000 characters that both databases store: no NUL, no lone surrogates, no NaN."""


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"0|-?[1-9][0-9]*", value):
        raise PydanticKnownError("int_parsing")
    return value


Integer = Annotated[int, BeforeValidator(_decimal)]
"""A whole number for queries and paths, in its one spelling: no `1.0`, `+1`, `1_0` or `01`."""


def _true_or_false(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise PydanticKnownError("bool_parsing")
    return value


Flag = Annotated[bool, BeforeValidator(_true_or_false)]
"""`true` or `false` for queries: no `yes`, `on` or `1`."""


def omittable(**constraints: Any) -> Any:
    """A field that may be left out and may not be null; read it with `model_dump(exclude_unset=True)`."""
    return Field(default_factory=lambda: None, **constraints)


class Input(SQLModel):
    """What a client may send: these fields and no others."""

    model_config = ConfigDict(extra="forbid")  # type: ignore[assignment]  # SQLModel narrows it, and drops class keywords

    # SQLModel's own is called with the fields as keywords: one named `cls` or `__pydantic_self__` would be a TypeError.
    __init__ = BaseModel.__init__

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > 100:  # to tell of each that is too much would take a second
            raise PydanticCustomError("too_many_fields", "Input should have at most 100 fields")
        return data
