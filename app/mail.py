"""Mail: how a message is put together, and how it leaves: into a folder, or by SMTP (RFC 5321)."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TIMEOUT = 30.0
"""Seconds for which an SMTP server may take over one answer, unless its URL says otherwise."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


class Rejected(Exception):
    """The server will never take this message (RFC 5321 section 4.2.1, 5yz)."""


class Transport(Protocol):
    async def send(self, message: EmailMessage) -> None:
        """Hand a message over. Raises Rejected; OSError or aiosmtplib.SMTPException where a later try may do."""


def compose(
    kind: str, context: Mapping[str, Any], *, sender: Address, recipient: str, message_id: str, date: datetime
) -> EmailMessage:
    """The message that the templates in the folder of this kind make, as text and as HTML."""
    recipient = _ascii_domain(recipient)
    # Lines of any length that SMTP can take, so that links are not broken in the text.
    message = EmailMessage(SMTP.clone(max_line_length=998, utf8=not recipient.isascii()))
    subject, text, html = (
        _templates.get_template(f"{kind}/{part}").render(context) for part in ("subject.txt", "body.txt", "body.html")
    )
    message["Subject"] = " ".join(subject.split())
    message["From"] = sender
    message["To"] = Address(addr_spec=recipient)
    message["Date"] = date
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes, please
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def _ascii_domain(address: str) -> str:
    """With its domain in Punycode, as all servers understand it."""
    return validate_email(address, check_deliverability=False).ascii_email or address


def transport(url: str) -> Transport:
    """For `file://folder`, `file:///folder`, `smtp://` and `smtps://user:password@host:port`; else ValueError.

    `smtp://` must be able to STARTTLS (RFC 3207) unless `?starttls=false`; `?timeout=` is in seconds.
    """
    parsed = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parsed.query).items()}
    if parsed.scheme == "file" and url.removeprefix("file://") not in ("", url):
        return Folder(Path(url.removeprefix("file://")))
    if parsed.scheme in ("smtp", "smtps") and parsed.hostname and options.keys() <= {"starttls", "timeout"}:
        encrypt = {"true": True, "false": False}.get(options.get("starttls", "true"))
        if encrypt is not None:
            return Server(
                hostname=parsed.hostname,
                port=parsed.port or (465 if parsed.scheme == "smtps" else 587),
                username=unquote(parsed.username) if parsed.username else None,
                password=unquote(parsed.password) if parsed.password else None,
                use_tls=parsed.scheme == "smtps",
                start_tls=encrypt and parsed.scheme == "smtp",
                timeout=float(options.get("timeout", TIMEOUT)),
            )
    raise ValueError("must be file://folder, smtp://user:password@host or smtps://user:password@host")


class Folder:
    """Writes each message into a file, whole or not at all, that only this user can read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, message: EmailMessage) -> None:
        await asyncio.to_thread(self._write, message)

    def _write(self, message: EmailMessage) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        name = message["Message-ID"].strip("<>").partition("@")[0]
        draft = self._path / f"{name}.draft"
        draft.touch(mode=0o600)
        draft.write_bytes(message.as_bytes())
        draft.replace(self._path / f"{name}.eml")


class Server:
    """Sends each message over a connection of its own, whose options are those of aiosmtplib."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    async def send(self, message: EmailMessage) -> None:
        sender, recipient = (message[name].addresses[0].addr_spec for name in ("From", "To"))
        try:
            await aiosmtplib.send(message, sender=sender, recipients=[recipient], **self._options)
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _judged(error.recipients[0]) from error
        except (aiosmtplib.SMTPDataError, aiosmtplib.SMTPSenderRefused) as error:
            raise _judged(error) from error


def _judged(error: aiosmtplib.SMTPResponseException) -> Exception:
    return Rejected(f"{error.code} {error.message}") if 500 <= error.code < 600 else error
