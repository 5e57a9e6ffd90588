"""Mail: builds messages and delivers them to a folder or by SMTP (RFC 5321)."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email import message_from_string
from email.errors import NonASCIILocalPartDefect
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, quote
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, select_autoescape

from app.core.fields import canonical_email

TIMEOUT = 30.0
"""Seconds to wait for an answer of the server."""

_LINES = re.compile(rb"(?:[^\r\n\0]{0,998}\r\n)*")  # RFC 5322 section 2.1.1
_PLAIN = re.compile(r"(?:(?!=\?)[ -~]){0,900}")

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


class Rejected(Exception):
    """The server refuses this message permanently (RFC 5321 section 4.2.1, 5yz)."""


class Malformed(Exception):
    """The message would be delivered with other content or recipients than intended. It is never sent."""


@dataclass(frozen=True)
class Message:
    """A message with its envelope: one sender and one recipient, both with an ASCII domain."""

    key: UUID
    sender: str
    recipient: str
    headers: dict[str, str]
    """The encoded headers: in ASCII, except that an address may be UTF-8 (RFC 6532)."""
    body: EmailMessage

    def content(self, *, eight_bit: bool = True) -> bytes:
        """The bytes to send. Malformed unless they parse to exactly these headers, one recipient and two parts."""
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        content = head.encode() + self.body.as_bytes(policy=SMTP.clone(cte_type="8bit" if eight_bit else "7bit"))
        names, types = [*self.headers, *self.body], ["multipart/alternative", "text/plain", "text/html"]
        try:
            parsed = message_from_string(content.decode(), policy=SMTP)
            parts = list(parsed.walk())
            defects = [defect for part in parts for each in (part, *part.values()) for defect in each.defects]
            found = (
                parsed.keys(),
                *([address.addr_spec for address in parsed[name].addresses] for name in ("From", "To")),
                [part.get_content_type() for part in parts],
                [defect for defect in defects if not isinstance(defect, NonASCIILocalPartDefect)],
            )
        except Exception as error:  # the parser raises many types of them
            raise Malformed("the message cannot be parsed") from error
        if not _LINES.fullmatch(content) or found != (names, [self.sender], [self.recipient], types, []):
            raise Malformed("headers, recipients or parts differ from the intended ones")
        return content


class Transport(Protocol):
    async def send(self, message: Message) -> None:
        """Deliver it. Raises Rejected or Malformed; OSError or aiosmtplib.SMTPException if a later attempt may work."""


def render(kind: str, content: Mapping[str, Any], app_name: str) -> list[str]:
    """Subject, text and HTML of a message. Raises LookupError for a missing template, UndefinedError for a value."""
    parts = ("subject.txt", "body.txt", "body.html")
    try:
        return [_templates.get_template(f"{kind}/{part}").render(content, app_name=app_name) for part in parts]
    except TemplateNotFound as error:  # an OSError, which a unit of work would treat as one of the database
        raise LookupError(f"app/templates has no {error.name}") from error


def compose(
    kind: str, content: Mapping[str, Any], sender: tuple[str, str], recipient: str, *, key: UUID, date: datetime
) -> Message:
    """A message from the templates in the folder of this kind, as text and as HTML.

    `sender` is the name of the app and its address. `key` becomes part of the Message-ID. Raises Malformed.
    """
    subject, text, html = render(kind, content, sender[0])
    # The longest lines that SMTP allows, so that links in the text are not broken.
    body = EmailMessage(SMTP.clone(max_line_length=998))
    try:
        by, to = _address(sender[1]), _address(recipient)
        # Not assigned to an EmailMessage: it would parse them and decode their encoded words.
        headers = {
            "Subject": _words(subject),
            "From": f"{_words(sender[0], quoted=True)} <{by}>",
            "To": to,
            "Date": format_datetime(date),
            "Message-ID": f"<{key}@{by.rpartition('@')[2]}>",
            "Auto-Submitted": "auto-generated",  # RFC 3834: suppresses automatic replies
        }
        body.set_content(text)
        body.add_alternative(html, subtype="html")
    except ValueError as error:  # an invalid address, or invalid Unicode
        raise Malformed(str(error)) from error
    return Message(key, by, to, headers, body)


def _words(text: str, *, quoted: bool = False) -> str:
    """The text on one line: unchanged if it is plain ASCII, otherwise as encoded words (RFC 2047)."""
    text = " ".join(text.split())
    if not _PLAIN.fullmatch(text):
        return Header(text, "utf-8", maxlinelen=75, header_name="Subject").encode(linesep="\r\n")
    return f'"{quote(text)}"' if quoted else text


def _address(address: str) -> str:
    """The address with its domain in Punycode, which all servers support."""
    known = validate_email(canonical_email(address), check_deliverability=False)
    return f"{known.local_part}@{known.ascii_domain}"


def transport(url: str) -> Transport:
    """The transport of `file://folder`, `file:///folder`, `smtp://` or `smtps://user:password@host:port`.

    `smtp://` requires STARTTLS (RFC 3207), unless the URL ends in `?starttls=false`. Raises ValueError.
    """
    if url.startswith("file://") and url != "file://":
        return Folder(Path(url.removeprefix("file://")))
    try:
        parsed = urlsplit(url)
        if parsed.scheme in ("smtp", "smtps") and parsed.hostname and parsed.query in ("", "starttls=false"):
            return Server(
                hostname=parsed.hostname,
                port=parsed.port or (465 if parsed.scheme == "smtps" else 587),
                username=unquote(parsed.username) if parsed.username else None,
                password=unquote(parsed.password) if parsed.password else None,
                use_tls=parsed.scheme == "smtps",
                start_tls=parsed.scheme == "smtp" and not parsed.query,
                timeout=TIMEOUT,
            )
    except ValueError:  # its text may quote the password
        pass
    raise ValueError("must be file://folder, smtp://user:password@host or smtps://user:password@host")


class Folder:
    """Writes each message atomically into a file that only the user of this process can read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, message: Message) -> None:
        await asyncio.to_thread(self._write, message)

    def _write(self, message: Message) -> None:
        content = message.content()
        self._path.mkdir(parents=True, exist_ok=True)
        draft = self._path / f"{message.key}.draft"
        draft.touch(mode=0o600)
        draft.write_bytes(content)
        draft.replace(self._path / f"{message.key}.eml")


class Server:
    """Sends each message over a new connection. The options are those of aiosmtplib."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    async def send(self, message: Message) -> None:
        client = aiosmtplib.SMTP(**self._options)
        try:
            await client.connect()
            with suppress(aiosmtplib.SMTPHeloError):  # a server without ESMTP, so without extensions
                await client.ehlo()
            eight_bit = client.supports_extension("8bitmime")
            by, to, content = message.sender, message.recipient, message.content(eight_bit=eight_bit)
            options = ["BODY=8BITMIME"] * eight_bit + ["SMTPUTF8"] * (not f"{by}{to}".isascii())
            await client.sendmail(by, [to], content, mail_options=options)
            with suppress(aiosmtplib.SMTPException):  # the message is sent, even if QUIT fails
                await client.quit(timeout=1)
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError, aiosmtplib.SMTPSenderRefused) as error:
            said = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
            if 500 <= said.code < 600 and said.code != 530:  # 530 concerns our login (RFC 4954 section 6)
                raise Rejected(f"{said.code} {said.message}") from error
            raise said from error
        finally:
            client.close()
