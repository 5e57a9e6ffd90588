"""The types of client input. Each is defined once, so that all models validate it alike."""

import json
import re
import unicodedata
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, get_args

from email_validator import EmailSyntaxError, validate_email
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema
from sqlmodel import SQLModel

# SQLite stores NUL, PostgreSQL refuses it. Other control characters forge log lines and mail headers. Bidirectional
# ones make a name look like another name. U+FFFD replaces bytes that cannot be decoded (%ff).
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd"
_LINE_BREAKS_AND_BIDI = r"\t\n\r\u2028\u2029\u202a-\u202e\u2066-\u2069"

# Without an example, Swagger UI generates random text that matches the pattern. A field can have its own example.
_EXAMPLES = ["Some words"]

Text = Annotated[str, Field(pattern=f"^[^{_CONTROLS}]*$", examples=_EXAMPLES)]
"""Text that may have several lines."""

Line = Annotated[str, Field(pattern=f"^[^{_CONTROLS}{_LINE_BREAKS_AND_BIDI}]*$", examples=_EXAMPLES)]
"""Text on one line, safe in a header."""


def canonical_email(address: str) -> str:
    """The canonical spelling of an address, for storage and lookup. Raises ValueError for an invalid address.

    The local part is NFKC and case-folded (UAX 15, UAX 21); the domain is normalised by IDNA (RFC 5891).
    """
    local, _, domain = unicodedata.normalize("NFKC", address).rpartition("@")
    folded = unicodedata.normalize("NFKC", local.casefold())
    canonical = validate_email(f"{folded}@{domain}", check_deliverability=False).normalized
    if "=?" in canonical:  # an encoded word: parsers decode it, but RFC 2047 section 5 forbids it in addresses
        raise EmailSyntaxError("An address must not contain an encoded word")
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
    """NFKC, so that a password matches on every keyboard (NIST SP 800-63B section 3.1.1.2)."""
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


_PASSWORDS = ["correct horse battery"]
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"


def _password_schema(schema: dict[str, Any]) -> None:
    schema.update(minLength=8, maxLength=128, pattern=_PRINTABLE)


def _given_password_schema(schema: dict[str, Any]) -> None:
    schema.update(maxLength=128, pattern=_PRINTABLE)


# 1,024 limits the work of normalisation. The limits of 8 to 128 apply to the normalised password.
Password = Annotated[
    SecretStr,
    Field(max_length=1024, json_schema_extra=_password_schema, examples=_PASSWORDS),
    _bounded(8, 128),
]
"""A new password: 8 to 128 characters after NFKC."""

GivenPassword = Annotated[
    SecretStr,
    Field(max_length=1024, json_schema_extra=_given_password_schema, examples=_PASSWORDS),
    _bounded(0, 128),
]
"""A password to check: any that was valid when it was set."""


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
"""A UUID in canonical form (RFC 9562 section 4): no braces, no `urn:uuid:`, no missing dashes."""


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("datetime_range", "Input should be a time in the years 1 to 9999") from None


def _written_out(value: Any) -> Any:
    if isinstance(value, str) and not re.match(r"\d{4}-", value):  # a number would be parsed as a Unix time
        raise PydanticCustomError("datetime_parsing", "Input should be a valid datetime")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_utc)]
"""A time with an offset (RFC 3339), converted to UTC."""


def _levels(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, children), default=0)


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
        fits = len(text) <= 10_000 and _levels(value) <= 32 and "\\u0000" not in text
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        msg = "Input should be a JSON object of at most 10000 characters and 32 levels, without NUL"
        raise PydanticCustomError("json_object", msg)
    return value


Json = Annotated[dict[str, Any], AfterValidator(_json)]
"""A JSON object that both databases can store and pydantic can serialise. Its column is `Field(sa_type=JSON)`."""


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"0|-?[1-9][0-9]*", value):
        raise PydanticKnownError("int_parsing")
    return value


Integer = Annotated[int, BeforeValidator(_decimal)]
"""An integer in queries and paths, in canonical spelling: no `1.0`, `+1`, `1_0` or `01`."""


def _true_or_false(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise PydanticKnownError("bool_parsing")
    return value


Flag = Annotated[bool, BeforeValidator(_true_or_false)]
"""`true` or `false` in queries: no `yes`, `on` or `1`."""


class Described:
    """Models whose JSON schema includes the limits of columns: the bounds of integers, the digits of decimals."""

    model_fields: ClassVar[dict[str, FieldInfo]]

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        for name, field in cls.model_fields.items():
            told = properties.get(name, {})
            for part in (told, *told.get("anyOf", ())):
                if part.get("type") == "integer" and not part.keys() & {"maximum", "exclusiveMaximum", "le", "lt"}:
                    part |= {"minimum": -(2**31), "maximum": 2**31 - 1} | part
                if part.get("type") == "string" and Decimal in (field.annotation, *get_args(field.annotation)):
                    limits = (
                        (each.max_digits, each.decimal_places) for each in field.metadata if hasattr(each, "max_digits")
                    )
                    digits, places = next(limits, (30, 15))
                    part["pattern"] = rf"^-?\d{{1,{digits - places or 1}}}(\.\d{{1,{places or 1}}})?$"
                    part["maxLength"] = digits + 3  # a sign, a decimal point, and a zero before it
        return made


class Bounded(Described):
    """Models whose fields accept only values that both databases can store.

    A plain `int` has 32 bits, like its column. Explicit bounds allow more: `Field(le=2**53 - 1)`, with a column of
    `sa_type=BigInteger`. A plain `datetime` is an `Instant`, a `time` has no offset, and a `float` is finite.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _bound(handler.resolve_ref_schema(schema))
        return schema


def _bound(schema: Any) -> None:
    match schema:
        case {"type": "int"}:
            if "gt" not in schema:
                schema.setdefault("ge", -(2**31))
            if "lt" not in schema:
                schema.setdefault("le", 2**31 - 1)
        case {"type": "float"}:
            schema.setdefault("allow_inf_nan", False)
        case {"type": "time"}:
            schema.setdefault("tz_constraint", "naive")
        case {"type": "datetime"} if "tz_constraint" not in schema:
            aware = {**schema, "tz_constraint": "aware"}
            schema.clear()
            utc = core_schema.no_info_after_validator_function(_utc, aware)
            schema.update(core_schema.no_info_before_validator_function(_written_out, utc))
        case dict():
            for name, child in schema.items():
                if name not in ("default", "metadata", "serialization"):
                    _bound(child)
        case list():
            for child in schema:
                _bound(child)


def omittable(**constraints: Any) -> Any:
    """A field that may be omitted but not null. Read it with `model_dump(exclude_unset=True)`."""
    return Field(default_factory=lambda: None, **constraints)


class Input(Bounded, SQLModel):
    """Base of client input: unknown fields are refused, and the limits of `Bounded` apply."""

    model_config = ConfigDict(extra="forbid")  # type: ignore[assignment]  # SQLModel narrows it, and drops class keywords

    # SQLModel's own receives the fields as keywords: a field named `cls` or `__pydantic_self__` would be a TypeError.
    __init__ = BaseModel.__init__

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > 100:  # to report each of them would take a second
            raise PydanticCustomError("too_many_fields", "Input should have at most 100 fields")
        return data
