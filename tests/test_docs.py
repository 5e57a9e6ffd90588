"""`/docs` in a real browser: complete, without internet, with a strict content policy, behind any path prefix."""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

from app import users
from app.core.security import encode_token
from tests.conftest import PASSWORD, Mailbox, add_user, client_at, skip
from tests.service import KEY, Service, serving, settings

pytestmark = pytest.mark.slow

NAME = 'Tea &amp; </title><script>alert("biscuits")</script>'
PREFIX = "/onefold"
EXPIRED = encode_token("access", uuid4(), uuid4(), timedelta(minutes=-1), key=KEY, algorithm="HS256")
ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

# SQLite only, because it needs no event loop here: while a browser is open, this thread runs the browser's loop.


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with a name that breaks pages that do not escape it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('docs')}/onefold.db"
    service = Service(settings(database_url=url, app_name=NAME))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        skip("no Chromium: install the chromium of your system")
    flags = ["background-networking", "component-update", "gpu", "sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=os.geteuid() != 0,
            args=["--no-first-run", *(f"--disable-{flag}" for flag in flags)],
        )
        yield browser
        browser.close()


class Visit:
    """A page in a browser that can reach only this machine, with its requests and its errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda message: self._complain(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._complain(error.message))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => console.error('refused', event.effectiveDirective, event.blockedURI))"
        )
        page.route("**/*", self._only_loopback)

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def _only_loopback(self, route: Route) -> None:
        if route.request.url.startswith("http://127.0.0.1:"):
            route.continue_()
        else:
            route.abort()

    def execute(self, operation: str, body: dict[str, Any]) -> str:
        """Send this body. Returns the status that the page shows."""
        block = self.open(operation)
        block.locator("textarea").fill(json.dumps(body))
        block.get_by_role("button", name="Execute").click()
        return block.locator(".live-responses-table tbody .response-col_status").inner_text().strip()

    def authorize(self, email: str, password: str) -> None:
        dialog = self.log_in(email, password)
        dialog.get_by_text("Logout").wait_for()
        dialog.get_by_text("Close").click()

    def log_in(self, email: str, password: str) -> Locator:
        """Try to log in. Returns the dialog."""
        self.page.locator(".auth-wrapper .authorize").click()
        dialog = self.page.locator(".dialog-ux")
        dialog.get_by_label("username:").fill(email)
        dialog.get_by_label("password:", exact=True).fill(password)
        dialog.locator(".authorize").click()
        return dialog

    def log_out(self) -> None:
        self.page.locator(".auth-wrapper .authorize").click()
        self.page.locator(".dialog-ux").get_by_text("Logout").click()
        self.page.locator(".dialog-ux").get_by_text("Close").click()

    def answer(self, operation: str) -> str:
        """The answer of an operation without parameters and body."""
        block = self.open(operation)
        block.get_by_role("button", name="Execute").click()
        return block.locator(".live-responses-table tbody").first.inner_text()

    def open(self, operation: str) -> Locator:
        block = self.page.locator(f".opblock[id$='-{operation}']")
        block.locator(".opblock-summary-control").click()
        return block

    def is_locked(self, operation: str) -> bool:
        return self.page.locator(f".opblock[id$='-{operation}'] .authorization__btn svg.locked").count() > 0


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    page = chromium.new_page()
    page.set_default_timeout(30_000)
    yield Visit(page)
    page.close()


def sign_up_authorize_and_change_a_name(visit: Visit) -> None:
    assert visit.execute("create_user", {"email": "ada@example.com", "password": PASSWORD}) == "201"
    visit.authorize("ada@example.com", PASSWORD)
    assert visit.execute("update_me", {"full_name": "Ada King"}) == "200"


def test_a_newcomer_signs_up_authorizes_and_changes_a_name(docs: Service, visit: Visit) -> None:
    visit.page.goto(f"{docs.url}/docs")
    sign_up_authorize_and_change_a_name(visit)
    ada = docs.read(users.find_by_email, "ada@example.com")
    assert ada
    assert ada.full_name == "Ada King"
    assert visit.complaints == []
    assert {httpx2.URL(url).netloc.decode() for url in visit.requested} == {docs.url.removeprefix("http://")}


def test_a_newcomer_verifies_their_email_and_recovers_from_a_lost_password(tmp_path: Path, visit: Visit) -> None:
    url, mail = f"sqlite:///{tmp_path}/onefold.db", f"file://{tmp_path}/mail"
    service = Service(settings(database_url=url, mail_url=mail, email_verification_required=True))
    mailbox = Mailbox(service)
    email, new = "ada@example.com", "another horse battery"
    try:
        visit.page.goto(f"{service.url}/docs")
        assert visit.execute("create_user", {"email": email, "password": PASSWORD}) == "201"
        assert visit.execute("verify_email", {"token": mailbox.token(email)}) == "204"
        visit.authorize(email, PASSWORD)
        assert visit.execute("forgot_password", {"email": email}) == "202"
        reset = {"token": mailbox.token(email), "new_password": new}
        assert visit.execute("reset_password", reset) == "204"
        visit.page.goto(f"{service.url}/docs")
        visit.log_out()
        visit.authorize(email, new)
        assert visit.execute("update_me", {"full_name": "Ada King"}) == "200"
    finally:
        service.stop()
    assert visit.complaints == []


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests below PREFIX to the service and strips the prefix, like a reverse proxy."""

    service: str

    def do_GET(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = self.service + self.path.removeprefix(PREFIX)
        answer = httpx2.request(self.command, url, headers=dict(self.headers), content=body)
        self.send_response_only(answer.status_code)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.content)

    do_POST = do_PATCH = do_GET  # noqa: N815  # as the base class names them

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        pass


@pytest.fixture
def behind_a_prefix(tmp_path: Path) -> Iterator[str]:
    """The URL of a service behind a proxy with a path prefix, of which the service is informed."""
    with serving(f"sqlite:///{tmp_path}/onefold.db", tmp_path / "log", "--root-path", PREFIX) as (url, _):
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), {"service": url}))
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}"
        proxy.shutdown()
        thread.join()
        proxy.server_close()


# With a trailing slash, because the token URL is relative and must still be resolved.
def test_all_of_it_works_below_a_path_prefix(behind_a_prefix: str, visit: Visit) -> None:
    visit.page.goto(f"{behind_a_prefix}/docs/")
    sign_up_authorize_and_change_a_name(visit)
    assert visit.complaints == []
    assert [url for url in visit.requested if not url.startswith(f"{behind_a_prefix}/")] == []
    assert f"{behind_a_prefix}/api/v1/auth/login" in visit.requested
    visit.page.goto(f"{behind_a_prefix}/")
    assert visit.page.url == f"{behind_a_prefix}/docs"


def test_a_browser_is_led_to_the_docs_and_a_client_is_greeted(docs: Service, visit: Visit) -> None:
    visit.page.goto(docs.url)
    assert visit.page.url == f"{docs.url}/docs"
    assert visit.complaints == []
    for headers in ({}, {"Accept": "application/json"}):
        answer = httpx2.get(docs.url, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"message": "Hello World"})
        assert "Accept" in answer.headers["Vary"]
    led = httpx2.get(docs.url, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (led.status_code, led.headers["Location"], led.headers["Vary"]) == (307, "/docs", answer.headers["Vary"])
    icon = httpx2.get(f"{docs.url}/favicon.ico")
    assert (icon.status_code, icon.headers["Content-Type"]) == (200, "image/png")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Service]:
    """A service of this test's own."""
    service = Service(settings(database_url=f"sqlite:///{tmp_path}/onefold.db"))
    yield service
    service.stop()


def test_every_body_is_prefilled_with_what_is_accepted(fresh: Service, visit: Visit) -> None:
    root = add_user(fresh, "root", is_superuser=True)
    visit.page.goto(f"{fresh.url}/docs")
    visit.page.locator(".opblock").first.wait_for()
    tried = set()
    with client_at(fresh.url, root) as client:
        for path, methods in fresh.app.openapi()["paths"].items():
            for method, operation in methods.items():
                if "application/json" in operation.get("requestBody", {}).get("content", {}):
                    block = visit.open(operation["operationId"])
                    body = json.loads(block.locator("textarea").input_value())
                    block.locator(".opblock-summary-control").click()
                    answer = client.request(method, re.sub("{.*?}", str(root.id), path), json=body)
                    errors = answer.json().get("errors", []) if answer.content else []
                    assert not [error for error in errors if error["loc"][0] == "body"], (method, path, body, errors)
                    assert len(body) == 1 or method != "patch"
                    tried.add(operation["operationId"])
    assert {"create_user", "update_user"} <= tried
    assert visit.complaints == []


def test_an_operation_tells_its_errors_in_a_line_each(docs: Service, visit: Visit) -> None:
    visit.page.goto(f"{docs.url}/docs")
    block = visit.open("create_user")
    errors = block.locator("tr.response[data-code^='4'], tr.response[data-code^='5']")
    errors.first.wait_for()
    assert "email_taken: User with this email already exists." in errors.first.inner_text().replace(" :", ":")
    assert errors.locator("pre:visible, select:visible").count() == 0
    assert block.locator("tr.response[data-code='201'] .highlight-code").is_visible()


def test_authorize_explains_itself_and_survives_a_reload(docs: Service, visit: Visit) -> None:
    email = add_user(docs, "grace").email
    visit.page.goto(f"{docs.url}/docs")
    dialog = visit.log_in(email, "not the one")
    assert "description: Incorrect email or password" in dialog.locator(".errors").inner_text()
    assert dialog.locator("input:visible, select:visible").count() == 2
    assert "username is your email" in dialog.inner_text()
    assert "scope" not in dialog.inner_text().lower()
    dialog.locator(".close-modal").click()
    assert [visit.is_locked(name) for name in ("create_user", "read_me")] == [False, False]
    visit.authorize(email, PASSWORD)
    visit.page.reload()
    visit.page.locator(".opblock").first.wait_for()
    assert [visit.is_locked(name) for name in ("create_user", "read_me")] == [True, True]
    assert email in visit.answer("read_me")
    kept = visit.page.evaluate("JSON.stringify(localStorage)")
    assert "access_token" in kept
    assert "refresh_token" not in kept
    assert PASSWORD not in kept
    visit.page.evaluate(
        "(token) => { localStorage.authorized = localStorage.authorized.replace(/eyJ[\\w.-]*/, token) }", EXPIRED
    )
    visit.page.goto("about:blank")  # otherwise the page would restore its previous state
    visit.page.goto(f"{docs.url}/docs")
    assert "The access token has expired" in visit.answer("read_me")
    assert {text for text in visit.complaints if "401" not in text} == set()


def test_names_are_shown_as_text_and_scripts_from_elsewhere_do_not_run(docs: Service, visit: Visit) -> None:
    visit.page.goto(f"{docs.url}/docs")
    assert visit.page.title() == NAME
    assert NAME in visit.page.locator(".info .title").inner_text()
    tags = visit.page.locator(".opblock-tag").evaluate_all("tags => tags.map(tag => tag.dataset.tag)")
    assert tags == [tag["name"] for tag in docs.app.openapi()["tags"]]
    assert visit.complaints == []

    with visit.page.expect_console_message(lambda message: message.text.endswith("/evil.js")):
        visit.page.evaluate(
            """() => {
                const add = (what) => document.body.append(Object.assign(document.createElement("script"), what));
                add({textContent: "window.stolen = true"});
                add({src: "https://example.com/evil.js"});
            }"""
        )
    refused = {text for text in visit.complaints if text.startswith("refused")}
    assert refused == {"refused script-src-elem inline", "refused script-src-elem https://example.com/evil.js"}
    assert visit.page.evaluate("window.stolen") is None


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere(docs: Service) -> None:
    answer = httpx2.get(f"{docs.url}/docs")
    policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} == {"'none'", "'self'", "data:"}
    assert [directive for directive, sources in policy.items() if "data:" in sources] == ["img-src"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "<script>" not in answer.text


@pytest.mark.parametrize("name", ASSETS)
def test_assets_are_kept_by_browsers_and_taken_for_what_they_are(docs: Service, name: str) -> None:
    url = f"{docs.url}/docs/assets/{name}"
    answer = httpx2.get(url)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "public, max-age=86400"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = httpx2.get(url, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.fixture(params=[{"docs_enabled": False}, {"environment": "production"}], ids=["closed", "production"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    service = Service(settings(database_url=f"sqlite:///{tmp_path}/onefold.db", **request.param))
    yield service
    service.stop()


def test_closed_docs_leave_nothing_behind(closed: Service) -> None:
    for path in (
        "/docs",
        "/docs/",
        "/docs/start.js",
        "/docs/page.css",
        "/favicon.ico",
        "/openapi.json",
        "/redoc",
        *(f"/docs/assets/{a}" for a in ASSETS),
    ):
        answer = httpx2.get(f"{closed.url}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    greeted = httpx2.get(closed.url, headers={"Accept": "text/html"})
    assert (greeted.status_code, greeted.headers["Content-Type"]) == (200, "application/json")
