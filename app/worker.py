"""The worker of jobs: inside the service, or as a separate process with `python -m app.worker`."""

import asyncio
import logging
import pkgutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

import app
from app.config import Settings, get_settings
from app.core import logs, mail
from app.core.db import Database
from app.core.worker import Worker
from app.jobs import Context

logger = logging.getLogger(__name__)

for _module in pkgutil.iter_modules(app.__path__):  # any module may define jobs, which are registered on import
    if _module.name not in ("main", "worker"):
        import_module(f"app.{_module.name}")


@asynccontextmanager
async def working(db: Database, settings: Settings) -> AsyncIterator[Worker | None]:
    """Run jobs during the block, if this process has a worker. At the end, finish the running ones."""
    if settings.mail_url is None:
        logger.warning("MAIL_URL is not set: mail is queued but not sent")
    if not settings.worker_enabled:
        logger.info("WORKER_ENABLED is off: jobs wait for `python -m app.worker`")
        yield None
        return
    transport = mail.transport(settings.mail_url) if settings.mail_url else None
    worker = Worker(Context(db, settings, transport))
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def main(settings: Settings) -> None:
    logs.configure(**settings.logging)
    database = Database(settings.database_url, pool_size=settings.database_pool_size)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with working(database, settings.model_copy(update={"worker_enabled": True})):
        await stopping.wait()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(get_settings()))
