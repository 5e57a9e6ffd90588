"""The measured sides: each has its own processes, and users and items that were created through its API."""

import asyncio
import json
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
from sqlmodel import Session, insert

from tests import product
from tests.bench import machine
from tests.bench.load import send
from tests.bench.report import ASYNCPG, BARE, GUIDE, POCKETBASE, SQLITE3, TEMPLATE, TWO, Job
from tests.postgres import free_port
from tests.product.sightings import Sighting
from tests.service import ROOT, Process, elsewhere, environment, run

PASSWORD = "correct horse battery"
USERS = [f"user{number}@example.com" for number in range(16)]
VISITORS = [f"visitor{number}@example.com" for number in range(16)]
"""The user of the login job. Too many logins end the oldest session, which must not belong to a measured user."""
BUSIEST = ("read one", "list of 100", "create")

Requests = dict[str, list[bytes]]
"""The jobs by name, each with the requests to send in turn."""


def raw(method: str, path: str, token: str = "", body: Any = None, **headers: str) -> bytes:
    """The bytes of a request. The body is sent as JSON, or as a form if it is a string."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    content = body if isinstance(body, str) else json.dumps(body)
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        kind = "x-www-form-urlencoded" if isinstance(body, str) else "json"
        lines += [f"Content-Type: application/{kind}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", content if body is not None else ""]).encode()


class Api:
    """The API that all sides share. All of them receive the same requests."""

    me = "/api/v1/users/me"
    items = "/api/v1/items/"
    limit = "limit"

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def ask(self, method: str, path: str, token: str = "", **content: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.request(method, path, headers=headers, **content).raise_for_status().json()

    def sign_up(self, email: str) -> None:
        self.ask("POST", "/api/v1/users/", json={"email": email, "password": PASSWORD})

    def log_in(self, email: str) -> str:
        answer = self.ask("POST", "/api/v1/auth/login", data={"username": email, "password": PASSWORD})
        token: str = answer["access_token"]
        return token

    def login(self, email: str, number: int) -> bytes:
        # From many addresses, as a trusted proxy: the service limits attempts per address.
        form = urlencode({"username": email, "password": PASSWORD})
        origin = {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250 + 1}"}
        return raw("POST", "/api/v1/auth/login", body=form, **origin)

    def new(self, number: int, token: str) -> Any:  # noqa: ARG002  # the owner must be visible for the rules
        return {"title": f"Item {number}", "description": "x" * 100}

    def fill(self, rows: int, deep: int) -> Requests:  # noqa: ARG002
        """Add users, one with this many items. Returns their requests. If `deep`, also for a list of that length."""
        for email in ("ada@example.com", *USERS, *VISITORS):
            self.sign_up(email)
        ada, *tokens = (self.log_in(email) for email in ("ada@example.com", *USERS))
        new = (raw("POST", self.items, ada, self.new(number, ada)) for number in range(rows))
        asyncio.run(send(self.port, new, 16))
        theirs = []  # of many users, because the service limits the share of one user
        for number in range(100):
            token = tokens[number % len(tokens)]
            item = self.ask("POST", self.items, token, json=self.new(number, token))
            theirs.append((f"{self.items.rstrip('/')}/{item['id']}", token))

        def create(number: int) -> bytes:
            token = tokens[number % len(tokens)]
            return raw("POST", self.items, token, self.new(number, token))

        def update(number: int) -> bytes:
            return raw("PATCH", *theirs[number % 97], {"title": f"Item {number}"})  # different from the last one

        return {
            "the caller": [raw("GET", self.me, token) for token in tokens],
            "read one": [raw("GET", path, token) for path, token in theirs],
            "list of 20": [raw("GET", f"{self.items}?{self.limit}=20", ada)],
            "list of 100": [raw("GET", f"{self.items}?{self.limit}=100", ada)],
            "create": [create(number) for number in range(1000)],
            "update": [update(number) for number in range(1000)],
            "login": [self.login(VISITORS[number % len(VISITORS)], number) for number in range(1000)],
        }


class Onefold(Api):
    """The service with tests/product, whose sightings are what items are to the other sides; and also a long list."""

    items = "/api/v1/sightings/"

    def __init__(self, port: int, database_url: str) -> None:
        super().__init__(port)
        self._url = database_url

    def new(self, number: int, token: str) -> Any:  # noqa: ARG002
        return {"title": f"Item {number}", "remarks": "x" * 100}

    def fill(self, rows: int, deep: int) -> Requests:
        elsewhere(self._url, product.create_tables)
        requests = super().fill(rows, deep)
        if not deep:
            return requests
        self.sign_up("eve@example.com")
        eve = self.log_in("eve@example.com")
        owner_id = uuid.UUID(self.ask("GET", self.me, eve)["id"])
        for start in range(0, deep, 1000):  # the server ends long transactions
            numbers = range(start, min(deep, start + 1000))
            new = [Sighting(title=f"Item {number}", owner_id=owner_id).model_dump() for number in numbers]
            elsewhere(self._url, _add, new)
        if self._url.startswith("postgresql"):  # autovacuum would do this a minute later
            elsewhere(self._url, lambda session: session.connection().exec_driver_sql("ANALYZE"))
        first = last = f"{self.items}?limit=100"
        headers = {"Authorization": f"Bearer {eve}"}
        while following := self.client.get(last, headers=headers).links.get("next"):
            last = following["url"]
        return requests | {"first page": [raw("GET", first, eve)], "last page": [raw("GET", last, eve)]}


def _add(session: Session, new: list[dict[str, Any]]) -> None:
    session.execute(insert(Sighting), new)


class PocketBase(Api):
    """The same data and access rules in PocketBase, whose API has other names."""

    items = "/api/collections/items/records"
    limit = "perPage"

    def fill(self, rows: int, deep: int) -> Requests:
        root = self._authenticate("_superusers", "root@example.com")["token"]
        mine = "owner = @request.auth.id"
        users = self.ask("GET", "/api/collections/users", root)
        fields = [
            {"name": "title", "type": "text", "required": True, "max": 255},
            {"name": "description", "type": "text", "max": 2000},
            {"name": "owner", "type": "relation", "collectionId": users["id"], "maxSelect": 1, "required": True},
            {"name": "created", "type": "autodate", "onCreate": True},
            {"name": "updated", "type": "autodate", "onCreate": True, "onUpdate": True},
        ]
        rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule"), mine)
        indexes = ["CREATE INDEX items_owner ON items (owner)"]
        new = {"name": "items", "type": "base", "fields": fields, "indexes": indexes} | rules
        self.ask("POST", "/api/collections", root, json=new)
        self._ids: dict[str, str] = {}
        requests = super().fill(rows, deep)
        me = "/api/collections/users/records/"
        requests["the caller"] = [raw("GET", me + owner, token) for token, owner in self._ids.items()]
        return requests

    def _authenticate(self, who: str, email: str) -> Any:
        given = {"identity": email, "password": PASSWORD}
        return self.ask("POST", f"/api/collections/{who}/auth-with-password", json=given)

    def sign_up(self, email: str) -> None:
        given = {"email": email, "password": PASSWORD, "passwordConfirm": PASSWORD}
        self.ask("POST", "/api/collections/users/records", json=given)

    def log_in(self, email: str) -> str:
        answer = self._authenticate("users", email)
        self._ids[answer["token"]] = answer["record"]["id"]
        return str(answer["token"])

    def login(self, email: str, number: int) -> bytes:  # noqa: ARG002
        given = {"identity": email, "password": PASSWORD}
        return raw("POST", "/api/collections/users/auth-with-password", body=given)

    def new(self, number: int, token: str) -> Any:  # the owner must be visible for the rules
        return super().new(number, token) | {"owner": self._ids[token]}


@dataclass(frozen=True)
class Side:
    """A side of the comparison: how to start it, and its API."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    setup: tuple[str, ...] = ()
    """Makes the tables, before the start."""
    api: Callable[[int], Api] | None = None
    """None for a side that is asked what the side before it of the same `data` is asked."""
    data: str = ""
    only: tuple[str, ...] = ()
    """What it can be asked, if not everything."""

    def set_up(self) -> None:
        if self.setup:
            run(*self.setup, cwd=ROOT, env=self.env)


class Server:
    """A running side."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self._folder = side, folder
        self.requests: Requests = {}
        self.peak = 0.0
        self.start()

    def start(self) -> None:
        self.port = free_port()
        command = [part.format(port=self.port) for part in self.side.command]
        began = time.perf_counter()
        self.process = Process(command, self.side.env, self._folder / f"{self.port}.log")
        self._wait_for_first_answer()
        self.start_up = time.perf_counter() - began

    def end(self) -> None:
        self.peak = self.resident()
        self.process.end()

    def can(self, job: Job) -> bool:
        """Whether this side supports a job."""
        if job.logins and not self.side.api:
            return False
        return job.what in (self.side.only or self.requests)

    def cpu(self) -> float:
        return machine.cpu(self.process.pid)

    def resident(self) -> float:
        """The memory in MB; after a restart, the previous value if it was higher."""
        return max(self.peak, machine.resident(self.process.pid))

    def _wait_for_first_answer(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
                    connection.sendall(raw("GET", "/health/live"))
                    if connection.recv(4096):
                        return
            except ConnectionError:
                pass
            if not self.process.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.side.name} did not start:\n{self.process.text}")
            time.sleep(0.002)


def uvicorn(app: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "uvicorn", app, "--port", "{port}", *options)


def sides(folder: Path, make_database: Callable[[str], str] | None) -> Iterator[Side]:
    """All sides that can run here. `make_database` creates a PostgreSQL database by name and returns its URL."""
    urls = {"SQLite": f"sqlite:///{folder}/onefold.db"}
    if make_database:
        urls["PostgreSQL"] = make_database("onefold")
    for database, url in urls.items():
        # As in production. The pool is as large as that of its peers: SQLAlchemy's 5, and 10 more.
        values = {"ENVIRONMENT": "production", "SIGNUP_OPEN": "true", "DATABASE_POOL_SIZE": "15"}
        long = {"ACCESS_TOKEN_EXPIRE_MINUTES": "120", "MAX_ROWS_PER_USER": "1000000"}
        env = environment(url, **values, **long, FORWARDED_ALLOW_IPS="127.0.0.1")
        options = ("--http", "app.api.server:Protocol", "--no-proxy-headers", "--no-server-header")
        serve = uvicorn("tests.product.main:app", *options)
        prestart = (sys.executable, "-m", "app.prestart")
        yield Side(f"Onefold, {database}", serve, env, prestart, partial(Onefold, database_url=url), database)
        yield Side(f"Onefold, {database}{TWO}", (*serve, "--workers", "2"), env, data=database, only=BUSIEST)
        driver = uvicorn("tests.bench.peers.bare_driver:app", "--no-access-log")
        name = {"SQLite": SQLITE3, "PostgreSQL": ASYNCPG}[database]
        yield Side(name, driver, environment(url), data=database, only=BUSIEST)
    bare = uvicorn("tests.bench.peers.bare_fastapi:app", "--no-access-log")
    yield Side(BARE, bare, environment(""), data="SQLite", only=("read one",))
    if make_database:
        for name, module in ((GUIDE, "guide"), (TEMPLATE, "template")):
            path = f"tests.bench.peers.{module}"
            create_tables = (sys.executable, "-m", path)
            yield Side(name, uvicorn(f"{path}:app"), environment(make_database(module)), create_tables, Api, module)
    if binary := pocketbase():
        where = f"--dir={folder}/pocketbase"
        set_up = (binary, "superuser", "upsert", "root@example.com", PASSWORD, where)
        serve = (binary, "serve", "--http=127.0.0.1:{port}", where)
        yield Side(POCKETBASE, serve, dict(os.environ), set_up, PocketBase, "pocketbase")


def pocketbase() -> str | None:
    """The binary that POCKETBASE names, or from the PATH."""
    return os.environ.get("POCKETBASE") or shutil.which("pocketbase")
