"""Invalid input: it is refused by field name, is never repeated in answers or logs, and changes nothing."""

import asyncio
import io
import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlmodel import Session, SQLModel

from app.api.calls import Call, created
from app.users import User
from tests import product
from tests.conftest import PASSWORD, token_of
from tests.product import sightings
from tests.product.sightings import Sighting, SightingCreate
from tests.service import NO_TLS, Service

pytestmark = pytest.mark.product

MARKER = "hunter2"
ID = "019b76da-a800-7000-8000-0000facade00"
MEMBERS = {"type", "title", "status", "detail", "code", "instance"}


class Target(NamedTuple):
    """A route with a JSON body: a valid body, and its fields by type."""

    method: str
    path: str
    body: dict[str, Any]
    lines: tuple[str, ...]
    texts: tuple[str, ...] = ()
    passwords: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def strings(self) -> tuple[str, ...]:
        return self.lines + self.texts + self.passwords

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


CREATE_SIGHTING = Target("POST", "/sightings/", {"title": "Notes"}, ("title",), ("remarks",))
UPDATE_SIGHTING = Target("PATCH", "/sightings/{sighting}", {"title": "Notes"}, ("title",), ("remarks",))
CREATE_USER = Target(
    "POST",
    "/users/",
    {"email": "new@example.com", "password": PASSWORD},
    ("email", "full_name"),
    passwords=("password",),
)
UPDATE_ME = Target(
    "PATCH",
    "/users/me",
    {"full_name": "Root"},
    ("email", "full_name"),
    passwords=("password", "current_password"),
)
UPDATE_USER = Target(
    "PATCH",
    "/users/{user}",
    {"full_name": "Root"},
    ("email", "full_name"),
    passwords=("password",),
    flags=("is_active", "is_superuser"),
)
CREATE_EMAIL = Target("POST", "/emails/", {"email": "ada@example.com"}, ("email", "subject"), ("text",))
FORGOT = Target("POST", "/auth/password/forgot", {"email": "ada@example.com"}, ("email",))
RESET = Target(
    "POST", "/auth/password/reset", {"token": "x", "new_password": PASSWORD}, ("token",), passwords=("new_password",)
)
TARGETS = [CREATE_SIGHTING, UPDATE_SIGHTING, CREATE_USER, UPDATE_ME, UPDATE_USER, CREATE_EMAIL, FORGOT, RESET]
NULLABLE = {"full_name", "remarks"}

each_target = pytest.mark.parametrize("target", TARGETS, ids=str)


class Caller:
    """A superuser with a sighting. Sends requests that must be refused, and checks the answers."""

    def __init__(self, service: Service, root: User, log: io.StringIO) -> None:
        self.service = service
        self.log = log
        self.user = root
        self.sighting = service.write(sightings.create, root, SightingCreate(title="Notes"))
        self.client = httpx2.Client(base_url=f"{service.url}/api/v1", verify=NO_TLS)
        self.client.headers = {"Authorization": f"Bearer {token_of(root)}", "X-Request-ID": "this"}

    def send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        return self.client.request(method, path.format(sighting=self.sighting.id, user=self.user.id), **request)

    def send_json(self, target: Target, value: Any) -> httpx2.Response:
        """Send JSON in ASCII, which allows lone surrogates and NaN. Text and bytes are sent unchanged."""
        content = value if isinstance(value, str | bytes) else json.dumps(value)
        return self.send(target.method, target.path, content=content, headers={"Content-Type": "application/json"})

    def refuses(self, answer: httpx2.Response, *statuses: int, loc: list[str] | None = None) -> None:
        """The answer is a documented problem with one of these statuses, about `loc` if a field is invalid."""
        problem = answer.json()
        assert answer.status_code in statuses, (problem, answer.request.content[:80])
        assert answer.headers["Content-Type"] == "application/problem+json"
        oauth = {"error", "error_description"} if answer.request.url.path.endswith("/auth/login") else set()
        assert set(problem) == MEMBERS | oauth | ({"errors"} if answer.status_code == 422 else set())
        assert (problem["status"], problem["instance"]) == (answer.status_code, "this")
        assert all(isinstance(problem[name], str) for name in MEMBERS - {"status"})
        for error in problem.get("errors", []):
            assert set(error) == {"loc", "msg", "type"}
        if loc:
            assert loc in [error["loc"] for error in problem["errors"]], answer.request.content[:80]
        assert MARKER not in answer.text
        assert not [line for line in self.log.getvalue().splitlines() if MARKER in line and '"httpx2"' not in line]

    def rows(self) -> list[list[tuple[Any, ...]]]:
        def read(session: Session) -> list[list[tuple[Any, ...]]]:
            tables = {*SQLModel.metadata.tables.values(), *product.TABLES}
            tables.remove(SQLModel.metadata.tables["throttle_buckets"])
            return [
                [tuple(row) for row in session.execute(table.select().order_by(*table.primary_key.columns))]
                for table in sorted(tables, key=str)
            ]

        return self.service.read(read)


@pytest.fixture
def anyone(service: Service, root: User, log: io.StringIO) -> Iterator[Caller]:
    """A caller whose requests must not change anything."""
    caller = Caller(service, root, log)
    with caller.client:
        before = caller.rows()
        yield caller
        assert caller.rows() == before


@pytest.fixture
def writer(service: Service, root: User, log: io.StringIO) -> Iterator[Caller]:
    """A caller who also sends valid requests."""
    caller = Caller(service, root, log)
    with caller.client:
        yield caller


UNSTORABLE = [f"{MARKER}\0", f"\0{MARKER}", f"{MARKER}\ud800", f"\udfff{MARKER}", f"{MARKER}\x07", f"{MARKER}\x1b[31m"]
MISLEADING = [f"{MARKER}{c}x" for c in ("\r\nBcc: ", "\n", "\t", "\u2028", "\u2029", "\u202e", "\u2066", "\x85")]


@each_target
def test_what_cannot_be_stored_is_refused_in_every_string(anyone: Caller, target: Target) -> None:
    for field in target.strings:
        for value in UNSTORABLE:
            anyone.refuses(anyone.send_json(target, target.body | {field: value}), 422, loc=["body", field])


@each_target
def test_a_field_of_one_line_takes_nothing_that_breaks_or_turns_it(anyone: Caller, target: Target) -> None:
    for field in target.lines:
        for value in MISLEADING:
            anyone.refuses(anyone.send_json(target, target.body | {field: value}), 422, loc=["body", field])


def test_a_text_may_have_lines_and_tabs(writer: Caller) -> None:
    description = "One\n\tTwo\r\n"
    answer = writer.send_json(CREATE_SIGHTING, {"title": "Notes", "remarks": description})
    assert (answer.status_code, answer.json()["remarks"]) == (201, description)


@each_target
def test_a_key_may_be_anything_and_is_only_named(anyone: Caller, target: Target) -> None:
    for key in ("\0", "\r\n\x1b[31m", "", "\u202e", "x" * 64):
        answer = anyone.send_json(target, target.body | {key: MARKER})
        anyone.refuses(answer, 422, loc=["body", key])
        assert answer.content.isascii()
    for key in ("\ud800", "title\udfff"):  # not text, so not a name
        anyone.refuses(anyone.send_json(target, target.body | {key: MARKER}), 422, loc=["body"])


@each_target
def test_what_only_the_service_sets_cannot_be_sent(anyone: Caller, target: Target) -> None:
    for key in ("id", "created_at", "updated_at", "owner_id", "hashed_password", "version"):
        anyone.refuses(anyone.send_json(target, target.body | {key: MARKER}), 422, loc=["body", key])


@each_target
def test_a_name_is_repeated_only_in_part(anyone: Caller, target: Target) -> None:
    answer = anyone.send_json(target, target.body | {"x" * 5000: MARKER})
    anyone.refuses(answer, 422)
    assert len(answer.content) < 1000


def test_only_so_many_errors_are_listed(anyone: Caller) -> None:
    answer = anyone.send_json(CREATE_SIGHTING, {f"key{number}": MARKER for number in range(100)})
    anyone.refuses(answer, 422)
    assert len(answer.json()["errors"]) == 20


@each_target
def test_what_has_too_many_fields_is_not_looked_at(anyone: Caller, target: Target) -> None:
    answer = anyone.send_json(target, target.body | {f"key{number}": MARKER for number in range(100)})
    anyone.refuses(answer, 422, loc=["body"])
    assert [error["type"] for error in answer.json()["errors"]] == ["too_many_fields"]


@each_target
def test_bytes_that_are_no_json_are_refused(anyone: Caller, target: Target) -> None:
    (field, *_) = target.body
    start = f'{{"{field}": "{MARKER}'.encode()
    for body in (b"\xff\xfe", start, start + b'",}', start + b'\n"}', MARKER.encode(), b"{}{}"):
        anyone.refuses(anyone.send_json(target, body), 400)
    for body in (start + b'\xff"}', start + b'\xe9"}'):
        anyone.refuses(anyone.send_json(target, body), 400)
    surrogate = start + b'\xed\xa0\x80"}'  # accepted by Python's parser
    anyone.refuses(anyone.send_json(target, surrogate), 422, loc=["body", field])


@each_target
def test_only_json_is_read_as_json(anyone: Caller, target: Target) -> None:
    proper = json.dumps(target.body | {"full_name": MARKER}).encode()
    for content, content_type in (
        (b"\xff\xfe", "application/octet-stream"),
        (proper, "text/plain"),
        (proper, "application/x-www-form-urlencoded"),
        (b"title=hunter2", "application/x-www-form-urlencoded"),
        (proper, "multipart/form-data; boundary=x"),
        (proper, "application/jsonp"),
        (proper, MARKER),
        (proper, ";"),
        (proper, None),
        (b"\xff\xfe", None),
    ):
        headers = {"Content-Type": content_type} if content_type else {}
        anyone.refuses(anyone.send(target.method, target.path, content=content, headers=headers), 415)


@each_target
def test_a_body_is_an_object(anyone: Caller, target: Target) -> None:
    for value in ("[]", f'["{MARKER}"]', f'"{MARKER}"', "null", "", "1", "true", "NaN", "-Infinity", "1e999"):
        anyone.refuses(anyone.send_json(target, value), 422, loc=["body"])


@each_target
def test_only_a_string_is_a_string(anyone: Caller, target: Target) -> None:
    numbers = [1, 1.5, True, float("nan"), float("inf"), float("-inf"), 10**4000]
    others: list[Any] = [[], {}, [MARKER], {MARKER: MARKER}]
    for field in target.strings:
        for value in numbers + others:
            anyone.refuses(anyone.send_json(target, target.body | {field: value}), 422, loc=["body", field])
        overflow = json.dumps(target.body | {field: 0.5}).replace("0.5", "1e999")
        anyone.refuses(anyone.send_json(target, overflow), 422, loc=["body", field])


def test_only_a_flag_is_a_flag(anyone: Caller) -> None:
    values: list[Any] = [MARKER, "", "true", "0", 1, 2, -1, 0.5, float("nan"), 10**4000, [], {}, [True]]
    for field in UPDATE_USER.flags:
        for value in values:
            anyone.refuses(anyone.send_json(UPDATE_USER, {field: value}), 422, loc=["body", field])


@each_target
def test_null_is_refused_where_a_value_is_needed(anyone: Caller, target: Target) -> None:
    for field in {*target.strings, *target.flags} - NULLABLE:
        anyone.refuses(anyone.send_json(target, target.body | {field: None}), 422, loc=["body", field])


@each_target
def test_json_of_any_depth_is_refused_cheaply(anyone: Caller, target: Target) -> None:
    (field, *_) = target.body
    anyone.refuses(anyone.send_json(target, "[" * 100_000), 400)
    for depth in (5000, 900):  # the maximum depth depends on the version of Python
        nested = f'{{"{field}": {"[" * depth}"{MARKER}"{"]" * depth}}}'
        anyone.refuses(anyone.send_json(target, nested), 400, 422)
        anyone.refuses(anyone.send_json(target, nested.replace("[", '{"x":').replace("]", "}")), 400, 422)


@each_target
def test_a_number_of_any_length_is_refused(anyone: Caller, target: Target) -> None:
    (field, *_) = target.body
    anyone.refuses(anyone.send_json(target, f'{{"{field}": {"9" * 5000}}}'), 400)


# The longest ones are just below the limit for bodies.
OUT_OF_BOUNDS = {
    "title": ["", "t" * 256, MARKER * 149_000],
    "remarks": ["d" * 2001, MARKER * 149_000],
    "full_name": ["n" * 256, MARKER * 149_000],
    "email": ["", f"{'e' * 243}@example.com", f"{MARKER * 55}@example.com", f"e@{'e' * 400}.com"],
    "password": ["short", "p" * 129, MARKER * 149_000],
    "current_password": ["p" * 129, MARKER * 149_000],
    "new_password": ["short", "p" * 129, MARKER * 149_000],
    "subject": ["", "s" * 256, MARKER * 149_000],
    "text": ["", "t" * 10_001, MARKER * 149_000],
    "token": ["", "t" * 1025, MARKER * 149_000],
}


@each_target
def test_every_string_has_its_lengths(anyone: Caller, target: Target) -> None:
    for field in target.strings:
        for value in OUT_OF_BOUNDS[field]:
            answer = anyone.send_json(target, target.body | {field: value})
            anyone.refuses(answer, 422, loc=["body", field])
            assert len(answer.content) < 1000


@pytest.mark.parametrize(
    "sighting",
    [{"title": "t"}, {"title": "t" * 255}, {"title": "😀" * 255, "remarks": "😀" * 2000}],
    ids=["shortest", "longest", "beyond the BMP"],
)
def test_strings_may_be_as_long_as_is_said(writer: Caller, sighting: dict[str, str]) -> None:
    created = writer.send_json(CREATE_SIGHTING, sighting)
    assert created.status_code == 201
    stored = writer.send("GET", f"/sightings/{created.json()['id']}").json()
    assert {name: stored[name] for name in sighting} == sighting


def test_of_keys_that_are_repeated_the_last_one_counts(writer: Caller) -> None:
    created = writer.send_json(CREATE_SIGHTING, '{"title": "", "title": "b"}')
    assert (created.status_code, created.json()["title"]) == (201, "b")
    assert writer.service.read(sightings.get, writer.user, uuid.UUID(created.json()["id"])).title == "b"
    writer.refuses(writer.send_json(CREATE_SIGHTING, '{"title": "a", "title": ""}'), 422, loc=["body", "title"])


BAD_IDS = [
    str(2**31),
    str(2**63),
    str(-(2**64)),
    "9" * 5000,
    "1.0",
    "1_0",
    "%20..",
    f"%20{ID}",
    f"{ID}%20",
    f"{ID}%00",
    f"%7B{ID}%7D",
    f"urn:uuid:{ID}",
    ID.replace("-", ""),
    ID[:-1],
    ID.replace("0", "%EF%BC%90"),  # Python accepts them as digits
    "%ff",
    "%ED%A0%80",
    "me%00",
    MARKER,
]


@pytest.mark.parametrize("entity", ["sightings", "users"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_id_has_one_spelling(anyone: Caller, entity: str, method: str) -> None:
    field = f"{entity[:-1]}_id"
    for given_id in BAD_IDS:
        answer = anyone.send(method, f"/{entity}/{given_id}", json={})
        anyone.refuses(answer, 422, loc=["path", field])
        assert given_id not in answer.text
        assert unquote(given_id) not in answer.text
    for given_id in (f"{ID}/x", f"a%2F{ID}"):
        anyone.refuses(anyone.send(method, f"/{entity}/{given_id}"), 404)


BAD_QUERIES = [
    *(f"limit={value}" for value in (0, -1, 101, 10**9, 2**63, -(2**64), "9" * 5000, "x", "", "1.5", "1e1", "NaN")),
    *(f"skip={value}" for value in (-1, 10**6 + 1, 2**63, -(2**64), "9" * 5000, "x", "", "0x0", MARKER)),
    *(f"limit={MARKER}{value}" for value in ("%00", "%ff", "%ED%A0%80", "%0d%0a")),
    *(f"q={MARKER}{value}" for value in ("%00", "%ff", "%0d%0a")),
    f"query={MARKER}",
    "limit=1&limit=0",
    "limit=1&limit=x",
    "offset=1",
    "page=1",
]


@pytest.mark.parametrize("path", ["/sightings/", "/users/"])
def test_a_list_has_bounds_and_no_further_parameters(anyone: Caller, path: str) -> None:
    for query in BAD_QUERIES:
        answer = anyone.send("GET", f"{path}?{query}")
        anyone.refuses(answer, 422, loc=["query", query.partition("=")[0]])
        assert "9999" not in answer.text
    for query in ("%00=1", "%ff=1", "%0d%0a=1", "=1"):
        anyone.refuses(anyone.send("GET", f"{path}?{query}"), 422)


@pytest.mark.parametrize("path", ["/sightings/", "/users/"])
def test_the_bounds_themselves_are_accepted(anyone: Caller, path: str) -> None:
    for query in ("limit=1", "limit=100", "skip=0", "skip=1000000", ""):
        assert anyone.send("GET", f"{path}?{query}").status_code == 200


FORM = "application/x-www-form-urlencoded"
BAD_FORMS = [
    (b"username=hunter2%00&password=x", "username"),
    (b"username=root@example.com&password=hunter2%00", "password"),
    (b"username=hunter2%0d%0a&password=x", "username"),
    (b"username=hunter2%E2%80%AE&password=x", "username"),
    (b"username=hunter2%EF%BF%BD&password=x", "username"),
    (b"username=%s&password=x" % (b"hunter2" * 60), "username"),
    (b"username=x&password=%s" % (b"hunter2" * 9_000), "password"),
    (b"username=hunter2", "password"),
    (b"username=hunter2&password", "password"),
    (b"username=hunter2&password=", "password"),
    (b"password=hunter2", "username"),
    (b"grant_type=refresh_token&username=x&password=hunter2", "refresh_token"),
    (b"username=x&password=hunter2&scope=%00", "scope"),
    (b"username=x&password=hunter2&client_id=%00", "client_id"),
    (b"", "username"),
    (b"&=&&;%", "username"),
    (b'{"username": "root@example.com", "password": "hunter2"}', "username"),
]


def test_a_login_form_is_checked_like_any_body(anyone: Caller) -> None:
    for content, field in BAD_FORMS:
        answer = anyone.send("POST", "/auth/login", content=content, headers={"Content-Type": FORM})
        anyone.refuses(answer, 422, loc=["body", field])
        assert len(answer.content) < 1000


def test_what_is_no_form_in_utf_8_or_says_something_twice_is_refused(anyone: Caller) -> None:
    for content in (
        b"username=hunter2\xff&password=x",
        b"username=root@example.com&password=hunter2\xff",
        b"username=root@example.com&password=hunter2%ff",
        b"username=root@example.com&password=hunter2%E9",
        b"username=root@example.com&password=hunter2%ED%A0%80",
        b"username=root@example.com&password=hunter2&\xff=x",
        b"username=root@example.com&password=hunter2&%ff=x",
        "username=root@example.com&password=hunter2".encode("utf-16"),
        b"&".join(b"f%d=hunter2" % number for number in range(101)),
        b"username=x&password=hunter2&password=hunter2",
        b"username=x&password=hunter2&%70assword=x",
    ):
        answer = anyone.send("POST", "/auth/login", content=content, headers={"Content-Type": FORM})
        anyone.refuses(answer, 400)


def test_a_form_that_would_take_long_to_read_is_refused(anyone: Caller) -> None:
    for content in (b"username=" + b"%41" * 300_000, b"%" * 1_000_000, b"hunter2=" + b"x" * 65_536):
        answer = anyone.send("POST", "/auth/login", content=content, headers={"Content-Type": FORM})
        anyone.refuses(answer, 413)


MULTIPART = "multipart/form-data; boundary=x"
GOOD_FORM = b"username=root@example.com&password=hunter2"
PARTS = b"".join(
    b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % tuple(field.split(b"="))
    for field in GOOD_FORM.split(b"&")
)
OTHER_TYPES: list[tuple[bytes, list[str]]] = [
    (PARTS + b"--x--\r\n", [MULTIPART]),
    (PARTS, ["multipart/form-data"]),
    (b'{"username": "root@example.com", "password": "hunter2"}', ["application/json"]),
    (b'{"username": "hunter2', ["application/json"]),
    (b"\xff\xfe", ["application/octet-stream"]),
    *(
        (GOOD_FORM, types)
        for types in (
            [],
            [""],
            ["text/plain"],
            ["application/x-www-form-urlencodedx"],
            [f"{FORM}, {FORM}"],
            [FORM, FORM],
            [FORM, "text/plain"],
            [f"{FORM}; charset=latin-1"],
            [f"{FORM}; charset=punycode"],
            [f"{FORM}; charset=utf-8; charset=utf-16"],
            [f"{FORM}; charset*=utf-8''utf-16"],
            [f"{FORM}; charset="],
        )
    ),
]


def test_only_a_form_is_read_as_a_form(anyone: Caller) -> None:
    for path in ("/auth/login", "/auth/refresh", "/auth/revoke"):
        for content, types in OTHER_TYPES:
            headers = [("Content-Type", each) for each in types]
            answer = anyone.send("POST", path, content=content, headers=headers)
            assert answer.status_code == 415, (path, types)
            assert MARKER not in answer.text


def test_the_type_of_a_form_may_be_written_in_any_way(anyone: Caller) -> None:
    for content_type in (f"{FORM};charset=utf-8", f'{FORM} ; Charset="UTF-8"', f"{FORM};", FORM.upper()):
        answer = anyone.send("POST", "/auth/login", content=GOOD_FORM, headers={"Content-Type": content_type})
        anyone.refuses(answer, 401)


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: x=1", '>; rel="x", <', "\u6d77", "\ufffd", "a\0"], ids=ascii)
def test_a_path_that_a_client_may_name_is_quoted_in_headers(name: str) -> None:
    app = FastAPI()

    @app.get("/{name}")  # noqa: FAST003  # it is the path that is looked at
    async def headers(request: Request, response: Response) -> None:
        call: Call[None] = Call(request, response, *[None] * 3)  # type: ignore[arg-type]  # no caller is needed for links
        sighting = Sighting(title="Notes", owner_id=uuid.UUID(ID), id=uuid.UUID(ID))
        response.headers.update(created(request, sighting, sighting) | {"Link": call._link("first")})

    answer = asyncio.run(get(app, f"/{quote(name)}"))
    assert answer.headers["Location"] == f"/{quote(name)}/{ID}"
    assert answer.headers["Link"] == f'</{quote(name)}>; rel="first"'


async def get(app: FastAPI, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path)


NAMES = st.sampled_from(["username", *{field: None for target in TARGETS for field in target.strings + target.flags}])
STRINGS = st.text(st.characters(exclude_categories=[]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | STRINGS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(NAMES | STRINGS, children, max_size=4),
    max_leaves=8,
)
CONTENTS = st.one_of(st.dictionaries(NAMES, VALUES, max_size=5).map(json.dumps), VALUES.map(json.dumps), st.binary())
TYPES = st.sampled_from(["application/json", "application/json", FORM, MULTIPART, "text/plain", ""])


@given(content=CONTENTS, content_type=TYPES)
@hypothesis_settings(
    derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_that_is_sent_breaks_the_service(writer: Caller, content: str | bytes, content_type: str) -> None:
    for method, path in (("POST", "/sightings/"), ("POST", "/users/"), ("PATCH", "/users/me"), ("POST", "/auth/login")):
        answer = writer.send(method, path, content=content, headers={"Content-Type": content_type})
        assert answer.status_code < 500
        if answer.status_code >= 400:
            writer.refuses(answer, 400, 401, 415, 422)
