#!/usr/bin/env bash
# Format all files, apply automatic fixes, and format the fixed files.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
.venv/bin/ruff format --quiet .  # first, because it breaks long lines, which would be reported as errors
.venv/bin/ruff check --fix . || failed=$?
.venv/bin/ruff format .
exit "${failed:-0}"
