#!/usr/bin/env bash
# Run the service on http://127.0.0.1:8000 (HOST and PORT change that): installs, migrates, serves.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements.lock
scripts/prestart.sh

export FORWARDED_ALLOW_IPS=${FORWARDED_ALLOW_IPS-} # trust no proxy unless told: it could forge any client's address
host=${HOST:-127.0.0.1}
port=${PORT:-8000}
echo "Try it out: http://$host:$port/docs"
exec .venv/bin/python -m uvicorn app.main:app --host "$host" --port "$port" --no-server-header "$@"
