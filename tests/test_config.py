"""Settings: all are in the example, all problems are reported at once, no default is insecure in production."""

import random
import re
import subprocess
import sys
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.config import Settings, get_settings
from app.core.security import key_weakness
from tests.service import KEY, NO_TLS, ROOT, Service, environment, settings

Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Read:
    """Reads the settings like a process in its own folder, with no other environment variables."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def read(**values: str) -> Settings:
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            return get_settings.__wrapped__()

    return read


def test_the_example_has_every_setting_with_its_default(read: Read, tmp_path: Path) -> None:
    example = (ROOT / ".env.example").read_text()
    blocks = [re.fullmatch("# .+\n# ([A-Z0-9_]+)=(.*)", block) for block in example.strip().split("\n\n")]
    values = {block[1].lower(): block[2] for block in blocks if block}
    assert len(values) == len(blocks)
    assert list(values) == list(Settings.model_fields)
    assert [name for name, value in values.items() if not value] == [
        "secret_key",
        "secret_key_previous",
        "forwarded_allow_ips",
        "first_superuser_password",
        "imported_bcrypt_cost",
        "imported_pbkdf2_iterations",
    ]

    defaults = read()
    (tmp_path / ".env").write_text(example)
    assert read() == defaults
    (tmp_path / ".env").write_text(re.sub("^# (?=[A-Z0-9_]+=)", "", example, flags=re.MULTILINE))
    assert read() == defaults


SHORT_KEY = "f3a91c7be2d804566b1f9a0c3e7d25b"  # 31 bytes; not derived from KEY, which differs between test workers
KNOWN_KEYS = [
    "changethis",
    "changethis" * 4,
    "your-super-secret-key-here",
    "a" * 40,
    "ab" * 40,
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
    "09D25E094FAA6CA2556C818166B7A9563B93F7099F6F0F4CAA6CF63B88E8D3E7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",  # Flask's documentation
    "a-string-secret-at-least-256-bits-long",  # jwt.io
    "django-insecure-8q3x!m1c^w6$k0z@u7h5r2b9n4v(f)e+t=y*s-d%g&j#a_lp",
    "0123456789abcdef" * 4,
    "0123456789abcdef" * 2 + "01",
    "0123456789abcdefghijklmnopqrstuv",
    "zyxwvutsrqponmlkjihgfedcba987654",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
    "qwertyuiopasdfghjklzxcvbnm1234567890",
    "poiuytrewqlkjhgfdsamnbvcxz0987654321",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.",
    "correcthorse" * 3,
    "onefold api onefold api onefold api 1",
    "f3a91c7be2d804566b1f9a0c3e7d25b8" * 2,
]
PRODUCTION = {"ENVIRONMENT": "production", "SECRET_KEY": KEY}
REFUSED: list[tuple[str, str, dict[str, str]]] = [
    ("SECRET_KEY", "", {"ENVIRONMENT": "production"}),
    *(
        ("SECRET_KEY", key, {"ENVIRONMENT": environment})
        for environment in ("production", "development")
        for key in (
            SHORT_KEY,
            *KNOWN_KEYS,
        )
    ),
    ("SECRET_KEY", "your-super-secret-key-here-0123456789", {"ENVIRONMENT": "production"}),
    *(("SECRET_KEY_PREVIOUS", key, PRODUCTION) for key in (SHORT_KEY, *KNOWN_KEYS)),
    ("DEBUG", "true", PRODUCTION),
    ("LOG_SQL", "true", PRODUCTION),
    ("DEBUG", "hunter2", {}),
    ("ENVIRONMENT", "hunter2", {"SECRET_KEY": KEY}),
    *(
        ("FORWARDED_ALLOW_IPS", value, {})
        for value in (
            "*",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.1/8",
            "hunter2",
            "10.0.0.1,hunter2",
            '["*"]',
            "127.0.0.1:80",
            "[1]",
        )
    ),
    ("BACKEND_CORS_ORIGINS", "*", {}),
    ("BACKEND_CORS_ORIGINS", "*", PRODUCTION),
    ("BACKEND_CORS_ORIGINS", '["https://a.example", "*"]', PRODUCTION),
    ("BACKEND_CORS_ORIGINS", "hunter2", {}),
    ("BACKEND_CORS_ORIGINS", '["hunter2"', {}),
    ("BACKEND_CORS_ORIGINS", "[1]", {}),
    *(
        ("BACKEND_CORS_ORIGINS", f"http://localhost:3000,{origin}", others)
        for others in ({}, PRODUCTION)
        for origin in (
            "https://a.example/hunter2",
            "https://*.hunter2.org",
            "https://user:hunter2@a.example",
            "https://a.example hunter2",
            "https://a.example?hunter2",
            "https://a.example#hunter2",
            "https://a.example:hunter2",
            "https://a.example:65536",
            "https://a.example:0",
            "https://a.example:",
            "https://a.example:443",
            "http://localhost:80",
            "https://a..example",
            "https://b\u00fccher.example",
            "https://a.example\u2100",
            "https://[hunter2",
            "ftp://hunter2.example",
            "//hunter2.example",
            "https://",
            "null",
        )
    ),
    ("BACKEND_CORS_ORIGINS", "[" * 100_000, {}),
    ("BACKEND_CORS_ORIGINS", "https://a.example,http://hunter2.example", PRODUCTION),
    ("BACKEND_CORS_ORIGINS", "http://localhost.hunter2.example", PRODUCTION),
    ("BACKEND_CORS_ORIGINS", "http://hunter2localhost:3000", PRODUCTION),
    ("DATABASE_URL", "hunter2", {}),
    ("DATABASE_URL", "mysql://root:hunter2@localhost/onefold", {}),
    ("DATABASE_URL", "postgresql+psycopg://root:hunter2@localhost/onefold", {}),
    ("DATABASE_URL", "postgresql://root:hunter2@localhost:port/onefold", {}),
    ("DATABASE_URL", "postgresql://app:pa@ss:hunter2@host/db", {}),
    ("DATABASE_URL", "postgresql://app:pa@hunter2@host/db", {}),
    ("DATABASE_URL", "postgresql://app@host:99999/db", {}),
    ("DATABASE_URL", "postgresql://app@one:5432,two:hunter2/db", {}),
    ("DATABASE_URL", "postgresql://app@one,,two/hunter2", {}),
    ("DATABASE_URL", "postgresql://app@[::1/hunter2", {}),
    ("DATABASE_URL", "postgresql://app@host/db?sslmode=hunter2", {}),
    ("DATABASE_URL", "postgresql://app@host/db?target_session_attrs=hunter2", {}),
    ("DATABASE_URL", "postgresql://app@host/db?hunter2", {}),
    ("DATABASE_URL", "postgresql://app@host/db#hunter2", {}),
    ("DATABASE_URL", "postgresql://app@host/db?sslmode=verify-full&sslrootcert=/nowhere/hunter2", {}),
    ("DATABASE_URL", "sqlite:///file:hunter2?mode=memory&uri=true", {}),
    ("DATABASE_URL", "sqlite://host:hunter2/db", {}),
    ("DATABASE_URL", "sqlite://", {}),
    ("DATABASE_URL", "sqlite:///:memory:", {}),
    ("DATABASE_URL", "sqlite://hunter2/onefold.db", {}),
    ("DATABASE_POOL_SIZE", "0", {}),
    ("DATABASE_POOL_SIZE", "hunter2", {}),
    ("ALGORITHM", "none", {}),
    ("ALGORITHM", "RS256", {}),
    ("ACCESS_TOKEN_EXPIRE_MINUTES", "0", {}),
    ("SESSION_IDLE_DAYS", "0", {}),
    ("SESSION_MAX_DAYS", "hunter2", {}),
    ("REFRESH_GRACE_SECONDS", "-1", {}),
    ("THROTTLING_ENABLED", "hunter2", {}),
    ("MAIL_URL", "http://user:hunter2@localhost", {}),
    ("MAIL_URL", "smtp://user:hunter2@localhost:port", {}),
    ("MAIL_FROM", "hunter2", {}),
    ("APP_NAME", "Onefold\nBcc: hunter2@example.com", {}),
    ("FRONTEND_URL", "hunter2", {}),
    ("FRONTEND_URL", "https://app.example.com/?token=hunter2", {}),
    ("FRONTEND_URL", "", PRODUCTION | {"MAIL_URL": "smtp://localhost"}),
    ("EMAIL_VERIFICATION_REQUIRED", "true", PRODUCTION),
    ("API_V1_PREFIX", "hunter2", {}),
    ("API_V1_PREFIX", "/hunter2/", {}),
    ("LOG_LEVEL", "hunter2", {}),
    ("FIRST_SUPERUSER_EMAIL", "hunter2", {}),
    ("FIRST_SUPERUSER_PASSWORD", "hunter2", {}),
    *(
        ("FIRST_SUPERUSER_PASSWORD", password, {})
        for password in (
            "password123",
            "changethis",
            "ChangeThis!",
            "admin123",
            "Admin1234!",
            "password1!",
            "P@ssw0rd2026!",
            "1Password?",
            "summer2026",
            "qwerty!!!",
            "onefold1",
        )
    ),
    ("FIRST_SUPERUSER_PASSWORD", "admin@example.com", {}),
    *(("IMPORTED_BCRYPT_COST", cost, {}) for cost in ("3", "16", "hunter2")),
    *(("IMPORTED_PBKDF2_ITERATIONS", iterations, {}) for iterations in ("0", "1000000000")),
]


@pytest.mark.parametrize(("name", "value", "others"), REFUSED)
def test_a_setting_that_cannot_be_used_is_named_without_its_value(
    read: Read, name: str, value: str, others: dict[str, str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        read(**others, **{name: value})
    title, *problems = str(refused.value).splitlines()
    assert title == "Cannot start with these settings:"
    assert [problem.partition(":")[0] for problem in problems] == [f"  {name}"]
    assert len(value) < 13 or value not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_no_value_is_in_the_error_itself_either() -> None:
    with pytest.raises(ValidationError) as refused:
        settings(database_url="mysql://root:hunter2@localhost/onefold", first_superuser_password="hunter2")
    assert {"database_url", "first_superuser_password"} <= {error["loc"][0] for error in refused.value.errors()}
    assert "hunter2" not in str(refused.value)


@pytest.mark.slow
def test_all_problems_are_told_at_once_and_nothing_starts(tmp_path: Path) -> None:
    values = {
        "ENVIRONMENT": "production",
        "SECRET_KEY": "hunter2",
        "DEBUG": "true",
        "BACKEND_CORS_ORIGINS": "*",
        "FIRST_SUPERUSER_PASSWORD": "hunter2",
    }
    env = environment("mysql://root:hunter2@localhost/onefold", **values, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", "import app.main"]
    ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    title, *problems = ended.stderr.splitlines()
    assert title == "Cannot start with these settings:"
    assert {problem.partition(":")[0].strip() for problem in problems} == {*values, "DATABASE_URL"} - {"ENVIRONMENT"}
    assert len(problems) == 5
    assert "hunter2" not in ended.stderr
    assert (ended.returncode, ended.stdout, list(tmp_path.iterdir())) == (1, "", [])


def test_production_is_closed_until_it_is_opened(read: Read) -> None:
    switches = ("signup_open", "directory_open", "docs_enabled")
    closed = read(**PRODUCTION)
    assert [getattr(closed, name) for name in switches] == [False, False, False]
    assert (closed.debug, closed.first_superuser_email, closed.first_superuser_password) == (False, None, None)
    opened = read(**PRODUCTION, **{name.upper(): "true" for name in switches})
    assert [getattr(opened, name) for name in switches] == [True, True, True]
    developed = read()
    assert [getattr(developed, name) for name in switches] == [True, True, True]
    shut = read(**{name.upper(): "false" for name in switches})
    assert [getattr(shut, name) for name in switches] == [False, False, False]


@pytest.mark.parametrize(("opened", "status"), [({}, 404), ({"docs_enabled": True}, 200)], ids=["closed", "opened"])
def test_there_is_no_documentation_in_production_until_it_is_opened(
    tmp_path: Path, opened: dict[str, Any], status: int
) -> None:
    url = f"sqlite:///{tmp_path}/unused.db"
    service = Service(settings(environment="production", database_url=url, **opened))
    try:
        for path in ("/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert httpx2.get(service.url + path, verify=NO_TLS).status_code == status
        assert httpx2.get(f"{service.url}/redoc", verify=NO_TLS).status_code == 404
    finally:
        service.stop()


def test_without_a_previous_key_there_is_one(read: Read) -> None:
    assert read(SECRET_KEY=KEY, SECRET_KEY_PREVIOUS="").keys == (KEY,)
    assert read(SECRET_KEY=KEY, SECRET_KEY_PREVIOUS=KEY[::-1]).keys == (KEY, KEY[::-1])


def test_mail_goes_into_a_folder_and_in_production_nowhere_until_that_is_said(read: Read) -> None:
    assert (read().mail_url, read().frontend_url) == ("file://data/mail", "http://localhost:3000")
    assert read(**PRODUCTION).mail_url is None
    sent = {"MAIL_URL": "smtp://user:pass@mail.example.com", "FRONTEND_URL": "https://app.example.com/account/"}
    settings = read(**PRODUCTION, **sent, EMAIL_VERIFICATION_REQUIRED="true")
    assert settings.email_verification_required


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user:password@host/name",
        "postgresql://user:p%40ssword@host:5432/name?sslmode=require",
        "postgresql:///name?host=/run/postgresql",
        "sqlite:///data/onefold.db",
        "sqlite:////var/lib/onefold.db",
    ],
)
def test_database_urls_are_taken_as_people_write_them(read: Read, url: str) -> None:
    assert read(DATABASE_URL=url).database_url == url


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ('["http://a.example", "https://b.example:8443"]', ["http://a.example", "https://b.example:8443"]),
        (" http://a.example , https://b.example:8443", ["http://a.example", "https://b.example:8443"]),
        ("http://a.example/,", ["http://a.example"]),
        ("[]", []),
        ("", ["http://localhost:3000"]),
        ("HTTPS://App.Example.com/", ["https://app.example.com"]),
        ("https://xn--bcher-kva.example,http://[::1]:3000", ["https://xn--bcher-kva.example", "http://[::1]:3000"]),
    ],
)
def test_origins_are_a_json_array_or_a_list_with_commas(read: Read, value: str, origins: list[str]) -> None:
    assert read(BACKEND_CORS_ORIGINS=value).backend_cors_origins == origins


def test_settings_are_also_read_from_a_file_after_the_environment(read: Read, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f'APP_NAME="From the file"\nSECRET_KEY={KEY}\nlog_level=WARNING\nOTHER=1\n')
    from_file = read(LOG_LEVEL="Error")
    assert (from_file.app_name, from_file.log_level) == ("From the file", "error")
    assert from_file.secret_key.get_secret_value() == KEY
    assert read().log_level == "warning"
    assert KEY not in f"{from_file!r}{from_file.model_dump_json()}"


def test_in_production_no_page_may_call_until_it_is_listed_and_plain_http_only_from_this_machine(read: Read) -> None:
    assert read(**PRODUCTION).backend_cors_origins == []
    local = ["http://localhost:3000", "http://app.localhost", "http://127.0.0.1:3000", "http://[::1]"]
    assert read(**PRODUCTION, BACKEND_CORS_ORIGINS=",".join(local)).backend_cors_origins == local


def test_a_random_key_is_never_refused() -> None:
    for number in range(3000):
        raw = random.Random(number).randbytes(32)
        for key in (raw.hex(), raw[:16].hex(), b64encode(raw).decode(), urlsafe_b64encode(raw).decode().rstrip("=")):
            assert key_weakness(key) is None, key


def test_a_good_password_of_the_first_superuser_is_taken(read: Read) -> None:
    for password in ("correct horse battery", "x7!kQ2#summer", "93417-love-88213", "Rq7vT2mX9pLw4"):
        read(FIRST_SUPERUSER_PASSWORD=password)


MARKER = "hunter2marker"
SHAPES = [
    MARKER,
    f"1{MARKER}",
    f" {MARKER} ",
    f"{MARKER}\n{MARKER}",
    f'"{MARKER}',
    f'["{MARKER}"',
    f'{{"{MARKER}": 1}}',
    f"\udcff{MARKER}",
    f"{MARKER}\u2100",
    f"{MARKER}@",
    f"/{MARKER}/",
    f"x://{MARKER}",
]
URLS = [
    f"{scheme}{rest}"
    for scheme in (
        "sqlite:///",
        "sqlite://",
        "postgresql://",
        "smtp://",
        "smtps://",
        "file://",
        "http://",
        "x://",
        "",
    )
    for rest in (
        f"app:{MARKER}@host:port/db",
        f"app:pa@ss:{MARKER}@host/db",
        f"app:{MARKER}/x@host/db",
        f"app:{MARKER}#x@host/db",
        f"app:{MARKER}?x@host/db",
        f"app:{MARKER}%zz@host:-1/db",
        f"app:[{MARKER}@host/db",
        f"app:{MARKER}]@host/db",
        f"app:{MARKER}\u2100@host/db",
        f"app:x@[{MARKER}/db",
        f"app:x@host:{MARKER}/db",
        f"app:x@one:1,two:{MARKER}/db",
        f"app:x@host/db?{MARKER}",
        f"app:x@host/db?sslmode={MARKER}",
        f"app:x@host/db?timeout={MARKER}&uri={MARKER}",
        f"app:x@host/db?starttls={MARKER}",
    )
]


@pytest.fixture(params=["environment", "file"])
def refusal(
    request: pytest.FixtureRequest,
    read: Read,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Callable[..., str | None]]:
    """`refusal(NAME=value)` is what is said of these settings, or None; the value is in nothing that is printed."""
    printed: list[str] = []

    def refusal(**values: str) -> str | None:
        key = {} if "SECRET_KEY" in values else {"SECRET_KEY": KEY}
        if request.param == "file":
            lines = "".join(f"{name}={value}\n" for name, value in values.items())
            (tmp_path / ".env").write_text(lines, "utf-8", "surrogateescape")
            values = {}
        try:
            read(**key, **values)
        except SystemExit as error:
            printed.extend(traceback.format_exception(error))
            return str(error.code)
        return None

    yield refusal
    assert MARKER not in "".join([*printed, *capfd.readouterr(), caplog.text])


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_what_a_setting_holds_is_never_printed(refusal: Callable[..., str | None], name: str) -> None:
    refused = list(filter(None, (refusal(**{name: shape}) for shape in SHAPES)))
    assert refused
    assert all(f"\n  {name}: " in said or "\n  .env: is not in UTF-8" in said for said in refused)


def test_what_a_url_holds_is_never_printed_whatever_settings_it_is_given_for(
    refusal: Callable[..., str | None],
) -> None:
    names = {name.upper() for name in Settings.model_fields} - {"ENVIRONMENT"}
    for url in URLS:
        said = refusal(**dict.fromkeys(sorted(names), url))
        assert said
        problems = {line.partition(":")[0].strip() for line in said.splitlines()[1:]}
        assert {"DEBUG", "API_V1_PREFIX", "FORWARDED_ALLOW_IPS", "MAIL_FROM"} <= problems <= names


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (f'SECRET_KEY="{MARKER}', "SECRET_KEY"),
        (f"export SECRET_KEY='{MARKER}", "SECRET_KEY"),
        (f"secret_key: {MARKER}", "SECRET_KEY"),
        (f'SECRET_KEY="a key" {MARKER}', "SECRET_KEY"),
        ("SECRET_KEY", "SECRET_KEY"),
        (f"# a key\n\nSECRET_KEY {MARKER}", "SECRET_KEY"),
        (f"{MARKER} {MARKER}", ".env, near line 2"),
        (f"'{MARKER}", ".env, near line 2"),
        (f"APP_NAME=\xff{MARKER}", ".env"),
    ],
)
def test_a_line_of_the_file_that_cannot_be_read_is_refused_and_not_left_out(
    read: Read, tmp_path: Path, line: str, named: str
) -> None:
    (tmp_path / ".env").write_bytes(f"APP_NAME=Named\n{line}\n".encode("latin-1"))
    with pytest.raises(SystemExit) as refused:
        read()
    [problem] = str(refused.value).splitlines()[1:]
    assert problem.startswith(f"  {named}: ")
    assert MARKER not in problem


COMMANDS = [
    "-m app.prestart",
    "-m uvicorn app.main:app --port 1",
    "-m app.worker",
    f"-m alembic -c {ROOT}/alembic.ini upgrade head",
]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["environment", "file"])
def test_no_command_starts_or_prints_a_value_where_settings_are_refused(tmp_path: Path, source: str) -> None:
    values = {
        "DATABASE_URL": f"postgresql://app:pa@ss:{MARKER}@host/db",
        "MAIL_URL": f"smtp://app:{MARKER}@host:port",
        "FRONTEND_URL": f"https://{MARKER} x",
    }
    given = values if source == "environment" else {}
    env = environment("", PYTHONPATH=str(ROOT), **given)
    if source == "file":
        del env["DATABASE_URL"]
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    started = [
        subprocess.Popen(
            [sys.executable, *command.split()], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in (COMMANDS if source == "environment" else COMMANDS[:1])
    ]
    for process in started:
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 1
        assert MARKER not in said
        assert [line.partition(":")[0].strip() for line in said.splitlines()[1:]] == list(values)


START_FOUR = r"""
import os
from app.config import get_settings
for _ in range(4):
    if not os.fork():
        os.write(1, f"{get_settings().secret_key.get_secret_value()}\n".encode())
        os._exit(0)
for _ in range(4):
    os.wait()
"""


@pytest.mark.slow
def test_in_development_all_processes_share_a_secret_that_only_their_user_reads(read: Read, tmp_path: Path) -> None:
    env = environment("sqlite:///unused.db", SECRET_KEY="", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", START_FOUR]
    ended = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    secrets = ended.stdout.split()
    assert secrets == [read().secret_key.get_secret_value()] * 4
    assert re.fullmatch("[0-9a-f]{64}", secrets[0])
    (file,) = (tmp_path / "data").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert read(SECRET_KEY=KEY).secret_key.get_secret_value() == KEY


def test_every_installation_has_a_secret_of_its_own(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = read().secret_key
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read().secret_key != first
