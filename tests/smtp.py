"""A real SMTP server on the loopback. It accepts all messages, unless a test configures other replies."""

import asyncio
import email
import email.policy
import logging
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType
from typing import Any, NoReturn, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.postgres import free_port

logging.getLogger("mail.log").setLevel(logging.ERROR)

ACCEPTED = "250 OK"

Reply = str | bytes | Callable[[SMTP], Awaitable[str]]


@dataclass(frozen=True)
class Letter:
    """A received message with its envelope and its transport."""

    sender: str
    recipients: list[str]
    options: list[str]
    content: bytes
    is_encrypted: bool
    login: tuple[str, str] | None

    @property
    def message(self) -> EmailMessage:
        return email.message_from_bytes(self.content, _class=EmailMessage, policy=email.policy.default)

    @property
    def text(self) -> str:
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    def _part(self, subtype: str) -> str:
        (part,) = (part for part in self.message.iter_parts() if part.get_content_subtype() == subtype)
        text: str = part.get_content()
        return text.replace("\r\n", "\n")


class SmtpServer:
    """Keeps the accepted `letters`, and all that were `offered` with their content, accepted or not.

    `commands` counts MAIL, RCPT and DATA. `replies` replaces the answers to them (to DATA after its content), AUTH or
    QUIT, by a complete reply or by a function that computes it. With a `tls` context it supports STARTTLS, or uses TLS
    from the beginning. SMTPUTF8, 8BITMIME and EHLO can be disabled.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        tls_at_once: bool = False,
        utf8: bool = True,
        eight_bit: bool = True,
        extended: bool = True,
    ) -> None:
        self._eight_bit, self._extended = eight_bit, extended
        self.letters: list[Letter] = []
        self.offered: list[Letter] = []
        self.logins: list[tuple[str, str]] = []
        self.commands: Counter[str] = Counter()
        self.replies: dict[str, Reply] = {}
        self.port = free_port()
        self._connected: set[SMTP] = set()
        self._controller = Controller(
            self,
            "127.0.0.1",
            self.port,
            ssl_context=tls if tls_at_once else None,
            tls_context=None if tls_at_once else tls,
            server_hostname="mail.example.com",
            enable_SMTPUTF8=utf8,
            authenticator=self._authenticate,
            auth_require_tls=False,
        )

    @property
    def url(self) -> str:
        """The MAIL_URL of a server without TLS."""
        return f"smtp://127.0.0.1:{self.port}?starttls=false"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._controller.loop).result(10)
        self._controller.stop()

    async def handle_EHLO(  # noqa: N802  # as aiosmtpd has it
        self, server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self._connected.add(server)
        if not self._extended:
            return ["502 5.5.1 EHLO is not known here"]
        return [response for response in responses if self._eight_bit or "8BITMIME" not in response]

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str | bytes:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self._reply("MAIL", server)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str | bytes:
        envelope.rcpt_tos.append(address)
        return await self._reply("RCPT", server)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str | bytes:  # noqa: N802
        assert server.transport
        assert isinstance(envelope.content, bytes)
        letter = Letter(
            sender=envelope.mail_from or "",
            recipients=list(envelope.rcpt_tos),
            options=list(envelope.mail_options),
            content=envelope.content,
            is_encrypted=server.transport.get_extra_info("sslcontext") is not None,
            login=session.auth_data,
        )
        self.offered.append(letter)
        reply = await self._reply("DATA", server)
        if reply == ACCEPTED:
            self.letters.append(letter)
        return reply

    async def handle_QUIT(self, server: SMTP, _session: Session, _envelope: Envelope) -> str | bytes:  # noqa: N802
        if "QUIT" in self.replies:
            await self._reply("QUIT", server)
        return "221 Bye"

    async def _reply(self, command: str, server: SMTP) -> str | bytes:
        self.commands[command] += 1
        reply = self.replies.get(command, ACCEPTED)
        return reply if isinstance(reply, str | bytes) else await reply(server)

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        login = data.login.decode(), data.password.decode()
        self.logins.append(login)
        refusal = self.replies.get("AUTH")
        assert refusal is None or isinstance(refusal, str)
        return AuthResult(success=refusal is None, handled=False, message=refusal, auth_data=login)

    async def _hang_up(self) -> None:
        for server in self._connected:
            if server.transport:
                server.transport.abort()  # type: ignore[attr-defined]  # it is a WriteTransport
        await asyncio.sleep(0)


async def hang(server: SMTP) -> NoReturn:
    """Never reply."""
    await asyncio.Event().wait()
    raise AssertionError  # for the type checker: the connection ends it


async def hang_up(server: SMTP) -> NoReturn:
    """Close the connection without a reply."""
    assert server.transport
    server.transport.abort()  # type: ignore[attr-defined]  # it is a WriteTransport
    await hang(server)


def after(condition: Callable[[], bool], seconds: float = 60) -> Reply:
    """Accept the message as soon as a condition is true."""

    async def reply(server: SMTP) -> str:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.01)
        return ACCEPTED

    return reply
