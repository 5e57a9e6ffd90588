#!/usr/bin/env bash
# Format all files, fix what can be fixed automatically, and format what was fixed.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
.venv/bin/ruff format --quiet .  # first: a long line that the formatter breaks is no error to report
.venv/bin/ruff check --fix . || failed=$?
.venv/bin/ruff format .
exit "${failed:-0}"
