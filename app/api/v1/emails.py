"""Send messages and monitor the outbox, as a superuser."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import emails
from app.api.calls import Message
from app.api.deps import Superuser
from app.api.errors import problems
from app.core.errors import Forbidden
from app.core.logs import event
from app.emails import EmailCreate, EmailPage, EmailPublic

router = APIRouter()


@router.get("/", response_model=list[EmailPublic], responses=problems(Forbidden))
async def list_emails(me: Superuser, wanted: Annotated[EmailPage, Query()]) -> Sequence[EmailPublic]:
    """List sent and queued messages. They are from the last 30 days, the newest first unless `sort` is given."""
    return await me.page(emails.page, wanted)


@router.post("/", status_code=status.HTTP_202_ACCEPTED, responses=problems(Forbidden))
async def create_email(me: Superuser, new: EmailCreate) -> Message:
    """Send a message in the background."""
    await me.write(emails.send, new)
    event("email_queued", me.user_id)
    return Message(message="Email queued")
