#!/usr/bin/env bash
# Resolve pyproject.toml into the two lock files, with the hash of every package.
set -euo pipefail
cd "$(dirname "$0")/.."

compile=(.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header "$@")
"${compile[@]}" pyproject.toml -o requirements.lock
"${compile[@]}" pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
echo openapi-python-client | "${compile[@]}" - -o tests/clients/requirements.lock
