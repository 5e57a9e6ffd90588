"""A throwaway PostgreSQL server, started from the installed binaries and removed after the tests."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_binaries() -> Path | None:
    """The binaries folder of the newest installed PostgreSQL server, or None."""
    if path := shutil.which("postgres"):
        return Path(path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda binary: int(binary.parent.parent.name), default=None)
    return newest.parent if newest else None


class Postgres:
    """A server on a free loopback port. Runs as an unprivileged user, even if the tests run as root."""

    def __init__(self, binaries: Path, primary: "Postgres | None" = None) -> None:
        """A new cluster, or a standby of the running `primary`."""
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="onefold-postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        if primary:
            self._run("pg_basebackup", "-d", primary.url(), "-R", "-c", "fast", "--no-sync")
        else:
            self._run("initdb", "-U", "onefold", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._binaries / program), "-D", str(self.data), *options]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._as)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://onefold@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "autovacuum": "off",  # which would look into each of the many databases all the time
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
                **self._as,
            )
        deadline = time.monotonic() + 30
        while subprocess.run([self._binaries / "pg_isready", "-q", "-d", self.url()], check=False).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """A fast shutdown: open transactions are rolled back. SIGQUIT is an immediate one, as in a crash."""
        if self._server:
            self._server.send_signal(how)
            self._server.wait(30)
            self._server = None

    def promote(self) -> None:
        """Promote a standby to a primary."""
        self._run("pg_ctl", "promote")

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)
