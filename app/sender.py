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
from typing import Any

from aiosmtplib import SMTPException

from app import accounts, emails
from app.config import Settings, get_settings
from app.core import logs, mail
from app.core.db import Database
from app.core.errors import Unavailable
from app.emails import Email

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

    async def run(self, stopping: asyncio.Event) -> None:
        """Returns once it was stopped, and has finished or released what it held."""
        stop, pause = asyncio.create_task(stopping.wait()), POLL
        sending: set[asyncio.Task[Any]] = set()
        while not stop.done():
            try:
                if (room := SLOTS - len(sending)) and await self._any_due():
                    claimed = await self._db.write(emails.claim, room)
                    sending |= {asyncio.create_task(self._send(email)) for email in claimed}
                pause = POLL
            except Exception as error:  # noqa: BLE001  # whatever it is, mail must go on when it is over
                logger.warning("the outbox cannot be read: %s", type(error).__name__)
                pause = min(2 * pause, LONGEST_PAUSE)
            wait = pause * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, for many that were started at once
            done, sending = await asyncio.wait({stop, *sending}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            sending.discard(stop)
            for fault in filter(None, (task.exception() for task in done)):
                logger.warning("the outcome of an email was not noted: %s", type(fault).__name__)
        if sending:
            _, late = await asyncio.wait(sending, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _any_due(self) -> bool:
        token = logs.polled.set(True)
        try:
            return await self._db.read(emails.any_due)
        finally:
            logs.polled.reset(token)

    async def _send(self, email: Email) -> None:
        about = {"email_id": email.id, "kind": email.kind, "attempt": email.attempts}
        secret = ""
        try:
            async with asyncio.timeout(PATIENCE):
                content = await self._db.write(accounts.letter, email, self._settings)
                if content is None:
                    return
                secret = content.get("token", "")
                by = self._settings.app_name, self._settings.mail_from
                message = mail.compose(email.kind, content, by, email.email, key=email.id, date=email.created_at)
                await self._transport.send(message)
        except asyncio.CancelledError:
            await self._db.write(emails.release, email)
            raise
        except Exception as error:  # one message that cannot be sent must not hold up the others
            is_ours = not isinstance(error, mail.Rejected | OSError | SMTPException | Unavailable)
            text = f"{type(error).__name__} {error}"
            if secret:  # which a server may quote with what it refuses
                text = text.replace(secret, "...")
            text = "".join(character if character.isprintable() else " " for character in text)
            await self._db.write(emails.failed, email, text, for_good=isinstance(error, mail.Rejected | mail.Malformed))
            about["error"] = type(error).__name__
            logger.warning("email not sent", exc_info=error if is_ours else None, extra={"data": about})
        else:
            await self._db.write(emails.sent, email)
            logger.info("email sent", extra={"data": about})


@asynccontextmanager
async def sending(db: Database, settings: Settings) -> AsyncIterator[None]:
    """Send what is due meanwhile, if this process is to send mail, and finish that."""
    if settings.mail_url is None:
        logger.warning("MAIL_URL is not set: mail is queued, and not sent")
    if settings.mail_url is None or not settings.mail_sender_enabled:
        yield
        return
    stopping = asyncio.Event()
    running = asyncio.create_task(Sender(db, settings).run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await running


async def main(settings: Settings) -> None:
    if settings.mail_url is None:
        raise SystemExit("MAIL_URL: is required to send mail")
    logs.configure(**settings.logging)
    database = Database(settings.database_url, pool_size=settings.database_pool_size)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await Sender(database, settings).run(stopping)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(get_settings()))
