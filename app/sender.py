"""The sender of what is in the outbox: inside the service, or apart from it as `python -m app.sender`.

Any number of them may run. Each message is sent at least once: again only where a sender was killed between the
server's acceptance and its own note of it, or lost the database then; the second one has the same Message-ID.
"""

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage

from aiosmtplib import SMTPException
from jinja2 import TemplateError

from app import accounts, emails, logs, mail
from app.config import Settings, get_settings
from app.db import Database
from app.emails import Email
from app.errors import Unavailable

logger = logging.getLogger(__name__)

SLOTS = 4
"""How many messages one sender sends at a time."""
POLL = 1.0
"""Seconds between two looks at the outbox."""
LONGEST_PAUSE = 30.0
"""The same while the database is away."""
PATIENCE = 60.0
"""Seconds that one message may take, which is less than its lease."""
GRACE = 5.0
"""Seconds for which a sender that is stopped finishes what it has begun."""


class Sender:
    """Sends what is due until it is stopped. `settings.mail_url` must be set."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._settings = db, settings
        self._transport = mail.transport(settings.mail_url or "")
        self._stopping = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Returns once it was stopped, and has finished or released what it held."""
        pause = POLL
        stopping = asyncio.create_task(self._stopping.wait())
        while not stopping.done():
            try:
                await self._begin()
                pause = POLL
            except Exception as error:  # noqa: BLE001  # whatever it is, mail must go on when it is over
                logger.warning("the outbox cannot be read: %s", type(error).__name__)
                pause = min(2 * pause, LONGEST_PAUSE)
            wait = pause * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, for many that were started at once
            await asyncio.wait({stopping, *self._sending}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _begin(self) -> None:
        """Claim as many due messages as there is room for, and begin to send them."""
        if (room := SLOTS - len(self._sending)) and await self._db.read(emails.any_due):
            for email in await self._db.write(emails.claim, room):
                task = asyncio.create_task(self._send(email))
                self._sending.add(task)
                task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.warning("the outcome of an email was not noted: %s", type(error).__name__)

    async def _send(self, email: Email) -> None:
        about = {"email_id": email.id, "kind": email.kind, "attempt": email.attempts}
        secret = ""
        try:
            async with asyncio.timeout(PATIENCE):
                content = await self._db.write(emails.read, email, accounts.LETTERS, self._settings)
                if content is None:
                    return
                secret = content.get("token", "")
                await self._transport.send(self._compose(email, content))
        except asyncio.CancelledError:
            await self._db.write(emails.release, email)
            raise
        except Exception as error:  # one message that cannot be sent must not hold up the others
            expected = isinstance(error, mail.Rejected | OSError | SMTPException | Unavailable)
            if not expected or isinstance(error, TemplateError):  # of which some are an OSError
                logger.error("email not composed: %s", type(error).__name__, exc_info=error, extra={"data": about})
            text = f"{type(error).__name__} {error}"
            if secret:  # which a server may quote with what it refuses
                text = text.replace(secret, "...")
            text = "".join(character if character.isprintable() else " " for character in text)
            await self._db.write(emails.failed, email, text, for_good=isinstance(error, mail.Rejected))
            logger.warning("email not sent", extra={"data": {**about, "error": type(error).__name__}})
        else:
            await self._db.write(emails.sent, email)
            logger.info("email sent", extra={"data": about})

    def _compose(self, email: Email, content: emails.Content) -> EmailMessage:
        return mail.compose(
            email.kind,
            content,
            app_name=self._settings.app_name,
            sender=self._settings.mail_from,
            recipient=email.email,
            key=email.id,
            date=email.created_at,
        )


@asynccontextmanager
async def sending(db: Database, settings: Settings) -> AsyncIterator[None]:
    """Send what is due meanwhile, if this process is to send mail, and finish that."""
    if settings.mail_url is None:
        logger.warning("MAIL_URL is not set: mail is queued, and not sent")
    if settings.mail_url is None or not settings.mail_sender_enabled:
        yield
        return
    sender = Sender(db, settings)
    running = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        sender.stop()
        await running


async def main(settings: Settings) -> None:
    if settings.mail_url is None:
        raise SystemExit("MAIL_URL: is required to send mail")
    logs.configure(level=settings.log_level, as_json=settings.environment == "production", debug=settings.debug)
    database = Database(settings.database_url, pool_size=settings.database_pool_size)
    sender = Sender(database, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, sender.stop)
    try:
        await sender.run()
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(main(get_settings()))
