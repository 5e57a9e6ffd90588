"""Clients cannot choose a codec: Python's slowest takes a minute for 1 MiB and would block all other requests."""

import encodings
import pkgutil
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from encodings.aliases import aliases
from functools import lru_cache
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from app.main import create_app
from tests.conftest import on_sqlite
from tests.service import serving, settings

pytestmark = pytest.mark.slow

CODECS = sorted({*aliases.values(), *(module.name for module in pkgutil.iter_modules(encodings.__path__))})
TEXT = b"a-" + b"a" * 1_048_000
"""The slowest input for punycode, which is quadratic."""
PART = b'--x\r\nContent-Disposition: form-data; name="%s"\r\nContent-Type: text/plain; charset=%s\r\n\r\n%s\r\n'
LONGEST_PING = 0.05


class Request(NamedTuple):
    method: str
    path: str
    kind: str
    codec: str


def requests() -> Iterator[Request]:
    """Requests to every route with a body, in every codec, as every media type."""
    paths = create_app(settings()).openapi()["paths"].items()
    routes = [(verb, path) for path, verbs in paths for verb, operation in verbs.items() if "requestBody" in operation]
    for codec in CODECS:
        for kind in BODIES:
            for method, path in routes:
                yield Request(method.upper(), re.sub("{.*?}", "x", path), kind, codec)


BODIES: dict[str, Callable[[bytes], bytes]] = {
    "multipart/form-data; boundary=x": lambda codec: (
        PART % (b"username", codec, TEXT) + PART % (b"_charset_", b"us-ascii", codec) + b"--x--\r\n"
    ),
    "application/x-www-form-urlencoded": lambda codec: b"_charset_=%s&username=%s" % (codec, TEXT),
    "application/json": lambda _: b'{"title": "%s"}' % TEXT,
}


@lru_cache(maxsize=1)
def body_of(kind: str, codec: str) -> bytes:
    return BODIES[kind](codec.encode())


class Pings:
    """Polls the health of the service, and records slow answers."""

    def __init__(self, host: str) -> None:
        self.slow: list[tuple[float, float]] = []
        self._host = host
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ping)

    def _ping(self) -> None:
        connection = HTTPConnection(self._host, timeout=60)
        while not self._done.is_set():
            began = time.monotonic()
            connection.request("GET", "/health/live")
            assert connection.getresponse().read() == b'{"status":"live"}'
            if time.monotonic() - began > LONGEST_PING:
                self.slow.append((began, time.monotonic()))
            time.sleep(0.001)
        connection.close()

    def __enter__(self) -> "Pings":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def slow_ones(host: str, sent: Iterable[Request]) -> list[Request]:
    """The requests during which others waited: because of them, or because the machine was busy."""
    during: list[tuple[float, float, Request]] = []
    connection = HTTPConnection(host, timeout=60)
    with Pings(host) as pings:
        for each in sent:
            began = time.monotonic()
            content_type = f"{each.kind}; charset={each.codec}"
            connection.request(each.method, each.path, body_of(each.kind, each.codec), {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read()
            assert 400 <= answer.status < 500, each
            during.append((began, time.monotonic(), each))
    connection.close()
    return [each for begin, end, each in during if any(begin < after and before < end for before, after in pings.slow)]


@pytest.mark.timeout(300)
@on_sqlite
def test_no_codec_that_a_client_names_keeps_others_waiting(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path / "log") as (url, _):
        host = urlsplit(url).netloc
        suspicious = slow_ones(host, requests())
        for _ in range(3):
            suspicious = slow_ones(host, suspicious) if suspicious else []
        assert suspicious == []
