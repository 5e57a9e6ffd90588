"""Schemathesis: the answers to valid and many invalid requests conform to the OpenAPI document."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.api.oauth import FORM
from app.core.fields import Input
from tests.api.test_access import models_in
from tests.conftest import add_user, token_of
from tests.service import ROOT, Service

pytestmark = pytest.mark.slow

CONFIG = (ROOT / "tests" / "schemathesis.toml").read_text()
LAST_CALLS = {"delete_me", "delete_session", "logout"}  # every later call would be unauthenticated


def operations(app: FastAPI) -> dict[str, dict[str, Any]]:
    paths = app.openapi()["paths"].values()
    return {operation["operationId"]: operation for methods in paths for operation in methods.values()}


def formats(node: Any, schemas: dict[str, Any]) -> Iterator[str]:
    """The formats of all strings in a schema, references included."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    match node:
        case {"$ref": str(reference)}:
            yield from formats(schemas[reference.rpartition("/")[2]], schemas)
        case {"type": "string", "format": str(kind)}:
            yield kind
    for child in children:
        yield from formats(child, schemas)


def with_validators(app: FastAPI) -> set[str]:
    """The operations with a body whose model has additional validators."""
    common = Input.__pydantic_decorators__
    found = set()
    for route in iter_route_contexts(app.routes):
        field = getattr(route, "body_field", None)
        for model in models_in(field.field_info.annotation) if field else ():
            own = model.__pydantic_decorators__
            if own.field_validators or own.model_validators.keys() - common.model_validators.keys():
                found.add(route.name or "")
    return found


def may_be_invalid(app: FastAPI) -> list[str]:
    """The operations that may answer 422 to a request that conforms to the document."""
    schemas, found = app.openapi()["components"]["schemas"], with_validators(app)
    for name, operation in operations(app).items():
        # A forged cursor, or a key that another request has used.
        sealed = {"cursor", "idempotency-key"} & {each["name"] for each in operation.get("parameters", ())}
        # Each grant of a form requires other parameters. A password may be too common, the domain of an address may be
        # impossible, an id may not exist.
        body = operation.get("requestBody", {}).get("content", {})
        if sealed or FORM in body or any(formats(body, schemas)):
            found.add(name)
    return sorted(found)


def config(app: FastAPI) -> str:
    statuses = tomllib.loads(CONFIG)["checks"]["positive_data_acceptance"]["expected-statuses"]
    return f"""{CONFIG}
[[operations]]
include-operation-id = {json.dumps(may_be_invalid(app))}
checks.positive_data_acceptance.expected-statuses = {json.dumps([*statuses, "422"])}

[[operations]]
include-operation-id = {json.dumps(sorted(LAST_CALLS))}
enabled = false
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_superuser", [False, True], ids=["ordinary user", "superuser"])
def test_the_service_answers_as_documented(service: Service, is_superuser: bool, tmp_path: Path) -> None:
    add_user(service, "other")
    caller = add_user(service, "caller", is_superuser=is_superuser)
    (tmp_path / "schemathesis.toml").write_text(config(service.app))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "--no-color", "run"]
    options = ["--checks=all", "--max-examples=5", "--seed=1", "--continue-on-failure", "--no-shrink", "--warnings=off"]
    done = subprocess.run(
        [*command, f"{service.url}/openapi.json", *options, "-H", f"Authorization: Bearer {token_of(caller)}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(operations(service.app).keys() - LAST_CALLS)}" in done.stdout
