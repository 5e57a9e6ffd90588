#!/usr/bin/env bash
# Run every check: lint, format, types, and the tests on SQLite and PostgreSQL. --quick leaves out the tests that are
# marked as slow; other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1-}" = --quick ]; then
    set -- -m "not slow" "${@:2}"
fi
unset PYTHONDONTWRITEBYTECODE # with it every process would compile everything again
scripts/lint.sh
.venv/bin/python -m pytest --numprocesses=auto --dist=loadgroup "$@"
