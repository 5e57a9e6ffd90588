#!/usr/bin/env bash
# Put everything into the one format, and mend what can be mended by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
.venv/bin/ruff check --fix .
.venv/bin/ruff format .
