"""Mail as a job: delivery of messages when the server, the database or the worker fails."""

import asyncio
import io
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import time_machine
from aiosmtpd.smtp import SMTP
from sqlalchemy import update
from sqlmodel import Session, col, select

from app import emails, jobs
from app.core import migrations
from app.core.db import now
from app.core.jobs import Job
from app.emails import Email
from app.users import User
from tests.conftest import HASHED, Mailbox, on_sqlite, run_job
from tests.postgres import Postgres, free_port
from tests.service import NO_TLS, Process, Service, elsewhere, environment, serving, until
from tests.smtp import ACCEPTED, Reply, SmtpServer, after, hang, hang_up

Serve = Callable[..., Service]
Deliver = Callable[..., None]

FORGOT = "/api/v1/auth/password/forgot"
ADA = "ada@example.com"


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as smtp:
        yield smtp


@pytest.fixture
def deliver(service: Service, mailbox: Mailbox, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> Deliver:
    """Deliver all due messages to the SMTP server."""

    def deliver(**values: object) -> None:
        changed = service.settings.model_copy(update={"mail_url": smtp.url, **values})
        with monkeypatch.context() as patch:
            patch.setattr(service, "settings", changed)
            service.run(mailbox.deliver())

    return deliver


def queue(session: Session, *to: str) -> None:
    for address in to or (ADA,):
        emails.queue(session, "message", address, subject="News", text="Hello.")


def stored(session: Session) -> Sequence[Email]:
    return session.exec(select(Email).order_by(col(Email.created_at))).all()


def only(service: Service) -> Email:
    (email,) = service.read(stored)
    return email


def delete_all(session: Session) -> None:
    for email in stored(session):
        session.delete(email)


def end_leases(session: Session) -> None:
    session.execute(update(Job).where(col(Job.status) == "running").values(due_at=now()))


def planned(session: Session) -> bool:
    return session.exec(select(Job.id).where(col(Job.occurrence).is_not(None))).first() is not None


def wait_of(email: Email, since: datetime) -> float:
    return (email.due_at - since).total_seconds()


def assert_mentioned(word: str, email: Email) -> None:
    assert email.last_error
    assert word in email.last_error


FOR_NOW: dict[str, tuple[dict[str, Reply], str, str]] = {
    "sender deferred": ({"MAIL": "451 4.3.0 later"}, "", "4.3.0 later"),
    "greylisted": ({"RCPT": "450 4.2.0 later"}, "", "4.2.0 later"),
    "deferred at the end": ({"DATA": "452 4.3.1 full"}, "", "4.3.1 full"),
    "shutting down": ({"MAIL": "421 4.3.2 closing"}, "", "4.3.2 closing"),
    "cut off": ({"DATA": hang_up}, "", "SMTPServerDisconnected"),
    "silent": ({"DATA": hang}, "short", "Timeout"),
    "wrong password": ({"AUTH": "535 5.7.8 not you"}, "", "5.7.8 not you"),
}


@pytest.mark.parametrize(("replies", "options", "said"), FOR_NOW.values(), ids=FOR_NOW)
def test_what_fails_for_now_is_tried_again_later(
    service: Service, deliver: Deliver, smtp: SmtpServer, replies: dict[str, Reply], options: str, said: str
) -> None:
    service.write(queue)
    url = smtp.url.replace("//", "//user:hunter2@")
    smtp.replies |= replies
    started = now()
    with pytest.MonkeyPatch.context() as patch:
        if options:
            patch.setattr("app.core.mail.TIMEOUT", 0.3)
        deliver(mail_url=url)
    email = only(service)
    assert (email.status, email.attempts, email.sent_at) == ("queued", 1, None)
    assert_mentioned(said, email)
    assert "hunter2" not in (email.last_error or "")
    assert 30 <= wait_of(email, started) < 45
    smtp.replies.clear()
    deliver(mail_url=url)
    assert smtp.letters == []
    with time_machine.travel(email.due_at, tick=False):
        deliver(mail_url=url)
        sent_at = now()
    (letter,) = smtp.letters
    assert letter.recipients == [ADA]
    email = only(service)
    assert (email.status, email.attempts, email.last_error, email.sent_at) == ("sent", 2, None, sent_at)


def test_a_server_that_is_not_there_is_tried_again_later(service: Service, deliver: Deliver, smtp: SmtpServer) -> None:
    service.write(queue)
    deliver(mail_url=f"smtp://127.0.0.1:{free_port()}?starttls=false")
    email = only(service)
    assert (email.status, email.attempts) == ("queued", 1)
    assert_mentioned("Error connecting", email)
    with time_machine.travel(email.due_at):
        deliver()
    assert (len(smtp.letters), only(service).status) == (1, "sent")


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("550 5.1.1 nobody of this name", "Rejected 550 5.1.1 nobody of this name"),
        ("554-5.7.1 no\r\n554 5.7.1 thanks", "Rejected 554 5.7.1 no 5.7.1 thanks"),
        ("550 " + "x" * 400, ("Rejected 550 " + "x" * 400)[:255]),
    ],
    ids=["line", "lines", "long"],
)
def test_what_a_server_refuses_for_good_is_given_up_at_once(
    service: Service, deliver: Deliver, smtp: SmtpServer, command: str, reply: str, kept: str
) -> None:
    service.write(queue)
    smtp.replies[command] = reply
    deliver()
    email = only(service)
    assert (email.status, email.attempts, email.last_error, email.sent_at) == ("dead", 1, kept, None)
    smtp.replies.clear()
    with time_machine.travel(now() + timedelta(days=1)):
        deliver()
    assert (smtp.letters, only(service)) == ([], email)


@pytest.mark.parametrize("reply", [b"550 Empf\xe4nger unbekannt", b"550 Empf\0nger unbekannt"], ids=ascii)
def test_a_refusal_counts_whatever_bytes_it_is_worded_in(
    service: Service, client: httpx2.Client, deliver: Deliver, smtp: SmtpServer, ada: User, reply: bytes
) -> None:
    assert client.post(FORGOT, json={"email": ada.email}).status_code == 202
    smtp.replies["RCPT"] = reply
    deliver()
    email = only(service)
    assert (email.status, email.attempts) == ("dead", 1)
    assert_mentioned("nger unbekannt", email)


def tries(service: Service, deliver: Deliver, most: int) -> list[float]:
    """Deliver whenever a message is due. Returns the seconds between the attempts."""
    waited: list[float] = []
    with time_machine.travel(now()) as clock:
        for _ in range(most):
            started = now()
            deliver()
            waiting = [email for email in service.read(stored) if email.status == "queued"]
            if not waiting:
                break
            clock.move_to(max(email.due_at for email in waiting))
            waited.append((now() - started).total_seconds())
        else:
            raise AssertionError("there is no end to it")
    return waited


def test_a_message_is_given_up_after_eight_tries_each_later_than_the_one_before(
    service: Service, deliver: Deliver, smtp: SmtpServer
) -> None:
    service.write(queue)
    smtp.replies["DATA"] = "451 4.7.1 later"
    waited = tries(service, deliver, 20)
    assert len(waited) == 7
    for tried, seconds in enumerate(waited):
        assert 30 * 3**tried <= seconds <= 36 * 3**tried + 10
    email = only(service)
    assert (email.status, email.attempts) == ("dead", 8)
    assert_mentioned("4.7.1 later", email)
    assert [letter.message["Message-ID"] for letter in smtp.offered] == [f"<{email.id}@example.com>"] * 8
    assert smtp.letters == []


def test_each_try_bears_the_same_message_id_at_the_domain_it_comes_from(
    service: Service, deliver: Deliver, smtp: SmtpServer
) -> None:
    service.write(queue)
    smtp.replies["DATA"] = "451 4.7.1 later"
    deliver(mail_from="robot@mail.example.org")
    smtp.replies.clear()
    with time_machine.travel(now() + timedelta(minutes=1)):
        deliver(mail_from="robot@mail.example.org")
    assert [letter.sender for letter in smtp.offered] == ["robot@mail.example.org"] * 2
    assert [letter.message["Message-ID"] for letter in smtp.offered] == [f"<{only(service).id}@mail.example.org>"] * 2
    assert len({letter.message["Date"] for letter in smtp.offered}) == 1


def test_mail_from_a_domain_of_another_alphabet_is_taken_by_any_server(service: Service, deliver: Deliver) -> None:
    service.write(queue)
    with SmtpServer(utf8=False) as old:
        deliver(mail_url=old.url, mail_from="robot@bücher.example")
    (letter,) = old.letters
    assert letter.sender == "robot@xn--bcher-kva.example"
    assert letter.message["From"] == "Onefold <robot@xn--bcher-kva.example>"
    assert letter.message["Message-ID"] == f"<{only(service).id}@xn--bcher-kva.example>"


@pytest.mark.parametrize(
    ("kind", "context", "said"),
    [("nonsense", {}, "nonsense/subject.txt"), ("message", {"subject": "News"}, "'text' is undefined")],
    ids=["unknown kind", "incomplete"],
)
def test_what_cannot_be_composed_is_given_up_and_holds_up_nothing_else(
    service: Service,
    deliver: Deliver,
    smtp: SmtpServer,
    log: io.StringIO,
    kind: str,
    context: dict[str, str],
    said: str,
) -> None:
    def poison(session: Session) -> None:
        for _ in range(5):  # more than one sender sends at a time
            email = Email(kind=kind, email="poison@example.com", context=context)
            session.add(email)
            jobs.queue(session, emails.deliver, email_id=email.id)

    service.write(poison)
    service.write(queue, ADA, "bob@example.com")
    deliver()
    assert sorted(letter.recipients[0] for letter in smtp.letters) == [ADA, "bob@example.com"]
    assert len(tries(service, deliver, 20)) == 7
    *dead, ada, bob = service.read(stored)
    assert (ada.status, bob.status) == ("sent", "sent")
    assert [(email.status, email.attempts) for email in dead] == [("dead", 8)] * 5
    for email in dead:
        assert_mentioned(said, email)
    assert "job failed" in log.getvalue()
    assert "example.com" not in log.getvalue()


@pytest.mark.parametrize("code", ["451 4.7.1", "550 5.7.1"])
def test_a_token_that_the_server_quotes_is_kept_nowhere(
    service: Service,
    client: httpx2.Client,
    client_of: Callable[[User], httpx2.Client],
    deliver: Deliver,
    smtp: SmtpServer,
    log: io.StringIO,
    ada: User,
    root: User,
    code: str,
) -> None:
    tokens = []

    async def quote(server: SMTP) -> str:
        tokens.extend(re.findall(r"\?token=([\w-]+)", smtp.offered[-1].text))
        return f"{code} spam: https://app.example.com/reset-password?token={tokens[-1]} & {tokens[-1]}"

    assert client.post(FORGOT, json={"email": ada.email}).status_code == 202
    smtp.replies["DATA"] = quote
    deliver()
    email = only(service)
    assert_mentioned("spam: https://app.example.com/reset-password?token=... & ...", email)
    listed = client_of(root).get("/api/v1/emails/")
    assert listed.json()[0]["last_error"] == email.last_error
    (token,) = tokens
    everything = "".join((repr(service.read(stored)), listed.text, log.getvalue()))
    assert token not in everything
    assert "job failed" in log.getvalue()
    assert ada.email not in log.getvalue()


def test_what_is_rolled_back_is_never_sent(service: Service, deliver: Deliver, smtp: SmtpServer) -> None:
    def queue_and_raise(session: Session) -> None:
        queue(session)
        session.flush()
        raise LookupError

    with pytest.raises(LookupError):
        service.write(queue_and_raise)
    service.write(queue, "bob@example.com")
    deliver()
    assert [letter.recipients for letter in smtp.letters] == [["bob@example.com"]]
    assert only(service).email == "bob@example.com"


def test_what_was_queued_30_days_ago_is_forgotten(service: Service) -> None:
    def add(session: Session) -> None:
        for days in (29, 31):
            for status in ("queued", "sent", "dead"):
                made = now() - timedelta(days=days)
                session.add(Email(kind="message", email=f"{status}-{days}", status=status, created_at=made))

    service.write(add)
    service.write(queue)
    run_job(service, emails.sweep_emails)
    kept = {email.email for email in service.read(stored)}
    assert kept == {"queued-29", "sent-29", "dead-29", ADA}


def test_a_message_that_was_deleted_meanwhile_is_forgotten(
    service: Service, deliver: Deliver, smtp: SmtpServer
) -> None:
    async def delete_and_accept(server: SMTP) -> str:
        await asyncio.to_thread(elsewhere, service.settings.database_url, delete_all)
        return ACCEPTED

    service.write(queue)
    smtp.replies["DATA"] = delete_and_accept
    deliver()
    assert (len(smtp.letters), service.read(stored)) == (1, [])


WORKER = [sys.executable, "-m", "app.worker"]


@contextmanager
def sending(database_url: str, output: Path, **values: str) -> Iterator[Process]:
    """`python -m app.worker` as a real process."""
    process = Process(WORKER, environment(database_url, **values), output)
    try:
        yield process
    finally:
        process.end()


def told(process: Process) -> list[str]:
    """What a worker logged of messages, which neither names an address nor quotes a token."""
    assert "example.com" not in process.text
    assert "token=" not in process.text
    return re.findall(r"job (?:done|failed)(?= name=send_email)", process.text)


@pytest.mark.slow
def test_four_workers_send_every_message_once(migrated_url: str, smtp: SmtpServer, tmp_path: Path) -> None:
    everyone = [f"user{number}@example.com" for number in range(200)]
    elsewhere(migrated_url, queue, *everyone)
    smtp.replies["DATA"] = after(lambda: len(smtp.offered) >= 4 * 4)  # which takes all four of them
    with ExitStack() as stack:
        senders = [
            stack.enter_context(sending(migrated_url, tmp_path / f"log{number}", MAIL_URL=smtp.url))
            for number in range(4)
        ]
        until(lambda: len(smtp.letters) >= 200, 100)
        for sender in senders:
            sender.signal(signal.SIGTERM)
        assert [sender.wait(10) for sender in senders] == [0] * 4
        sent = [told(sender) for sender in senders]
    assert Counter(letter.recipients[0] for letter in smtp.letters) == dict.fromkeys(everyone, 1)
    assert len(smtp.offered) == 200
    assert {(email.status, email.attempts) for email in elsewhere(migrated_url, stored)} == {("sent", 1)}
    assert sum(map(len, sent)) == 200
    assert all(set(each) == {"job done"} for each in sent)


def add_ada(session: Session) -> None:
    session.add(User(email=ADA, hashed_password=HASHED))


def ask_for_mail(url: str) -> None:
    assert httpx2.post(url + FORGOT, json={"email": ADA}, verify=NO_TLS).status_code == 202


def send_rest(serve: Serve, smtp: SmtpServer) -> None:
    """The messages that another sender delivers before and after the lease of a dead sender ends."""
    service = serve(mail_url=smtp.url)
    mailbox = Mailbox(service)
    before = len(smtp.letters)
    service.run(mailbox.deliver())
    assert len(smtp.letters) == before
    service.write(end_leases)
    for _ in range(2):
        service.run(mailbox.deliver())


@pytest.mark.slow
def test_a_service_that_is_killed_before_it_has_sent_loses_nothing(
    migrated_url: str, smtp: SmtpServer, serve: Serve, tmp_path: Path
) -> None:
    elsewhere(migrated_url, add_ada)
    smtp.replies["RCPT"] = hang
    with serving(migrated_url, tmp_path / "log", WORKER_ENABLED="true", MAIL_URL=smtp.url) as (url, process):
        ask_for_mail(url)
        until(lambda: smtp.commands["RCPT"] == 1)
        process.signal(signal.SIGKILL)
        process.wait()
    smtp.replies.clear()
    send_rest(serve, smtp)
    assert [letter.recipients for letter in smtp.letters] == [[ADA]]
    (email,) = elsewhere(migrated_url, stored)
    assert (email.status, email.attempts) == ("sent", 2)


@pytest.mark.slow
def test_a_service_that_is_killed_before_it_has_noted_what_it_sent_sends_the_same_message_again(
    migrated_url: str, smtp: SmtpServer, serve: Serve, tmp_path: Path
) -> None:
    elsewhere(migrated_url, add_ada)
    with serving(migrated_url, tmp_path / "log", WORKER_ENABLED="true", MAIL_URL=smtp.url) as (url, process):

        async def accept_and_kill(server: SMTP) -> str:
            process.signal(signal.SIGKILL)
            process.wait()
            return ACCEPTED

        smtp.replies["DATA"] = accept_and_kill
        ask_for_mail(url)
        until(lambda: len(smtp.letters) == 1)
    smtp.replies.clear()
    send_rest(serve, smtp)
    (email,) = elsewhere(migrated_url, stored)
    assert [letter.message["Message-ID"] for letter in smtp.letters] == [f"<{email.id}@example.com>"] * 2
    assert (email.status, email.attempts) == ("sent", 2)


EXIT_CODE = {"service": -signal.SIGTERM, "worker": 0}  # uvicorn passes the signal on


@contextmanager
def held(migrated_url: str, smtp: SmtpServer, output: Path, *, by: str) -> Iterator[Process]:
    """A process that waits for the server's answer to a message."""
    elsewhere(migrated_url, queue)
    values = {"WORKER_ENABLED": "true", "MAIL_URL": smtp.url}
    with ExitStack() as stack:
        if by == "service":
            _, process = stack.enter_context(serving(migrated_url, output, **values))
        else:
            process = stack.enter_context(sending(migrated_url, output, **values))
        until(lambda: len(smtp.offered) == 1)
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("by", ["service", "worker"])
def test_a_stopping_worker_releases_slow_jobs_to_another(
    migrated_url: str, smtp: SmtpServer, serve: Serve, tmp_path: Path, by: str
) -> None:
    smtp.replies["DATA"] = hang
    with held(migrated_url, smtp, tmp_path / "log", by=by) as process:
        process.signal(signal.SIGTERM)
        assert process.wait(10) == EXIT_CODE[by]
        assert told(process) == []
    (email,) = elsewhere(migrated_url, stored)
    assert (email.status, email.attempts) == ("queued", 0)
    assert email.due_at <= now()
    smtp.replies.clear()
    service = serve(mail_url=smtp.url)
    service.run(Mailbox(service).deliver())
    assert (len(smtp.letters), only(service).status) == (1, "sent")


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("by", ["service", "worker"])
def test_a_stopping_worker_finishes_its_running_jobs(
    migrated_url: str, smtp: SmtpServer, tmp_path: Path, by: str
) -> None:
    released = threading.Event()
    smtp.replies["DATA"] = after(released.is_set)
    with held(migrated_url, smtp, tmp_path / "log", by=by) as process:
        process.signal(signal.SIGTERM)
        threading.Timer(1, released.set).start()
        assert process.wait(10) == EXIT_CODE[by]
        assert told(process) == ["job done"]
    assert [letter.recipients for letter in smtp.letters] == [[ADA]]
    (email,) = elsewhere(migrated_url, stored)
    assert (email.status, email.attempts) == ("sent", 1)


@pytest.mark.slow
@on_sqlite
def test_a_worker_without_a_server_to_send_by_says_so_and_leaves_mail_to_others(
    migrated_url: str, tmp_path: Path
) -> None:
    elsewhere(migrated_url, queue)
    with sending(migrated_url, tmp_path / "log", ENVIRONMENT="production") as process:
        until(lambda: "MAIL_URL is not set: mail is queued but not sent" in process.text)
        until(lambda: elsewhere(migrated_url, planned))
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 0
    (email,) = elsewhere(migrated_url, stored)
    assert (email.status, email.attempts) == ("queued", 0)


def test_a_service_without_a_server_to_send_by_keeps_its_mail_until_there_is_one(
    serve: Serve, smtp: SmtpServer
) -> None:
    service = serve(environment="production", mail_url=None, worker_enabled=True)
    service.write(add_ada)
    ask_for_mail(service.url)
    email = only(service)
    assert (email.status, email.attempts, email.last_error) == ("queued", 0, None)
    serve(mail_url=smtp.url, worker_enabled=True)
    until(lambda: only(service).status == "sent")
    assert [letter.message["Subject"] for letter in smtp.letters] == ["Set a new password for Onefold"]


def test_a_worker_goes_on_when_its_database_is_back(server: Postgres, smtp: SmtpServer, tmp_path: Path) -> None:
    server.start()
    migrations.upgrade(server.url())
    with sending(server.url(), tmp_path / "log", MAIL_URL=smtp.url) as process:
        elsewhere(server.url(), queue)
        until(lambda: told(process) == ["job done"])
        server.stop()
        until(lambda: "the queue cannot be read" in process.text)
        server.start()
        elsewhere(server.url(), queue, "bob@example.com")
        until(lambda: len(smtp.letters) == 2)
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert told(process) == ["job done"] * 2
