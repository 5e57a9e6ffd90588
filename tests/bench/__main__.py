"""`python -m tests.bench`: requests a second of one worker on 16 connections, and the ratio to the usual way."""

import asyncio
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from sqlmodel import Session

from app import items, migrations, security
from app.auth import LoginSession
from app.db import Database
from app.items import Item, ItemCreate
from app.users import User
from tests.postgres import Postgres, find_binaries, free_port
from tests.service import KEY, Process, environment, wait_until_answered

CONNECTIONS = 16
SECONDS = 4.0
ROUNDS = 3


def seed(session: Session) -> tuple[User, Item]:
    user = User(email="ada@example.com", hashed_password="!")
    session.add(user)
    session.flush()
    session.add(LoginSession(id=user.id, user_id=user.id, device="the benchmark"))
    made = [items.create(session, user, ItemCreate(title=f"Item {n}", description="x" * 100)) for n in range(100)]
    return user, made[0]


async def load(port: int, request: bytes) -> float:
    """Requests a second that were answered with success."""
    done = 0
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if head[9:10] != b"2":
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            done += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return done / SECONDS


def requests(token: str, item: Item) -> dict[str, bytes]:
    def request(method: str, path: str, body: bytes = b"") -> bytes:
        lines = [f"{method} /api/v1/items/{path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    return {
        "one row": request("GET", str(item.id)),
        "list of 100": request("GET", "?limit=100"),
        "create": request("POST", "", b'{"title": "Item"}'),
    }


def measure(name: str, url: str, folder: Path) -> None:
    migrations.upgrade(url)
    user, item = asyncio.run(Database(url).write(seed))
    token = security.encode_token("access", user.id, user.id, timedelta(hours=1), key=KEY, algorithm="HS256")
    ports = {}
    processes = []
    for kind, app in (("onefold", "app.main:app"), ("usual", "tests.bench.usual:app")):
        ports[kind] = free_port()
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(ports[kind]), "--no-access-log"]
        env = environment(
            url, LOG_LEVEL="warning", DATABASE_POOL_SIZE="15", MAX_ITEMS_PER_USER="1000000", MAIL_SENDER_ENABLED="true"
        )
        processes.append(Process(command, env, folder / f"{name}-{kind}.log"))
    try:
        for kind, process in zip(ports, processes, strict=True):
            wait_until_answered(f"http://127.0.0.1:{ports[kind]}/health/live", process)
        for job, request in requests(token, item).items():
            rounds: dict[str, list[float]] = {kind: [] for kind in ports}
            for _ in range(ROUNDS):  # interleaved, because the machine's speed drifts
                for kind, port in ports.items():
                    rounds[kind].append(asyncio.run(load(port, request)))
            ours, usual = (statistics.median(rounds[kind]) for kind in ports)
            ratio = statistics.median(a / b for a, b in zip(rounds["onefold"], rounds["usual"], strict=True))
            print(f"{name:11} {job:12} onefold {ours:6.0f}/s   usual {usual:6.0f}/s   ratio {ratio:.1f}", flush=True)
    finally:
        for process in processes:
            process.end()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure("SQLite", f"sqlite:///{folder}/bench.db", Path(folder))
        if binaries := find_binaries():
            server = Postgres(binaries)
            try:
                server.start()
                measure("PostgreSQL", server.url(), Path(folder))
            finally:
                server.remove()
        else:
            print("No PostgreSQL was found: only SQLite was measured")


main()
