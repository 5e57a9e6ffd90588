#!/usr/bin/env bash
# Check style, format and types; change nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
