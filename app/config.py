"""The settings: read from the environment and `.env`, and validated together before anything starts."""

import io
import json
import os
import re
import secrets
import tempfile
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.core import db, mail, security
from app.core.fields import Email, Line, Password
from app.core.imported_hashes import Bcrypt, Imported, Pbkdf2


def _in_development(values: dict[str, Any]) -> bool:
    return values.get("environment") == "development"


class Settings(BaseSettings):
    """All settings. The environment variable of a setting has the same name in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", hide_input_in_errors=True, validate_default=True, env_ignore_empty=True
    )

    environment: Literal["development", "production"] = "development"
    app_name: Line = Field(default="Onefold", min_length=1, max_length=100)
    debug: bool = False
    log_sql: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api_v1_prefix: str = Field(default="/api/v1", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    database_url: str = "sqlite:///data/onefold.db"
    database_pool_size: int = Field(default=5, ge=1, le=1000)
    worker_enabled: bool = True
    prestart_timeout_seconds: int = Field(default=300, ge=1)
    drain_seconds: float = Field(default=0, ge=0)
    secret_key: SecretStr = SecretStr("")
    secret_key_previous: SecretStr | None = Field(default=None, min_length=1)
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(default=15, ge=1, le=60 * 24 * 365)
    session_idle_days: int = Field(default=7, ge=1, le=3650)
    session_max_days: int = Field(default=30, ge=1, le=3650)
    refresh_grace_seconds: int = Field(default=30, ge=0, le=300)
    throttling_enabled: bool = True
    backend_cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda values: ["http://localhost:3000"] if _in_development(values) else []
    )
    forwarded_allow_ips: Annotated[list[str], NoDecode] = []
    max_rows_per_user: int = Field(default=10_000, ge=1)
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    signup_open: bool = Field(default_factory=_in_development)
    directory_open: bool = Field(default_factory=_in_development)
    docs_enabled: bool = Field(default_factory=_in_development)
    mail_url: str | None = Field(default_factory=lambda values: "file://data/mail" if _in_development(values) else None)
    mail_from: Email = "noreply@example.com"
    frontend_url: str = "http://localhost:3000"
    email_verification_required: bool = False
    first_superuser_email: Email | None = Field(
        default_factory=lambda values: "admin@example.com" if _in_development(values) else None
    )
    first_superuser_password: Password | None = None
    imported_bcrypt_cost: int | None = Field(default=None, ge=4, le=15)
    imported_pbkdf2_iterations: int | None = Field(default=None, ge=1, le=2_000_000)

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("debug", "log_sql")
    @classmethod
    def _debug_is_for_development(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("environment") == "production":
            raise ValueError("must be off in production: it logs confidential data")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if not value.startswith("sqlite:"):
            db.connector(value)
            return value
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # its text quotes the URL
            raise ValueError("is not a database URL") from None
        if url.host or not url.database or url.database.startswith((":memory:", "file:")):
            raise ValueError("must name a file that processes can share: sqlite:///relative or sqlite:////absolute")
        return value

    @field_validator("secret_key", "secret_key_previous")
    @classmethod
    def _secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value()
        if not key:
            if info.data.get("environment") == "production":
                raise ValueError("is required in production: at least 32 random bytes, as from `openssl rand -hex 32`")
            return SecretStr(_shared_secret(Path("data/secret_key")))
        if reason := security.key_weakness(key):
            raise ValueError(f"{reason}: create your own, as with `openssl rand -hex 32`")
        return value

    @field_validator("backend_cors_origins", "forwarded_allow_ips", mode="before")
    @classmethod
    def _json_or_commas(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError("is neither a JSON array nor a comma-separated list") from None
        return [each.strip() for each in value.split(",") if each.strip()]

    @field_validator("backend_cors_origins")
    @classmethod
    def _origins(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if "*" in value:
            raise ValueError("cannot be `*`, because credentials are allowed: list the origins")
        host = r"([a-z0-9_-]+\.)*[a-z0-9_-]+\.?|\[[0-9a-f:]+\]"
        is_production = info.data.get("environment") == "production"
        plain = r"([a-z0-9_-]+\.)*localhost|127\.0\.0\.1|\[::1\]" if is_production else host
        # As browsers write them (RFC 6454 section 6.2): in lower case and Punycode, without the default port.
        written = re.compile(rf"(https://({host})(?!:443$)|http://({plain})(?!:80$))(:(?P<port>[1-9][0-9]{{0,4}}))?")
        origins = [origin.lower().rstrip("/") for origin in value]
        for found in map(written.fullmatch, origins):
            if not found or int(found["port"] or 1) > 65535:
                raise ValueError(
                    "must be origins such as https://app.example.com; http only on localhost in production"
                )
        return origins

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, value: list[str]) -> list[str]:
        for each in value:
            try:
                named = each == "unix" or ip_network(each).prefixlen
            except ValueError:
                named = False
            if not named:  # `*` or a network of length 0 would let any client claim any address
                raise ValueError("must be addresses or networks of proxies, such as 10.0.0.0/8, or `unix`")
        return value

    @field_validator("mail_url")
    @classmethod
    def _mail(cls, value: str | None) -> str | None:
        if value is not None:
            mail.transport(value)
        return value

    @field_validator("frontend_url")
    @classmethod
    def _frontend(cls, value: str, info: ValidationInfo) -> str:
        found = re.fullmatch(r"(?i:https?)://([^/?#\s]+)[^?#\s]*", value)
        if not found:
            raise ValueError("must be a URL such as https://app.example.com")
        if info.data.get("environment") == "production" and info.data.get("mail_url") and "localhost" in found[1]:
            raise ValueError("is required in production with MAIL_URL: links in messages start with it")
        return value.rstrip("/")

    @field_validator("email_verification_required")
    @classmethod
    def _verifiable(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("mail_url", "") is None:
            raise ValueError("needs MAIL_URL: without mail nobody could log in")
        return value

    @field_validator("first_superuser_password")
    @classmethod
    def _strong(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        about = (info.data.get("first_superuser_email") or "", info.data.get("app_name", ""))
        password = value.get_secret_value() if value else ""
        for each in filter(None, (password, security.stem(password))):
            if reason := security.weakness(each, *about):
                raise ValueError(reason)
        return value

    @property
    def logging(self) -> dict[str, Any]:
        """The arguments of `logs.configure`."""
        level = "debug" if self.debug else self.log_level
        return {"level": level, "production": self.environment == "production", "sql": self.log_sql}

    @property
    def key(self) -> str:
        """The secret key that signs and seals."""
        return self.secret_key.get_secret_value()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that verify: the secret key and, during a rotation, the previous one."""
        return (self.key, self.secret_key_previous.get_secret_value()) if self.secret_key_previous else (self.key,)

    @property
    def imported_hashes(self) -> list[Imported]:
        """The kinds of imported hashes that are accepted until a login replaces them."""
        highest = {Bcrypt: self.imported_bcrypt_cost, Pbkdf2: self.imported_pbkdf2_iterations}
        return [kind(cost) for kind, cost in highest.items() if cost]


def _shared_secret(path: Path) -> str:
    """The development secret: created once, readable by its owner only, the same for all workers and restarts."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # mode 0600
            draft.write(secrets.token_hex(32))
            draft.flush()
            with suppress(FileExistsError):
                os.link(draft.name, path)  # atomic: only the first of several workers succeeds
    return path.read_text().strip()


@lru_cache
def get_settings() -> Settings:
    """The settings of this process. If they are invalid, the process exits and names each variable, without values."""
    problems = _malformed(Path(".env"))
    try:
        settings = Settings()
    except ValidationError as error:
        problems += [
            f"{str(problem['loc'][0]).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
            if problem["type"] != "default_factory_not_called"
        ]
    except UnicodeDecodeError:
        problems = [".env: is not in UTF-8"]
    if problems:
        raise SystemExit("\n  ".join(["Cannot start with these settings:", *problems]))
    return settings


def _malformed(path: Path) -> list[str]:
    """The lines that dotenv would ignore, so that defaults would apply instead."""
    problems = []
    if path.is_file():
        for line in parse_stream(io.StringIO(path.read_text("utf-8", "replace"))):
            word = re.match(r"\s*(?:export\s+)?(\w+)", line.original.string)
            name = word[1].lower() if word else ""
            known = name in Settings.model_fields
            if line.error or (known and line.value is None):
                # An unknown name is not shown: it may be the second line of a secret.
                where = name.upper() if known else f".env, near line {line.original.line}"
                problems.append(f"{where}: does not have the form NAME=value, or a quote is not closed")
    return problems
