"""Mail: how a message is put together, and how it leaves: into a folder, or by SMTP (RFC 5321)."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TIMEOUT = 30.0
"""Seconds that an answer may take."""

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
    kind: str, content: Mapping[str, Any], sender: tuple[str, str], recipient: str, *, key: UUID, date: datetime
) -> EmailMessage:
    """The message that the templates in the folder of this kind make, as text and as HTML.

    It comes from the app of this name at this address (`sender`); `key` makes the Message-ID.
    """
    by, to = _address(*sender), _address("", recipient)
    # Lines of any length that SMTP can take, so that links are not broken in the text.
    message = EmailMessage(SMTP.clone(max_line_length=998, utf8=not f"{by.addr_spec}{to.addr_spec}".isascii()))
    subject, text, html = (
        _templates.get_template(f"{kind}/{part}").render(content, app_name=sender[0])
        for part in ("subject.txt", "body.txt", "body.html")
    )
    message["Subject"] = " ".join(subject.split())
    message["From"] = by
    message["To"] = to
    message["Date"] = date
    message["Message-ID"] = f"<{key}@{by.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes, please
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def _address(name: str, address: str) -> Address:
    """With its domain in Punycode, as all servers understand it."""
    known = validate_email(address, check_deliverability=False)
    return Address(name, username=known.local_part, domain=known.ascii_domain)


def transport(url: str) -> Transport:
    """For `file://folder`, `file:///folder`, `smtp://` and `smtps://user:password@host:port`; else ValueError.

    `smtp://` must be able to STARTTLS (RFC 3207) unless `?starttls=false`.
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
        client = aiosmtplib.SMTP(**self._options)
        try:
            await client.connect()
            await client.send_message(message, sender=sender, recipients=[recipient])
            with suppress(aiosmtplib.SMTPException):  # it is sent, however they part
                await client.quit(timeout=1)
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError, aiosmtplib.SMTPSenderRefused) as error:
            said = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
            if 500 <= said.code < 600 and said.code != 530:  # that is about our login (RFC 4954 section 6)
                raise Rejected(f"{said.code} {said.message}") from error
            raise said from error
        finally:
            client.close()
