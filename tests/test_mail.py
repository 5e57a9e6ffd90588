"""Mail: the format of messages, and their delivery."""

import asyncio
import datetime as dt
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from aiosmtplib import SMTPException
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app import emails, users
from app.core import mail
from app.users import User
from tests.conftest import Mailbox, on_sqlite
from tests.service import ROOT, Service
from tests.smtp import Letter, SmtpServer, hang

TEMPLATES = sorted(folder.name for folder in (ROOT / "app/templates").iterdir() if folder.is_dir())
GREETING = {"known_email", "reset_password", "verify_email"}
KINDS = sorted(GREETING | {"email_changed", "email_changing", "invitation", "message", "password_changed"})
"""The messages of accounts. Other messages have their own tests."""
LINK = f"https://app.example.com/verify-email?token={'x' * 300}"
HEADERS = [
    "Subject",
    "From",
    "To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
]

each_kind = pytest.mark.parametrize("kind", KINDS)


def compose(
    kind: str = "verify_email",
    to: str = "ada@example.com",
    *,
    sender: str = "noreply@example.com",
    app_name: str = "Onefold",
    number: int = 1,
    **context: Any,
) -> mail.Message:
    known = {
        "name": "Ada",
        "link": LINK,
        "hours": 24,
        "email": "new@example.com",
        "subject": "News",
        "text": "Hello.",
    }
    date = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    key = UUID(int=number)
    return mail.compose(kind, known | context, (app_name, sender), to, key=key, date=date)


def send(url: str, message: mail.Message | None = None) -> None:
    async def run() -> None:
        try:
            await mail.transport(url).send(message or compose())
        finally:
            await asyncio.sleep(0.01)  # the event loop closes TLS connections in its next turns

    asyncio.run(run())


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as smtp:
        yield smtp


@pytest.fixture
def deliver(smtp: SmtpServer) -> Callable[[mail.Message], Letter]:
    """Deliver a message. Returns the received one."""

    def deliver(message: mail.Message) -> Letter:
        send(smtp.url, message)
        return smtp.letters[-1]

    return deliver


def test_a_message_arrives_as_text_and_as_html(deliver: Callable[[mail.Message], Letter]) -> None:
    letter = deliver(compose())
    assert (letter.sender, letter.recipients) == ("noreply@example.com", ["ada@example.com"])
    assert letter.message.keys() == HEADERS
    assert {name: letter.message[name] for name in HEADERS[:-2]} == {
        "Subject": "Verify your email for Onefold",
        "From": "Onefold <noreply@example.com>",
        "To": "ada@example.com",
        "Date": "Fri, 02 Jan 2026 03:04:05 +0000",
        "Message-ID": f"<{UUID(int=1)}@example.com>",
        "Auto-Submitted": "auto-generated",
    }
    assert letter.message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in letter.message.iter_parts()] == ["text/plain", "text/html"]
    assert letter.text.startswith("Hello Ada,\n\nplease verify that this address is yours:\n\n")
    assert f'<a href="{LINK}"' in letter.html


@pytest.mark.parametrize("name", ["Ada", "Ærø 海"])
def test_the_link_is_one_unbroken_line_of_the_text(deliver: Callable[[mail.Message], Letter], name: str) -> None:
    assert f"\r\n{LINK}\r\n".encode() in deliver(compose(name=name)).content


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_kind_of_message_has_a_subject_a_text_and_the_same_as_html(kind: str) -> None:
    for part in ("subject.txt", "body.txt", "body.html"):
        assert mail._templates.get_template(f"{kind}/{part}")  # compiled


@each_kind
def test_every_kind_of_message_can_do_without_a_name(kind: str, deliver: Callable[[mail.Message], Letter]) -> None:
    named, unnamed = deliver(compose(kind)), deliver(compose(kind, name=None))
    assert named.message["Subject"]
    assert named.text.startswith("Hello Ada," if kind in GREETING else "Hello")
    for one, other in (
        (named.message["Subject"], unnamed.message["Subject"]),
        (named.text, unnamed.text),
        (named.html, unnamed.html),
    ):
        assert other == one.replace("Hello Ada,", "Hello,")


@each_kind
def test_html_is_escaped_where_it_is_html(kind: str, deliver: Callable[[mail.Message], Letter]) -> None:
    script = "<script>alert('1 & 2')</script>"
    letter = deliver(compose(kind, app_name=script, name=script, text=script, subject=script, email=script))
    assert script in letter.message["Subject"]
    assert script in letter.text
    assert "&" not in letter.text.replace(script, "")
    assert "<script>" not in letter.html
    assert "&lt;script&gt;alert(&#39;1 &amp; 2&#39;)&lt;/script&gt;" in letter.html


BREAKS = ["\r\n", "\n", "\r", "\n\n", "\r\n ", "\x0b", "\x85", "\u2028"]


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_a_line_break_forges_no_header(deliver: Callable[[mail.Message], Letter], line_break: str) -> None:
    forged = f"a{line_break}Bcc: x@y.example"
    letter = deliver(compose("message", subject=forged, text=forged, name=forged))
    assert letter.message.keys() == HEADERS
    assert letter.message["Subject"] == "a Bcc: x@y.example"
    assert letter.recipients == ["ada@example.com"]


@each_kind
def test_a_name_with_line_breaks_stays_in_the_text(kind: str, deliver: Callable[[mail.Message], Letter]) -> None:
    letter = deliver(compose(kind, name="a\r\nBcc: x@y.example\r\n\r\nb"))
    assert letter.message.keys() == HEADERS
    assert letter.recipients == ["ada@example.com"]
    assert ("Bcc: x@y.example" in letter.text) == (kind in GREETING)


def test_a_line_break_in_an_address_is_refused() -> None:
    with pytest.raises(mail.Malformed, match="invalid characters"):
        compose(to="ada@example.com\r\nBcc: x@y.example")


@on_sqlite
def test_no_header_is_forged_by_what_is_in_the_database(
    service: Service, client: httpx2.Client, ada: User, mailbox: Mailbox
) -> None:
    forged = "a\r\nBcc: x@y.example"
    service.write(users.change, ada.id, {"full_name": forged})
    service.write(emails.queue, "message", ada.email, subject=forged, text=forged)
    assert client.post("/api/v1/auth/password/forgot", json={"email": ada.email}).status_code == 202
    messages = mailbox.messages()
    assert [message.keys() for message in messages] == [HEADERS] * 2
    assert [message["To"] for message in messages] == [ada.email] * 2
    assert [message["Subject"] for message in messages] == ["a Bcc: x@y.example", "Set a new password for Onefold"]


@pytest.mark.parametrize("end", ["\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n"], ids=ascii)
def test_a_text_cannot_end_its_message_and_begin_another(smtp: SmtpServer, end: str) -> None:
    text = f"a{end}MAIL FROM:<x@y.example>\r\nRCPT TO:<x@y.example>\r\nDATA\r\nb"
    send(smtp.url, compose("message", text=text))
    (letter,) = smtp.letters
    assert letter.recipients == ["ada@example.com"]
    assert letter.text.split() == text.split()


def test_other_alphabets_arrive_by_any_server() -> None:
    with SmtpServer(utf8=False) as smtp:
        send(
            smtp.url,
            compose(app_name="Øst 海", name="Ærøskøbing 海"),
        )
    (letter,) = smtp.letters
    assert letter.content.partition(b"\r\n\r\n")[0].isascii()
    assert letter.message["From"] == "Øst 海 <noreply@example.com>"
    assert letter.message["Subject"] == "Verify your email for Øst 海"
    assert letter.text.startswith("Hello Ærøskøbing 海,\n")
    assert "<p>Hello Ærøskøbing 海,</p>" in letter.html


@pytest.mark.parametrize("extended", [True, False], ids=["no 8BITMIME", "no EHLO"])
def test_a_server_of_seven_bits_is_sent_seven_bits(extended: bool) -> None:
    with SmtpServer(utf8=False, eight_bit=False, extended=extended) as smtp:
        send(smtp.url, compose("message", app_name="Øst 海", subject="Ærø", text="Ærøskøbing 海"))
    (letter,) = smtp.letters
    assert letter.content.isascii()
    assert letter.message["Subject"] == "Ærø"
    assert letter.text == "Ærøskøbing 海\n"
    assert "BODY=8BITMIME" not in letter.options


def test_a_long_subject_is_folded_as_it_should_be(deliver: Callable[[mail.Message], Letter]) -> None:
    subject = "Ærøskøbing 海 " * 18 + "!"
    letter = deliver(compose("message", subject=subject))
    assert letter.message["Subject"] == subject
    head = letter.content.partition(b"\r\nFrom:")[0]
    assert max(len(line) for line in head.split(b"\r\n")) <= 76  # RFC 2047 section 2


def test_a_domain_of_another_alphabet_is_written_in_ascii() -> None:
    with SmtpServer(utf8=False) as smtp:
        send(smtp.url, compose(to="ada@bücher.example"))
    (letter,) = smtp.letters
    assert letter.recipients == [letter.message["To"]] == ["ada@xn--bcher-kva.example"]


def test_the_sender_may_be_of_another_alphabet() -> None:
    with SmtpServer(utf8=False) as smtp:
        send(smtp.url, compose(sender="noreply@bücher.example"))
    (letter,) = smtp.letters
    assert letter.message["From"] == "Onefold <noreply@xn--bcher-kva.example>"
    assert letter.message["Message-ID"] == f"<{UUID(int=1)}@xn--bcher-kva.example>"


@pytest.mark.parametrize("address", ["ädä@example.com", "海@example.com", "ädä@bücher.example"])
def test_an_address_of_another_alphabet_needs_a_server_that_knows_it(smtp: SmtpServer, address: str) -> None:
    send(smtp.url, compose(to=address))
    (letter,) = smtp.letters
    assert letter.recipients == [letter.message["To"]] == [address.replace("bücher", "xn--bcher-kva")]
    assert "SMTPUTF8" in letter.options
    with SmtpServer(utf8=False) as old, pytest.raises(SMTPException, match="SMTPUTF8"):
        send(old.url, compose(to=address))
    assert old.letters == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded = serialization.Encoding.PEM
    private = key.private_bytes(encoded, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(certificate.public_bytes(encoded) + private)
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.fixture(params=["smtp", "smtps"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def secure(certificate: Path, scheme: str) -> Iterator[SmtpServer]:
    """A server with TLS: for smtps from the beginning, for smtp once it is asked for it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with SmtpServer(context, tls_at_once=scheme == "smtps") as server:
        yield server


@pytest.mark.usefixtures("trusted")
def test_mail_is_encrypted(secure: SmtpServer, scheme: str) -> None:
    send(f"{scheme}://localhost:{secure.port}")
    assert [letter.is_encrypted for letter in secure.letters] == [True]


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: SmtpServer, scheme: str) -> None:
    with pytest.raises((OSError, SMTPException), match="CERTIFICATE_VERIFY_FAILED"):
        send(f"{scheme}://user:hunter2@localhost:{secure.port}")
    assert (secure.logins, secure.offered) == ([], [])


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_host_is_refused(secure: SmtpServer, scheme: str) -> None:
    with pytest.raises((OSError, SMTPException), match="IP address mismatch"):
        send(f"{scheme}://user:hunter2@127.0.0.1:{secure.port}")
    assert (secure.logins, secure.offered) == ([], [])


@pytest.mark.parametrize("option", [""])
def test_nothing_is_said_in_clear_to_a_server_that_cannot_encrypt(smtp: SmtpServer, option: str) -> None:
    with pytest.raises(SMTPException, match="STARTTLS"):
        send(f"smtp://user:hunter2@127.0.0.1:{smtp.port}{option}")
    assert (smtp.logins, smtp.offered) == ([], [])


def test_mail_is_sent_in_clear_where_that_is_wanted(smtp: SmtpServer) -> None:
    send(f"smtp://user:hunter2@127.0.0.1:{smtp.port}?starttls=false")
    (letter,) = smtp.letters
    assert (letter.is_encrypted, letter.login) == (False, ("user", "hunter2"))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("given", "login"),
    [
        ("user:hunter2", ("user", "hunter2")),
        ("ada%40example.com:a%2Fb%3Ac%40d%25e%3Ff%23g+h%C3%A9", ("ada@example.com", "a/b:c@d%e?f#g+hé")),
    ],
)
def test_a_login_is_read_from_the_url(secure: SmtpServer, scheme: str, given: str, login: tuple[str, str]) -> None:
    send(f"{scheme}://{given}@localhost:{secure.port}")
    assert [letter.login for letter in secure.letters] == [login]


def test_without_a_login_none_is_tried(smtp: SmtpServer) -> None:
    send(smtp.url)
    assert (len(smtp.letters), smtp.logins) == (1, [])


@pytest.mark.timeout(10)
def test_a_server_is_waited_for_as_long_as_the_url_says(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TIMEOUT", 0.3)
    smtp.replies["DATA"] = hang
    with pytest.raises(TimeoutError):
        send(smtp.url)


@pytest.mark.timeout(10)
def test_an_accepted_message_counts_as_sent_even_if_the_connection_ends_badly(smtp: SmtpServer) -> None:
    smtp.replies["QUIT"] = hang
    send(smtp.url)
    assert len(smtp.letters) == 1


@pytest.mark.parametrize(("url", "port"), [("smtp://localhost", 587), ("smtps://localhost", 465)])
def test_each_scheme_has_its_port(url: str, port: int) -> None:
    server = mail.transport(url)
    assert isinstance(server, mail.Server)
    assert server._options["port"] == port


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail",
        "file:",
        "file://",
        "file:/mail",
        "http://user:hunter2@localhost",
        "mailto:ada@example.com",
        "smtp:",
        "smtp://",
        "smtp://:587",
        "smtp://user:hunter2@",
        "smtp://user:hunter2@localhost:port",
        "smtp://user:hunter2@localhost:99999",
        "smtp://user:hunter2@localhost?unknown=1",
        "smtp://user:hunter2@localhost?starttls=maybe",
        "smtp://user:hunter2@localhost?starttls=FALSE",
        "smtp://user:hunter2@localhost?timeout=x",
        "smtp://user:hunter2@localhost?timeout=0",
        "smtp://user:hunter2@localhost?timeout=-1",
        "smtp://user:hunter2@localhost?timeout=nan",
        "smtps://user:hunter2@localhost?starttls=maybe",
        "smtp://user:hunter2/x@localhost",
        "smtp://user:hunter2?x@localhost",
        "smtp://user:hunter2#x@localhost",
        "smtp://user:[hunter2@localhost",
        "smtp://user:hunter2\u2100@localhost",
    ],
    ids=ascii,
)
def test_a_url_that_cannot_be_used_is_refused_without_quoting_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        mail.transport(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_mail_can_go_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_absolute: bool) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/data/mail" if is_absolute else "file://data/mail"
    usual = os.umask(0)
    try:
        for number in (1, 2, 1):
            send(url, compose(number=number, name=f"Nº {number}"))
    finally:
        os.umask(usual)
    files = sorted((tmp_path / "data/mail").iterdir())
    names = [f"{UUID(int=number)}.eml" for number in (1, 2)]
    assert [(file.name, file.stat().st_mode & 0o777) for file in files] == [(name, 0o600) for name in names]
    letter = Letter("", [], [], files[0].read_bytes(), is_encrypted=False, login=None)
    assert letter.message.keys() == HEADERS
    assert letter.text.startswith("Hello Nº 1,")
    assert f"\r\n{LINK}\r\n".encode() in letter.content


def test_a_folder_that_cannot_be_written_is_a_failure_of_the_moment(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    with pytest.raises(OSError, match="mail"):
        send(f"file://{tmp_path}/mail")


def test_an_address_of_any_alphabet_goes_into_a_folder(tmp_path: Path) -> None:
    send(f"file://{tmp_path}", compose(to="ädä@bücher.example"))
    letter = Letter("", [], [], (tmp_path / f"{UUID(int=1)}.eml").read_bytes(), is_encrypted=False, login=None)
    assert letter.message["To"] == "ädä@xn--bcher-kva.example"
