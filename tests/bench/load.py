"""Load: sequential requests on persistent connections, by wrk or by the code below."""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

PATIENCE = 10
"""Seconds to wait for the last answers."""


@dataclass(frozen=True)
class Load:
    done: int
    seconds: float
    p50: float  # milliseconds
    p99: float


class Failure(Exception):
    """A request failed, or the server did not answer it."""


Generator = Callable[[int, Sequence[bytes], int, float], Coroutine[Any, Any, Load]]
"""Sends requests in turn to a port, on a number of connections, for some seconds. Raises Failure."""


def choose(name: str | None, seconds: float) -> tuple[str, Generator]:
    """The generator of that name, otherwise wrk if it is installed and the seconds are whole."""
    able = shutil.which("wrk") and seconds == int(seconds)
    return ("wrk", _wrk) if (name or ("wrk" if able else "own")) == "wrk" else ("own", _own)


_SCRIPT = str(Path(__file__).with_name("wrk.lua"))


async def _wrk(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\0".join(requests))
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", _SCRIPT]
        arguments = [*options, f"http://127.0.0.1:{port}", "--", file.name]
        process = await asyncio.create_subprocess_exec("wrk", *arguments, stdout=asyncio.subprocess.PIPE)
        out = (await process.communicate())[0].decode()
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", out, re.MULTILINE)
    if not found or found[5] != "0":
        raise Failure("refuses some requests" if found else out)
    done, duration, p50, p99 = (int(each) for each in found.groups()[:4])  # wrk counts in microseconds
    if not done and seconds < (30 if connections <= 16 else 4):  # slow requests, such as logins, need longer
        return await _wrk(port, requests, connections, 2 * seconds)
    if not done:
        raise Failure("answers nothing")
    return Load(done, duration / 1e6, p50 / 1e3, p99 / 1e3)


async def _own(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    return await send(port, cycle(requests), connections, seconds)


async def send(port: int, requests: Iterable[bytes], connections: int, seconds: float = 60) -> Load:
    """Send requests until all are sent or the time is over, at least one on each connection."""
    loop, source, times = asyncio.get_running_loop(), iter(requests), list[float]()
    clients = [
        (await loop.create_connection(lambda: _Connection(source, times), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    started = time.perf_counter()
    for client in clients:
        client.begin(started + seconds)
    try:
        async with asyncio.timeout(seconds + PATIENCE):
            await asyncio.gather(*(client.closed for client in clients))
    except TimeoutError:
        raise Failure("stops answering") from None
    took = time.perf_counter() - started
    times.sort()
    return Load(len(times), took, times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3)


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], times: list[float]) -> None:
        self._requests, self._times = requests, times
        self._received = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # the type of a stream
        self._transport = transport

    def begin(self, end: float) -> None:
        self._end = end
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        request = next(self._requests, None) if self._sent < self._end else None
        if request is None:
            self.closed.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):  # the last chunk
            return
        if head[9:10] != b"2":
            self.closed.set_exception(Failure(f"answers {head[9:12].decode()}"))
            self._transport.abort()
            return
        self._received = b""
        self._times.append(time.perf_counter() - self._sent)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_exception(error or Failure("closes connections"))
