"""The settings: read from the environment and `.env`, checked as a whole before anything starts."""

import json
import os
import secrets
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app import mail, security
from app.fields import Email, Line, Password

PLACEHOLDERS = ("change", "secret-key", "secret_key", "your-", "example", "placeholder", "password")
"""What gives away a key that was copied from somebody's documentation."""


def _in_development(values: dict[str, Any]) -> bool:
    return values.get("environment") == "development"


class Settings(BaseSettings):
    """Every setting, by the name that the environment gives it in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", hide_input_in_errors=True, validate_default=True, env_ignore_empty=True
    )

    environment: Literal["development", "production"] = "development"
    app_name: Line = Field(default="Onefold", min_length=1, max_length=100)
    debug: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api_v1_prefix: str = Field(default="/api/v1", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    database_url: str = "sqlite:///data/onefold.db"
    database_pool_size: int = Field(default=5, ge=1, le=1000)
    prestart_timeout_seconds: int = Field(default=300, ge=1)
    drain_seconds: float = Field(default=0, ge=0)
    secret_key: SecretStr = SecretStr("")
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(default=15, ge=1, le=60 * 24 * 365)
    session_idle_days: int = Field(default=7, ge=1, le=3650)
    session_max_days: int = Field(default=30, ge=1, le=3650)
    refresh_grace_seconds: int = Field(default=30, ge=0, le=300)
    throttling_enabled: bool = True
    backend_cors_origins: Annotated[list[str], NoDecode] = ["http://localhost:3000"]
    max_items_per_user: int = Field(default=10_000, ge=1)
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    signup_open: bool = Field(default_factory=_in_development)
    directory_open: bool = Field(default_factory=_in_development)
    docs_enabled: bool = Field(default_factory=_in_development)
    mail_url: str | None = Field(default_factory=lambda values: "file://data/mail" if _in_development(values) else None)
    mail_from: Email = "noreply@example.com"
    mail_sender_enabled: bool = True
    frontend_url: str = "http://localhost:3000"
    email_verification_required: bool = False
    first_superuser_email: Email | None = Field(
        default_factory=lambda values: "admin@example.com" if _in_development(values) else None
    )
    first_superuser_password: Password | None = None

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("debug")
    @classmethod
    def _debug_is_for_development(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("environment") == "production":
            raise ValueError("must be off in production: it logs what exceptions say")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        try:
            url = make_url(value)
        except ArgumentError:  # its text quotes the URL, password included
            raise ValueError("is not a database URL") from None
        if url.drivername == "sqlite":
            if url.host or not url.database or url.database == ":memory:":
                raise ValueError("names no file that processes could share: sqlite:///relative or sqlite:////absolute")
        elif url.drivername not in ("postgres", "postgresql"):
            raise ValueError("must begin with sqlite:///, postgresql:// or postgres://")
        return value

    @field_validator("secret_key")
    @classmethod
    def _secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        key = value.get_secret_value()
        if not key:
            if info.data.get("environment") == "production":
                raise ValueError("is required in production: at least 32 random bytes, as from `openssl rand -hex 32`")
            return SecretStr(_shared_secret(Path("data/secret_key")))
        if len(key.encode()) < 32:
            raise ValueError("is too short: at least 32 bytes, as from `openssl rand -hex 32`")
        if len(set(key)) < 8 or any(word in key.lower() for word in PLACEHOLDERS):
            raise ValueError("is a placeholder: make your own, as with `openssl rand -hex 32`")
        return value

    @field_validator("backend_cors_origins", mode="before")
    @classmethod
    def _json_or_commas(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("is neither a JSON array nor a comma-separated list") from None
        return [origin.strip() for origin in value.split(",") if origin.strip()]

    @field_validator("backend_cors_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        if "*" in value:
            raise ValueError("cannot be `*`, because credentials are allowed: list the origins")
        origins = [origin.rstrip("/") for origin in value]
        for parts in map(urlsplit, origins):
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ValueError("must be origins such as https://app.example.com")
        return origins

    @field_validator("mail_url")
    @classmethod
    def _mail(cls, value: str | None) -> str | None:
        if value is not None:
            mail.transport(value)
        return value

    @field_validator("frontend_url")
    @classmethod
    def _frontend(cls, value: str, info: ValidationInfo) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://app.example.com")
        if info.data.get("environment") == "production" and info.data.get("mail_url") and "localhost" in parts.netloc:
            raise ValueError("is required in production where mail is sent: the links in messages begin with it")
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
        if value and (reason := security.weakness(value.get_secret_value(), *about)):
            raise ValueError(reason)
        return value

    @property
    def key(self) -> str:
        """The secret key, as what signs and seals needs it."""
        return self.secret_key.get_secret_value()


def _shared_secret(path: Path) -> str:
    """The development secret: made once, readable by its owner only, and the same for every worker and restart."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # mode 0600
            draft.write(secrets.token_hex(32))
            draft.flush()
            with suppress(FileExistsError):
                os.link(draft.name, path)  # whole or not at all, and only for the first of several workers
    return path.read_text().strip()


@lru_cache
def get_settings() -> Settings:
    """The settings of this process. Where they cannot be used it ends, naming each variable and never a value."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "\n".join(
            f"  {str(problem['loc'][0]).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
            if problem["type"] != "default_factory_not_called"
        )
    raise SystemExit(f"Cannot start with these settings:\n{problems}")
