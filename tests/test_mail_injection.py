"""Mail injection: no input becomes a header, a recipient or a part of a message."""

import base64
import dataclasses
import email
import email.policy
import io
import json
import re
from collections.abc import Callable, Iterator
from email.errors import NonASCIILocalPartDefect
from email.message import EmailMessage
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlmodel import Session, select

from app import emails
from app.core import mail
from app.emails import Email
from app.users import User
from tests.conftest import PASSWORD, Mailbox, add_user, client_at, on_sqlite
from tests.service import Service, settings
from tests.smtp import Letter, SmtpServer
from tests.test_mail import HEADERS, compose, send

# Two real attacks: each added a Bcc to the message on the wire, and the second also a body.
ENCODED_BCC = "=?utf-8?q?=0d=0abcc=3ae=40evil.io=0d=0ax=3a?=@example.com"
ENCODED_BODY = "=?utf-8?q?=0d=0acontent-type=3atext=2fhtml=0d=0abcc=3ae=40evil.io=0d=0a=0d=0ahi=3cp=3e?=@example.com"

_BCC = "\r\nBcc: e@evil.io\r\nX:"
_Q = "".join(f"={byte:02x}" for byte in _BCC.encode())
_B = base64.b64encode(_BCC.encode()).decode()
_BREAKS = ["\r\n", "\n", "\r", "\n\n", "\r\n\r\n", "\n\r", "\r\n ", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x85"]
_BREAKS += [
    "\u2028",
    "\u2029",
    "\u240d\u240a",
    "\uff0d\uff0a",
    "%0d%0a",
    "=0D=0A",
    "&#13;&#10;",
    "\\r\\n",
    "\u560d\u560a",
]
_CHARSETS = ["utf-8", "UTF-8*en", "us-ascii", "iso-8859-1", "utf-16", "utf-7", "punycode", "unknown-8bit", "x", ""]
_WORDS = [f"=?{charset}?{encoded}?=" for charset in _CHARSETS for encoded in (f"q?{_Q}", f"b?{_B}")]
_WORD = _WORDS[0]
SMUGGLED = "a\r\n.\r\nMAIL FROM:<e@evil.io>\r\nRCPT TO:<e@evil.io>\r\nDATA\r\nb\r\n.\r\n"

NAUGHTY = [
    *(f"a{line_break}Bcc: e@evil.io{line_break}x" for line_break in _BREAKS),
    *(f"a{line_break}bcc:e" for line_break in _BREAKS),
    *_WORDS,
    *(f"a{word}" for word in _WORDS[:2]),
    f"a.{_WORD}.b",
    f"{_WORD} {_WORD}",
    f"{_WORD}{_WORD}",
    f'"{_WORD}"',
    f"({_WORD})",
    _WORD.replace("=?", "\uff1d\uff1f").replace("?=", "\uff1f\uff1d"),  # become encoded words under NFKC
    _WORD.replace("=?", "\ufe66\ufe56"),
    _WORD.replace("=?", "=\uff1f"),
    _WORD.replace("utf-8", "\uff55\uff54\uff46-8"),
    f"=?utf-8?b?{base64.b64encode(_WORD.encode()).decode()}?=",
    "=?utf-8?q?a?=, =?utf-8?q?b?= <e@evil.io>",
    "=?utf-8?q?=2c_e=40evil.io?=",
    "=?utf-8?q?=00?=",
    "=?utf-8?q?=ed=a0=80?=",
    "=?utf-8?b?!?=",
    "=?utf-8?q?unfinished",
    "=?",
    "a=?b",
    "a?=b",
    "=",
    "e@evil.io,a",
    "a,e@evil.io,b",
    "a;e@evil.io",
    "g: e@evil.io, f@evil.io; a",
    "<e@evil.io> a",
    "a <e@evil.io>",
    "a<e@evil.io>",
    "a> SIZE=1\r\nRCPT TO:<e@evil.io",
    "a> ORCPT=rfc822;e@evil.io",
    '"a b"',
    '"e@evil.io"',
    '"a\\"b',
    '"',
    "\\",
    "a(e@evil.io)",
    "()a",
    "@evil.io:a",
    "e%evil.io",
    "evil.io!e",
    "a\uff20evil.io\uff0cb",
    "a\ufe6bevil.io",
    "a\uff1ce@evil.io\uff1e",
    "a\u2025b",
    "\uff02a\uff02",
    "{|}~`^$#&'*+/",
    "a*0=x; a*1*=utf-8''%0d%0abcc",
    "text/html; charset=utf-7; boundary=x",
    "Content-Type: text/html",
    "Content-Transfer-Encoding: base64",
    "Bcc:e",
    ":",
    ": x",
    "--===============0000000000000000000==",
    "\r\n--x\r\nContent-Type: text/html\r\n\r\n<b>\r\n--x--\r\n",
    ".",
    "..",
    ".a",
    ".\r\n.\r\n..\r\n.a",
    SMUGGLED,
    "a\n.\nMAIL FROM:<e@evil.io>",
    "a\r.\rMAIL FROM:<e@evil.io>",
    "From e@evil.io\r\n>From a",
    "\tx\t",
    " x ",
    " ",
    "\xa0",
    "\u3000\u2003",
    "a\x07\x1b[31m\x7fb",
    "\u202egnp.exe\u202c",
    "\u2066a\u2069\u200f\u200e",
    "\ufeffa\u200b\u200d\u00ad",
    "\U000e0001\U000e0041",
    "\ue000\ufffd\ufffe\uffff\U0010ffff",
    "\U0001f469\u200d\U0001f4bb\U0001f3fd",
    "a" + "\u0301" * 90,
    "\u0301",
    "\u0130\u0131\u017f\u212a\u1e9e\ufb00",
    "\ufdfa" * 12,
    "\u6d77\xe9",
    "\ud800",
    "a\udfff",
    "\udc0d\udc0a",
    "x" * 255,
    "x" * 999,
    "x y " * 2400,
    "\xe9" * 5000,
    "\U0001f600" * 255,
    "{{ 7 * 7 }}{% raw %}",
    "<script>alert(1)</script>&amp;",
    "%s%n{0}",
]


@dataclasses.dataclass(frozen=True)
class Wire:
    """The bytes of a message, parsed without any library."""

    names: list[str]
    values: dict[str, bytes]
    parts: list[bytes]

    @classmethod
    def read(cls, content: bytes) -> "Wire":
        lines = content.split(b"\r\n")
        assert not [line for line in lines if len(line) > 998 or set(line) & set(b"\r\n\0")]
        head, _, body = content.partition(b"\r\n\r\n")
        fields = [field.split(b": ", 1) for field in re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n")]
        values = {name.decode("ascii"): value for name, value in fields}
        boundary = values["Content-Type"].removeprefix(b'multipart/alternative; boundary="').removesuffix(b'"')
        before, *parts, after = body.split(b"--" + boundary)
        assert (before, after) == (b"", b"--\r\n")
        return cls([name.decode("ascii") for name, _ in fields], values, parts)


def check(content: bytes, to: str, *, subject: str | None = None, text: str | None = None) -> None:
    """The message has exactly our headers, one recipient, two parts, and the intended text."""
    wire = Wire.read(content)
    assert wire.names == HEADERS
    assert wire.values["To"] == to.encode()
    assert re.fullmatch(rb'(".*"|=\?[ -~]+\?=) <noreply@example\.com>', wire.values["From"])
    assert all(value.isascii() for name, value in wire.values.items() if name != "To")
    assert [part.split(b"\r\n")[1] for part in wire.parts] == [
        b'Content-Type: text/plain; charset="utf-8"',
        b'Content-Type: text/html; charset="utf-8"',
    ]
    message = email.message_from_string(content.decode(), _class=EmailMessage, policy=email.policy.default)
    assert message.keys() == HEADERS
    assert [address.addr_spec for address in message["To"].addresses] == [to]
    assert [address.addr_spec for address in message["From"].addresses] == ["noreply@example.com"]
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    for part in message.walk():
        for found in (part, *part.values()):
            assert [defect for defect in found.defects if not isinstance(defect, NonASCIILocalPartDefect)] == []
    if subject is not None:
        assert message["Subject"] == " ".join(subject.split())
    if text is not None:
        letter = Letter("", [], [], content, is_encrypted=False, login=None)
        assert letter.text == lines(text) + "\n"


def lines(text: str) -> str:
    return "\n".join(re.split("\r\n|\r|\n", text))


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as smtp:
        yield smtp


@pytest.fixture
def sending(serve: Callable[..., Service], smtp: SmtpServer) -> Service:
    """A service that sends its mail to the SMTP server, without throttling."""
    return serve(mail_url=smtp.url, throttling_enabled=False)


def deliver(service: Service) -> None:
    service.run(Mailbox(service).deliver())


def stored(service: Service) -> list[Email]:
    return list(service.read(lambda session: session.exec(select(Email)).all()))


def as_json(**body: str) -> tuple[bytes, dict[str, str]]:
    """JSON in ASCII, which allows lone surrogates."""
    return json.dumps(body).encode("ascii"), {"Content-Type": "application/json"}


@pytest.mark.slow
@on_sqlite
def test_a_sign_up_sends_mail_to_at_most_one_address(sending: Service, smtp: SmtpServer) -> None:
    accepted = []
    with client_at(sending.url) as client:
        addresses = [ENCODED_BCC, ENCODED_BODY, *NAUGHTY, *(f"a@{x}" for x in NAUGHTY)]
        for address in [*addresses, *(f"{x}@example.com" for x in NAUGHTY)]:
            content, headers = as_json(email=address, password=PASSWORD)
            answer = client.post("/api/v1/users/", content=content, headers=headers)
            assert answer.status_code in (201, 400, 422), address
            if answer.status_code == 201:
                accepted.append(answer.json()["email"])
            elif answer.status_code == 400:
                assert answer.json()["code"] == "email_taken", address
            else:
                assert [error["loc"] for error in answer.json()["errors"]] == [["body", "email"]]
    deliver(sending)
    assert "\u6d77\xe9@example.com" in accepted
    assert not [address for address in accepted if re.search(r'[\s"(),:;<>@[\\\]].*@|=\?', address)]
    assert sorted(letter.recipients for letter in smtp.letters) == sorted([address] for address in accepted)
    for letter in smtp.letters:
        check(letter.content, *letter.recipients)


@on_sqlite
@pytest.mark.parametrize("address", [ENCODED_BCC, ENCODED_BODY])
def test_an_address_holds_no_encoded_word(
    client: httpx2.Client, client_of: Callable[[User], httpx2.Client], service: Service, root: User, address: str
) -> None:
    spelled = ["=?".join(address.split("=?")), *(address.replace("=?", wide) for wide in ("\uff1d\uff1f", "\ufe66?"))]
    for email_ in spelled:
        body = {"email": email_}
        for answer in (
            client.post("/api/v1/users/", json=body | {"password": PASSWORD}),
            client.post("/api/v1/auth/password/forgot", json=body),
            client.post("/api/v1/auth/email/verify/request", json=body),
            client_of(root).post("/api/v1/emails/", json=body),
            client_of(root).patch(f"/api/v1/users/{root.id}", json=body),
            client_of(root).patch("/api/v1/users/me", json=body | {"current_password": PASSWORD}),
        ):
            assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["body", "email"])
        for name in ("mail_from", "first_superuser_email"):
            with pytest.raises(ValidationError, match=name):
                settings(**{name: email_})
    assert stored(service) == []


@pytest.mark.slow
@on_sqlite
def test_what_a_superuser_writes_is_subject_and_text_and_nothing_else(sending: Service, smtp: SmtpServer) -> None:
    root = add_user(sending, "root", is_superuser=True)
    accepted: dict[str, dict[str, str]] = {}
    with client_at(sending.url, root) as client:
        for number, words in enumerate([ENCODED_BCC, ENCODED_BODY, *NAUGHTY]):
            to = f"user{number}@example.com"
            for said in ({"subject": words, "text": words}, {"text": words}):
                content, headers = as_json(email=to, **said)
                answer = client.post("/api/v1/emails/", content=content, headers=headers)
                assert answer.status_code in (202, 422), words
                if answer.status_code == 202:
                    accepted[to] = said
                    break
    deliver(sending)
    assert {tuple(letter.recipients): letter.sender for letter in smtp.letters} == dict.fromkeys(
        [(to,) for to in accepted], "noreply@example.com"
    )
    for letter in smtp.letters:
        check(letter.content, *letter.recipients, **accepted[letter.recipients[0]])
    assert {"subject": _WORD, "text": _WORD} in accepted.values()
    assert {"text": SMUGGLED} in accepted.values()


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("into", ["smtp", "folder"])
def test_whatever_is_in_the_outbox_is_sent_as_it_is_meant_or_is_dead(
    service: Service,
    smtp: SmtpServer,
    tmp_path: Path,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    into: str,
) -> None:
    url = smtp.url if into == "smtp" else f"file://{tmp_path}/mail"
    monkeypatch.setattr(service, "settings", service.settings.model_copy(update={"mail_url": url}))
    meant: dict[str, dict[str, str]] = {}

    def fill(session: Session) -> None:
        for number, words in enumerate([ENCODED_BCC, ENCODED_BODY, *(NAUGHTY if into == "smtp" else NAUGHTY[::4])]):
            to = f"user{number}@example.com"
            meant[to] = {"subject": words, "text": words}
            emails.queue(session, "message", to, **meant[to])
            if not re.search("[\ud800-\udfff]", words):  # no database can store it
                to = words if "@" in words else f"{words}@example.com"
                emails.queue(session, "message", to[:254], subject="News", text="Hello.")

    service.write(fill)
    deliver(service)
    outbox = stored(service)
    assert {(email_.status, email_.attempts) for email_ in outbox} == {("sent", 1), ("dead", 1)}
    sent = [email_ for email_ in outbox if email_.status == "sent"]
    if into == "smtp":
        by_id = {letter.message["Message-ID"][1:37]: letter for letter in smtp.letters}
        contents = {number: letter.content for number, letter in by_id.items()}
        assert {number: letter.recipients for number, letter in by_id.items()} == {
            str(email_.id): [recipient(email_)] for email_ in sent
        }
    else:
        contents = {path.stem: path.read_bytes() for path in (tmp_path / "mail").iterdir()}
    assert len(contents) == len(sent)
    for email_ in sent:
        check(contents[str(email_.id)], recipient(email_), **meant.get(email_.email, {}))
    dead = [email_ for email_ in outbox if email_.status == "dead"]
    assert all(email_.last_error and email_.last_error.startswith("Malformed ") for email_ in dead)
    assert {ENCODED_BCC, ENCODED_BODY} <= {email_.email for email_ in dead}
    for email_ in dead:  # valid addresses whose message cannot be encoded
        if email_.email in meant:
            assert re.search("[\ud800-\udfff\x00-\x1f\x7f]", "".join(meant[email_.email].values()))
    assert log.getvalue().count('"error": "GiveUp"') == len(dead)
    assert "evil" not in log.getvalue()


def recipient(email_: Email) -> str:
    return mail._address(email_.email)


@pytest.mark.slow
def test_a_name_is_part_of_the_text(smtp: SmtpServer) -> None:
    for name in NAUGHTY:
        if re.search("[\ud800-\udfff\0]", name):
            with pytest.raises(mail.Malformed):
                send(smtp.url, compose(name=name))
        else:
            send(smtp.url, compose(name=name))
            check(smtp.letters[-1].content, "ada@example.com", subject="Verify your email for Onefold")
            assert smtp.letters[-1].text.startswith("Hello " + lines(name) + ",\n\nplease")


@pytest.mark.slow
def test_a_name_of_the_app_is_the_name_of_the_sender(smtp: SmtpServer) -> None:
    tried = 0
    for app_name in [ENCODED_BCC, *NAUGHTY]:
        try:
            settings(app_name=app_name)
        except ValidationError:
            continue
        tried += 1
        send(smtp.url, compose(app_name=app_name))
        check(smtp.letters[-1].content, "ada@example.com", subject=f"Verify your email for {app_name}")
        (sender,) = smtp.letters[-1].message["From"].addresses
        # The parser keeps the space between two encoded words, although RFC 2047 section 6.2 ignores it.
        assert sender.display_name.replace(" ", "") == "".join(app_name.split())
    assert tried > 80


_LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.sampled_from('=?=?_"\\<>(),;:@ '))


@pytest.mark.slow
@hypothesis_settings(max_examples=150, deadline=None)
@given(subject=_LINE, app_name=_LINE, text=_LINE)
def test_no_message_of_ordinary_text_is_malformed(subject: str, app_name: str, text: str) -> None:
    message = compose("message", subject=subject, text=text, app_name=app_name)
    for eight_bit in (True, False):
        check(message.content(eight_bit=eight_bit), "ada@example.com", subject=subject, text=text)


FORGED: dict[str, Callable[[mail.Message], object]] = {
    "another header": lambda message: message.headers.update({"X\r\nBcc": "e@evil.io"}),
    "a header in a header": lambda message: message.headers.update({"Subject": "a\r\nBcc: e@evil.io"}),
    "the body in a header": lambda message: message.headers.update({"Auto-Submitted": "a\r\n\r\nb"}),
    "a second subject": lambda message: message.headers.update({"Date": "a\r\nSubject: b"}),
    "a bare line feed": lambda message: message.headers.update({"Subject": "a\n b"}),
    "a bare carriage return": lambda message: message.headers.update({"Subject": "a\rb"}),
    "a NUL": lambda message: message.headers.update({"Subject": "a\0b"}),
    "a long line": lambda message: message.headers.update({"Subject": "a" * 990}),
    "two recipients": lambda message: message.headers.update({"To": "ada@example.com, e@evil.io"}),
    "a group": lambda message: message.headers.update({"To": "all: ada@example.com, e@evil.io;"}),
    "another recipient": lambda message: message.headers.update({"To": "e@evil.io"}),
    "no recipient": lambda message: message.headers.update({"To": ""}),
    "a recipient in an encoded word": lambda message: message.headers.update({"To": ENCODED_BCC}),
    "two senders": lambda message: message.headers.update({"From": "noreply@example.com, e@evil.io"}),
    "a third part": lambda message: message.body.add_alternative("c"),
    "an attachment": lambda message: message.body.add_attachment("c"),
    "one part": lambda message: message.body.set_payload([]),
    "a defect": lambda message: message.headers.update({"To": "ada@example.com ("}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_message_that_differs_from_the_intended_one_is_not_sent(
    smtp: SmtpServer, tmp_path: Path, forge: Callable[[mail.Message], object]
) -> None:
    message = compose()
    forge(message)
    for url in (smtp.url, f"file://{tmp_path}"):
        with pytest.raises(mail.Malformed):
            send(url, message)
    assert (smtp.offered, list(tmp_path.iterdir())) == ([], [])
