#!/usr/bin/env bash
# Run the service on http://127.0.0.1:8000 (HOST and PORT change that): installs, migrates, serves.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements.lock
scripts/prestart.sh

host=${HOST:-127.0.0.1}
port=${PORT:-8000}
echo "Try it out: http://$host:$port/docs"
exec .venv/bin/python -m uvicorn app.main:app --http app.api.server:Protocol --no-proxy-headers --no-server-header \
    --host "$host" --port "$port" "$@"
