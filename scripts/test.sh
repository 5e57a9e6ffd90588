#!/usr/bin/env bash
# Run every check: lint, format, types, and the tests on SQLite and PostgreSQL. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/lint.sh
.venv/bin/python -m pytest --numprocesses=auto --dist=worksteal --cov=app "$@"
