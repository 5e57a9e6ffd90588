#!/usr/bin/env bash
# Before replicas serve: wait for the database, migrate it, create the first superuser. Any number may run at once.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
[ -x "$python" ] || python=${PYTHON:-python3}
exec "$python" -m app.prestart
