"""Connections, byte by byte: endless heads, trailers and bodies; and headers of proxies, in every way to start."""

import asyncio
import json
import re
import shlex
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from app.api.middleware import MOST_HEADER_BYTES, MOST_HEADERS, MOST_TARGET_BYTES
from app.api.server import MOST_UNPARSED_BYTES, MOST_UNREAD_BYTES, MOST_WAITING
from app.main import create_app
from app.users import User
from tests.api.test_throttle import forget
from tests.conftest import client_at, on_sqlite, token_of
from tests.service import ROOT, UVICORN, Process, Service, environment, started, until
from tests.test_middleware import call

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
CHUNKED = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
FORGOT = b"POST /api/v1/auth/password/forgot HTTP/1.1\r\n" + HOST


def production() -> tuple[str, ...]:
    """The service as `start.sh` starts it."""
    script = (ROOT / "scripts/start.sh").read_text().replace("\\\n", "")
    found = re.search(r" (-m uvicorn app\.main:app .*?) --host", script)
    assert found
    return tuple(shlex.split(found[1]))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection on which a test writes any bytes, and reads answers one by one."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> "Wire":
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self) -> Answer:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().rstrip().decode():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return Answer(status, headers, self._file.read(int(headers.get("content-length", 0))))

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection without further data."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def floods(self, piece: bytes, most: int) -> int:
        """Send endless data. Returns the number of bytes that the server and the kernel accept."""
        self.socket.settimeout(1)
        taken = 0
        try:
            while taken < most:
                taken += self.socket.send(piece)
        except OSError:  # a reset, a closed pipe, or a time-out
            pass
        return taken


@pytest.fixture
def backend() -> str:
    """Nothing here depends on the database."""
    return "sqlite"


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    with closing(Wire(service.url)) as wire:
        yield wire


def check(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (answer.json["status"], answer.json["code"]) == (status, code)
    assert answer.json["instance"] == answer.headers["x-request-id"]
    assert uuid.UUID(answer.headers["x-request-id"]).version == 7


ENDLESS = {
    "a header's value": (b"", GET + b"X: ", b"x", 431),
    "a header's name": (b"", GET, b"x", 431),
    "the path": (b"", b"GET /", b"x", 414),
    "the query": (b"", b"GET /?", b"x=1&", 414),
    "blank lines": (b"", b"", b"\r\n", 431),
    "a chunk's extension": (FORGOT + CHUNKED, b"2;", b"x", 431),
    "a trailer's value": (FORGOT + CHUNKED, b"0\r\nX: ", b"x", 431),
    "a trailer's name": (FORGOT + CHUNKED, b"0\r\n", b"x", 431),
}


@pytest.mark.parametrize(("head", "start", "filler", "status"), ENDLESS.values(), ids=ENDLESS)
def test_what_the_parser_would_keep_for_ever_is_refused(
    wire: Wire, head: bytes, start: bytes, filler: bytes, status: int
) -> None:
    if head:
        assert wire.send(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")).answer().status == 100
    wire.send(start)
    for _ in range(MOST_UNPARSED_BYTES // 4096 + 1):
        wire.send(filler * (4096 // len(filler)))
    check(wire.answer(), status, {414: "uri_too_long", 431: "headers_too_large"}[status])
    assert wire.is_closed


@pytest.mark.parametrize("start", [GET, FORGOT + CHUNKED + b"2\r\n{}\r\n0\r\n"], ids=["headers", "trailers"])
def test_lines_without_end_are_refused_as_soon_as_they_are_too_many(wire: Wire, start: bytes) -> None:
    check(wire.send(start + b"a:\r\n" * (MOST_HEADERS + 2)).answer(), 431, "headers_too_large")
    assert wire.is_closed


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (GET + b"a:\r\n" * MOST_HEADERS, 431, "headers_too_large"),
        (GET + b"a: " + b"x" * MOST_HEADER_BYTES + b"\r\n", 431, "headers_too_large"),
        (b"GET /?%s HTTP/1.1\r\n" % (b"x" * MOST_TARGET_BYTES) + HOST, 414, "uri_too_long"),
        (b"GET /health HTTP/1.1\r\n", 400, "bad_request"),
        (GET + HOST, 400, "bad_request"),
        (GET + b"HOST: other\r\n", 400, "bad_request"),
    ],
    ids=["lines", "bytes", "target", "no host", "two hosts", "other hosts"],
)
def test_a_whole_head_beyond_its_bounds_is_a_problem_like_any_other(
    wire: Wire, head: bytes, status: int, code: str
) -> None:
    for _ in range(2):
        check(wire.send(head + b"\r\n").answer(), status, code)
    assert wire.send(GET + b"\r\n").answer().status == 200


def test_heads_have_these_bounds_whatever_the_server() -> None:
    app = create_app()
    hundred = {f"a{number}": "" for number in range(MOST_HEADERS)}
    assert call(app, headers=hundred).status_code == 431
    assert call(app, headers={"a": "x" * MOST_HEADER_BYTES}).status_code == 431
    assert call(app, path="/" + "x" * MOST_TARGET_BYTES).status_code == 414


def test_the_bounds_themselves_are_accepted(wire: Wire) -> None:
    lines = b"a:\r\n" * (MOST_HEADERS - 2) + b"b: "
    rest = MOST_HEADER_BYTES - len(b"hostlocalhost") - (MOST_HEADERS - 2) - 1
    assert wire.send(GET + lines + b"x" * rest + b"\r\n\r\n").answer().status == 200
    path = b"/health?" + b"x" * (MOST_TARGET_BYTES - 7)
    assert wire.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n").answer().status == 200


def test_only_http_1_0_needs_no_host(wire: Wire) -> None:
    assert wire.send(b"GET /health HTTP/1.0\r\n\r\n").answer().status == 200
    assert wire.is_closed


def test_a_body_is_no_head_however_it_comes(wire: Wire) -> None:
    head = FORGOT + b"Content-Type: application/json\r\n"
    for size in (MOST_UNPARSED_BYTES * 2, 900_000):
        check(wire.send(head + b"Content-Length: %d\r\n\r\n" % size + b" " * size).answer(), 400, "bad_request")
        chunks = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        whole = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * (size // 0x4000) + b"0\r\n\r\n"
        check(wire.send(whole).answer(), 400, "bad_request")


@pytest.mark.parametrize(
    "sent",
    [
        b"hunter2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n",
        GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET ? HTTP/1.1\r\n\r\n",
    ],
    ids=["words", "TLS", "two lengths", "no path"],
)
def test_what_is_no_request_is_answered_with_a_problem(wire: Wire, sent: bytes) -> None:
    answer = wire.send(sent).answer()
    check(answer, 400, "bad_request")
    assert answer.headers["connection"] == "close"
    assert b"hunter2" not in answer.body
    assert wire.is_closed


def test_a_trailer_does_not_authenticate(wire: Wire, ada: User) -> None:
    head = b"GET /api/v1/users/me HTTP/1.1\r\n" + HOST + CHUNKED
    token = b"Authorization: Bearer " + token_of(ada).encode()
    check(wire.send(head + b"0\r\n" + token + b"\r\n\r\n").answer(), 401, "not_authenticated")
    request = b"GET /api/v1/users/me HTTP/1.1\r\n" + HOST + token + b"\r\n\r\n"
    assert wire.send(request).answer().status == 200


def test_a_trailer_names_no_address(wire: Wire) -> None:
    body = b'{"email": "ada@example.com"}'
    for number in range(11):
        trailer = b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
        answer = wire.send(FORGOT + CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(body), body) + trailer).answer()
        assert answer.status == (202 if number < 10 else 429)


def test_requests_that_come_together_are_answered_in_their_order(wire: Wire) -> None:
    paths = [b"/health", b"/nowhere", b"/health/live"] * (MOST_WAITING // 3)
    wire.send(b"".join(b"GET %s HTTP/1.1\r\n" % path + HOST + b"\r\n" for path in paths))
    assert [wire.answer().status for _ in paths] == [200, 404, 200] * (MOST_WAITING // 3)
    assert wire.send(GET + b"\r\n").answer().status == 200


@pytest.fixture
def waiting(service: Service) -> Iterator[Service]:
    """A service with a route that never answers and never reads the body."""
    app = create_app(service.settings)

    @app.post("/wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    other = Service(service.settings, app)
    other._server.config.timeout_graceful_shutdown = 0
    yield other
    other.stop()


WAIT = b"POST /wait HTTP/1.1\r\n" + HOST


def test_nobody_has_thousands_of_requests_waiting(waiting: Service) -> None:
    with closing(Wire(waiting.url)) as wire:
        wire.send(WAIT + b"\r\n" + (GET + b"\r\n") * (MOST_WAITING + 1))
        assert wire.is_closed


def test_a_refusal_is_never_taken_for_the_answer_to_another_request(waiting: Service) -> None:
    for rest in (b"hunter2\r\n\r\n", GET + b"a:\r\n" * (MOST_HEADERS + 2)):
        with closing(Wire(waiting.url)) as wire:
            assert wire.send(WAIT + b"\r\n", rest).is_closed
    with closing(Wire(waiting.url)) as wire:
        wire.send(WAIT + b"\r\nGET /").floods(b"x" * 65_536, 64 * 2**20)
        assert wire.is_closed


def test_a_body_that_nobody_reads_is_not_kept(waiting: Service) -> None:
    with closing(Wire(waiting.url)) as wire:
        assert wire.send(WAIT + CHUNKED).floods(CHUNK, 64 * 2**20) < 32 * 2**20  # most of it in the kernel


@pytest.mark.parametrize("piece", [CHUNK, b"1\r\nx\r\n" * 1000, b"1;" + b"x" * 32_000 + b"\r\nx\r\n"])
@pytest.mark.parametrize(
    "head", [GET, b"POST /nowhere HTTP/1.1\r\n" + HOST, b"GET /api/v1/users/me HTTP/1.1\r\n" + HOST]
)
def test_a_body_that_nobody_wanted_is_not_drained_for_ever(wire: Wire, head: bytes, piece: bytes) -> None:
    assert wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n").answer().status in (200, 401, 404)
    assert wire.floods(piece, 128 * 2**20) < 64 * 2**20


def test_a_client_that_sends_all_of_an_unwanted_body_reads_the_answer_and_goes_on(wire: Wire) -> None:
    size = MOST_UNREAD_BYTES - 100_000
    for status in (404, 413, 404):  # the limit applies to each body
        chunks = CHUNK * (size // len(CHUNK)) + b"0\r\n\r\n"
        head = b"Content-Length: %d\r\n\r\n" % size if status == 413 else CHUNKED
        wire.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + head, b"x" * size if status == 413 else chunks)
        assert wire.answer().status == status
    assert wire.send(GET + b"\r\n").answer().status == 200


STARTS = {
    "start.sh": production(),
    "uvicorn": UVICORN,
    "workers": (*UVICORN, "--workers", "2"),
    "h11": (*UVICORN, "--http", "h11"),
    "fastapi run": ("-m", "fastapi", "run"),
}
HTTPS = {"X-Forwarded-Proto": "https"}


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_no_proxy_is_believed_unless_it_is_named(migrated_url: str, tmp_path: Path, start: tuple[str, ...]) -> None:
    with started(start, migrated_url, tmp_path / "log") as (url, process), client_at(url) as client:
        claims = [f"192.0.2.{number}{port}" for number in range(6) for port in ("", ":1234")]
        assert [forget(client, **{"X-Forwarded-For": each}) for each in claims[:11]] == [202] * 10 + [429]
        assert "Strict-Transport-Security" not in client.get("/health", headers=HTTPS).headers
        told = process.text.count("FORWARDED_ALLOW_IPS does not name 127.0.0.1")
        assert told in ((0,) if start == STARTS["start.sh"] else (1, 2))  # of each process once


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("start", [production(), UVICORN], ids=["start.sh", "uvicorn"])
def test_a_proxy_that_is_named_is_believed(migrated_url: str, tmp_path: Path, start: tuple[str, ...]) -> None:
    named = {"FORWARDED_ALLOW_IPS": "10.0.0.0/8, 127.0.0.1"}
    with started(start, migrated_url, tmp_path / "log", **named) as (url, process), client_at(url) as client:
        for number in range(11):
            assert forget(client, **{"X-Forwarded-For": f"198.51.100.1, 192.0.2.{number}, 10.1.2.3"}) == 202
        assert "Strict-Transport-Security" in client.get("/health", headers=HTTPS).headers
        assert "does not name" not in process.text


@pytest.mark.slow
@on_sqlite
def test_a_proxy_at_a_unix_socket_can_be_named(migrated_url: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    for named, last in (("unix", 202), ("127.0.0.1", 429)):
        command = [sys.executable, *production(), "--uds", path]
        process = Process(command, environment(migrated_url, FORWARDED_ALLOW_IPS=named), tmp_path / "log")
        try:
            until(lambda: "running on unix socket" in process.text)  # noqa: B023  # it is called at once
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=path), base_url="http://localhost") as client:
                claims = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(11)]
                statuses = [forget(client, f"{named}@example.com", **claim) for claim in claims]
        finally:
            process.end()
        assert statuses == [202] * 10 + [last]


@pytest.mark.slow
@on_sqlite
def test_a_websocket_is_refused_and_the_service_goes_on(migrated_url: str, tmp_path: Path) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
    with started(production(), migrated_url, tmp_path / "log") as (url, process):
        with closing(Wire(url)) as wire:
            assert wire.send(GET + upgrade % b"dGhlIHNhbXBsZSBub25jZQ==").answer().status == 403
        with closing(Wire(url)) as wire:
            assert wire.send(GET + b"\r\n").answer().status == 200
        assert "Traceback" not in process.text


def test_the_documentation_starts_the_service_as_the_script_does() -> None:
    assert " ".join(production()[1:]) in (ROOT / "docs/deployment.md").read_text()
