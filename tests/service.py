"""The service under test: in this process behind real HTTP, or as separate processes."""

import asyncio
import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2
import uvicorn
from fastapi import FastAPI
from sqlmodel import Session

from app.api.server import Protocol
from app.config import Settings
from app.core.db import Database
from app.main import create_app
from tests.postgres import free_port

P = ParamSpec("P")
T = TypeVar("T")

ROOT = Path(__file__).parent.parent
KEY = os.environ.setdefault("SECRET_KEY", secrets.token_hex(32))
UVICORN = ("-m", "uvicorn", "app.main:app")
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Shared by all clients as `verify`: to create one for each client would be slow."""


def settings(**values: Any) -> Settings:
    """Settings that are independent of the environment: no `.env`, no first superuser, a known key, no sender.

    The service trusts the tests as a proxy: they can set the client's address.
    """
    known = {"secret_key": KEY, "first_superuser_email": None, "log_level": "info", "worker_enabled": False}
    return Settings(**{"_env_file": None, "forwarded_allow_ips": ["127.0.0.1"]} | known | values)


class Service:
    """An app behind a uvicorn server in a thread of this process: real HTTP, and tests can access its internals."""

    def __init__(self, settings: Settings, app: FastAPI | None = None) -> None:
        self.settings = settings
        self.app = app or create_app(settings)
        self.url = f"http://127.0.0.1:{free_port()}"
        port = int(self.url.rpartition(":")[2])
        config = uvicorn.Config(self.app, http=Protocol, port=port, proxy_headers=False, log_config=None, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the service did not start. See the log.")
            time.sleep(0.005)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        asyncio.run(serve())

    @property
    def database(self) -> Database:
        database: Database = self.app.state.database
        return database

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the event loop of the service."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def read(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self.run(self.database.read(work, *args, **kwargs))
        return result

    def write(self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self.run(self.database.write(work, *args, **kwargs))
        return result

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


def elsewhere(url: str, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a unit on separate connections, like another process."""

    async def run() -> T:
        database = Database(url)
        try:
            return await database.write(work, *args, **kwargs)
        finally:
            await database.close()

    return asyncio.run(run())


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 200) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(database_url: str, **values: str) -> dict[str, str]:
    """The environment of a process that uses this database and only the settings of the test."""
    unwanted = {name.upper() for name in Settings.model_fields}
    unwanted.add("PYTHONDONTWRITEBYTECODE")  # with it, every process would compile all modules again
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    known = {"DATABASE_URL": database_url, "SECRET_KEY": KEY, "PYTHONUNBUFFERED": "1", "WORKER_ENABLED": "false"}
    return kept | known | values


class Process:
    """A real process of the service. Its output goes to a file."""

    def __init__(self, command: list[str], env: Mapping[str, str], output: Path, cwd: Path = ROOT) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=env, stdout=file, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Signal the process and its descendants."""
        os.killpg(self._process.pid, number)

    def wait(self, seconds: float = 30) -> int:
        return self._process.wait(seconds)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        if self.is_running:
            self.signal(signal.SIGKILL)
            self.wait()


def serving(
    database_url: str, output: Path, *options: str, **values: str
) -> AbstractContextManager[tuple[str, Process]]:
    """Run `uvicorn app.main:app` as a real process. Yields its URL and the process."""
    return started(UVICORN, database_url, output, *options, **values)


@contextmanager
def started(
    start: Sequence[str], database_url: str, output: Path, *options: str, **values: str
) -> Iterator[tuple[str, Process]]:
    """The same, with other arguments for Python."""
    port = free_port()
    command = [sys.executable, *start, "--port", str(port), *options]
    process = Process(command, environment(database_url, **values), output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_answered(f"{url}/health/live", process)
        yield url, process
    finally:
        process.end()


def wait_until_answered(url: str, process: Process, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    with httpx2.Client(verify=NO_TLS) as client:
        while True:
            try:
                client.get(url)
            except httpx2.TransportError:
                if not process.is_running or time.monotonic() > deadline:
                    raise AssertionError(process.text) from None
                time.sleep(0.05)
            else:
                return
